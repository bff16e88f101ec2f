package replicas

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client/loops"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// What clocks decide is decided well also where one of them jumps.
func TestAClockThatJumpsMisleadsNobody(t *testing.T) {
	t.Parallel() // see TestLoopsRunOnOneReplicaAndMoveWhenItDies
	each(t, func(t *testing.T, p *platform) {
		t.Parallel()
		t.Run("claims and deadlines are kept", func(t *testing.T) { claimsOutlive(t, p) })
		t.Run("a signature is good once, and for a quarter of an hour", func(t *testing.T) { signaturesOutlive(t, p) })
		if p.database != "" {
			t.Run("loops go on, each on one replica", func(t *testing.T) { loopsOutlive(t, p) })
		}
	})
}

// turn sets the clock of a replica.
func (r *replica) turn(t *testing.T, d time.Duration) {
	t.Helper()
	c, err := r.clock()
	if err == nil {
		err = c.set(d)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func signaturesOutlive(t *testing.T, p *platform) {
	r := p.replicas[0]
	signed := func() *http.Request {
		call, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.options.Listen+"/api/auth/v1/scopes/current", nil)
		if err == nil {
			err = cred.Sign(call, p.root, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return call
	}
	expect := func(what string, call *http.Request, want int) {
		t.Helper()
		resp, err := http.DefaultClient.Do(call)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != want {
			t.Errorf("%s: %s instead of %d: %.200s", what, resp.Status, want, bytes.TrimSpace(body))
		}
	}
	first := signed()
	expect("a call", first, 200)
	for _, d := range []time.Duration{jump, -jump} {
		r.turn(t, d)
		second := signed()
		expect(fmt.Sprintf("a call while the clock is wrong by %v", d), second, 200)
		expect(fmt.Sprintf("the same call as before, while the clock is wrong by %v", d), first, 401)
		r.turn(t, 0)
		expect(fmt.Sprintf("a call that was made while the clock was wrong by %v", d), second, 401)
		expect("a call when it is right again", signed(), 200)
	}
	for _, d := range []time.Duration{2 * jump, -2 * jump} {
		r.turn(t, d)
		expect(fmt.Sprintf("a call while the clock is wrong by %v", d), signed(), 401)
		r.turn(t, 0)
	}
	expect("a call when it is right again", signed(), 200)
}

func claimsOutlive(t *testing.T, p *platform) {
	ctx, r := t.Context(), p.replicas[0]
	q := queue.New(p.client(patient))                // of any replica
	wrong := queue.New(p.clientOfReplica(r, p.root)) // of the one whose clock jumps
	pool, group := newName("pool")+"/clock", slugid.New()
	create := func(deadline time.Duration) string {
		t.Helper()
		id, d := slugid.New(), newTask(pool, group, nil)
		d.Deadline = timestamp.Now().Add(deadline)
		if _, err := q.CreateTask(ctx, id, d); err != nil {
			t.Fatal(err)
		}
		return id
	}
	claim := func(by *queue.Client, id string) queue.ClaimWorkResponseTask {
		t.Helper()
		reply, err := by.ClaimWork(ctx, pool, &queue.ClaimWorkRequest{WorkerGroup: "clock", WorkerID: "worker", Tasks: 1})
		if err != nil || len(reply.Tasks) != 1 || reply.Tasks[0].Status.TaskID != id {
			t.Fatalf("claiming task %s: %+v, %v", id, reply, err)
		}
		return reply.Tasks[0]
	}
	complete := func(what string, c queue.ClaimWorkResponseTask) {
		t.Helper()
		for i, r := range p.replicas { // each has to accept the credentials
			own := queue.New(p.clientOfReplica(r, cred.Credentials(c.Credentials)))
			if _, err := own.ReclaimTask(ctx, c.Status.TaskID, c.RunID); err != nil {
				t.Errorf("%s, reclaimed from replica %d: %v", what, i, err)
			}
		}
		own := queue.New(p.client(patient).WithCredentials(cred.Credentials(c.Credentials), nil))
		s, err := own.ReportCompleted(ctx, c.Status.TaskID, c.RunID)
		if err != nil || s.Status.State != "completed" || len(s.Status.Runs) != 1 {
			t.Errorf("%s: %+v, %v", what, s, err)
		}
	}

	long := create(lifetime)
	before := claim(q, long)
	soon := create(5 * time.Minute)

	r.turn(t, jump)
	// By the clock of the replica the deadline of one task has passed. Whether the loop that ends it runs there is
	// another question; so that task may be ended or not, and then it stays so.
	ahead := create(lifetime)
	if reply, err := q.Status(ctx, long); err != nil || reply.Status.State != "running" {
		t.Errorf("a claim of 20 minutes, 10 minutes ahead: %+v, %v", reply, err)
	}
	p.look(t, r, "queue.claims", "queue.deadlines")
	if reply, err := q.Status(ctx, long); err != nil || reply.Status.State != "running" {
		t.Errorf("a claim of 20 minutes, 10 minutes ahead, once the loop has looked: %+v, %v", reply, err)
	}
	complete("claimed before the clock jumped", before)
	late, err := q.Status(ctx, soon)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the task with a deadline in five minutes is %s", late.Status.State)
	if late.Status.State == "pending" { // no replica with a right clock ends it
		complete("claimed while the clock is ahead, after the deadline by that clock", claim(q, soon))
	}
	during := claim(wrong, ahead)

	r.turn(t, 0)
	complete("claimed by a replica whose clock was ahead", during)
	again := create(lifetime)
	complete("claimed when the clock is right again", claim(q, again))
	if s, err := q.Status(ctx, soon); err != nil || len(s.Status.Runs) > 1 || s.Status.State != "completed" && s.Status.State != "exception" ||
		late.Status.State == "exception" && s.Status.State != "exception" {
		t.Errorf("the task whose deadline the clock had passed: %+v, %v", s, err)
	}
}

// look waits until loops have had a whole pass from now on, those of them that the replica has.
func (p *platform) look(t *testing.T, r *replica, names ...string) {
	t.Helper()
	before := map[string]int64{}
	eventually(t, "the loops have looked", func() error {
		list, err := loops.New(p.clientOfReplica(r, p.root)).ListLoops(t.Context())
		if err != nil {
			return err
		}
		seen := 0
		for _, l := range list.Loops {
			if !slices.Contains(names, l.Name) {
				continue
			}
			if seen++; l.State == "held elsewhere" {
				continue
			}
			if _, known := before[l.Name]; !known {
				before[l.Name] = l.Passes
			}
			if n := l.Passes - before[l.Name]; n < 2 { // the first may have begun before
				err = errors.Join(err, fmt.Errorf("%s has ended %d passes", l.Name, n))
			}
		}
		if seen < len(names) {
			err = errors.Join(err, fmt.Errorf("of the loops %q there are %d", names, seen))
		}
		return err
	})
}

func loopsOutlive(t *testing.T, p *platform) {
	settle := func(what string) (holders map[string]int) {
		t.Helper()
		took := eventually(t, what, func() (err error) {
			holders, err = p.holders(t.Context())
			return err
		})
		t.Logf("%s: each loop has one replica after %v", what, took.Round(time.Millisecond))
		return holders
	}
	// The clock of the replica jumps that has most of the loops.
	has := make([]int, len(p.replicas))
	for _, i := range settle("at first") {
		has[i]++
	}
	most := slices.Index(has, slices.Max(has))
	r := p.replicas[most]
	r.turn(t, jump)
	settle("ten minutes ahead")
	eventually(t, "the replica writes into its leases when they end by its clock", func() error {
		return p.admin.View(t.Context(), func(tx *store.Tx) error {
			var ahead int
			if err := tx.QueryRow(`SELECT count(*) FROM lease WHERE expires > $1`, timestamp.Now().Add(jump/2)).Scan(&ahead); err != nil {
				return err
			}
			if ahead < 10 {
				return fmt.Errorf("there are %d such leases", ahead)
			}
			return nil
		})
	})

	// It dies, and leaves leases that are good for ten minutes by the clocks of the others.
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	p.replicas = slices.Delete(slices.Clone(p.replicas), most, most+1)
	settle("after its end")
}
