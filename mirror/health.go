package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
)

// health is whether the bucket of a region can be read, as far as this replica
// sees. Readers are not sent to a copy in a bucket that cannot be, but to the
// origin: a copy is there to help, and so never is the reason why a download
// fails.
type health struct {
	away   atomic.Bool
	gone   atomic.Bool  // as there is no such bucket
	back   atomic.Int64 // when it was last seen to answer again, in nanoseconds
	moved  atomic.Bool  // see unsure
	failed int          // probes in a row; the loop's own
}

const (
	probeEvery   = 5 * time.Second
	probesToFail = 2
)

// probe is one pass of the loop mirror.health: it reads from each bucket something
// that is not there, and asks the index which buckets it is of.
func (m *Mirror) probe(ctx context.Context) (more bool, err error) {
	var probes sync.WaitGroup
	for _, p := range m.regions {
		probes.Go(func() {
			limited, cancel := context.WithTimeout(ctx, m.probeLimit)
			defer cancel()
			err := p.readable(limited)
			if ctx.Err() == nil {
				p.probed(m, err)
			}
		})
	}
	probes.Wait()
	var errs []error
	for _, p := range m.regions {
		if p.health.gone.Load() {
			errs = append(errs, m.lose(ctx, p))
		}
	}
	return false, errors.Join(append(errs, m.findMoved(ctx))...)
}

// readable tries whether a bucket can be read. It is GET, not HEAD: that has no
// body, and so cannot say whether it is the bucket or the object that is missing.
func (p *place) readable(ctx context.Context) error {
	r, err := p.Bucket.Get(ctx, "copies/health", blob.Range{})
	if errors.Is(err, blob.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return r.Close()
}

func (p *place) probed(m *Mirror, err error) {
	gone := errors.Is(err, blob.ErrNoBucket)
	if gone {
		p.health.moved.Store(true) // for when it is back
	}
	p.health.gone.Store(gone)
	if err == nil {
		p.health.failed = 0
		if p.health.away.Swap(false) {
			p.health.back.Store(time.Now().UnixNano())
			m.db.Waits().Wake(topicSweep, store.Everybody)
			m.log.Info("the bucket of a region answers again", "region", p.Name, "bucket", p.Bucket.Name())
		}
		return
	}
	if p.health.failed++; (gone || p.health.failed >= probesToFail) && !p.health.away.Swap(true) {
		m.log.Error("the bucket of a region does not answer: readers get the origin until it does", "region", p.Name, "bucket", p.Bucket.Name(), "err", err)
	}
}

// away says why a region's bucket is not to be relied on; "": it is.
func (m *Mirror) away(region string) string {
	switch p := m.region(region); {
	case p == nil:
		return ""
	case p.health.gone.Load():
		return fmt.Sprintf("there is no bucket %s, which is that of %s", p.Bucket.Name(), region)
	case p.health.away.Load():
		return fmt.Sprintf("the bucket %s of %s does not answer", p.Bucket.Name(), region)
	case p.unsure():
		return fmt.Sprintf("the bucket %s of %s is another than before, or was gone, and was not compared with the index yet", p.Bucket.Name(), region)
	}
	return ""
}

// trouble says why nobody is to wait for copies that are not there yet: the
// region's bucket is away, or takes none; "": they may. What is there can still be
// read from a bucket that takes none.
func (m *Mirror) trouble(region string) string {
	if away := m.away(region); away != "" {
		return away
	}
	if p := m.region(region); p != nil && p.desk.broken.Load() {
		return fmt.Sprintf("what is copied to the bucket %s of %s fails", p.Bucket.Name(), region)
	}
	return ""
}
