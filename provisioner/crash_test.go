package provisioner

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// A pool lives through everything that can happen to it, while the pass breaks
// off after its nth write or call of the provider, for every n: because the
// server is killed, or because something fails. However that goes, no worker is
// started twice, there are never more than the pool may have, no task is lost,
// and nothing is left in the end.
func TestAPassThatBreaksOff(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"killed", "failed"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				steps := live(t, db, "whole", how, 0)
				for _, kind := range []string{
					"intend", "launch", "answer", "prove", "drain", "ask to end", "note that it was asked", "interrupt", "decide to end",
					"end", "end strangers", "hand claims back", "close", "remove pool",
				} {
					if !slices.Contains(steps, kind) {
						t.Errorf("the whole life has no step %q, so nothing breaks off there", kind)
					}
				}
				stride := 1
				if strings.HasSuffix(t.Name(), "/postgres") {
					stride = 3 // what is written with each step is the same there, and takes ten times as long
				}
				for n := 0; n < len(steps); n += stride {
					live(t, db, fmt.Sprintf("n%d", n+1), how, n+1)
				}
				t.Logf("broken off after one of %d of %d steps", stride, len(steps))
			})
		})
	}
}

// live plays a pool's life, breaks a pass off at step n, and returns the names
// of the steps that there were.
func live(t *testing.T, db *store.DB, name, how string, n int) (steps []string) {
	s := newStillStage(t, db)             // passes are made by hand, one every three seconds
	s.log = slog.New(slog.DiscardHandler) // of panics that are wished for
	s.cloud.Boot, s.length, s.idle, s.asks = 2*time.Second, 12*time.Second, time.Hour, 3*time.Second
	if how == "killed" {
		s.cloud.Linger = 4 * time.Second // machines take their time to end
	}
	pool := "life/" + name
	failing := func(what string, args ...any) {
		t.Helper()
		at := "no step"
		if n > 0 && n <= len(steps) {
			at = fmt.Sprintf("step %d (%s)", n, steps[n-1])
		}
		t.Fatalf("%s at %s: "+what, append([]any{how, at}, args...)...)
	}
	open := func() context.Context {
		s.open()
		ctx, cancel := context.WithCancel(t.Context())
		s.prov.fleet.Step = func(what string) {
			if steps = append(steps, what); len(steps) != n {
				return
			}
			if how == "killed" {
				cancel() // nothing more is written
			}
			panic(how + " after " + what)
		}
		return ctx
	}
	ctx := open()
	mood := func(mood string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mood = mood
	}
	commands := map[int]func(){
		0: func() {
			s.do([]string{"provider", "is-unclear"})
			s.do([]string{"pool", pool, "max=3", "idle=4"})
			s.add(pool, 3)
		},
		3:  func() { s.do([]string{"provider", "is-well"}) },
		9:  func() { s.one(pool, func(r fleet.Ref) { s.call("", "DELETE", "/workers/"+r.String(), nil) }) },
		12: func() { s.one(pool, s.cloud.Kill) },
		21: func() { s.one(pool, func(r fleet.Ref) { s.cloud.Interrupt(r, 20*time.Second) }) },
		48: func() { s.do([]string{"update", pool, "max=3", "image=b", "idle=4"}); s.add(pool, 2) },
		54: func() { s.cloud.Stray(pool) },
		// Until now five tasks could be done, three of which had to begin again.
		105: func() { mood("mute"); s.do([]string{"update", pool, "min=1", "max=3", "register-within=5"}) },
		114: func() { s.do([]string{"delete", pool}) },
	}
	for second := 0; second < 153; second += 3 {
		if f := commands[second]; f != nil {
			f()
		}
		s.prov.reconcile(ctx) // its error is that it broke off
		if ctx.Err() != nil {
			ctx = open()
		}
		time.Sleep(3 * time.Second)
		if second >= 126 {
			time.Sleep(15 * time.Second) // what does not end when it is asked to takes time
		}
		synctest.Wait()
		if second == 102 && s.finished != 5 {
			failing("%d of 5 tasks are finished", s.finished)
		}
	}
	if n == 0 && s.returned != 3 {
		failing("%d tasks were handed back, want 3: of the removed worker, the dead one and the one that was taken away", s.returned)
	}
	if left := s.cloud.machines; len(left) != 0 {
		failing("%d machines are left", len(left))
	}
	for r, times := range s.cloud.launched {
		if times != 1 {
			failing("%s was started %d times", r, times)
		}
	}
	if s.cloud.most > 3 {
		failing("there were %d machines, the pool may have 3", s.cloud.most)
	}
	written := map[fleet.Ref]bool{}
	for _, w := range s.rows(pool, fleet.Stopped) {
		written[w.Ref] = true
	}
	if unknown := len(s.cloud.launched) - 1 - len(written); unknown != 0 { // one is the stray
		failing("%d machines were never written down", unknown)
	}
	if rows := s.rows(pool, ""); len(rows) != 0 {
		failing("%d rows are open, the first %s", len(rows), rows[0].State)
	}
	if code, _ := s.call("", "GET", "/worker-pool/"+pool, nil); code != 404 {
		failing("the deleted pool is still there")
	}
	return steps
}

// one does something to a pool's oldest worker that is at work, or else to the
// oldest that runs, if there is one.
func (s *stage) one(pool string, f func(fleet.Ref)) {
	list := s.rows(pool, fleet.Running)
	if len(list) == 0 {
		return
	}
	s.mu.Lock()
	i := slices.IndexFunc(list, func(w *fleet.Worker) bool { return s.claimed[w.Ref] > 0 })
	s.mu.Unlock()
	f(list[max(i, 0)].Ref)
}
