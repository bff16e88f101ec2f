package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/schedule/cron"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Three replicas run the better part of a day of schedules, from the evening before
// clocks in Europe go forward on, and are killed over and over: at any moment, some or
// all of them, sometimes for minutes. Every date of every job is done once.
func TestADayWithThreeReplicasThatCrash(t *testing.T) {
	each(t, func(w *world) {
		const seed = 6
		random := rand.New(rand.NewPCG(seed, 0))
		begin := time.Date(2027, 3, 27, 20, 0, 0, 0, time.UTC)
		end := begin.Add(14 * time.Hour)
		time.Sleep(time.Until(begin))

		took := rand.New(rand.NewPCG(seed, 1))
		busy := map[string]int{}
		w.does(func(ctx context.Context, o Occasion) (string, error) {
			w.mu.Lock()
			busy[o.Job.Name]++
			d := time.Duration(took.Int64N(int64(3 * time.Minute)))
			w.mu.Unlock()
			err := sleep(ctx, d)
			w.mu.Lock()
			busy[o.Job.Name]--
			w.mu.Unlock()
			return fmt.Sprintf("attempt %d", o.Attempt), err
		})
		jobs := []Job{
			{Name: "often", Expression: "*/5 * * * *"},
			{Name: "hourly", Expression: "30 * * * *", Zone: "Europe/Berlin", Jitter: 10 * time.Minute},
			{Name: "spread", Expression: "H/15 * * * *", Zone: "Australia/Lord_Howe", Jitter: 5 * time.Minute},
			{Name: "nightly", Expression: "30 2 * * *", Zone: "Europe/Berlin"}, // it does not exist that night
			{Name: "six-hourly", Expression: "0 */6 * * *", Zone: "America/New_York"},
			{Name: "by-minutes", Expression: "*/2 9-11 * * *", Zone: "Europe/Berlin"},
		}
		replicas := make([]*replica, 3)
		for i := range replicas {
			replicas[i] = w.start(fmt.Sprint("replica ", i))
		}
		for i, j := range jobs {
			j.CatchUp = All(100)
			w.put(replicas[i%3], j)
		}

		kills := 0
		var dead []*replica
		for time.Now().Before(end) {
			time.Sleep(time.Duration(random.Int64N(int64(15 * time.Minute))))
			all := random.IntN(10) == 0
			for i := range replicas {
				if !all && i != kills%3 {
					continue
				}
				if random.IntN(4) == 0 {
					replicas[i].stop()
				} else {
					replicas[i].kill()
					dead = append(dead, replicas[i])
				}
			}
			kills++
			time.Sleep(time.Duration(random.Int64N(int64(3 * time.Minute))))
			for i := range replicas {
				if all || i == (kills-1)%3 {
					replicas[i] = w.start(fmt.Sprint("replica ", i, " after ", kills))
				}
			}
			if len(dead) > 10 { // what is left of them goes
				dead[0].cut()
				dead = dead[1:]
			}
		}
		for _, r := range dead {
			r.cut()
		}
		time.Sleep(30 * time.Minute)

		again := 0
		r := replicas[0]
		ended := w.finished(r)
		for _, j := range jobs {
			x, err := cron.Parse(j.Expression, j.Zone, j.Name)
			if err != nil {
				t.Fatal(err)
			}
			list, err := r.runs(w.Context(), j.Name, timestamp.Max, "", 1000)
			w.check(err)
			is := map[timestamp.Time]*run{}
			for _, x := range list {
				is[x.Due] = x
			}
			n := 0
			for date := x.Next(begin); !date.After(end); date = x.Next(date) {
				n++
				due := timestamp.Of(date)
				x := is[due]
				if x == nil || x.State != Done || x.Outcome != fmt.Sprintf("attempt %d", x.Attempt) {
					t.Errorf("%s at %v: %+v", j.Name, date, x)
					continue
				}
				if x.Attempt > 1 {
					again++
				}
				if k := ended[fmt.Sprint(j.Name, due)]; k != 1 {
					t.Errorf("%s at %v: %d messages that it is over", j.Name, date, k)
				}
			}
			if n == 0 {
				t.Errorf("%s has no date", j.Name)
			}
		}
		t.Logf("replicas were killed %d times, and %d runs had to be begun again", kills, again)
		if kills < 60 || again < 5 {
			t.Errorf("replicas were killed %d times, and %d runs had to be begun again: that is no test", kills, again)
		}
	})
}

// finished counts the messages that runs are over.
func (w *world) finished(r *replica) map[string]int {
	w.Helper()
	ctx, stop := context.WithCancel(w.Context())
	place := r.events.Loops()[:1] // and nothing that forgets them after a day
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := loop.NewRunner(r.log, loop.Alone, prometheus.NewRegistry()).Run(ctx, place...); err != nil {
			w.Error(err)
		}
	}()
	time.Sleep(time.Minute)
	list, err := r.events.Read(w.Context(), 0, 100_000)
	stop()
	<-done
	if err != nil {
		w.Fatal(err)
	}
	count := map[string]int{}
	for _, m := range list {
		var x message
		if m.Exchange != event.Topic("schedules", "v1", runFinished) {
			continue
		}
		if err := json.Unmarshal(m.Payload, &x); err != nil {
			w.Fatal(err)
		}
		count[fmt.Sprint(x.Job, x.Due)]++
	}
	return count
}
