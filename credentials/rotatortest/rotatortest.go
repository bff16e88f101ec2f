// Package rotatortest is what every kind of credential has to pass.
//
// A rotation is interrupted at every point: between every two steps, and within each
// before and after what it does elsewhere and in the journal; once by an error, and
// once by the end of the process, after which another one goes on with the same
// database and the same provider. At every point that is come to, all consumers use
// what they have, and it must work, also for the one that is slow to pick up what is
// new. In the end nothing may be there that the database does not know, what was
// replaced must not work any more, and the next rotation begins.
//
// A kind joins in ten lines:
//
//	func TestKind(t *testing.T) {
//		rotatortest.Run(t, func(t *testing.T, db *store.DB) rotatortest.Subject {
//			return rotatortest.Subject{Kind: …, Settings: …, Works: …}
//		})
//	}
package rotatortest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// A Subject is a kind and a place where it can mint.
type Subject struct {
	Kind     credentials.Kind
	Settings string // JSON

	// Works uses a secret as a consumer would.
	Works func(ctx context.Context, secret json.RawMessage) error

	// Forget has the provider not know a version any more, though nobody has retired it;
	// nil where Retire does.
	Forget func(ctx context.Context, v credentials.Version) error

	// Slow is for a kind whose calls take long: the ordinary rotation is interrupted at
	// every point in one of the ways, others at every fourth in both, and consumers use what
	// they have only after something was done at the provider or with a consumer that was
	// more than a question, and at rest if they have not since then. To such a kind it is the same where the journal is, so with the journal on
	// PostgreSQL only the ordinary rotation is interrupted, at every fourth point; the other
	// interruptions are on SQLite alone.
	Slow bool
}

// Points is how many points a kind has at least.
const Points = 60

// Run runs the suite on every database. Each call of subject makes a place of its
// own, in which nothing was minted by the engine.
func Run(t *testing.T, subject func(t *testing.T, db *store.DB) Subject) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, *store.DB, func(*testing.T, *store.DB) Subject)
	}{
		{"ARotationIsInterruptedAnywhere", interrupted},
		{"TheFirstRotationIsInterrupted", interruptedFirst},
		{"AForcedRotationIsInterrupted", interruptedForced},
		{"AVersionThatFailsItsProofIsWithdrawn", withdrawn},
		{"ReplicasThatRaceMintOnce", raced},
		{"AVersionThatTheProviderForgetsIsSeen", forgotten},
	} {
		t.Run(c.name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) { c.f(t, db, subject) })
		})
	}
}

// modes of interruption.
var modes = []string{"error", "kill"}

// each interrupts what f does at the first point, then at the second, and so on, in
// both modes, or of a slow kind in one and the other by turns, until f ends before it
// comes to the point.
func each(t *testing.T, slow bool, step int, f func(k int, mode string) *world) (points int, names map[string]bool) {
	names = map[string]bool{}
	for k := 1; ; k += step {
		modes := modes
		if slow {
			modes = modes[k/step%2:][:1]
		}
		for _, mode := range modes {
			w := f(k, mode)
			if w.cutAt == "" {
				return points, names
			}
			points++
			names[w.cutAt] = true
		}
		if k > 1000 {
			t.Fatal("a rotation has more than 1000 points")
		}
	}
}

func interrupted(t *testing.T, db *store.DB, subject func(*testing.T, *store.DB) Subject) {
	w := newWorld(t, db, subject(t, db), "interrupted")
	defer w.end()
	w.drive() // the first version
	w.settled()
	stride, least := 1, Points
	if w.subject.Slow && onPostgres(t) {
		stride, least = 4, Points/4
	}
	points, names := each(t, w.subject.Slow, stride, func(k int, mode string) *world {
		before := w.prompt
		w.arm(k, mode)
		w.rotate()
		w.drive()
		w.disarm()
		w.settled()
		w.dead(before)
		return w
	})
	t.Logf("%d points", points)
	if points < least {
		t.Errorf("a rotation was interrupted at %d points, of %d at least", points, least)
	}
	if w.subject.Slow { // a point can be missed by both ways
		names = nil
	}
	for _, step := range []string{"mint", "prove", "publish app", "deliver file", "deliver part", "disable", "retire", "journal begin", "journal take", "journal mint ends", "journal publish ends", "journal retire ends"} {
		for _, side := range []string{" before", " after"} {
			if names != nil && !names[step+side] {
				t.Errorf("no rotation was interrupted at %s", step+side)
			}
		}
	}
}

// stride is how far the interrupted points of what is not the ordinary rotation are
// apart.
func (s Subject) stride() int {
	if s.Slow {
		return 4
	}
	return 1
}

// onlySQLite tells that what is not the ordinary rotation is interrupted with the journal
// on SQLite, and not here.
func (s Subject) onlySQLite(t *testing.T) bool { return s.Slow && onPostgres(t) }

func onPostgres(t *testing.T) bool { return strings.HasSuffix(t.Name(), "/postgres") }

func interruptedFirst(t *testing.T, db *store.DB, subject func(*testing.T, *store.DB) Subject) {
	s := subject(t, db)
	if s.onlySQLite(t) {
		return
	}
	points, _ := each(t, false, s.stride(), func(k int, mode string) *world {
		w := newWorld(t, db, subject(t, db), fmt.Sprintf("first-%d-%s", k, mode))
		defer w.end()
		w.arm(k, mode)
		w.drive()
		w.disarm()
		w.settled()
		return w
	})
	t.Logf("%d points", points)
}

func interruptedForced(t *testing.T, db *store.DB, subject func(*testing.T, *store.DB) Subject) {
	s := subject(t, db)
	if s.onlySQLite(t) {
		return
	}
	w := newWorld(t, db, s, "forced")
	defer w.end()
	w.drive()
	points, _ := each(t, false, w.subject.stride(), func(k int, mode string) *world {
		before := w.prompt
		w.arm(k, mode)
		w.forced = true
		w.again(func(c *credentials.Credentials) error { return c.Revoke(w.ctx(), w.name, "tester") })
		w.drive()
		w.disarm()
		w.forced = false
		w.settled()
		w.dead(before)
		return w
	})
	t.Logf("%d points", points)
}

// withdrawn has proofs fail, which may be interrupted as well.
func withdrawn(t *testing.T, db *store.DB, subject func(*testing.T, *store.DB) Subject) {
	s := subject(t, db)
	if s.onlySQLite(t) {
		return
	}
	doubt := &doubtful{Kind: s.Kind}
	s.Kind = doubt
	w := newWorld(t, db, s, "withdrawn")
	defer w.end()
	w.drive()
	points, _ := each(t, false, w.subject.stride(), func(k int, mode string) *world {
		before := string(w.prompt)
		doubt.set(true)
		w.arm(k, mode)
		w.rotate()
		w.drive()
		w.disarm()
		doubt.set(false)
		w.settled()
		if string(w.prompt) != before {
			t.Errorf("cut %d %s: a version that failed its proof was published", k, mode)
		}
		if got := w.text(`SELECT trouble FROM credential WHERE name = $1`, w.name); !strings.Contains(got, "prove") || !strings.Contains(got, "doubt") {
			t.Errorf("cut %d %s: the trouble is told as %q", k, mode, got)
		}
		return w
	})
	t.Logf("%d points", points)
	before := w.prompt
	w.rotate() // nothing of it is in the way
	w.drive()
	w.settled()
	w.dead(before)
}

// A doubtful kind can be made to fail all proofs.
type doubtful struct {
	credentials.Kind
	mu   sync.Mutex
	fail bool
}

func (d *doubtful) set(fail bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fail
}

func (d *doubtful) Prove(ctx context.Context, v credentials.Version) error {
	d.mu.Lock()
	fail := d.fail
	d.mu.Unlock()
	if fail {
		return credentials.Refused("there is doubt")
	}
	return d.Kind.Prove(ctx, v)
}

// A counting kind counts what is minted.
type counting struct {
	credentials.Kind
	mu    sync.Mutex
	mints []string
}

func (c *counting) Mint(ctx context.Context, o credentials.Order) (credentials.Minted, error) {
	c.mu.Lock()
	c.mints = append(c.mints, o.ID)
	c.mu.Unlock()
	return c.Kind.Mint(ctx, o)
}

func raced(t *testing.T, db *store.DB, subject func(*testing.T, *store.DB) Subject) {
	s := subject(t, db)
	count := &counting{Kind: s.Kind}
	s.Kind = count
	w := newWorld(t, db, s, "raced")
	defer w.end()
	w.drive()
	for range 5 {
		count.mints = nil
		before := w.prompt
		var racing sync.WaitGroup
		var engines []*credentials.Credentials
		for range 4 {
			engines = append(engines, w.start())
		}
		ctx := w.ctx()
		for _, c := range engines {
			racing.Go(func() {
				if err := c.Rotate(ctx, w.name, "tester"); err != nil {
					t.Errorf("asking for a rotation: %v", err)
				}
				for range 3 {
					if err := pass(ctx, c, "credentials.rotate"); err != nil {
						t.Errorf("racing: %v", err)
					}
				}
			})
		}
		racing.Wait()
		w.drive()
		w.settled()
		w.dead(before)
		if len(count.mints) != 1 {
			t.Errorf("replicas that raced have minted %d times: %q", len(count.mints), count.mints)
		}
	}
}

func forgotten(t *testing.T, db *store.DB, subject func(*testing.T, *store.DB) Subject) {
	w := newWorld(t, db, subject(t, db), "forgotten")
	defer w.end()
	w.drive()
	if wrong, err := w.engine.Verify(w.ctx(), w.name); err != nil || wrong != "" {
		t.Fatalf("verifying what works: %q, %v", wrong, err)
	}
	id := w.text(`SELECT current FROM credential WHERE name = $1`, w.name)
	public := w.text(`SELECT public FROM credential_version WHERE id = $1`, id)
	forget := w.subject.Forget
	if forget == nil {
		forget = w.subject.Kind.Retire
	}
	if err := forget(w.ctx(), credentials.Version{ID: id, Credential: w.name, Settings: json.RawMessage(w.subject.Settings), Public: json.RawMessage(public)}); err != nil {
		t.Fatal(err)
	}
	w.outage = true // which is not the engine's doing
	wrong, err := w.engine.Verify(w.ctx(), w.name)
	if err != nil || wrong == "" {
		t.Errorf("verifying what is not there any more: %q, %v", wrong, err)
	}
	if got := w.text(`SELECT broken FROM credential WHERE name = $1`, w.name); got == "" {
		t.Error("it is not noted that the version is broken")
	}
	w.rotate()
	w.drive()
	w.outage = false
	w.settled()
}
