package platform

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/internal/cut"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/seal/ring"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// A replica seals things with keys that the engine rotates.
type replica struct {
	*testing.T
	db     *store.DB
	root   *seal.Keys
	keys   *seal.Keys
	ring   *ring.Ring
	engine *credentials.Credentials
	name   string
	killed chan struct{}
}

func startReplica(t *testing.T, db *store.DB, root *seal.Keys, name string) *replica {
	t.Helper()
	r := &replica{T: t, db: db, root: root, name: name, killed: make(chan struct{})}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	r.keys, err = seal.NewKeys(root.All()...)
	must(err)
	log := slog.New(slog.DiscardHandler)
	r.ring, err = ring.Open(t.Context(), ring.Config{DB: db, Root: root, Log: log, Replica: name})
	must(err)
	must(r.ring.Serve(t.Context(), "seal", ring.Sealing("to seal", root, r.keys, r.move)))
	must(r.ring.Follow(t.Context()))
	bus, err := event.New(t.Context(), db, log)
	must(err)
	kind := Kind{r.ring}
	r.engine, err = credentials.New(t.Context(), credentials.Config{
		DB: db, Events: bus, Keys: r.keys, Log: log, Replica: name, Kinds: map[string]credentials.Kind{"platform-key": kind},
		Platform: map[string]credentials.Part{Part: kind.Take},
		Definitions: []credentials.Definition{{
			Name: "seal", Kind: "platform-key", Settings: []byte(`{"key":"seal"}`), Overlap: 5 * time.Minute, Quiet: 4 * time.Minute, Grace: 2 * time.Minute,
			Consumers: []credentials.Use{{Name: "platform", Platform: Part, Must: true}},
		}},
	})
	must(err)
	return r
}

func bound(id int64) string { return fmt.Sprint("thing/", id) }

func (r *replica) add(from, n int64) {
	r.Helper()
	var rows [][]any
	for id := from; id < from+n; id++ {
		rows = append(rows, []any{id, r.keys.Seal([]byte(fmt.Sprint("secret ", id)), bound(id))})
	}
	if err := r.db.Do(r.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecEach(`INSERT INTO sealed_things (id, thing) VALUES ($1, $2)`, rows)
		return err
	}); err != nil {
		r.Fatal(err)
	}
}

type thing struct {
	id     int64
	sealed string
}

func (r *replica) things(ctx context.Context) (list []thing, err error) {
	err = r.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`SELECT id, thing FROM sealed_things ORDER BY id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var x thing
			if err := rows.Scan(&x.id, &x.sealed); err != nil {
				return err
			}
			list = append(list, x)
		}
		return rows.Err()
	})
	return list, err
}

// move seals anew, and can be interrupted between any two parts.
func (r *replica) move(ctx context.Context) error {
	list, err := r.things(ctx)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(x thing) bool { return r.keys.Current(x.sealed) })
	for part := range slices.Chunk(list, 250) {
		if err := cut.At(ctx, "move"); err != nil {
			return err
		}
		var rows [][]any
		for _, x := range part {
			text, err := r.keys.Open(x.sealed, bound(x.id))
			if err != nil {
				return err
			}
			rows = append(rows, []any{r.keys.Seal(text, bound(x.id)), x.id, x.sealed})
		}
		if err := r.db.Do(ctx, func(tx *store.Tx) error {
			_, err := tx.ExecEach(`UPDATE sealed_things SET thing = $1 WHERE id = $2 AND thing = $3`, rows)
			return err
		}); err != nil {
			return err
		}
	}
	// What else is sealed here is the engine's.
	return pass(ctx, r.engine, "credentials.upkeep")
}

func pass(ctx context.Context, c *credentials.Credentials, name string) error {
	for _, l := range c.Loops() {
		if l.Name == name {
			_, err := l.Pass(ctx)
			return err
		}
	}
	return fmt.Errorf("there is no loop %s", name)
}

func (r *replica) opens(list []thing, at string) {
	r.Helper()
	for _, x := range list {
		if text, err := r.keys.Open(x.sealed, bound(x.id)); err != nil || string(text) != fmt.Sprint("secret ", x.id) {
			r.Fatalf("%s: on %s the thing %d is lost: %v", at, r.name, x.id, err)
		}
	}
}

// Three replicas, one of which is slow to learn of keys, rotate the key of a thousand
// things; the one that does it is killed at a point, in each rotation a later one. Each
// goes on sealing with what it has, and at every moment all open everything.
func TestReplicasRotateTheKeyOfAThousandThings(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		root, err := seal.NewKeys(seal.NewKey())
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`CREATE TABLE sealed_things (id BIGINT PRIMARY KEY, thing TEXT NOT NULL)`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		all := []*replica{startReplica(t, db, root, "one"), startReplica(t, db, root, "two"), startReplica(t, db, root, "slow")}
		over := make(chan struct{})
		defer close(over)
		next := int64(1000)
		if testing.Short() { // with the race detector
			next = 200
		}
		all[0].add(0, next)
		after, cutAt := 0, ""
		run := func(i int, name string) {
			t.Helper()
			r := all[i]
			ctx := cut.With(t.Context(), func(point string) error {
				select {
				case <-r.killed: // nothing of it goes on
					<-over
					runtime.Goexit()
				default:
				}
				if after--; after != 0 {
					return nil
				}
				cutAt = point
				close(r.killed)
				<-over
				runtime.Goexit()
				return nil
			})
			if i > 0 {
				ctx = t.Context()
			}
			done := make(chan error, 1)
			go func() { done <- pass(ctx, r.engine, name) }()
			select {
			case err := <-done:
				if err != nil && !strings.Contains(err.Error(), "replica") {
					t.Fatalf("%s: %v", r.name, err)
				}
			case <-r.killed:
				all[i] = startReplica(t, db, root, r.name)
			}
		}
		text := func(statement string) (s string) {
			t.Helper()
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				list, err := tx.Column(statement)
				s = strings.Join(list, ",")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return s
		}
		points := 0
		for k := 0; ; k += 21 { // the first one is whole
			before := all[0].keys.Newest()
			if k > 0 {
				if err := all[1].engine.Rotate(t.Context(), "seal", "tester"); err != nil {
					t.Fatal(err)
				}
			}
			after, cutAt = k, ""
			ended := false
			for round := range 120 {
				for i, r := range all {
					if r.name == "slow" && round%2 == 0 {
						continue
					}
					if r.name == "one" || round%5 == 4 {
						run(i, "credentials.rotate")
					}
					run(i, "credentials.deliver")
					if err := all[i].ring.Follow(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				for _, r := range all {
					r.add(next, 1)
					next++
				}
				if round%6 == 0 {
					list, err := all[0].things(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					for _, r := range all {
						r.opens(list, fmt.Sprintf("cut %d (%s), round %d", k, cutAt, round))
					}
				}
				if ended = text(`SELECT id FROM credential_rotation WHERE state = 'running'`) == "" && text(`SELECT current FROM credential`) != ""; ended {
					break
				}
				time.Sleep(50 * time.Second)
			}
			if !ended {
				t.Fatalf("cut %d (%s): the rotation finds no end: %s", k, cutAt, text(`SELECT step || ': ' || note FROM credential_rotation WHERE state = 'running'`))
			}
			if all[0].keys.Newest() == before {
				t.Fatalf("cut %d (%s): nothing was replaced; %s", k, cutAt, text(`SELECT trouble FROM credential`))
			}
			if got := text(`SELECT COUNT(*) FROM platform_key WHERE state <> 'retired'`); got != "1" {
				t.Fatalf("cut %d (%s): %s keys are accepted in the end", k, cutAt, got)
			}
			if k > 0 && cutAt == "" {
				break
			}
			points++
		}
		t.Logf("%d rotations, %d things", points, next)
		if points < 6 {
			t.Errorf("only %d rotations were interrupted", points)
		}
	})
}
