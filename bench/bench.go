// Package bench measures a queue from outside, by the calls that a busy
// deployment makes most: creating tasks, claiming work, the whole life of a
// task, and asking for a status.
//
// It needs nothing of Taskfleet but the API, so that any compatible server can
// be measured in the same way, and two servers on the same machine in turn are
// comparable. Each figure comes from closed-loop clients: a number of them, each
// with one call under way at any time, for a set duration or until the work is
// used up. Rates are calls per second over all clients; percentiles are exact,
// over every call. What the calls cost the server is read from /proc where the
// processes are on this machine: CPU time, of user and system, per operation, what
// they have started included.
//
// The tasks go to task queues of random names that nobody else serves, and are
// resolved or canceled at the end, so a measurement leaves nothing running.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Options say what to measure.
type Options struct {
	Client   *client.Client
	Clients  []int         // how many at a time, one round of measures for each
	Duration time.Duration // of each measure
	PIDs     []int         // the server's processes, if they are on this machine
	Report   func(Result)  // called with each result as it comes; may be nil
}

// A Result is what one kind of call did with some number of clients.
type Result struct {
	Call     string        `json:"call"`
	Clients  int           `json:"clients"`
	Calls    int           `json:"calls"`
	Duration time.Duration `json:"durationNs"`
	Rate     float64       `json:"perSecond"`
	P50      time.Duration `json:"p50Ns"`
	P99      time.Duration `json:"p99Ns"`
	Max      time.Duration `json:"maxNs"`
	// CPU is the server's CPU time per call; 0 if it was not measured.
	CPU time.Duration `json:"cpuPerCallNs,omitempty"`
}

// Queue measures the queue. The calls, in this order and for each number of
// clients: createTask; claimWork, of the tasks that were just created; lifecycle,
// which is createTask, claimWork and reportCompleted and counts as one call;
// and status, of the tasks that were created.
func Queue(ctx context.Context, o Options) ([]Result, error) {
	if o.Duration <= 0 || len(o.Clients) == 0 {
		return nil, errors.New("bench: a duration and at least one number of clients are needed")
	}
	var results []Result
	for _, n := range o.Clients {
		if n < 1 {
			return nil, fmt.Errorf("bench: %d is no number of clients", n)
		}
		round, err := newRound(ctx, o, n)
		if err != nil {
			return results, err
		}
		err = errors.Join(round.run(ctx), round.clear(context.WithoutCancel(ctx)))
		results = append(results, round.results...)
		if err != nil {
			return results, err
		}
	}
	return results, nil
}

// A round is the measures with one number of clients.
type round struct {
	Options
	clients int
	queue   *queue.Client
	tag     string // makes the names of the round's queues its own
	group   string

	mu      sync.Mutex
	warm    []string // tasks that were not measured
	created []string // by the measure of createTask
	taken   int      // of them, by that of claimWork
	results []Result
}

func newRound(ctx context.Context, o Options, clients int) (*round, error) {
	r := &round{Options: o, clients: clients, queue: queue.New(o.Client), group: slugid.New()}
	r.tag = fmt.Sprintf("%08x", rand.Uint32())
	// Connections, caches and statements are made before anything is measured.
	for range 3 {
		id := slugid.New()
		if err := r.create(ctx, id, "warm"); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		r.warm = append(r.warm, id)
		if _, err := r.queue.Status(ctx, id); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
	}
	return r, nil
}

func (r *round) run(ctx context.Context) error {
	for _, m := range []struct {
		call string
		once func(context.Context, int) error
	}{
		{"createTask", r.createTask},
		{"claimWork", r.claimWork},
		{"lifecycle", r.lifecycle},
		{"status", r.status},
	} {
		if err := r.measure(ctx, m.call, m.once); err != nil {
			return fmt.Errorf("bench: %s with %d clients: %w", m.call, r.clients, err)
		}
	}
	return nil
}

// errUsedUp ends a measure whose work is used up before its time.
var errUsedUp = errors.New("used up")

// measure has every client call once over and over.
func (r *round) measure(ctx context.Context, call string, once func(ctx context.Context, client int) error) error {
	var (
		wg        sync.WaitGroup
		latencies = make([][]time.Duration, r.clients)
		errs      = make([]error, r.clients)
	)
	before, err := cpuTime(r.PIDs)
	if err != nil {
		return err
	}
	start := time.Now()
	for i := range r.clients {
		wg.Go(func() {
			for first := true; (first || time.Since(start) < r.Duration) && ctx.Err() == nil; first = false {
				begin := time.Now()
				if err := once(ctx, i); err != nil {
					errs[i] = err
					return
				}
				latencies[i] = append(latencies[i], time.Since(begin))
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	after, err := cpuTime(r.PIDs)
	if err != nil {
		return err
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, errUsedUp) {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	all := slices.Concat(latencies...)
	if len(all) == 0 {
		return errors.New("not one call was made")
	}
	slices.Sort(all)
	result := Result{
		Call: call, Clients: r.clients, Calls: len(all), Duration: took, Rate: float64(len(all)) / took.Seconds(),
		P50: percentile(all, 50), P99: percentile(all, 99), Max: all[len(all)-1],
	}
	if len(r.PIDs) > 0 {
		result.CPU = (after - before) / time.Duration(len(all))
	}
	r.results = append(r.results, result)
	if r.Report != nil {
		r.Report(result)
	}
	return nil
}

// percentile is the smallest of the sorted values that p percent do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[max((len(sorted)*p+99)/100-1, 0)]
}

func (r *round) queueID(kind string) string { return "bench/" + kind + "-" + r.tag }

// create creates a task that does nothing on one of the round's queues.
func (r *round) create(ctx context.Context, id, kind string) error {
	now := timestamp.Now()
	_, err := r.queue.CreateTask(ctx, id, &queue.CreateTaskRequest{
		TaskQueueID: r.queueID(kind), TaskGroupID: r.group, Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(2 * time.Hour),
		Payload: json.RawMessage(`{"command":[["true"]],"maxRunTime":60}`),
		Metadata: queue.TaskMetadata{
			Name: "bench", Description: "Measures how fast tasks are created.", Owner: "bench@example.com", Source: r.Client.RootURL(),
		},
	})
	return err
}

func (r *round) createTask(ctx context.Context, _ int) error {
	id := slugid.New()
	if err := r.create(ctx, id, "create"); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.created = append(r.created, id)
	return nil
}

func (r *round) claim(ctx context.Context, client int, kind string) (*queue.ClaimWorkResponseTask, error) {
	reply, err := r.queue.ClaimWork(ctx, r.queueID(kind), &queue.ClaimWorkRequest{
		WorkerGroup: "bench", WorkerID: fmt.Sprintf("client-%d", client), Tasks: 1,
	})
	if err != nil {
		return nil, err
	}
	if len(reply.Tasks) == 0 {
		return nil, errUsedUp
	}
	return &reply.Tasks[0], nil
}

// claimWork claims one of the created tasks. It does not ask when there is none
// left: that call would wait for the next one, which is not what is measured.
func (r *round) claimWork(ctx context.Context, client int) error {
	r.mu.Lock()
	left := len(r.created) - r.taken
	r.taken++
	r.mu.Unlock()
	if left <= 0 {
		return errUsedUp
	}
	_, err := r.claim(ctx, client, "create")
	return err
}

// lifecycle creates a task, claims one and reports it. The task that is claimed
// may be another client's; each creates one before it claims one.
func (r *round) lifecycle(ctx context.Context, client int) error {
	if err := r.create(ctx, slugid.New(), "life"); err != nil {
		return err
	}
	c, err := r.claim(ctx, client, "life")
	if err != nil {
		return err
	}
	return r.complete(ctx, c)
}

func (r *round) complete(ctx context.Context, c *queue.ClaimWorkResponseTask) error {
	as := queue.New(r.Client.WithCredentials(cred.Credentials(c.Credentials), nil))
	_, err := as.ReportCompleted(ctx, c.Status.TaskID, c.RunID)
	return err
}

func (r *round) status(ctx context.Context, _ int) error {
	r.mu.Lock()
	id := r.created[rand.IntN(len(r.created))]
	r.mu.Unlock()
	_, err := r.queue.Status(ctx, id)
	return err
}

// clear cancels what is left of the round's tasks: by group where the server
// can do that, else one by one.
func (r *round) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := r.queue.SealTaskGroup(ctx, r.group); err == nil {
		if _, err = r.queue.CancelTaskGroup(ctx, r.group); err == nil {
			return nil
		}
	}
	var failed []string
	for _, id := range slices.Concat(r.warm, r.created) {
		if _, err := r.queue.CancelTask(ctx, id); err != nil {
			failed = append(failed, id)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("bench: %d tasks of group %s could not be canceled; they end at their deadline, in an hour: %s",
			len(failed), r.group, strings.Join(failed[:min(len(failed), 3)], ", "))
	}
	return nil
}
