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
	"time"

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

	// Supply is for a kind whose versions people bring: it makes one.
	Supply func() json.RawMessage

	// Forget has the provider not know a version any more, though nobody has retired it;
	// nil where Retire does.
	Forget func(ctx context.Context, v credentials.Version) error

	// Slow is for a kind whose calls take long: the ordinary rotation is interrupted at
	// every second point, others at every sixth, and consumers use what they have only
	// when they are given something, and when something was done at the provider since
	// they have used it, and at the end.
	Slow bool
}

// Points is how many points the ordinary rotation of a kind is interrupted at, at least.
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

// each interrupts what f does at the first point, then at the one a step further, and so
// on, in both modes or in one and the other by turns, until f ends before it comes to the
// point.
func each(t *testing.T, both bool, step int, f func(k int, mode string) *world) (points int, names map[string]bool) {
	names = map[string]bool{}
	for k := 1; ; k += step {
		modes := modes
		if !both {
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
	w.first()
	w.settled()
	stride := 1
	if w.subject.Slow {
		stride = 2
	}
	if onPostgres(t) {
		stride *= 4
	}
	points, names := each(t, stride == 1, stride, func(k int, mode string) *world {
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
	if least := Points / stride; points < least {
		t.Errorf("a rotation was interrupted at %d points, of %d at least", points, least)
	}
	if stride > 1 {
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
		return 6
	}
	return 2
}

// onPostgres tells that the journal is there. To a kind it is the same where it is, so then
// only the ordinary rotation is interrupted, at every fourth of the points.
func onPostgres(t *testing.T) bool { return strings.HasSuffix(t.Name(), "/postgres") }

func interruptedFirst(t *testing.T, db *store.DB, subject func(*testing.T, *store.DB) Subject) {
	if onPostgres(t) {
		return
	}
	s := subject(t, db)
	points, _ := each(t, false, s.stride(), func(k int, mode string) *world {
		w := newWorld(t, db, subject(t, db), fmt.Sprintf("first-%d-%s", k, mode))
		defer w.end()
		w.arm(k, mode)
		w.first()
		w.disarm()
		w.settled()
		return w
	})
	t.Logf("%d points", points)
}

func interruptedForced(t *testing.T, db *store.DB, subject func(*testing.T, *store.DB) Subject) {
	if onPostgres(t) {
		return
	}
	s := subject(t, db)
	w := newWorld(t, db, s, "forced")
	defer w.end()
	w.first()
	points, _ := each(t, false, w.subject.stride(), func(k int, mode string) *world {
		before := w.prompt
		w.arm(k, mode)
		w.forced = true
		w.revoke()
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
	if onPostgres(t) {
		return
	}
	s := subject(t, db)
	doubt := &doubtful{Kind: s.Kind}
	s.Kind = as(s.Kind, doubt)
	w := newWorld(t, db, s, "withdrawn")
	defer w.end()
	w.first()
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

// A supplier is credentials.Supplied by another name than that of its method.
type supplier interface{ credentials.Supplied }

// as has a kind that stands for another one be Supplied if that is.
func as(of, kind credentials.Kind) credentials.Kind {
	if s, ok := of.(credentials.Supplied); ok {
		return struct {
			credentials.Kind
			supplier
		}{kind, s}
	}
	return kind
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
	if o.ID != "" { // it is not only looked at
		c.mu.Lock()
		c.mints = append(c.mints, o.ID)
		c.mu.Unlock()
	}
	return c.Kind.Mint(ctx, o)
}

func raced(t *testing.T, db *store.DB, subject func(*testing.T, *store.DB) Subject) {
	s := subject(t, db)
	count := &counting{Kind: s.Kind}
	s.Kind = as(s.Kind, count)
	w := newWorld(t, db, s, "raced")
	defer w.end()
	w.first()
	for range 3 {
		ask := w.ask()
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
				if err := ask(c); err != nil {
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
	w.first()
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
	for range 5 {   // what may be the way there is not believed at once
		wrong, err := w.engine.Verify(w.ctx(), w.name)
		if err != nil || wrong == "" {
			t.Errorf("verifying what is not there any more: %q, %v", wrong, err)
		}
		time.Sleep(15 * time.Minute)
	}
	if got := w.text(`SELECT broken FROM credential WHERE name = $1`, w.name); got == "" {
		t.Error("it is not noted that the version is broken")
	}
	w.rotate()
	w.drive()
	w.outage = false
	w.settled()
}
