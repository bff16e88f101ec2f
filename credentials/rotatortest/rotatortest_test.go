package rotatortest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// A provider is one in memory. Like that of an IAM user it names keys by itself, tells
// a secret once, has room for two, and knows when they were last used.
type provider struct {
	mu   sync.Mutex
	keys map[string]*key // by their names
}

type key struct {
	Name   string `json:"name"`
	Secret string `json:"secret"`
	label  string // where the provider has labels
	off    bool
	used   time.Time
}

func (p *provider) works(_ context.Context, secret json.RawMessage) error {
	var k key
	if err := json.Unmarshal(secret, &k); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.keys[k.Name]
	if at == nil || at.off || at.Secret != k.Secret {
		return fmt.Errorf("the key %s is refused", k.Name)
	}
	at.used = time.Now()
	return nil
}

// keysKind mints keys there. Without labels it knows its own by what it was told of
// them.
type keysKind struct {
	*provider
	labels bool
}

type public struct {
	Name string `json:"name"`
}

func name(v credentials.Version) string {
	var p public
	json.Unmarshal(v.Public, &p)
	return p.Name
}

func (k keysKind) Check(json.RawMessage) (string, error) { return "memory", nil }

func (k keysKind) Mint(_ context.Context, o credentials.Order) (credentials.Minted, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := map[string]bool{}
	for _, v := range o.Known {
		known[name(v)] = true
	}
	for n, at := range k.keys {
		if k.labels && at.label == o.ID || !k.labels && !known[n] {
			delete(k.keys, n) // of an attempt whose secret is lost
		}
	}
	if len(k.keys) == 2 {
		return credentials.Minted{}, credentials.Refused("there are two keys already")
	}
	at := &key{Name: slugid.New(), Secret: slugid.New(), label: o.ID}
	k.keys[at.Name] = at
	secret, _ := json.Marshal(at)
	id, _ := json.Marshal(public{at.Name})
	return credentials.Minted{Public: id, Secret: secret}, nil
}

func (k keysKind) Prove(ctx context.Context, v credentials.Version) error {
	if k.at(v) == nil {
		return credentials.ErrNoVersion
	}
	return k.works(ctx, v.Secret)
}

// at is the key of a version.
func (k keysKind) at(v credentials.Version) *key {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, at := range k.keys {
		if k.labels && at.label == v.ID || !k.labels && at.Name == name(v) {
			return at
		}
	}
	return nil
}

func (k keysKind) Used(_ context.Context, v credentials.Version) (time.Time, error) {
	if k.labels { // such a provider tells less
		return time.Time{}, credentials.ErrNotTold
	}
	at := k.at(v)
	if at == nil {
		return time.Time{}, credentials.ErrNoVersion
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return at.used, nil
}

func (k keysKind) Disable(_ context.Context, v credentials.Version) error {
	if at := k.at(v); at != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		at.off = true
	}
	return nil
}

func (k keysKind) Retire(_ context.Context, v credentials.Version) error {
	if v.Public == nil && !k.labels { // it may be there: what nobody knows is
		return nil
	}
	if at := k.at(v); at != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.keys, at.Name)
	}
	return nil
}

func (k keysKind) List(_ context.Context, o credentials.Order) (list []credentials.Found, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := map[string]string{}
	for _, v := range o.Known {
		known[name(v)] = v.ID
	}
	for n, at := range maps.All(k.keys) {
		f := credentials.Found{ID: at.label, Adopt: len(o.Known) == 0}
		if !k.labels || f.ID == "" {
			f.ID = n
			if known[n] != "" {
				f.ID = known[n]
			}
		}
		f.Public, _ = json.Marshal(public{n})
		list = append(list, f)
	}
	return list, nil
}

func TestAProviderWithLabels(t *testing.T) {
	rotatortest.Run(t, func(*testing.T, *store.DB) rotatortest.Subject {
		p := &provider{keys: map[string]*key{}}
		return rotatortest.Subject{Kind: keysKind{p, true}, Works: p.works}
	})
}

// As with IAM, there is a key already that somebody has made.
func TestAProviderThatTellsSecretsOnceAndHasRoomForTwo(t *testing.T) {
	rotatortest.Run(t, func(*testing.T, *store.DB) rotatortest.Subject {
		p := &provider{keys: map[string]*key{"before": {Name: "before", Secret: slugid.New()}}}
		return rotatortest.Subject{Kind: keysKind{p, false}, Works: p.works}
	})
}
