package mirror

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	signedFor   = 30 * time.Minute
	signedAgain = 5 * time.Minute // after which a URL is made anew
	maxSigned   = 20_000          // URLs that are kept, twice
)

// sign returns the URL of a present copy, which is good for some 25 minutes or
// more. Who asks for a copy that others ask for too gets the same: to sign takes
// longer than all else that is done for a reader.
func (m *Mirror) sign(ctx context.Context, c *Copy) (string, error) {
	p := m.region(c.Region)
	if c.State != Present || p == nil {
		return "", fmt.Errorf("mirror: the copy of %s in %s is %s: only what is present has a URL", c.Origin.public(), c.Region, c.State)
	}
	key := signedKey{c.Region, c.ID, c.Token}
	if url, ok := m.signed.find(key); ok {
		return url, nil
	}
	url, err := p.Bucket.PresignGet(ctx, c.key(), signedFor, blob.Headers{})
	// With credentials that are temporary the URL ends when they do.
	if err == nil && !strings.Contains(url, "X-Amz-Security-Token=") {
		m.signed.keep(key, url)
	}
	return url, err
}

// signatures are URLs that were signed a short time ago, in two halves, the older
// of which is thrown away as a whole.
type signatures struct {
	mu         sync.Mutex
	young, old map[signedKey]string
	since      time.Time // of the young half
}

type signedKey struct{ region, id, token string }

func (s *signatures) find(key signedKey) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn()
	url, ok := s.young[key]
	if !ok {
		url, ok = s.old[key]
	}
	return url, ok
}

func (s *signatures) keep(key signedKey, url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn()
	s.young[key] = url
}

func (s *signatures) turn() {
	switch age := time.Since(s.since); {
	case age >= signedAgain:
		s.old = nil
	case age >= signedAgain/2 || len(s.young) >= maxSigned:
		s.old = s.young
	default:
		return
	}
	s.young, s.since = map[signedKey]string{}, time.Now()
}

const (
	readsEvery  = 5 * time.Second
	readsApart  = time.Minute // of one copy that is read all the time
	readsAtOnce = 1000
)

// reads are the copies that were read and of which that is not written down yet.
type reads struct {
	mu   sync.Mutex
	last map[name]timestamp.Time
}

// touch notes that a copy is read. It is written down later, and lost if this
// process dies before: it only tells which copies go first.
func (m *Mirror) touch(c *Copy) {
	now := timestamp.Now()
	if now.Sub(c.Read) < readsApart {
		return
	}
	m.reads.mu.Lock()
	defer m.reads.mu.Unlock()
	if m.reads.last == nil {
		m.reads.last = map[name]timestamp.Time{}
	}
	m.reads.last[c.name()] = now
}

// saveReads is one pass of the loop mirror.reads. It changes nothing that counts,
// so it goes past changes, and takes the locks in the same order.
func (m *Mirror) saveReads(ctx context.Context) (more bool, err error) {
	m.reads.mu.Lock()
	last := m.reads.last
	m.reads.last = nil
	m.reads.mu.Unlock()
	names := make([]name, 0, len(last))
	for n := range last {
		names = append(names, n)
	}
	slices.SortFunc(names, compareNames)
	for some := range slices.Chunk(names, readsAtOnce) {
		rows := make([][]any, 0, len(some))
		for _, n := range some {
			rows = append(rows, []any{n.region, n.id, last[n]})
		}
		err := m.db.Do(ctx, func(tx *store.Tx) error {
			return tx.LaterEach(`UPDATE mirror_copy SET read = $3 WHERE region = $1 AND id = $2 AND read < $3`, rows, nil)
		})
		if err != nil {
			return false, err
		}
	}
	return false, nil
}
