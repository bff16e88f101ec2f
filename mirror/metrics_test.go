package mirror

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// scraped is what a registry tells, by name and labels; of a histogram how often
// it was observed.
func scraped(t testing.TB, r prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), "taskfleet_mirror_")
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestMetricsTellWhatThereIs(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		registry := prometheus.NewRegistry()
		w.config.Metrics = registry
		w.config.Regions[0].MaxBytes = 10_000
		w.Mirror = w.start()
		empty := scraped(t, registry)
		for _, region := range []string{near, far} {
			for _, s := range states {
				if v, ok := empty["objects "+region+" "+string(s)]; !ok || v != 0 {
					t.Errorf("with no copies there are %v that are %s in %s", v, s, region)
				}
			}
		}
		list := w.made(4, 250, near)
		w.wanting(wish(near, w.remote("/none", faulty.Object{Always: []faulty.Fault{faulty.Missing}})))
		w.settle(w.Mirror)
		w.wanting(wish(near, w.artifact("task", "waits", []byte("abc"))))
		large := wish(near, w.artifact("task", "waits longer", []byte("abc")))
		large.Size = largeSize + 1
		w.wanting(large)
		w.edit("requested = $1", "size > $2", timestamp.Now().Add(-time.Hour), largeSize)
		if err := w.purge(t.Context(), list[0].ID(), near); err != nil {
			t.Fatal(err)
		}
		got := scraped(t, registry)
		for name, want := range map[string]float64{
			"objects us-east-1 present": 3, "bytes us-east-1 present": 750, "objects us-east-1 waiting": 2, "bytes us-east-1 waiting": largeSize + 1,
			"objects us-east-1 failed": 1, "objects us-east-1 leaving": 1, "bytes us-east-1 leaving": 250, "objects us-east-1 copying": 0,
			"objects eu-central-1 present": 0, "waiting_seconds eu-central-1": 0, "limit_bytes us-east-1": 10_000, "limit_bytes eu-central-1": 0,
			"attempts_total us-east-1 present": 4, "attempts_total us-east-1 failed": 1, "copied_bytes_total us-east-1": 1000, "copy_seconds us-east-1": 4,
			"removed_total purged us-east-1": 1,
		} {
			if v, ok := got[name]; !ok || v != want {
				t.Errorf("%s is %v, want %v", name, v, want)
			}
		}
		if age := got["waiting_seconds us-east-1"]; age < 3600 || age > 3700 {
			t.Errorf("the oldest has been waiting for %v seconds, want an hour", age)
		}
		// A database that does not answer costs these metrics, not the others.
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		got = scraped(t, registry)
		if _, ok := got["objects us-east-1 present"]; ok || got["attempts_total us-east-1 present"] != 4 {
			t.Errorf("without a database: %v", got)
		}
	})
}

// While two replicas copy, purge, expire and mend, and the origin fails now and
// then, every look finds figures that are what can be counted, and every copy that
// is present in the bucket.
func TestFiguresAddUpAtAnyMoment(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for i, m := range []*Mirror{w.Mirror, w.start()} {
			runner := loop.NewRunner(w.config.Log, db.Lease(fmt.Sprint("replica ", i)), prometheus.NewRegistry())
			running.Go(func() { _ = runner.Run(ctx, m.Loops()...) })
		}
		looks := 30
		if testing.Short() {
			looks = 10
		}
		work, stopWork := context.WithCancel(ctx)
		defer stopWork()
		var origins []Origin
		for i := range 100 {
			origins = append(origins, w.artifact("task", fmt.Sprint("public/", i), noise(i, 100*i)))
		}
		for i := range 20 {
			o := faulty.Object{Size: int64(1000 * i)}
			if i%4 == 0 {
				o.Plan = func(_ string, request int) faulty.Fault {
					if work.Err() != nil {
						return faulty.None
					}
					return []faulty.Fault{"", faulty.Unavailable, faulty.Truncate}[request%3]
				}
			}
			origins = append(origins, w.remote(fmt.Sprint("/", i), o))
		}
		var busy sync.WaitGroup
		for worker := range 4 {
			busy.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(worker)))
				for work.Err() == nil {
					o := origins[r.IntN(len(origins))]
					region := []string{near, far}[r.IntN(2)]
					var err error
					switch n := r.IntN(100); {
					case n < 80:
						_, err = w.want(ctx, wish(region, o))
					case n < 90:
						err = w.purge(ctx, o.ID(), region)
					case n < 95:
						_, err = w.verify(ctx, region, o.ID())
					default:
						c, e := w.find(ctx, region, o.ID())
						if e == nil && c.State == Present {
							err = w.mend(ctx, map[*Copy]*damage{c: objectReplaced})
						}
					}
					if err != nil && !isNotFound(err) {
						t.Error(err)
						return
					}
				}
			})
		}
		for range looks {
			w.oneMoment()
			w.allThere()
		}
		stopWork()
		busy.Wait()
		// What has failed is tried again, without anybody having to wait for that.
		w.edit("due = $1", "state = 'waiting'", timestamp.Now())
		db.Waits().Wake(topicWork, store.Everybody)
		for _, o := range origins {
			for _, region := range []string{near, far} {
				if _, err := w.await(t.Context(), region, o.ID(), patience); err != nil && !isNotFound(err) {
					t.Error(err)
				}
			}
		}
		stop()
		running.Wait()
		all(t, newLife(w.Mirror).remove)
		w.count()
		w.noLitter()
	})
}

func isNotFound(err error) bool { return strings.Contains(err.Error(), store.ErrNotFound.Error()) }

// oneMoment makes sure that tallies and rows agree at one moment, as stock tells
// it.
func (w *world) oneMoment() {
	w.Helper()
	counted, told := tally{}, tally{}
	err := w.db.View(w.Context(), func(tx *store.Tx) error {
		for into, statement := range map[*tally]string{
			&counted: `SELECT region, state, count(*), CAST(sum(CASE WHEN size > 0 THEN size ELSE 0 END) AS BIGINT) FROM mirror_copy GROUP BY region, state`,
			&told:    `SELECT region, state, objects, bytes FROM mirror_tally WHERE objects <> 0 OR bytes <> 0`,
		} {
			clear(*into)
			rows, err := tx.Query(statement)
			if err != nil {
				return err
			}
			for rows.Next() {
				var k tallied
				var s Sum
				if err := rows.Scan(&k.region, &k.state, &s.Objects, &s.Bytes); err != nil {
					return err
				}
				(*into)[k] = s
			}
			if err := rows.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	if !maps.Equal(counted, told) {
		w.Errorf("counted are %v, and told is %v", counted, told)
	}
}

// allThere makes sure that what is present is in the bucket: all that was before
// the bucket was listed, and is after.
func (w *world) allThere() {
	w.Helper()
	present := func(p *place) map[string]int64 {
		keys := map[string]int64{}
		known, err := w.present(w.Context(), p, "")
		if err != nil {
			w.Fatal(err)
		}
		for _, c := range known {
			keys[c.key()] = c.Size
		}
		return keys
	}
	for _, p := range w.regions {
		before := present(p)
		listed := map[string]int64{}
		for o, err := range p.Bucket.List(w.Context(), keyPrefix) {
			if err != nil {
				w.Fatal(err)
			}
			listed[o.Key] = o.Size
		}
		after := present(p)
		for key, size := range before {
			if _, still := after[key]; !still {
				continue
			}
			if is, ok := listed[key]; !ok || is != size {
				w.Errorf("%s in %s is to have %d bytes and has %d (%v)", key, p.Name, size, is, ok)
			}
		}
	}
}
