package provisioner

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestAMistakeInAPoolIsCalledByName(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		for say, options := range map[string]string{
			"There is no provider \"moon\"; this deployment has cloud, other": "provider=moon",
			"config.minCapacity is 5, more than config.maxCapacity":           "min=5 max=4",
			"config.image names no image":                                     "image=missing",
			"config.lifecycle.reregistrationTimeout is 9999999":               "renew-within=9999999",
			"it has 1001 launch configurations, and 1000 are the most":        `launchConfigs=[{"image":"a0"}` + many(1000) + "]",
			"bytes of JSON, and 2097152 are the most":                         "image=" + strings.Repeat("x", longestConfig),
		} {
			code, out := s.call("", "PUT", "/worker-pool/p/bad", definition(strings.Fields(options)))
			if message := fmt.Sprint(out["message"]); code != 400 || !strings.Contains(message, say) {
				t.Errorf("%.80s: %d, and the message does not say %q: %s", options, code, say, message)
			}
		}
		s.do([]string{"pool", "p/build", "max=1"})
		_, out := s.call("", "PUT", "/worker-pool/p/build", definition([]string{"max=2"}))
		if message := fmt.Sprint(out["message"]); !strings.Contains(message, "another config") || !strings.Contains(message, "updateWorkerPool") {
			t.Errorf("the conflict does not say what differs and what to do: %s", message)
		}
	})
}

// Registrations of workers that may be about to be known wait for a while, but
// not as many as somebody likes to send.
func TestOnlySoManyRegistrationsWait(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.do([]string{"pool", "p/build", "max=1"})
		waited := func(intent string) time.Duration {
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`INSERT INTO intent (intent_id, worker_pool_id, provider_id, launch_config_id, workers, capacity, request, created)
					VALUES ($1, 'p/build', 'cloud', '', 1, 1, '{}', $2)`, intent, now())
				return err
			}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			code, _ := s.call("", "POST", "/worker/register", map[string]any{
				"workerPoolId": "p/build", "providerId": "cloud", "workerGroup": "cloud", "workerId": "w-early",
				"workerIdentityProof": map[string]any{"token": strings.Repeat("x", 44)},
			})
			if code != 400 {
				t.Errorf("a registration of nobody: %d", code)
			}
			return time.Since(began)
		}
		if d := waited("a"); d == 0 {
			t.Errorf("the only one does not wait")
		}
		s.prov.awaiting.Store(mostAwaiting)
		if d := waited("b"); d != 0 {
			t.Errorf("one too many waits for %v", d)
		}
	})
}

// many are n different launch configurations more.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,{"image":"b%d"}`, i)
	}
	return b.String()
}

// pages collects a listing page by page.
func (s *stage) pages(path, list, key string, limit int) (got []string) {
	s.t.Helper()
	token, separator := "", "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	for range 100 {
		code, out := s.call("", "GET", fmt.Sprintf("%s%slimit=%d&continuationToken=%s", path, separator, limit, token), nil)
		if code != 200 {
			s.t.Fatalf("%s: %d %v", path, code, out["message"])
		}
		page := out[list].([]any)
		if len(page) > limit {
			s.t.Errorf("%s: a page of %d with limit %d", path, len(page), limit)
		}
		for _, x := range page {
			got = append(got, fmt.Sprint(x.(map[string]any)[key]))
		}
		next, more := out["continuationToken"].(string)
		if !more {
			return got
		}
		token = next
	}
	s.t.Fatalf("%s does not end", path)
	return nil
}

func TestListingsComeInPages(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		var pools []string
		for i := range 7 {
			pools = append(pools, fmt.Sprintf("p/pool-%d", i))
			s.do([]string{"pool", pools[i], "max=5"})
		}
		s.add("p/pool-3", 5)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		s.mood = "broken"
		s.do([]string{"kill", "p/pool-3"})
		s.do([]string{"wait", "1m"})
		for limit := range 4 {
			if got := s.pages("/worker-pools", "workerPools", "workerPoolId", limit+1); !slices.Equal(got, pools) {
				t.Errorf("pools, %d a page: %v", limit+1, got)
			}
			if got := s.pages("/providers", "providers", "providerId", limit+1); !slices.Equal(got, []string{"cloud", "null-provider", "other"}) {
				t.Errorf("providers, %d a page: %v", limit+1, got)
			}
			all := s.pages("/workers/p/pool-3", "workers", "workerId", limit+1)
			if len(all) < 6 || !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
				t.Errorf("workers, %d a page: %v", limit+1, all)
			}
			if got := s.pages("/workers/p/pool-3/cloud", "workers", "workerId", limit+1); !slices.Equal(got, all) {
				t.Errorf("workers of the group, %d a page: %v", limit+1, got)
			}
			if got := s.pages("/workers/p/pool-3?state=running", "workers", "workerId", limit+1); len(got) != 4 {
				t.Errorf("running workers, %d a page: %v", limit+1, got)
			}
			if got := s.pages("/workers/p/pool-3?launchConfigId=lc-other", "workers", "workerId", limit+1); len(got) != 0 {
				t.Errorf("workers made from something else: %v", got)
			}
			times := s.pages("/worker-pool-errors/p/pool-3", "workerPoolErrors", "reported", limit+1)
			if len(times) < 5 || !slices.IsSortedFunc(times, func(a, b string) int { return strings.Compare(b, a) }) {
				t.Errorf("errors, %d a page: %v", limit+1, times)
			}
		}
		id := s.pages("/worker-pool-errors/p/pool-3", "workerPoolErrors", "errorId", 100)[2]
		if got := s.pages("/worker-pool-errors/p/pool-3?errorId="+id, "workerPoolErrors", "errorId", 100); !slices.Equal(got, []string{id}) {
			t.Errorf("one error: %v", got)
		}
	})
}

func TestAWorkerIsToldItsCapacity(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length = 1000 * time.Hour
		for options, want := range map[string]any{
			"":                             1.0,
			"capacity=4":                   4.0,
			"capacity=4 worker-capacity=4": 4.0,
		} {
			pool := "p/" + strings.NewReplacer(" ", "-", "=", "").Replace("x"+options)
			s.do(append([]string{"pool", pool}, strings.Fields(options)...))
			s.add(pool, 1)
			time.Sleep(15 * time.Second)
			synctest.Wait()
			r := s.rows(pool, fleet.Running)[0].Ref
			code, out := s.call("nobody", "POST", "/worker/register", s.registration(r, "cloud"))
			told, _ := out["workerConfig"].(map[string]any)
			if code != 200 || told["capacity"] != want || told["idleTimeoutSecs"] != 30.0 {
				t.Errorf("%q: the worker is told %v, %d; want capacity %v and what the pool says", options, told, code, want)
			}
			_, out = s.call("", "GET", "/worker-pool/"+pool, nil)
			config := out["config"].(map[string]any)["workerConfig"].(map[string]any)
			if _, there := config["capacity"]; there != strings.Contains(options, "worker-capacity") {
				t.Errorf("%q: the pool's own definition has become %v", options, config)
			}
		}
	})
}

func TestAWorkerRegistersOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length = 1000 * time.Hour
		s.do([]string{"pool", "p/build", "max=1"})
		s.add("p/build", 1)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		r := s.rows("p/build", fleet.Running)[0].Ref
		register := func(change string, value any) string {
			body := s.registration(r, "cloud")
			if change == "token" {
				body["workerIdentityProof"] = map[string]any{"token": value}
			} else if change != "" {
				body[change] = value
			}
			code, out := s.call("nobody", "POST", "/worker/register", body)
			if code != 200 {
				if strings.Contains(fmt.Sprint(out), s.tokens[r]) {
					t.Errorf("the error gives the token away: %v", out)
				}
				return fmt.Sprintf("%d %v", code, out["code"])
			}
			return out["secret"].(string)
		}
		renew := func(secret string) string {
			me := "worker/cloud/" + r.String()
			code, out := s.call(me, "POST", "/worker/reregister", map[string]any{
				"workerPoolId": r.WorkerPoolID, "workerGroup": r.WorkerGroup, "workerId": r.WorkerID, "secret": secret,
			})
			if code != 200 {
				return fmt.Sprintf("%d %v", code, out["code"])
			}
			return out["secret"].(string)
		}
		const refused = "400 InputError"
		expect := func(what, got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}

		// Nobody else gets in.
		expect("a wrong token", register("token", "x"), refused)
		expect("an empty token", register("token", ""), refused)
		expect("another worker's id", register("workerId", "w-other"), refused)
		expect("another group", register("workerGroup", "elsewhere"), refused)
		expect("another pool", register("workerPoolId", "p/none"), refused)
		expect("another provider", register("providerId", "other"), refused)

		// The reply was lost: the same call gives the same secret again.
		secret := s.secrets[r]
		expect("a repetition", register("", nil), secret)
		time.Sleep(9 * time.Minute)
		expect("a repetition nine minutes later", register("", nil), secret)
		time.Sleep(2 * time.Minute)
		expect("a repetition after that", register("", nil), refused)

		// Renewals, whose replies can be lost as well.
		second := renew(secret)
		expect("a repeated renewal", renew(secret), second)
		third := renew(second)
		expect("a secret that is used up", renew(secret), refused)
		expect("a repeated renewal", renew(second), third)
		time.Sleep(11 * time.Minute)
		expect("a secret of long ago", renew(second), refused)
		fourth := renew(third)
		if len(fourth) != 44 || fourth == third {
			t.Errorf("the fourth secret is %q", fourth)
		}
		expect("no secret", renew(strings.Repeat("x", 44)), refused)

		// A worker that keeps renewing lives on. (The loops would look at it
		// every five seconds for weeks; one look at the end will do.)
		s.stop()
		last := fourth
		for range 10 {
			time.Sleep(48 * time.Hour)
			if last = renew(last); len(last) != 44 {
				t.Fatal(last)
			}
		}
		s.restart()
		time.Sleep(time.Minute)
		if list := s.rows("p/build", fleet.Running); len(list) != 1 || list[0].Ref != r {
			t.Errorf("after 20 days of renewals there run %v, want %s", list, r)
		}

		// Nothing secret is in the database.
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			for _, hidden := range []string{s.tokens[r], secret, second, third, fourth, last} {
				var n int
				if err := tx.QueryRow(`SELECT count(*) FROM worker WHERE token = $1 OR secret = $1 OR last_secret = $1 OR salt = $1`, hidden).Scan(&n); err != nil {
					return err
				}
				if n > 0 {
					t.Error("a secret is in the database as it is")
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatAWorkerMayDo(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.do([]string{"pool", "p/build", "max=1"})
		s.add("p/build", 1)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		r := s.rows("p/build", fleet.Running)[0].Ref
		me := "worker/cloud/" + r.String()
		want := []string{
			"assume:worker-id:cloud/" + r.WorkerID, "assume:worker-pool:p/build", "queue:claim-work:p/build",
			"queue:worker-id:cloud/" + r.WorkerID, "secrets:get:worker-pool:p/build",
			"worker-manager:remove-worker:" + r.String(), "worker-manager:reregister-worker:" + r.String(),
			"worker-manager:should-worker-terminate:" + r.String(),
		}
		if got := slices.Sorted(slices.Values(s.minted[me])); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("scopes %v, want %v", got, want)
		}
		report := map[string]any{
			"workerGroup": "cloud", "workerId": r.WorkerID, "kind": "disk-full", "title": "No room", "description": "at all", "extra": map[string]any{"free": 0},
		}
		code, out := s.call(me, "POST", "/worker-pool-errors/p/build", report)
		extra, _ := out["extra"].(map[string]any)
		if code != 200 || extra["workerId"] != r.WorkerID || extra["free"] != 0.0 {
			t.Errorf("reporting an error: %d %v", code, out)
		}
		report["extra"] = map[string]any{"log": strings.Repeat("x", longestExtra)}
		if code, _ := s.call(me, "POST", "/worker-pool-errors/p/build", report); code != 400 {
			t.Errorf("reporting an error of any size: %d", code)
		}
		report["workerId"] = "w-other"
		if code, _ := s.call(me, "POST", "/worker-pool-errors/p/build", report); code != 403 {
			t.Errorf("reporting an error of another worker: %d", code)
		}
		if got := s.errors("p/build"); got != "1 disk-full" {
			t.Errorf("errors: %s", got)
		}
		if code, _ := s.call(me, "DELETE", "/workers/"+r.String(), nil); code != 200 {
			t.Errorf("removing itself: %d", code)
		}
	})
}

func TestFigures(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.do([]string{"pool", "p/build", "max=4", "capacity=2"})
		s.add("p/build", 3)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		s.do([]string{"kill", "p/build"})
		s.do([]string{"update", "p/build", "max=4", "capacity=2", "image=b"})
		_, out := s.call("", "GET", "/worker-pool/p/build", nil)
		for field, want := range map[string]float64{
			"currentCapacity": 4, "runningCount": 1, "runningCapacity": 2, "stoppedCount": 1, "stoppedCapacity": 2, "requestedCount": 1, "stoppingCount": 0,
		} {
			if out[field] != want {
				t.Errorf("%s is %v, want %v", field, out[field], want)
			}
		}
		_, out = s.call("", "GET", "/worker-pool/p/build/stats", nil)
		list := out["launchConfigStats"].([]any)
		if len(list) != 2 {
			t.Fatalf("figures of %d launch configurations, want the new and the old: %v", len(list), list)
		}
		old := list[1].(map[string]any)
		if old["runningCapacity"] != 2.0 || old["launchConfigId"] != s.rows("p/build", fleet.Running)[0].LaunchConfigID {
			t.Errorf("the old one's figures: %v", old)
		}
		got := s.figures()
		for figure, want := range map[string]float64{
			"workers running": 1, "workers requested": 1, "workers stopping": 0, "starts_total": 3, "failed_starts_total": 1,
			"pending_tasks": 2, "claimed_tasks": 1, "desired_capacity": 2, "max_capacity": 4,
		} {
			if x, there := got[figure]; !there || x != want {
				t.Errorf("the metric %s is %v (%v), want %v", figure, x, there, want)
			}
		}
		if got["oldest_pending_seconds"] < 1 || got["cost_per_hour_dollars"] <= 0 {
			t.Errorf("the oldest task has waited for %v s, and the workers cost $%v an hour", got["oldest_pending_seconds"], got["cost_per_hour_dollars"])
		}
		s.do([]string{"interrupt", "p/build", "2m"})
		s.do([]string{"wait", "1m"})
		s.prov.metrics.failed("p/build", "a worker's own")
		got = s.figures()
		for figure, want := range map[string]float64{"interruptions_total": 1, "errors_total worker-failed": 1, "errors_total reported": 1} {
			if got[figure] != want {
				t.Errorf("the metric %s is %v, want %v: %v", figure, got[figure], want, got)
			}
		}
		s.do([]string{"delete", "p/build"})
		s.do([]string{"wait", "5m"})
		if got := s.figures(); len(got) > 0 {
			t.Errorf("metrics of a pool that is gone: %v", got)
		}
	})
}

// figures are the metrics of pools, "starts_total" or "workers running".
func (s *stage) figures() map[string]float64 {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		name, of := strings.CutPrefix(f.GetName(), "taskfleet_pool_")
		if !of {
			continue
		}
		for _, m := range f.GetMetric() {
			key := name
			for _, l := range m.GetLabel() {
				if l.GetName() != "pool" {
					key += " " + l.GetValue()
				}
			}
			out[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

// What was decided and what was learnt is in the database, so a server that
// starts knows it.
func TestDecisionsAndStatisticsAreKept(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.do([]string{"pool", "p/build", "max=5"})
		s.add("p/build", 3)
		s.do([]string{"wait", "2m"})
		decisions := func() (list []fleet.Decided) {
			t.Helper()
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				list = nil
				rows, err := tx.Query(`SELECT record FROM decision WHERE worker_pool_id = 'p/build' ORDER BY at`)
				if err != nil {
					return err
				}
				for rows.Next() {
					var text []byte
					var d fleet.Decided
					if err := errors.Join(rows.Scan(&text), json.Unmarshal(text, &d)); err != nil {
						return err
					}
					list = append(list, d)
				}
				return rows.Err()
			}); err != nil {
				t.Fatal(err)
			}
			return list
		}
		list := decisions()
		i := slices.IndexFunc(list, func(d fleet.Decided) bool { return d.Started > 0 })
		if i < 0 {
			t.Fatalf("none of %d decisions started anything", len(list))
		}
		if d := list[i]; d.Started != 3 || d.Decision.Start != 3 || d.Inputs.Pending != 3 || d.Inputs.Max != 5 || d.Policy != "ratio" {
			t.Errorf("the decision: %+v", d)
		}
		statistics := func() string {
			t.Helper()
			var text string
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				return tx.QueryRow(`SELECT statistics FROM worker_pool WHERE worker_pool_id = 'p/build'`).Scan(&text)
			}); err != nil {
				t.Fatal(err)
			}
			return text
		}
		learnt := statistics()
		if !json.Valid([]byte(learnt)) {
			t.Fatalf("what was learnt is %q", learnt)
		}
		s.restart()
		s.do([]string{"wait", "2m"})
		if again := statistics(); again != learnt {
			t.Errorf("nothing has happened, and what was learnt has become\n%s, before it was\n%s", again, learnt)
		}
		s.add("p/build", 1)
		s.do([]string{"wait", "2m"})
		if more := decisions(); len(more) <= len(list) {
			t.Errorf("there are %d decisions, before there were %d", len(more), len(list))
		}
		s.stop()
		time.Sleep(25 * time.Hour)
		s.restart()
		s.do([]string{"wait", "11m"})
		for _, d := range decisions() {
			if now().Sub(d.At) > 24*time.Hour {
				t.Errorf("a decision of %v is kept", d.At)
			}
		}
		s.do([]string{"delete", "p/build"})
		s.do([]string{"wait", "1m"})
		if list := decisions(); len(list) > 0 {
			t.Errorf("of a pool that is gone %d decisions are kept", len(list))
		}
	})
}
