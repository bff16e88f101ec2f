package sizing

import (
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

var noon = timestamp.Of(time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC))

// idle makes n workers that have been idle for the given time.
func idle(n int, age time.Duration) (list []Idle) {
	for range n {
		list = append(list, Idle{Since: noon.Add(-age)})
	}
	return list
}

func booting(capacity int64, age time.Duration) []Booting {
	return []Booting{{Since: noon.Add(-age), Capacity: capacity}}
}

func busy(n int64, age time.Duration) []Running {
	return []Running{{Since: noon.Add(-age), Count: n}}
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy Policy
		in     Inputs
		start  int64
		drain  int // how many
		excess int64
		why    string
	}{
		{"an empty pool with no tasks stays empty", Ratio{},
			Inputs{}, 0, 0, 0, "no task is pending; capacity 0 is free, 0 boots, 0 works"},
		{"one pending task starts one worker", Ratio{},
			Inputs{Pending: 1}, 1, 0, 0, "1 task is pending"},
		{"what boots is spoken for once", Ratio{},
			Inputs{Pending: 250, Booting: booting(100, time.Second)}, 150, 0, 0, "start capacity 150"},
		{"worker-manager takes what boots off twice", WorkerManager{},
			Inputs{Pending: 250, Booting: booting(100, time.Second)}, 50, 0, 0, "taken off twice"},
		{"worker-manager starts nothing once half of what is pending boots", WorkerManager{},
			Inputs{Pending: 200, Booting: booting(100, time.Second)}, 0, 0, 0, "start none"},
		{"worker-manager looks once in half a minute", WorkerManager{},
			Inputs{Now: noon.Add(7 * time.Second), Pending: 9}, 0, 0, 0, "the next pass that starts workers is in 23s"},
		{"the minimum counts what boots once", Ratio{},
			Inputs{Settings: Settings{Min: 10}, Working: 4, Running: busy(4, time.Minute), Booting: booting(4, 0)}, 2, 0, 0, "to have the minimum of 10"},
		{"half a worker for a task, rounded up", Ratio{},
			Inputs{Settings: Settings{ScalingRatio: .5}, Pending: 5}, 3, 0, 0, "wants capacity 3 at a ratio of 0.5"},
		{"workers of capacity 4 start for every 4 tasks, rounded up", Ratio{},
			Inputs{Settings: Settings{CapacityPerWorker: 4}, Pending: 9}, 12, 0, 0, "start capacity 12"},
		{"workers of capacity 4 never exceed the maximum", Ratio{},
			Inputs{Settings: Settings{CapacityPerWorker: 4, Max: 10}, Pending: 9}, 8, 0, 0, "start capacity 8, though more is wanted: the maximum of 10 leaves no room"},
		{"stopping workers take room until they are gone", Ratio{},
			Inputs{Settings: Settings{Max: 10}, Pending: 50, Working: 3, Running: busy(3, 0), Stopping: 5}, 2, 0, 0, "until stopping workers are gone"},
		{"a lowered maximum leaves an excess, and idle workers go first", Ratio{},
			Inputs{Settings: Settings{Max: 4}, Pending: 50, Working: 9, Running: busy(9, 0), Idle: idle(2, 0)}, 0, 2, 5, "capacity 5 is beyond the maximum of 4"},
		{"a worker goes after ten idle minutes", Ratio{},
			Inputs{Idle: append(idle(1, time.Minute), idle(2, 10*time.Minute)...)}, 0, 2, 0, "2 idle workers may go"},
		{"the owner's idle timeout comes before the policy's", Ratio{},
			Inputs{Settings: Settings{IdleTimeout: time.Hour}, Idle: idle(2, 10*time.Minute)}, 0, 0, 0, "idle for 1h0m0s"},
		{"the minimum stays, however idle", Ratio{},
			Inputs{Settings: Settings{Min: 2}, Idle: idle(3, time.Hour)}, 0, 1, 0, "1 idle worker may go"},

		{"seven workers for six tasks that wait", Reactive{},
			Inputs{Pending: 65, Idle: idle(3, 0), Booting: booting(2, 0)}, 70, 0, 0, "start capacity 70"},
		{"no more than one for one", Reactive{},
			Inputs{Pending: 1}, 1, 0, 0, "start capacity 1"},
		{"a worker goes after one and a half boot times", Reactive{},
			Inputs{Idle: append(idle(1, time.Minute), idle(1, 2*time.Minute)...)}, 0, 1, 0, "idle for 1m53s"},

		{"one worker for one task, by someone who knows nothing", Forecast{},
			Inputs{Pending: 1}, 1, 0, 0, "start capacity 1"},
		{"at a low price no more than there are tasks", Forecast{},
			Inputs{Settings: Settings{WaitPrice: .2}, Pending: 100}, 100, 0, 0, "one worker more would save"},
		{"at a high price more than there are tasks, so that nobody waits for the slowest boots", Forecast{},
			Inputs{Settings: Settings{WaitPrice: 20}, Pending: 100}, 290, 0, 0, "start capacity"},
		{"what boots is counted, as far as it will register", Forecast{},
			Inputs{Settings: Settings{WaitPrice: 1}, Pending: 100, Booting: booting(100, 0)}, 7, 0, 0, "100 boots"},
		{"what should have registered long ago is not counted on", Forecast{},
			Inputs{Settings: Settings{WaitPrice: 1}, Pending: 100, Booting: booting(100, time.Hour)}, 107, 0, 0, "start capacity"},
		{"the maximum holds", Forecast{},
			Inputs{Settings: Settings{Max: 7}, Pending: 100}, 7, 0, 0, "the maximum of 7 leaves no room"},
		{"workers of capacity 4 start for a single task too", Forecast{},
			Inputs{Settings: Settings{CapacityPerWorker: 4}, Pending: 1}, 4, 0, 0, "start capacity 4"},
		{"nothing known: an idle worker stays while it has not cost what it can bring", Forecast{},
			Inputs{Settings: Settings{WaitPrice: 1}, Idle: idle(2, 2*time.Minute)}, 0, 0, 0, "start none"},
		{"and goes once it has", Forecast{},
			Inputs{Settings: Settings{WaitPrice: 1}, Idle: idle(2, 5*time.Minute)}, 0, 2, 0, "than it brings: start none"},
		{"an idle worker stays for tasks that are known to come", Forecast{},
			Inputs{Settings: Settings{WaitPrice: 1}, Idle: idle(2, 10*time.Minute), Known: []Known{{At: noon.Add(time.Minute), Error: 5 * time.Second}}}, 0, 1, 0, "within which 1 known tasks become pending"},
		{"workers start for tasks that are known to come, one boot time before", Forecast{},
			Inputs{Known: []Known{{Count: 10, At: noon.Add(70 * time.Second), Error: 10 * time.Second}}}, 12, 0, 0, "within which 7 known tasks become pending"},
		{"and not long before", Forecast{},
			Inputs{Known: []Known{{Count: 10, At: noon.Add(150 * time.Second), Error: 10 * time.Second}}}, 0, 0, 0, "start none"},
		{"a task that waits beyond all reason gets a worker, whatever seems free", Forecast{},
			Inputs{Pending: 1, OldestPending: noon.Add(-time.Hour), Idle: idle(1, time.Second)}, 1, 0, 0, "start capacity 1"},
		{"the idle timeout is a bound", Forecast{},
			Inputs{Settings: Settings{WaitPrice: 100, IdleTimeout: time.Minute}, Idle: idle(2, 61*time.Second)}, 0, 2, 0, "2 idle workers may go"},
		{"the minimum stays, and is started", Forecast{},
			Inputs{Settings: Settings{Min: 3}, Idle: idle(1, 24*time.Hour)}, 2, 0, 0, "to have the minimum of 3"},
		{"capacity beyond the maximum goes, idle workers first", Forecast{},
			Inputs{Settings: Settings{Max: 4}, Working: 5, Running: busy(5, 0), Idle: idle(2, 0)}, 0, 2, 1, "beyond the maximum of 4"},
	} {
		t.Run(c.policy.Name()+": "+c.name, func(t *testing.T) {
			in := c.in
			if in.Now == 0 {
				in.Now = noon
			}
			if in.Pending > 0 && in.OldestPending == 0 {
				in.OldestPending = in.Now
			}
			if in.Max == 0 {
				in.Max = 1000
			}
			if in.WaitPrice == 0 {
				in.WaitPrice = DefaultWaitPrice
			}
			d := c.policy.Decide(in, &Statistics{})
			low, high := c.start, c.start
			if c.start > 90 { // what is weighed, not counted
				low, high = c.start*9/10, c.start*11/10
			}
			if d.Start < low || d.Start > high || len(d.Drain) != c.drain || d.Excess != c.excess {
				t.Errorf("start %d, drain %v, excess %d; want %d, %d, %d\n%s\n%v", d.Start, d.Drain, d.Excess, c.start, c.drain, c.excess, d.Reason, d.Terms)
			}
			if !strings.Contains(d.Reason, c.why) {
				t.Errorf("the reason is %q, which does not contain %q", d.Reason, c.why)
			}
		})
	}
}
