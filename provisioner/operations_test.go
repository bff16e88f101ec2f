package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/static"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A choosy cloud looks at definitions, and has markets.
type choosy struct {
	*Cloud
	findings []string
	err      error
	closed   bool
}

func (c *choosy) Validate(ctx context.Context, _ json.RawMessage) ([]string, error) {
	if errors.Is(c.err, context.DeadlineExceeded) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return c.findings, c.err
}

func (c *choosy) Preview(_ context.Context, config json.RawMessage) ([]fleet.Spec, error) {
	return []fleet.Spec{{LaunchConfigID: "lc-1", Market: "sky", Capacity: 2, Utility: 1.5, Request: config}}, nil
}

func (c *choosy) Markets(_ context.Context, now timestamp.Time, _ json.RawMessage) ([]fleet.Market, error) {
	m := fleet.Market{Name: "sky", Capacity: 2, Price: 42500, State: "open", Launched: 7}
	if c.closed {
		m.State, m.Until, m.Reason = "closed", now.Add(time.Minute), "it rains"
	}
	return []fleet.Market{m}, nil
}

const operations = "/api/provisioner/v1"

// newChoosyStage is a stage with two more providers.
func newChoosyStage(t *testing.T, db *store.DB) (*stage, *choosy) {
	s := newStage(t, db)
	c := &choosy{Cloud: NewCloud(t, 10*time.Second, s.work)}
	s.more = map[string]fleet.Provider{"choosy": c, "racks": static.Provider{}}
	s.restart()
	return s, c
}

// ask makes a call and fails the test unless the status is as expected.
func (s *stage) ask(code int, method, path string, body any) map[string]any {
	s.t.Helper()
	got, out := s.call("", method, path, body)
	if got != code {
		s.t.Fatalf("%s %s: %d, want %d: %v", method, path, got, code, out["message"])
	}
	return out
}

// says checks that text holds all of the words.
func says(t *testing.T, what string, text any, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(fmt.Sprint(text), w) {
			t.Errorf("%s does not say %q: %v", what, w, text)
		}
	}
}

func TestAPoolIsExplained(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, c := newChoosyStage(t, db)
		path := operations + "/worker-pool/p/build/explanation"
		s.ask(404, "GET", path, nil)
		s.do([]string{"pool", "p/build", "max=3", "provider=choosy"})
		out := s.ask(200, "GET", path, nil)
		says(t, "an idle pool's summary", out["summary"], "p/build: 0 tasks pending, 0 running", "0 workers")
		s.do([]string{"pool", "p/warm", "max=5", `schedule=[{"cron":"*+*+*+*+*","duration":60,"minCapacity":2}]`})
		says(t, "a scheduled pool's summary", s.ask(200, "GET", operations+"/worker-pool/p/warm/explanation", nil)["summary"], "schedule has capacity for 2 tasks")
		s.do([]string{"delete", "p/warm"})
		if len(out["hindrances"].([]any)) > 0 {
			t.Errorf("nothing hinders an idle pool, but: %v", out["hindrances"])
		}

		s.add("p/build", 5)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		out = s.ask(200, "GET", path, nil)
		says(t, "the summary", out["summary"], "2 tasks pending", "3 running", "the policy ratio decided", "3 workers with capacity for 3 tasks")
		says(t, "the hindrances", out["hindrances"], "config.maxCapacity is 3")
		d := out["decisions"].([]any)[0].(map[string]any)
		if d["policy"] != "ratio" || len(d["terms"].([]any)) == 0 || d["inputs"].(map[string]any)["max"] != 3.0 {
			t.Errorf("the latest decision: %v", d)
		}
		all := s.pages(operations+"/worker-pool/p/build/decisions", "decisions", "at", 1)
		if len(all) < 2 || all[0] != d["at"] {
			t.Errorf("decisions %v, the latest is of %v", all, d["at"])
		}

		// What goes wrong is named, with the wait and the error that it is because of.
		c.Cloud.mu.Lock()
		c.refuse = &fleet.Fault{Description: "the cloud is out of rain"}
		c.Cloud.mu.Unlock()
		c.closed = true
		s.do([]string{"update", "p/build", "max=6", "provider=choosy", "image=b"})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		out = s.ask(200, "GET", path, nil)
		says(t, "the hindrances", out["hindrances"], "waits until", "failed starts in a row", "The market sky is closed until", "it rains")
		says(t, "the errors", out["errors"], "out of rain")
		lc := out["launchConfigs"].([]any)[0].(map[string]any)
		if lc["state"] != "waiting" || lc["failures"].(float64) < 1 {
			t.Errorf("the launch configuration: %v", lc)
		}

		// It need not wait for the breaker.
		c.Cloud.mu.Lock()
		c.refuse = nil
		c.Cloud.mu.Unlock()
		s.ask(200, "POST", operations+"/worker-pool/p/build/retry", nil)
		s.soon()
		if n := len(s.rows("p/build", fleet.Requested)); n != 1 {
			t.Errorf("after a retry %d workers are requested, want the one that tries", n)
		}
		s.do([]string{"delete", "p/build"})
		says(t, "a pool that goes", s.ask(200, "GET", path, nil)["hindrances"], "is being deleted")
	})
}

func TestStatusShowsPoolsAndProviders(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length = time.Hour
		s.do([]string{"pool", "p/a", "max=2", "capacity=2"})
		s.do([]string{"pool", "p/b", "max=5"})
		s.add("p/a", 4)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got := s.pages(operations+"/status", "pools", "workerPoolId", 1); fmt.Sprint(got) != "[p/a p/b]" {
			t.Errorf("pools %v", got)
		}
		a := s.ask(200, "GET", operations+"/status", nil)["pools"].([]any)[0].(map[string]any)
		for field, want := range map[string]float64{
			"pending": 3, "claimed": 1, "running": 2, "idle": 0, "requested": 0, "draining": 0, "desired": 2, "max": 2, "workers": 1, "costPerHour": 0.001,
		} {
			if a[field] != want {
				t.Errorf("%s is %v, want %v", field, a[field], want)
			}
		}
		out := s.ask(200, "GET", operations+"/providers", nil)
		cloud := out["providers"].([]any)[0].(map[string]any)
		if cloud["providerId"] != "cloud" || cloud["ok"] != true || cloud["workers"] != 1.0 {
			t.Errorf("the cloud: %v", cloud)
		}
		s.do([]string{"provider", "is-blind"})
		s.do([]string{"wait", "10s"})
		cloud = s.ask(200, "GET", operations+"/providers", nil)["providers"].([]any)[0].(map[string]any)
		if cloud["ok"] != false || !strings.Contains(fmt.Sprint(cloud["error"]), "foggy") {
			t.Errorf("the cloud that sees nothing: %v", cloud)
		}
		says(t, "the pool", s.ask(200, "GET", operations+"/worker-pool/p/a/explanation", nil)["hindrances"], "has not been able to tell", "foggy")
	})
}

func TestAWorkerIsDrainedAndTerminated(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length, s.idle = 10*time.Minute, time.Hour
		s.do([]string{"pool", "p/build", "max=3", "min=3"})
		s.add("p/build", 2)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		view := func(path string) map[string]any { return s.ask(200, "GET", operations+path, nil) }
		of := map[string][]string{}
		for _, x := range view("/worker-pool/p/build/state")["workers"].([]any) {
			w := x.(map[string]any)
			a := w["activity"].(string)
			of[a] = append(of[a], w["workerId"].(string))
			if w["market"] != "sky" || w["price"] != 0.001 || w["current"] != true {
				t.Errorf("a worker: %v", w)
			}
		}
		if len(of["working"]) != 2 || len(of["idle"]) != 1 {
			t.Fatalf("workers by what they do: %v", of)
		}
		end := func(id, how string) map[string]any {
			return s.ask(200, "POST", operations+"/workers/p/build/cloud/"+id+"/"+how, nil)
		}

		// One at work finishes, and gets nothing more.
		out := end(of["working"][0], "drain")
		if out["state"] != "running" || out["claims"] != 1.0 {
			t.Errorf("draining one at work: %v", out)
		}
		w := view("/workers/p/build/cloud/" + of["working"][0])
		if w["activity"] != "draining" || w["reason"] != "it was drained by tester" {
			t.Errorf("the one that is drained: %v", w)
		}
		if x := s.rows("p/build", fleet.Running); slices.ContainsFunc(x, func(w *fleet.Worker) bool { return w.Drained }) {
			t.Error("one at work is taken for one that can be ended at once")
		}
		says(t, "its advice", s.ask(200, "GET", "/workers/p/build/cloud/"+of["working"][0]+"/should-terminate", nil), "drained by tester")

		// An idle one goes at once.
		if out := end(of["idle"][0], "drain"); out["state"] != "stopping" || out["claims"] != 0.0 {
			t.Errorf("draining an idle one: %v", out)
		}
		s.soon()
		if w := view("/workers/p/build/cloud/" + of["idle"][0]); w["activity"] != "ended" {
			t.Errorf("the idle one has not ended: %v", w)
		}
		if out := end(of["idle"][0], "drain"); out["state"] != "stopped" {
			t.Errorf("draining one that has ended: %v", out)
		}

		// One that is terminated goes with its task, which runs again.
		if out := end(of["working"][1], "terminate"); out["state"] != "stopping" || out["claims"] != 1.0 {
			t.Errorf("terminating one at work: %v", out)
		}
		s.soon()
		if w := view("/workers/p/build/cloud/" + of["working"][1]); w["activity"] != "ended" || w["reason"] != "it was terminated by tester" {
			t.Errorf("the terminated one: %v", w)
		}
		if got := s.errors("p/build"); got != "none" {
			t.Errorf("what was wanted is no error: %s", got)
		}
		s.do([]string{"wait", "11m"})
		if w := view("/workers/p/build/cloud/" + of["working"][0]); w["activity"] != "ended" || w["claims"] != 0.0 {
			t.Errorf("the one that was drained at work: %v", w)
		}
		says(t, "the queue", s.do([]string{"queue"}), "0 pending", "1 handed back")
		s.ask(404, "POST", operations+"/workers/p/build/cloud/w-none/drain", nil)
		s.ask(404, "POST", operations+"/workers/p/build/cloud/w-none/terminate", nil)
	})
}

func TestWhatAPoolCosts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length, s.idle = 10*time.Minute, 30*time.Second
		s.do([]string{"pool", "p/build", "max=2", "capacity=1"})
		s.add("p/build", 2)
		s.do([]string{"wait", "30m"})
		ran := []Run{
			{1, "p/build", now().Add(-20 * time.Minute), 10 * time.Minute}, {2, "p/build", now().Add(-20 * time.Minute), 10 * time.Minute},
			{3, "p/other", now(), time.Hour},
		}
		for range 2 { // what is told twice is counted once
			if err := s.prov.Tally(t.Context(), ran); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.prov.Tally(t.Context(), append(ran, Run{4, "p/build", now(), 0})); err != nil {
			t.Fatal(err)
		}
		out := s.ask(200, "GET", operations+"/worker-pool/p/build/cost", nil)
		if out["workers"] != 2.0 || out["tasks"] != 3.0 || out["unpriced"] != 0.0 {
			t.Errorf("%v", out)
		}
		// Two workers, for the ten minutes of a task, the boot and the idle time.
		hours, cost := out["workerHours"].(float64), out["cost"].(float64)
		if least, most := 2*10.2/60, 2*12.0/60; hours < least || hours > most || math.Abs(cost-hours*0.001) > 1e-9 {
			t.Errorf("%v worker hours (want from %v to %v) cost %v", hours, least, most, cost)
		}
		if each := out["costPerTask"].(float64); math.Abs(each-cost/3) > 1e-9 {
			t.Errorf("a task costs %v of %v", each, cost)
		}
		if out := s.ask(200, "GET", operations+"/worker-pool/p/build/cost?from="+now().Add(-time.Minute).String(), nil); out["workers"] != 0.0 || out["tasks"] != 1.0 || out["cost"] != 0.0 {
			t.Errorf("the last minute: %v", out)
		}
		s.ask(400, "GET", operations+"/worker-pool/p/build/cost?from="+now().Add(time.Minute).String(), nil)
		s.ask(400, "GET", operations+"/worker-pool/p/build/cost?from=2000-01-01T00:00:00Z&to=1999-12-31T00:00:00Z", nil)
		s.ask(400, "GET", operations+"/worker-pool/p/build/cost?from=1999-01-01T00:00:00Z", nil)
	})
}

func TestADefinitionIsLookedAt(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, c := newChoosyStage(t, db)
		body := definition([]string{"max=3", "provider=choosy"})
		try := operations + "/worker-pool/p/build/"

		if out := s.ask(200, "POST", try+"validate", body); out["valid"] != true || len(out["launchConfigIds"].([]any)) != 1 {
			t.Errorf("a good definition: %v", out)
		}
		out := s.ask(200, "POST", try+"validate", definition([]string{"image=missing", "provider=choosy"}))
		says(t, "a definition of bad form", out["findings"], "config.image names no image")
		s.ask(404, "GET", "/worker-pool/p/build", nil)
		specs := s.ask(200, "POST", try+"preview", body)["specs"].([]any)
		if spec := specs[0].(map[string]any); spec["market"] != "sky" || spec["utility"] != 1.5 {
			t.Errorf("preview: %v", spec)
		}
		// A provider that buys nothing shows its launch configurations.
		specs = s.ask(200, "POST", try+"preview", definition([]string{"capacity=3"}))["specs"].([]any)
		if spec := specs[0].(map[string]any); spec["capacity"] != 3.0 {
			t.Errorf("preview: %v", spec)
		}

		// What the provider finds is said, and kept, and the pool is not made.
		c.findings = []string{"config.image: there is no image ami-1 in moon-1; choose another", "config.role: it may not be assumed"}
		_, out = s.call("", "PUT", "/worker-pool/p/build", body)
		says(t, "the refusal", out["message"], "there is no image ami-1", "may not be assumed")
		if out["code"] != "InputError" {
			t.Errorf("code %v", out["code"])
		}
		s.ask(404, "GET", "/worker-pool/p/build", nil)
		if got := s.errors("p/build"); got != "1 configuration-wrong" {
			t.Errorf("errors: %s", got)
		}
		says(t, "what was published", s.do([]string{"events"}), "worker-pool-error")
		out = s.ask(200, "POST", try+"validate", body)
		says(t, "the findings", out["findings"], "ami-1", "assumed")
		if out["valid"] != false {
			t.Error("a definition with findings is valid")
		}

		// One that could not be looked at is given the benefit of the doubt.
		c.findings, c.err = nil, errors.New("the line is busy")
		out = s.ask(200, "POST", try+"validate", body)
		if out["valid"] != false || out["incomplete"] != "the line is busy" {
			t.Errorf("what could not be looked at: %v", out)
		}
		s.ask(200, "PUT", "/worker-pool/p/build", body)
		if got := s.errors("p/build"); got != "1 configuration-wrong, 1 not-checked" {
			t.Errorf("errors: %s", got)
		}

		// A provider that does not answer holds nobody up for long.
		c.err = context.DeadlineExceeded
		began := time.Now()
		s.ask(200, "POST", "/worker-pool/p/build", definition([]string{"max=4", "provider=choosy"}))
		if d := time.Since(began); d > 11*time.Second {
			t.Errorf("it took %v", d)
		}
		markets := s.ask(200, "GET", operations+"/worker-pool/p/build/markets", nil)["markets"].([]any)
		if m := markets[0].(map[string]any); m["market"] != "sky" || m["price"] != 0.0425 || m["state"] != "open" || m["launched"] != 7.0 {
			t.Errorf("market: %v", m)
		}
		s.do([]string{"pool", "p/cloud", "max=1"})
		if list := s.ask(200, "GET", operations+"/worker-pool/p/cloud/markets", nil)["markets"].([]any); len(list) > 0 {
			t.Errorf("a provider that buys nothing has markets: %v", list)
		}
	})
}

func TestTheNameOfALaunchConfigurationIsForOneContent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		pool := func(image, weight, id string) map[string]any {
			return definition([]string{"max=3", fmt.Sprintf(`launchConfigs=[{"image":%q,"workerManager":{"launchConfigId":%q,"initialWeight":%s}}]`, image, id, weight)})
		}
		configs := func(query string) string {
			var list []string
			for _, x := range s.ask(200, "GET", "/worker-pool/p/build/launch-configs"+query, nil)["workerPoolLaunchConfigs"].([]any) {
				c := x.(map[string]any)
				what := c["configuration"].(map[string]any)
				list = append(list, fmt.Sprintf("%v %v %v %v", c["launchConfigId"], what["image"], what["workerManager"].(map[string]any)["initialWeight"], c["isArchived"]))
			}
			return strings.Join(list, ", ")
		}
		expect := func(query, want string) {
			t.Helper()
			if got := configs(query); got != want {
				t.Errorf("launch configurations%s: %s, want %s", query, got, want)
			}
		}
		s.ask(200, "PUT", "/worker-pool/p/build", pool("a", "1", "one"))
		s.ask(200, "POST", "/worker-pool/p/build", pool("a", "0.5", "one")) // how the provisioner uses it may change
		expect("", "one a 0.5 false")
		_, out := s.call("", "POST", "/worker-pool/p/build", pool("b", "0.5", "one"))
		says(t, "the refusal", out["message"], "The launch configuration one of the pool p/build has another content", "Give it a new one")
		expect("", "one a 0.5 false")
		s.ask(200, "POST", "/worker-pool/p/build", pool("b", "1", "two"))
		expect("", "two b 1 false")
		expect("?includeArchived=true", "one a 0.5 true, two b 1 false")
		s.ask(400, "POST", "/worker-pool/p/build", pool("c", "1", "one")) // archived ones keep their names
		s.ask(200, "POST", "/worker-pool/p/build", pool("a", "1", "one"))
		expect("?includeArchived=true", "one a 1 false, two b 1 true")
		if got := s.pages("/worker-pool/p/build/launch-configs?includeArchived=true", "workerPoolLaunchConfigs", "launchConfigId", 1); fmt.Sprint(got) != "[one two]" {
			t.Errorf("page by page: %v", got)
		}
		s.ask(404, "GET", "/worker-pool/p/none/launch-configs", nil)
		out = s.ask(200, "POST", operations+"/worker-pool/p/build/validate", pool("d", "1", "two"))
		says(t, "the validation", out["findings"], "The launch configuration two")
		// Deleting a pool archives what it has; taking it up again takes that up again.
		s.add("p/build", 1)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		s.do([]string{"delete", "p/build"})
		expect("?includeArchived=true", "one a 1 true, two b 1 true")
		s.ask(200, "PUT", "/worker-pool/p/build", pool("a", "1", "one"))
		expect("", "one a 1 false")
	})
}

func TestWorkersGetWhatTheDefinerOfThePoolHas(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		s.length = time.Hour
		body := func(image string) map[string]any {
			return definition([]string{"max=1", "image=" + image, `scopes=["docker:pull:*"]`, `secrets=["project/deploy","plain"]`})
		}
		may := "worker-manager:manage-worker-pool:p/build worker-manager:provider:cloud"
		s.as = may
		_, out := s.call("", "PUT", "/worker-pool/p/build", body("a"))
		says(t, "the refusal", out["message"], "InsufficientScopes", "docker:pull:*", "secrets:get:plain", "secrets:get:project/deploy")
		s.as = may + " docker:pull:image secrets:get:*"
		_, out = s.call("", "PUT", "/worker-pool/p/build", body("a"))
		says(t, "the refusal", out["message"], "InsufficientScopes", "docker:pull:*")
		s.as = may + " docker:* secrets:get:*"
		s.ask(200, "PUT", "/worker-pool/p/build", body("a"))
		s.as = may
		s.ask(403, "POST", "/worker-pool/p/build", body("b")) // what runs with the scopes is theirs to say
		// Workers of a pool that goes renew their credentials, too.
		s.as = may + " worker-manager:provider:null-provider"
		s.ask(403, "POST", "/worker-pool/p/build", definition([]string{"provider=null-provider", `scopes=["*"]`}))
		s.as = ""
		for say, config := range map[string]string{
			"config.scopes[0]":  `scopes=["ä"]`,
			"config.secrets[1]": `secrets=["a","b*"]`,
		} {
			_, out := s.call("", "PUT", "/worker-pool/p/bad", definition([]string{config}))
			says(t, "the refusal", out["message"], say)
		}
		s.add("p/build", 1)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		r := s.rows("p/build", fleet.Running)[0].Ref
		says(t, "the worker's scopes", s.minted["worker/cloud/"+r.String()], "docker:pull:*", "secrets:get:project/deploy", "secrets:get:plain")
	})
}
