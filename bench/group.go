package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// GroupOptions say how large a group to make.
type GroupOptions struct {
	Client   *client.Client
	Tasks    int
	Levels   int // of tasks that depend on those of the level above
	FanOut   int // dependents, and dependencies, of each of these
	Wide     int // dependents of one more task, which is resolved
	Clients  int // that create at the same time
	Progress func(done int)
}

// A GroupResult is how a queue bears a large group.
type GroupResult struct {
	Tasks int           `json:"tasks"`
	Took  time.Duration `json:"tookNs"`
	First float64       `json:"firstPerSecond"`
	Last  float64       `json:"lastPerSecond"` // creations per second of the first and the last 10,000

	// While the wide task's dependents became pending, statuses of others were
	// asked for.
	Released  time.Duration `json:"releasedNs"` // until the last of them was pending
	Statuses  int           `json:"statuses"`
	StatusP99 time.Duration `json:"statusP99Ns"`
	StatusMax time.Duration `json:"statusMaxNs"`
	CreateMax time.Duration `json:"createMaxNs"` // of tasks that were created meanwhile
	Pages     int           `json:"pages"`       // of 1,000 tasks, over the whole group
	PageP50   time.Duration `json:"pageP50Ns"`
	PageP99   time.Duration `json:"pageP99Ns"`
	PageMax   time.Duration `json:"pageMaxNs"`
}

// Group makes a group of tasks: a wide task with its dependents, and levels of
// tasks besides, each of which depends on FanOut tasks of the level above. It measures the first creations against
// the last, resolves the wide task and looks whom that holds up, and lists the
// group page by page. The tasks stay, until they expire in two days: measure a
// deployment that was set up for it.
func Group(ctx context.Context, o GroupOptions) (r GroupResult, err error) {
	if o.Clients < 1 || o.Levels < 1 || o.FanOut < 1 || o.Tasks < o.Wide+2*o.Levels+4 {
		return r, errors.New("bench: a group needs a client, a level, a fan-out of at least one and more tasks than the wide task has dependents")
	}
	rd, err := newRound(ctx, Options{Client: o.Client}, o.Clients)
	if err != nil {
		return r, err
	}
	g := &bigGroup{round: rd, GroupOptions: o, wide: slugid.New()}
	if err := g.fill(ctx, &r); err != nil {
		return r, fmt.Errorf("bench: %w", err)
	}
	if err := g.release(ctx, &r); err != nil {
		return r, fmt.Errorf("bench: %w", err)
	}
	if err := g.list(ctx, &r); err != nil {
		return r, fmt.Errorf("bench: %w", err)
	}
	return r, nil
}

type bigGroup struct {
	*round
	GroupOptions
	wide string
	some []string // of the tasks
}

// fill creates all tasks, level by level, as what a task depends on must exist.
// The first and the last ones depend on none: these are compared.
func (g *bigGroup) fill(ctx context.Context, r *GroupResult) error {
	left := g.Tasks - g.Wide - 1
	sample := min(10_000, left/(g.Levels+1))
	left -= sample
	start := time.Now()
	step := func(n int, task func(i int) (string, []string)) error {
		for begin := 0; begin < n; begin += 1000 {
			if err := g.together(ctx, min(1000, n-begin), func(i int) error {
				id, needs := task(begin + i)
				return g.add(ctx, id, needs)
			}); err != nil {
				return err
			}
			r.Tasks += min(1000, n-begin)
			if g.Progress != nil {
				g.Progress(r.Tasks)
			}
		}
		return nil
	}
	measured := func(row []string) (rate float64, err error) {
		begin := time.Now()
		err = step(len(row), func(i int) (string, []string) { return row[i], nil })
		return float64(len(row)) / time.Since(begin).Seconds(), err
	}
	ids := func(n int) []string {
		row := make([]string, n)
		for i := range row {
			row[i] = slugid.New()
		}
		return row
	}
	var above []string
	for level := range g.Levels {
		row := ids(left / (g.Levels - level))
		left -= len(row)
		rest := row
		if level == 0 {
			var err error
			if r.First, err = measured(row[:sample]); err != nil {
				return err
			}
			rest = row[sample:]
		}
		if err := step(len(rest), func(i int) (string, []string) {
			var needs []string
			for k := range min(g.FanOut, len(above)) {
				needs = append(needs, above[(i+k)%len(above)])
			}
			return rest[i], needs
		}); err != nil {
			return err
		}
		g.some = append(g.some, row[:min(len(row), 1000)]...)
		above = row
	}
	if err := g.add(ctx, g.wide, nil); err != nil {
		return err
	}
	r.Tasks++
	if err := step(g.Wide, func(int) (string, []string) { return slugid.New(), []string{g.wide} }); err != nil {
		return err
	}
	var err error
	r.Last, err = measured(ids(sample))
	r.Took = time.Since(start)
	return err
}

func (g *bigGroup) add(ctx context.Context, id string, needs []string) error {
	now := timestamp.Now()
	kind := "group"
	if id == g.wide {
		kind = "wide"
	}
	_, err := g.queue.CreateTask(ctx, id, &queue.CreateTaskRequest{
		TaskQueueID: g.queueID(kind), TaskGroupID: g.group, Created: now, Deadline: now.Add(24 * time.Hour), Expires: now.Add(48 * time.Hour),
		Payload: json.RawMessage(`{"command":[["true"]],"maxRunTime":60}`), Dependencies: needs,
		Metadata: queue.TaskMetadata{
			Name: "bench", Description: "One of a large group.", Owner: "bench@example.com", Source: g.round.Client.RootURL(),
		},
	})
	return err
}

// together does n things with as many clients as there are.
func (g *bigGroup) together(ctx context.Context, n int, do func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, g.GroupOptions.Clients)
	for c := range g.GroupOptions.Clients {
		wg.Go(func() {
			for i := c; i < n && ctx.Err() == nil; i += g.GroupOptions.Clients {
				if err := do(i); err != nil {
					errs[c] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// release resolves the wide task and watches others until its dependents are
// pending.
func (g *bigGroup) release(ctx context.Context, r *GroupResult) error {
	if g.Wide == 0 {
		return nil
	}
	waiting := func() (int, error) {
		c, err := g.queue.TaskQueueCounts(ctx, g.queueID("group"))
		if err != nil {
			return 0, err
		}
		return int(c.PendingTasks), nil
	}
	before, err := waiting()
	if err != nil {
		return err
	}
	claim, err := g.claim(ctx, 0, "wide")
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := g.complete(ctx, claim); err != nil {
		return err
	}
	var wg sync.WaitGroup
	over, finish := context.WithCancel(ctx)
	defer finish()
	var statuses, creations []time.Duration
	var statusErr, createErr error
	wg.Go(func() {
		for over.Err() == nil {
			at := time.Now()
			if _, statusErr = g.queue.Status(ctx, g.some[rand.IntN(len(g.some))]); statusErr != nil {
				return
			}
			statuses = append(statuses, time.Since(at))
		}
	})
	wg.Go(func() {
		for over.Err() == nil {
			at := time.Now()
			if createErr = g.create(ctx, slugid.New(), "meanwhile"); createErr != nil {
				return
			}
			creations = append(creations, time.Since(at))
			time.Sleep(10 * time.Millisecond)
		}
	})
	for {
		n, err := waiting()
		if err == nil && n-before < g.Wide && time.Since(begin) < 10*time.Minute {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		r.Released = time.Since(begin)
		finish()
		wg.Wait()
		if err = errors.Join(err, statusErr, createErr); err != nil {
			return err
		}
		if n-before < g.Wide {
			return fmt.Errorf("%d of %d dependents were pending ten minutes after what they waited for", n-before, g.Wide)
		}
		break
	}
	slices.Sort(statuses)
	slices.Sort(creations)
	r.Statuses, r.StatusP99, r.StatusMax = len(statuses), percentile(statuses, 99), statuses[len(statuses)-1]
	r.CreateMax = creations[len(creations)-1]
	return nil
}

// list reads the group's pages, of which it only looks at what it needs: what a
// client makes of tasks is its own time.
func (g *bigGroup) list(ctx context.Context, r *GroupResult) error {
	var took []time.Duration
	seen := 0
	for token := ""; ; {
		var page struct {
			Tasks             []struct{} `json:"tasks"`
			ContinuationToken string     `json:"continuationToken"`
		}
		query := url.Values{"limit": {"1000"}}
		if token != "" {
			query.Set("continuationToken", token)
		}
		at := time.Now()
		err := g.Client.Do(ctx, client.Request{
			Name: "queue.listTaskGroup", Verb: http.MethodGet, Route: "/api/queue/v1/task-group/<taskGroupId>/list",
			Args: []string{g.group}, Query: query, Repeatable: true,
		}, &page)
		if err != nil {
			return err
		}
		took = append(took, time.Since(at))
		seen += len(page.Tasks)
		if token = page.ContinuationToken; token == "" {
			break
		}
	}
	if seen < r.Tasks {
		return fmt.Errorf("the group's listing has %d tasks of %d", seen, r.Tasks)
	}
	slices.Sort(took)
	r.Pages, r.PageP50, r.PageP99, r.PageMax = len(took), percentile(took, 50), percentile(took, 99), took[len(took)-1]
	return nil
}
