package platform

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/seal/ring"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// open is a replica with the key seal, over keys that are its root.
func open(t *testing.T, db *store.DB, name string, purposes ...string) (*ring.Ring, *seal.Keys, *seal.Keys) {
	t.Helper()
	root, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeys(root.All()...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ring.Open(t.Context(), ring.Config{DB: db, Root: root, Log: slog.New(slog.DiscardHandler), Replica: name})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range purposes {
		if err := r.Serve(t.Context(), p, ring.Sealing("to seal", root, keys, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r, root, keys
}

func TestTheKeysOfThePlatformRotate(t *testing.T) {
	var n atomic.Int64
	rings := map[*store.DB]*ring.Ring{}
	rotatortest.Run(t, func(t *testing.T, db *store.DB) rotatortest.Subject {
		if rings[db] == nil {
			rings[db], _, _ = open(t, db, "one")
		}
		r, purpose := rings[db], fmt.Sprintf("seal-%d", n.Add(1))
		root, err := seal.NewKeys(seal.NewKey())
		if err != nil {
			t.Fatal(err)
		}
		keys, err := seal.NewKeys(root.All()...)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Serve(t.Context(), purpose, ring.Sealing("to seal", root, keys, nil)); err != nil {
			t.Fatal(err)
		}
		kind := Kind{r}
		return rotatortest.Subject{
			Kind: kind, Settings: fmt.Sprintf(`{"key":%q}`, purpose), Slow: true,
			Works: func(ctx context.Context, text json.RawMessage) error {
				var s secret
				if err := json.Unmarshal(text, &s); err != nil {
					return err
				}
				return r.Try(ctx, s.Key, s.Version)
			},
			Forget: func(ctx context.Context, v credentials.Version) error {
				return db.Do(ctx, func(tx *store.Tx) error {
					if _, err := tx.Exec(`UPDATE platform_key_version SET version = version + 1`); err != nil {
						return err
					}
					_, err := tx.Exec(`DELETE FROM platform_key WHERE id = $1`, v.ID)
					return err
				})
			},
		}
	})
}

func TestWhatIsNoneOfTheseKeysIsExplained(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r, _, _ := open(t, db, "one", "seal")
		k := Kind{r}
		if place, err := k.Check(json.RawMessage(`{"key":"seal"}`)); err != nil || place != "this platform: to seal" {
			t.Errorf("%q, %v", place, err)
		}
		for _, text := range []string{`{}`, `{"key":"root"}`, `{"key":"kms"}`, `{"key":"gateway"}`, `{"key":"other"}`, `{"key":"seal","x":1}`} {
			if _, err := k.Check(json.RawMessage(text)); err == nil {
				t.Errorf("%s is accepted", text)
			} else {
				t.Log(err)
			}
		}
	})
}
