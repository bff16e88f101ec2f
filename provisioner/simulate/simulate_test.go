package simulate

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/sizing"
)

func invent(t testing.TB, kind string, s Shape) []Trace {
	t.Helper()
	tasks, err := Generate(kind, s)
	if err != nil {
		t.Fatal(err)
	}
	return []Trace{{Name: kind, Tasks: tasks}}
}

func simulated(t testing.TB, traces []Trace, o Options) *Result {
	t.Helper()
	r, err := Run(t.Context(), traces, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// everything is a world in which all goes wrong that can.
var everything = Options{Policy: "reactive", Interruptions: 0.5, Dead: 0.05, SoldOut: 0.1, Chaos: true, Known: 0.5}

func TestTheSameSeedGivesTheSameBytes(t *testing.T) {
	traces := slices.Concat(
		invent(t, "bursts", Shape{Length: time.Hour, Size: 30}),
		invent(t, "graphs", Shape{Length: 2 * time.Hour, Size: 30, Rate: 8}),
	)
	said := func(policy string, seed uint64) string {
		o := everything
		o.Policy, o.Seed = policy, seed
		r := simulated(t, traces, o)
		text, err := json.Marshal(struct {
			*Result
			Steps []Step
		}{r, r.Series.Steps})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, p := range sizing.Policies() {
		one := said(p.Name(), 1)
		if two := said(p.Name(), 1); one != two {
			t.Errorf("two runs with one seed differ:\n%.1000s\n%.1000s", one, two)
		}
		if one == said(p.Name(), 2) {
			t.Errorf("%s: another seed changes nothing", p.Name())
		}
	}
}

// TestTheBoundIsTheOptimum compares it with trying all ways to give tasks to
// machines.
func TestTheBoundIsTheOptimum(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		const boot = 75
		tasks := make([]Task, 1+draw.IntN(7))
		var work int64
		for i := range tasks {
			tasks[i] = Task{Arrival: draw.Int64N(600), Duration: 1 + draw.Int64N(200)}
			work += tasks[i].Duration
		}
		// Each task comes after another one on its machine, or is the first there.
		least := int64(math.MaxInt64)
		used := make([]bool, len(tasks))
		var try func(i int, cost int64)
		try = func(i int, cost int64) {
			if i == len(tasks) {
				least = min(least, cost)
				return
			}
			try(i+1, cost+boot)
			for k := range tasks {
				if gap := tasks[i].Arrival - tasks[k].Arrival - tasks[k].Duration; k != i && !used[k] && gap >= 0 {
					used[k] = true
					try(i+1, cost+min(gap, boot))
					used[k] = false
				}
			}
		}
		try(0, work)
		got, err := Bound([]Trace{{Tasks: tasks}}, boot*time.Millisecond, 1)
		if err != nil || got.Milliseconds() != least {
			t.Fatalf("tasks %v: the bound is %v, the least %d; %v", tasks, got, least, err)
		}
	}
}

func TestEveryTaskIsCompletedAndEveryMachinePaidOnce(t *testing.T) {
	for _, kind := range []string{"bursts", "graphs"} {
		traces := invent(t, kind, Shape{Length: 4 * time.Hour, Size: 50})
		for _, o := range []Options{{Policy: "ratio"}, {Policy: "worker-manager", Capacity: 3}, everything} {
			var began, ended int
			var paid time.Duration
			o.happened = func(h awsfake.Happening) {
				switch h.Kind {
				case awsfake.Launched:
					began++
				case awsfake.Stopping:
					ended++
					paid += max(h.At.Sub(h.Instance.Requested), time.Minute)
				}
			}
			r := simulated(t, traces, o)
			if r.Tasks != len(traces[0].Tasks) || r.Wait.Max < r.Wait.P50 || r.Wait.Mean <= 0 {
				t.Errorf("%s: %d tasks waited %+v; there are %d", kind, r.Tasks, r.Wait, len(traces[0].Tasks))
			}
			if began != r.Launched || ended != began {
				t.Errorf("%s: %d machines began and %d ended; the result says %d", kind, began, ended, r.Launched)
			}
			if math.Abs(paid.Hours()-r.PaidHours) > 1e-6 {
				t.Errorf("%s: machines ran for %v, and %v hours are paid", kind, paid, r.PaidHours)
			}
			if r.PaidHours < r.WorkHours || r.Overhead < r.BoundOverhead && r.Wait.Max == 0 {
				t.Errorf("%s: paid %v hours for %v hours of work", kind, r.PaidHours, r.WorkHours)
			}
			if r.BusyKilled != 0 || r.Orphans != 0 || r.Throttled != 0 {
				t.Errorf("%s: %d killed at work, %d orphans, %d throttled", kind, r.BusyKilled, r.Orphans, r.Throttled)
			}
			if o.Interruptions == 0 && r.Retries != 0 {
				t.Errorf("%s: %d runs were lost", kind, r.Retries)
			}
		}
	}
}

// TestDrainsKillNoWorkAtHand drains workers just as tasks come for them.
func TestDrainsKillNoWorkAtHand(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 1))
	trace := Trace{Name: "rush"}
	for burst := int64(0); burst < 300; burst++ {
		at := burst * 50_000
		for range 70 {
			trace.Tasks = append(trace.Tasks, Task{Arrival: at, Duration: 3000 + draw.Int64N(5000)})
		}
		for range 20 { // for those who are about to be drained
			trace.Tasks = append(trace.Tasks, Task{Arrival: at + 22_000 + draw.Int64N(14_000), Duration: 2000})
		}
	}
	r := simulated(t, []Trace{trace}, Options{Policy: "reactive", Idle: time.Second, Boot: 20 * time.Second})
	if r.BusyKilled != 0 || r.Retries != 0 {
		t.Errorf("%d were killed at work, %d runs lost", r.BusyKilled, r.Retries)
	}
	if r.Drains < 20_000 || r.DrainsTooLate < 10 {
		t.Errorf("only %d drains, %d of which came too late: this tests nothing", r.Drains, r.DrainsTooLate)
	}
}

// TestACrashAfterAnyStepLeavesNoOrphan crashes the controller after each of the
// steps that it takes for a small trace, one run for each, and then at random.
func TestACrashAfterAnyStepLeavesNoOrphan(t *testing.T) {
	traces := invent(t, "steps", Shape{Length: 30 * time.Minute, Every: 10 * time.Minute, Size: 6, Run: 2 * time.Minute})
	steps := map[string]int{}
	last := 0
	check := func(what string, o Options, traces []Trace) {
		t.Helper()
		r := simulated(t, traces, o)
		if r.Restarts == 0 || r.Orphans != 0 || r.BusyKilled != 0 {
			t.Errorf("%s: %d restarts, %d orphans, %d killed at work", what, r.Restarts, r.Orphans, r.BusyKilled)
		}
	}
	quiet := Options{Policy: "reactive", Dead: 0.1, Interruptions: 2}
	quiet.crash = func(n int, what string) bool { steps[what]++; last = n; return false }
	simulated(t, traces, quiet)
	for _, what := range []string{"intend", "launch", "answer", "drain", "ask to end", "note that it was asked", "interrupt", "end", "hand claims back", "close", "prove"} {
		if steps[what] == 0 {
			t.Errorf("the trace has no step %q: %v", what, steps)
		}
	}
	for n := 1; n <= last; n++ {
		o := quiet
		o.crash = func(step int, _ string) bool { return step == n }
		check(fmt.Sprintf("step %d of %d", n, last), o, traces)
	}
	draw := rand.New(rand.NewPCG(1, 1))
	o := everything
	o.crash = func(int, string) bool { return draw.IntN(30) == 0 }
	check("at random", o, invent(t, "bursts", Shape{Length: 3 * time.Hour, Size: 60}))
}

// TestAThousandWorkersInABootTime has a thousand tasks come at once.
func TestAThousandWorkersInABootTime(t *testing.T) {
	for _, policy := range []string{"reactive", ""} {
		var booted []time.Duration
		o := Options{Policy: policy}
		traces := invent(t, "steps", Shape{Length: time.Hour, Every: time.Hour, Size: 1000, Run: time.Hour})
		start := epoch.Time().Add(15 * time.Minute)
		o.happened = func(h awsfake.Happening) {
			if h.Kind == awsfake.Booted {
				booted = append(booted, h.At.Sub(start))
			}
		}
		r := simulated(t, traces, o)
		p90 := time.Duration(75 * math.Exp(bootSigma*1.2816) * float64(time.Second))
		if got := booted[899]; got > p90+5*time.Second {
			t.Errorf("policy %q: 900 of 1000 had registered after %v; want %v", policy, got, p90+5*time.Second)
		}
		if r.Throttled != 0 {
			t.Errorf("policy %q: %d calls were throttled", policy, r.Throttled)
		}
	}
}

// TestTwoThousandWorkersWithinTheLimits has them come and go.
func TestTwoThousandWorkersWithinTheLimits(t *testing.T) {
	traces := invent(t, "steps", Shape{Length: time.Hour, Every: time.Hour, Size: 2000, Run: 20 * time.Minute})
	r := simulated(t, traces, Options{Policy: "reactive", Interruptions: 0.05})
	if r.Throttled != 0 || r.DescribesPerMinute > 3 {
		t.Errorf("%d calls were throttled, and there were up to %d calls that list things in a minute", r.Throttled, r.DescribesPerMinute)
	}
}

// TestDeadMachinesHoldUpNobodyElse has some of many machines that are started
// together not come up.
func TestDeadMachinesHoldUpNobodyElse(t *testing.T) {
	traces := invent(t, "steps", Shape{Length: 2 * time.Hour, Every: time.Hour, Size: 300, Run: 10 * time.Minute})
	for _, policy := range []string{"forecast", "reactive"} {
		well := simulated(t, traces, Options{Policy: policy})
		ill := simulated(t, traces, Options{Policy: policy, Dead: 0.05})
		if ill.Complaints["registration-failed"] == 0 || ill.Wait.Mean > 1.25*well.Wait.Mean {
			t.Errorf("%s: with %d dead machines tasks wait for %.1f s on the average, without any for %.1f s",
				policy, ill.Complaints["registration-failed"], ill.Wait.Mean, well.Wait.Mean)
		}
	}
}

func TestAReplacementIsRequestedAtTheNotice(t *testing.T) {
	trace := Trace{Name: "long", Tasks: make([]Task, 40)}
	for i := range trace.Tasks {
		trace.Tasks[i].Duration = (4 * time.Hour).Milliseconds()
	}
	var launches, warnings []time.Time
	o := Options{Policy: "reactive", Interruptions: 0.2}
	o.happened = func(h awsfake.Happening) {
		switch h.Kind {
		case awsfake.Launched:
			launches = append(launches, h.At)
		case awsfake.Warned:
			if time.Duration(h.At.Sub(epoch.Time())) < 2*time.Hour { // all are at work
				warnings = append(warnings, h.At)
			}
		}
	}
	r := simulated(t, []Trace{trace}, o)
	if len(warnings) < 5 {
		t.Fatalf("only %d of %d interruptions came while all worked", len(warnings), r.Interrupted)
	}
	for _, at := range warnings {
		if !slices.ContainsFunc(launches, func(l time.Time) bool { return !l.Before(at) && l.Sub(at) <= 2*time.Second }) {
			t.Errorf("no machine was requested within 2 s of the notice at %v", at)
		}
	}
}

// TestATaskWaitsFromWhenItCouldRun has a task depend on others.
func TestATaskWaitsFromWhenItCouldRun(t *testing.T) {
	read := func(text string) []Trace {
		trace, err := Read("graph.jsonl", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return []Trace{trace}
	}
	traces := read(`
		{"taskId": "test", "dependencies": ["build", "lint"], "arrival_ms": 1000, "duration_ms": 60000}
		{"taskId": "build", "arrival_ms": 0, "duration_ms": 300000}
		{"taskId": "lint", "arrival_ms": 400000, "duration_ms": 1000}`)
	bound, err := Bound(traces, time.Minute, 1)
	// A machine boots, builds, waits for a minute in which it lints nothing, lints
	// and tests.
	if want := time.Minute + 300*time.Second + time.Minute + time.Second + time.Minute; err != nil || bound != want {
		t.Errorf("the bound is %v, want %v; %v", bound, want, err)
	}
	r := simulated(t, traces, Options{Policy: "reactive", Boot: time.Minute, Idle: 10 * time.Minute})
	// The build waits for its machine, which then is there for the others.
	if r.Launched != 1 || r.Wait.P50 != 0 || r.Wait.Max < 30 || r.Wait.Max > 120 {
		t.Errorf("%d machines, waits %+v", r.Launched, r.Wait)
	}
}

func TestReadingSaysWhatIsWrongAndWhere(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "t.csv: there is no task in it",
		"arrival_ms,duration_ms\n":               "t.csv: there is no task in it",
		"1,2\n":                                  "t.csv:1: the first line is",
		"arrival_ms,duration_ms\n1\n":            "t.csv:2: \"1\" has not two fields",
		"arrival_ms,duration_ms\n1,2\n\n3,x\n":   "t.csv:4: duration_ms is \"x\"",
		"arrival_ms,duration_ms\n-1,2\n":         "t.csv:2: arrival_ms is -1",
		`{"arrival_ms": 1}`:                      "t.csv:1: arrival_ms or duration_ms is missing",
		`{"arrival_ms": "1"}`:                    "t.csv:1: arrival_ms is a JSON string, where a whole number is needed",
		"\x1f\x8b\b":                             "unpack it with gunzip",
		`{"arrival_ms": 1, "durationMs": 1}`:     "durationMs",
		"{\"arrival_ms\": 1, \"duration_ms\": 1": "t.csv:1: unexpected EOF",
	} {
		if _, err := Read("t.csv", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %v, and should say %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		`{"taskId": "a", "dependencies": ["b"], "arrival_ms": 1, "duration_ms": 1}`: "t.jsonl:1: the task depends on b, which is in none",
		`{"taskId": "a", "arrival_ms": 1, "duration_ms": 1}
		 {"taskId": "a", "arrival_ms": 1, "duration_ms": 1}`: "t.jsonl:2: there is a task a at t.jsonl:1 already",
		`{"taskId": "a", "dependencies": ["b"], "arrival_ms": 1, "duration_ms": 1}
		 {"taskId": "b", "dependencies": ["a"], "arrival_ms": 1, "duration_ms": 1}`: "depends on itself",
	} {
		trace, err := Read("t.jsonl", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), []Trace{trace}, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, and should say %q", text, err, want)
		}
	}
}

func TestWhatIsInventedCanBeReadAgain(t *testing.T) {
	for _, k := range Shapes {
		tasks, err := Generate(k.Name, Shape{Length: 6 * time.Hour, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		again, err := Generate(k.Name, Shape{Length: 6 * time.Hour, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		var one, two bytes.Buffer
		if err := errors.Join(Write(&one, tasks), Write(&two, again)); err != nil || one.String() != two.String() {
			t.Errorf("%s: the same seed invents another trace; %v", k.Name, err)
		}
		read, err := Read(k.Name, &one)
		if err != nil || len(read.Tasks) != len(tasks) {
			t.Fatalf("%s: %d tasks, %d read; %v", k.Name, len(tasks), len(read.Tasks), err)
		}
		for i, r := range read.Tasks {
			w := tasks[i]
			if r.ID != w.ID || r.Kind != w.Kind || r.Arrival != w.Arrival || r.Duration != w.Duration || !slices.Equal(r.Dependencies, w.Dependencies) {
				t.Fatalf("%s: wrote %+v, read %+v", k.Name, w, r)
			}
		}
		if _, _, err := link([]Trace{read}); err != nil {
			t.Errorf("%s: %v", k.Name, err)
		}
	}
	whole, err := Generate("graphs", Shape{Length: 3 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	parts := 0
	for _, kind := range []string{"decision", "build", "test"} {
		part, err := Generate("graphs", Shape{Length: 3 * time.Hour, Kinds: []string{kind}})
		if err != nil {
			t.Fatal(err)
		}
		parts += len(part)
	}
	if parts != len(whole) {
		t.Errorf("by kind there are %d tasks of %d", parts, len(whole))
	}
}

func TestAPoolsOwnConfigurationIsSimulated(t *testing.T) {
	traces := invent(t, "steps", Shape{Length: time.Hour, Every: time.Hour, Size: 50, Run: 20 * time.Minute})
	run := func(config string, o Options) (*Result, error) {
		o.Pool = json.RawMessage(config)
		return Run(t.Context(), traces, o)
	}
	r, err := run(`{"maxCapacity": 20, "sizing": {"policy": "ratio", "idleTimeout": 60}, "launchConfigs": [
		{"region": "eu-west-1", "launchConfig": {"ImageId": "ami-0123", "InstanceType": "c7g.large", "SubnetId": "subnet-1", "KeyName": "mine"},
		 "workerManager": {"capacityPerInstance": 2}}]}`, Options{})
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	for _, s := range r.Series.Steps {
		most = max(most, s.Busy)
	}
	if r.Policy != "ratio" || most != 20 || r.APICallsByAction["ec2:RunInstances"] == 0 {
		t.Errorf("policy %s, at most %d tasks at once, calls %v", r.Policy, most, r.APICallsByAction)
	}
	// Tasks of 20 minutes outlast credentials of 5, which workers renew.
	if r, err = run(`{"maxCapacity": 50, "lifecycle": {"reregistrationTimeout": 300}, "regions": [{"region": "eu-west-1"}], "instanceTypes": [{"instanceType": "m5.large"}]}`, Options{}); err != nil || r.BusyKilled != 0 {
		t.Errorf("credentials that expire: %v %+v", err, r)
	}
	if _, err = run(`{"maxCapacity": 20, "instanceTypes": []}`, Options{}); err == nil || !strings.Contains(err.Error(), "region") {
		t.Errorf("a pool without regions: %v", err)
	}
	if _, err = run(`{"maxCapacity": 0, "regions": [{"region": "eu-west-1"}], "instanceTypes": [{"instanceType": "m5.large"}]}`, Options{}); err == nil || !strings.Contains(err.Error(), "50 tasks have waited for a day") {
		t.Errorf("a pool that may have no workers: %v", err)
	}
	if _, err = run(`{"minCapacity": 20, "maxCapacity": 30, "regions": [{"region": "eu-west-1"}], "instanceTypes": [{"instanceType": "m5.large"}]}`, Options{Max: 10}); err == nil || !strings.Contains(err.Error(), "minCapacity") {
		t.Errorf("a pool with too small a maximum: %v", err)
	}
}

func TestPlotsAreXML(t *testing.T) {
	traces := invent(t, "steps", Shape{Length: time.Hour, Every: time.Hour, Size: 50, Run: 5 * time.Minute})
	r := simulated(t, traces, Options{Policy: "reactive"})
	for name, draw := range map[string]func(io.Writer) error{
		"one":   func(w io.Writer) error { return Plot(w, "a < b", []*Result{r}) },
		"two":   func(w io.Writer) error { return Plot(w, "a & b", []*Result{r, r}) },
		"front": func(w io.Writer) error { return PlotFront(w, "front", []Point{{Result: r, Label: "<1>"}}) },
	} {
		var b bytes.Buffer
		if err := draw(&b); err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(&b)
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}
