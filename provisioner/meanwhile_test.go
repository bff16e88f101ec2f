package provisioner

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// A drain and a claim meet: whichever is first, no worker ends at work.
func TestADrainThatLosesTheRace(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.idle = time.Hour
		s.do([]string{"pool", "p/build", "max=5", "idle=20"})
		s.add("p/build", 3)
		s.do([]string{"wait", "60s"})
		s.mu.Lock()
		s.beforeDrain = func(list []fleet.Ref) { // after the decision, before the transaction
			s.add("p/build", 1)
			if !s.claim(list[0]) {
				t.Error("a worker that is not drained gets nothing")
			}
		}
		s.mu.Unlock()
		s.do([]string{"wait", "40s"})
		if got := s.workers("p/build"); got != "1 running, 2 stopped" {
			t.Errorf("after the drain there are %s", got)
		}
		if got := s.do([]string{"queue"}); got != "0 pending, 1 claimed, 3 finished, 0 handed back" {
			t.Errorf("the queue: %s", got)
		}
		for _, w := range s.rows("p/build", fleet.Stopped) {
			if !w.Drained || !strings.Contains(w.Reason, "idle") {
				t.Errorf("%s is stopped because %s", w.Ref, w.Reason)
			}
			if s.claim(w.Ref) {
				t.Error("a drained worker gets something")
			}
		}
	})
}

// Whatever it is that ends a worker, it gets no task from then on.
func TestAWorkerThatIsToEndGetsNothingMore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length = time.Hour
		s.do([]string{"pool", "p/build", "max=3"})
		s.add("p/build", 3)
		s.do([]string{"wait", "15s"})
		all := s.rows("p/build", fleet.Running)
		gets := func(n int) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return !s.draining[all[n].Ref]
		}
		s.cloud.Interrupt(all[0].Ref, 2*time.Minute)
		s.ask(200, "DELETE", "/workers/"+all[1].String(), nil)
		s.soon()
		if gets(0) || gets(1) || !gets(2) {
			t.Errorf("the one that is taken away gets something: %t, the removed one: %t, the other: %t", gets(0), gets(1), gets(2))
		}
	})
}

// openly is a cloud whose machines' tasks can get at the proof.
type openly struct{ *Cloud }

func (openly) ProofIsOpen() bool { return true }

func TestAnOpenProofIsGoodOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length = time.Hour
		s.more = map[string]fleet.Provider{"cloud": openly{s.cloud}}
		s.restart()
		s.do([]string{"pool", "p/build", "max=1"})
		s.add("p/build", 1)
		s.do([]string{"wait", "15s"})
		s.ask(400, "POST", "/worker/register", s.registration(s.rows("p/build", fleet.Running)[0].Ref, "cloud"))
	})
}

// A worker that the answer about is late waits for it.
func TestAWorkerIsFasterThanTheAnswer(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length = time.Hour
		s.cloud.Boot = 70 * time.Second
		s.do([]string{"provider", "is-unclear"})
		s.do([]string{"pool", "p/build", "max=1"})
		s.add("p/build", 1)
		s.do([]string{"wait", "68s"}) // the next attempt would be in the third minute
		s.do([]string{"provider", "is-well"})
		s.do([]string{"wait", "20s"})
		if got := s.workers("p/build"); got != "1 running" {
			t.Errorf("there are %s", got)
		}
	})
}

// Two replicas that decide at the same time do not start twice as many.
func TestTwoControllersStartNoMoreThanThereMayBe(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.do([]string{"pool", "p/build", "max=5"})
		s.stop()
		var pools [2]*fleet.Pool
		for i := range pools {
			read, err := book{s.prov}.Read(t.Context(), []string{"p/build"})
			if err != nil {
				t.Fatal(err)
			}
			pools[i] = read.Pools[0]
		}
		for i, o := range pools {
			written, err := book{s.prov}.Intend(t.Context(), now(), o, []*fleet.Intent{
				{ID: fmt.Sprintf("i%d", i), PoolID: o.ID, ProviderID: "cloud", Workers: 3, Capacity: 3, Request: json.RawMessage(`{}`)},
			})
			if err != nil || written != (i == 0) {
				t.Errorf("replica %d: %t, %v", i, written, err)
			}
		}
		if got := s.intents("p/build"); got != "1 for 3" {
			t.Errorf("intents: %s", got)
		}
	})
}
