package provisioner

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// TestMachinesThatAreThere is a life of workers that nobody starts.
func TestMachinesThatAreThere(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, _ := newChoosyStage(t, db)
		pool := map[string]any{
			"providerId": "racks", "description": "d", "owner": "o@example.com", "emailOnError": false,
			"config": map[string]any{"lifecycle": map[string]any{"reregistrationTimeout": 7200}, "workerConfig": map[string]any{"x": 1}},
		}
		s.ask(200, "PUT", "/worker-pool/p/rack", pool)
		s.do([]string{"pool", "p/build", "max=1"})
		s.do([]string{"events"})
		secret, another := strings.Repeat("a", 44), strings.Repeat("b", 44)
		worker := func(expires time.Duration, capacity int, secret string) map[string]any {
			return map[string]any{"expires": timestamp.Now().Add(expires), "capacity": capacity, "providerInfo": map[string]any{"staticSecret": secret}}
		}
		path := "/workers/p/rack/shelf/m-1"
		body := worker(24*time.Hour, 2, secret)

		out := s.ask(200, "PUT", path, body)
		if out["state"] != "running" || out["capacity"] != 2.0 || out["providerId"] != "racks" {
			t.Errorf("created: %v", out)
		}
		says(t, "what was published", s.do([]string{"events"}), "worker-running")
		s.ask(200, "PUT", path, body)
		s.ask(400, "PUT", "/workers/p/rack/shelf/m-2", worker(24*time.Hour, fleet.MostPerWorker+1, secret))
		for field, other := range map[string]map[string]any{
			"capacity": worker(24*time.Hour, 3, secret), "providerInfo": worker(24*time.Hour, 2, another), "expires": worker(25*time.Hour, 2, secret),
		} {
			if field != "expires" {
				other["expires"] = body["expires"]
			}
			code, out := s.call("", "PUT", path, other)
			if code != 409 {
				t.Errorf("another %s: %d", field, code)
			}
			says(t, "the conflict", out["message"], "another "+field, "updateWorker")
			if strings.Contains(fmt.Sprint(out), another) {
				t.Errorf("the secret is in the reply: %v", out)
			}
		}
		// What cannot be made known.
		s.ask(400, "PUT", "/workers/p/rack/shelf/m-2", worker(-time.Second, 1, secret))
		s.ask(400, "PUT", "/workers/p/rack/shelf/m-2", map[string]any{"expires": timestamp.Now().Add(time.Hour)})
		s.ask(404, "PUT", "/workers/p/none/shelf/m-2", worker(time.Hour, 1, secret))
		_, out = s.call("", "PUT", "/workers/p/build/shelf/m-2", worker(time.Hour, 1, secret))
		says(t, "a worker of a pool that makes its own", out["message"], "InputError", "makes its workers itself")
		s.ask(400, "POST", "/workers/p/build/shelf/m-2", worker(time.Hour, 1, secret))
		s.ask(404, "POST", "/workers/p/rack/shelf/m-2", worker(time.Hour, 1, secret))

		// It registers whenever its machine starts.
		register := func(secret string) (int, map[string]any) {
			return s.call("nobody", "POST", "/worker/register", map[string]any{
				"workerPoolId": "p/rack", "providerId": "racks", "workerGroup": "shelf", "workerId": "m-1", "workerIdentityProof": map[string]any{"staticSecret": secret},
			})
		}
		if code, _ := register(another); code != 400 {
			t.Errorf("registered with another secret: %d", code)
		}
		var last string
		for range 3 {
			code, out := register(secret)
			if code != 200 || out["workerConfig"].(map[string]any)["x"] != 1.0 || out["expires"] != timestamp.Now().Add(2*time.Hour).String() {
				t.Fatalf("registering: %d %v", code, out)
			}
			last = out["secret"].(string)
			time.Sleep(time.Minute)
		}
		code, out := s.call("worker/racks/p/rack/shelf/m-1", "POST", "/worker/reregister", map[string]any{
			"workerPoolId": "p/rack", "workerGroup": "shelf", "workerId": "m-1", "secret": last,
		})
		if code != 200 || len(out["secret"].(string)) != 44 {
			t.Errorf("renewing: %d %v", code, out)
		}
		if out := s.ask(200, "GET", path+"/should-terminate", nil); out["terminate"] != false {
			t.Errorf("it is to go: %v", out)
		}
		if got := s.do([]string{"events"}); strings.Contains(got, "worker-running") {
			t.Errorf("it is announced as if it had not been running: %s", got)
		}

		// It is there however quiet it is, and however much is pending nobody starts another.
		s.add("p/rack", 9)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(s.rows("p/rack", "")); n != 1 {
			t.Errorf("%d workers", n)
		}
		says(t, "the explanation", s.ask(200, "GET", operations+"/worker-pool/p/rack/explanation", nil)["hindrances"], "createWorker")

		// What is known of it can change, its secret as well.
		later := timestamp.Now().Add(48 * time.Hour)
		out = s.ask(200, "POST", path, map[string]any{"expires": later, "capacity": 4, "providerInfo": map[string]any{"staticSecret": another}})
		if out["capacity"] != 4.0 || out["expires"] != later.String() {
			t.Errorf("changed: %v", out)
		}
		if code, _ := register(secret); code != 400 {
			t.Errorf("registered with the old secret: %d", code)
		}
		out = s.ask(200, "POST", path, map[string]any{"expires": timestamp.Now().Add(10 * time.Minute)})
		if out["capacity"] != 4.0 {
			t.Errorf("what was left out has changed: %v", out)
		}
		if code, out := register(another); code != 200 || out["expires"] != timestamp.Now().Add(10*time.Minute).String() {
			t.Errorf("credentials outlive the worker: %d %v", code, out)
		}

		// Its time comes, and its name can be used again.
		time.Sleep(10*time.Minute + 10*time.Second)
		synctest.Wait()
		if out := s.ask(200, "GET", path, nil); out["state"] != "stopped" {
			t.Errorf("after its time: %v", out)
		}
		if got := s.errors("p/rack"); got != "none" {
			t.Errorf("errors: %s", got)
		}
		r := fleet.Ref{WorkerPoolID: "p/rack", WorkerGroup: "shelf", WorkerID: "m-1"}
		s.draining[r] = true
		s.ask(200, "PUT", path, worker(24*time.Hour, 1, secret))
		if s.draining[r] {
			t.Error("the queue gives the new one nothing, as it gave the old one nothing")
		}
		if code, _ := register(secret); code != 200 {
			t.Errorf("registering the new one: %d", code)
		}

		// Where another provider takes over it goes when it has no task.
		s.ask(200, "POST", "/worker-pool/p/rack", definition([]string{"max=0"}))
		s.do([]string{"wait", "10s"})
		if out := s.ask(200, "GET", path, nil); out["state"] != "stopped" {
			t.Errorf("after the change of provider: %v", out)
		}
		s.ask(400, "PUT", "/workers/p/rack/shelf/m-3", worker(time.Hour, 1, secret))
	})
}

// TestWorkersAreShownWithWhatTheQueueKnows joins the two.
func TestWorkersAreShownWithWhatTheQueueKnows(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length = time.Hour
		s.do([]string{"pool", "p/build", "max=3"})
		s.add("p/build", 3)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		all := s.rows("p/build", fleet.Running)
		stray := fleet.Ref{WorkerPoolID: "p/build", WorkerGroup: "desk", WorkerID: "mine"}
		s.mu.Lock()
		s.active[stray] = now()
		s.quarantined[all[1].Ref] = true
		s.mu.Unlock()
		list := "/provisioners/p/worker-types/build/workers"
		count := func(query string, want int) {
			t.Helper()
			for limit := 1; limit < 5; limit++ {
				if got := s.pages(list+query, "workers", "workerId", limit); len(got) != want {
					t.Errorf("%s, %d a page: %v, want %d", query, limit, got, want)
				}
			}
		}
		count("", 4)
		count("?quarantined=true", 1)
		count("?quarantined=false", 3)
		count("?workerState=running", 3)
		count("?workerState=standalone", 1)
		count("?workerState=stopped", 0)
		count("?launchConfigId="+all[0].LaunchConfigID, 3)
		count("?launchConfigId=other", 0)
		s.ask(400, "GET", list+"?workerState=odd", nil)
		out := s.ask(200, "GET", list+"/cloud/"+all[1].WorkerID, nil)
		if out["state"] != "running" || out["capacity"] != 1.0 || out["providerId"] != "cloud" || out["workerPoolId"] != "p/build" || out["quarantineUntil"] == nil || len(out["recentTasks"].([]any)) != 2 {
			t.Errorf("a worker: %v", out)
		}
		out = s.ask(200, "GET", list+"/desk/mine", nil)
		if out["state"] != "standalone" || out["capacity"] != 0.0 || out["providerId"] != "none" {
			t.Errorf("a worker that came by itself: %v", out)
		}
		s.ask(404, "GET", list+"/desk/none", nil)
	})
}

func TestErrorsAreCounted(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.do([]string{"pool", "p/build", "max=3"})
		s.do([]string{"pool", "p/quiet", "max=3"})
		s.stop() // nothing has to happen by itself
		for _, e := range []string{`{"code": "InsufficientInstanceCapacity"}`, `{"code": 5}`, `{}`} {
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				o, err := findPool(tx, "p/build")
				if err != nil {
					return err
				}
				x := map[string]any{}
				if strings.Contains(e, "Insuff") {
					x["code"] = "InsufficientInstanceCapacity"
				}
				_, err = s.prov.record(tx, o, fleet.Complaint{Kind: "odd", Title: "Odd", Description: e, LaunchConfigID: "lc-1", Extra: x})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(25 * time.Hour)
		}
		out := s.ask(200, "GET", "/worker-pool-errors/stats?workerPoolId=p/build", nil)
		total := out["totals"].(map[string]any)
		for _, x := range []struct {
			of, key string
			want    float64
		}{
			{"title", "Odd", 3}, {"code", "InsufficientInstanceCapacity", 1}, {"code", "odd", 2}, {"launchConfig", "lc-1", 3}, {"workerPool", "p/build", 3},
		} {
			if got := total[x.of].(map[string]any)[x.key]; got != x.want {
				t.Errorf("%s %s: %v, want %v", x.of, x.key, got, x.want)
			}
		}
		if total["total"] != 3.0 || len(total["daily"].(map[string]any)) != 7 || len(total["hourly"].(map[string]any)) != 24 {
			t.Errorf("%v", total)
		}
		sum := 0.0
		for _, n := range total["daily"].(map[string]any) {
			sum += n.(float64)
		}
		if sum != 3 {
			t.Errorf("by day: %v", total["daily"])
		}
		if out := s.ask(200, "GET", "/worker-pool-errors/stats", nil); out["workerPoolId"] != "" || out["totals"].(map[string]any)["total"] != 3.0 {
			t.Errorf("of all pools: %v", out)
		}
		out = s.ask(200, "GET", "/worker-pool-errors/stats?workerPoolId=p/quiet", nil)
		if out["totals"].(map[string]any)["total"] != 0.0 {
			t.Errorf("of a quiet pool: %v", out)
		}
		list := s.ask(200, "GET", "/worker-pools/stats", nil)["workerPoolsStats"].([]any)
		if len(list) != 2 || list[0].(map[string]any)["workerPoolId"] != "p/build" {
			t.Errorf("figures of all pools: %v", list)
		}
	})
}

// TestNobodyMayWhatIsNotAllowed calls every method without its scopes.
func TestNobodyMayWhatIsNotAllowed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, _ := newChoosyStage(t, db)
		s.do([]string{"pool", "p/build", "max=1"})
		try := definition([]string{"max=1"})
		worker := map[string]any{"expires": timestamp.Now().Add(time.Hour), "providerInfo": map[string]any{"staticSecret": strings.Repeat("a", 44)}}
		for _, c := range []struct {
			method, path, scope string
			body                any
		}{
			{"GET", "/worker-pool/p/build/launch-configs", "worker-manager:get-worker-pool:p/build", nil},
			{"GET", "/worker-pools/stats", "worker-manager:list-worker-pools", nil},
			{"GET", "/worker-pool-errors/stats?workerPoolId=p/build", "worker-manager:list-worker-pool-errors:p/build", nil},
			{"GET", "/worker-pool-errors/stats", "worker-manager:list-worker-pool-errors:", nil},
			{"PUT", "/workers/p/build/g/w", "worker-manager:create-worker:p/build/g/w", worker},
			{"POST", "/workers/p/build/g/w", "worker-manager:update-worker:p/build/g/w", worker},
			{"GET", "/provisioners/p/worker-types/build/workers", "worker-manager:list-workers:p/build", nil},
			{"GET", "/provisioners/p/worker-types/build/workers/g/w", "worker-manager:get-worker:p/build/g/w", nil},
			{"GET", operations + "/status", "provisioner:fleet-status", nil},
			{"GET", operations + "/providers", "provisioner:fleet-status", nil},
			{"GET", operations + "/worker-pool/p/build/explanation", "provisioner:read-worker-pool:p/build", nil},
			{"GET", operations + "/worker-pool/p/build/decisions", "provisioner:read-worker-pool:p/build", nil},
			{"GET", operations + "/worker-pool/p/build/state", "provisioner:read-worker-pool:p/build", nil},
			{"GET", operations + "/worker-pool/p/build/markets", "provisioner:read-worker-pool:p/build", nil},
			{"GET", operations + "/worker-pool/p/build/cost", "provisioner:read-worker-pool:p/build", nil},
			{"GET", operations + "/workers/p/build/g/w", "provisioner:read-worker-pool:p/build", nil},
			{"POST", operations + "/worker-pool/p/build/validate", "provisioner:try-worker-pool:p/build worker-manager:provider:cloud", try},
			{"POST", operations + "/worker-pool/p/build/preview", "provisioner:try-worker-pool:p/build worker-manager:provider:cloud", try},
			{"POST", operations + "/worker-pool/p/build/retry", "provisioner:manage-worker-pool:p/build", nil},
			{"POST", operations + "/workers/p/build/g/w/drain", "provisioner:manage-worker:p/build/g/w", nil},
			{"POST", operations + "/workers/p/build/g/w/terminate", "provisioner:manage-worker:p/build/g/w", nil},
		} {
			if code, _ := s.call("nobody", c.method, c.path, c.body); code != 403 {
				t.Errorf("%s %s as nobody: %d", c.method, c.path, code)
			}
			wrong := "worker-manager:manage-worker-pool:* " + strings.ReplaceAll(c.scope, "build", "other") + " provisioner:none"
			if c.scope != strings.ReplaceAll(c.scope, "build", "other") {
				s.as = wrong
				s.ask(403, c.method, c.path, c.body)
			}
			all := strings.Fields(c.scope)
			if len(all) > 1 {
				s.as = all[0]
				s.ask(403, c.method, c.path, c.body)
			}
			s.as = c.scope
			if code, out := s.call("", c.method, c.path, c.body); code == 403 {
				t.Errorf("%s %s with %s: %v", c.method, c.path, c.scope, out["message"])
			}
		}
	})
}
