package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/timestamp"
)

func TestADiffSaysHowOneTextBecomesTheOther(t *testing.T) {
	lines := func(s string) []string { return strings.Fields(s) }
	for _, test := range []struct{ a, b, want string }{
		{"", "", ""},
		{"a b c", "a b c", ""},
		{"a b c", "a x c", "--- A\n+++ B\n@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n"},
		{"", "a b", "--- A\n+++ B\n@@ -1,0 +1,2 @@\n+a\n+b\n"},
		{"a b", "", "--- A\n+++ B\n@@ -1,2 +1,0 @@\n-a\n-b\n"},
		{"1 2 3 4 5 6 7 8 9 10 11 12", "1 2 3 4 5 6 7 8 9 10 11 x", "--- A\n+++ B\n@@ -9,4 +9,4 @@\n 9\n 10\n 11\n-12\n+x\n"},
		{"x 1 2 3 4 5 6 7 8 y", "1 2 3 4 5 6 7 8", "--- A\n+++ B\n@@ -1,4 +1,3 @@\n-x\n 1\n 2\n 3\n@@ -7,4 +6,3 @@\n 6\n 7\n 8\n-y\n"},
	} {
		edits := compareLines(lines(test.a), lines(test.b))
		if got := unified(edits, "A", "B", false); got != test.want {
			t.Errorf("from %q to %q:\n%s\nwant\n%s", test.a, test.b, got, test.want)
		}
		var a, b []string
		for _, e := range edits {
			if e.kind != '+' {
				a = append(a, e.text)
			}
			if e.kind != '-' {
				b = append(b, e.text)
			}
		}
		if !slices.Equal(a, lines(test.a)) || !slices.Equal(b, lines(test.b)) {
			t.Errorf("the edits from %q to %q are those from %q to %q", test.a, test.b, a, b)
		}
	}
	if got := unified(compareLines([]string{"a"}, []string{"b"}), "A", "B", true); !strings.Contains(got, "\x1b[31m-a\x1b[0m\n\x1b[32m+b\x1b[0m\n") {
		t.Errorf("in colours it is %q", got)
	}
}

func TestADefinitionIsTheSameHoweverItIsSpelt(t *testing.T) {
	a, err := definitionLines("aws", "", "me", false, json.RawMessage(`{"b": 1.0, "a": [{"y":2,"x":1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := definitionLines("aws", "", "me", false, json.RawMessage(`{"a":[{"x":1,"y":2}],"b":1}`))
	if err != nil || !slices.Equal(a, b) {
		t.Errorf("%v: %q and %q", err, a, b)
	}
}

func TestTextIsWrapped(t *testing.T) {
	if got, want := wrap("a long line that has to be broken\nand  another\n", 22, "  "), "  a long line that has\n  to be broken\n  and another\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := bullet("x y", 80); got != "  * x y\n" {
		t.Errorf("got %q", got)
	}
}

func TestAmountsAndTimesAreWorded(t *testing.T) {
	for d, want := range map[float64]string{0: "$0", 0.00001: "<$0.0001", 0.0312: "$0.0312", 1.5: "$1.50", 123.456: "$123.46", 12345.6: "$12346"} {
		if got := money(d); got != want {
			t.Errorf("%v dollars are %s, want %s", d, got, want)
		}
	}
	for x, want := range map[float64]string{0: "0", 3: "3", 0.12345: "0.123", 83.912: "83.9", 12345.6: "12346"} {
		if got := amount(x); got != want {
			t.Errorf("%v is %s, want %s", x, got, want)
		}
	}
	now := timestamp.Of(time.Date(2016, 5, 11, 12, 0, 0, 0, time.Local))
	for at, want := range map[timestamp.Time]string{
		0: "-", now.Add(-time.Minute): "11:59:00, 1m00s ago", now.Add(2 * time.Hour): "14:00:00, in 2h00m",
		now.Add(-24 * time.Hour): "May 10 12:00:00, 24h00m ago",
	} {
		if got := when(at, now); got != want {
			t.Errorf("%v is %q, want %q", at, got, want)
		}
	}
	if got := remembered(now.Add(-7*24*time.Hour), now); now.Sub(got) >= 7*24*time.Hour {
		t.Error("7d is refused")
	}
	if got := remembered(now.Add(-8*24*time.Hour), now); got != now.Add(-8*24*time.Hour) {
		t.Error("8d became something else")
	}
}

func dollars(d float64) *float64 { return &d }

// A crowd of markets as a pool with many of them has.
func someMarkets(now timestamp.Time) (list []market) {
	for i := range 6 {
		m := market{
			Market: fmt.Sprintf("ap-southeast-2%c/c7i.24xlarge/on-demand", 'a'+i), Capacity: 24, State: "open", Price: dollars(12.3456), Utility: dollars(1.25),
			Launched: 1234, Refused: 567, Interruptions: 0.0123,
		}
		if i%2 == 1 {
			m.State, m.Until, m.Reason = "closed", now.Add(time.Duration(i)*time.Minute), "EC2 said InsufficientInstanceCapacity: there is none."
		}
		list = append(list, m)
	}
	return list
}

// Nothing is wider than a terminal of 100 columns, whatever its figures.
func TestOutputsAreNotTooWide(t *testing.T) {
	now := timestamp.Now()
	pool := "proj-production/b-linux-large"
	status := &fleetState{At: now, LastPass: now, Providers: []provisioner.ProviderStatusProvider{{ProviderID: "aws-production", ProviderType: "aws", Ok: true, LookedAt: now, Workers: 12345}}}
	for i := range 30 {
		status.Pools = append(status.Pools, provisioner.PoolStatus{
			WorkerPoolID: pool, ProviderID: "aws-production", Pending: 12345, OldestPending: now.Add(-time.Hour * time.Duration(i)), Claimed: 2345,
			Requested: 345, Running: 1000, Idle: 45, Draining: 12, Errors: 17, CostPerHour: 123.45,
		})
	}
	c := provisioner.WorkerPoolCost{WorkerPoolID: pool, Cost: 12345.67, CostPerHour: 514.4, Tasks: 123456, CostPerTask: dollars(.1), Workers: 12345, CapacityHours: 12345, TaskHours: 11111, Overhead: dollars(.111)}
	d := provisioner.Decision{At: now, Reason: strings.Repeat("a reason in many words ", 20), Terms: []provisioner.DecisionTerm{{Name: "aTermWithALongName", Value: 12345.678}}}
	for name, print := range map[string]func(*bytes.Buffer) error{
		"markets":   func(b *bytes.Buffer) error { return printMarkets(b, pool, someMarkets(now), false, now) },
		"prices":    func(b *bytes.Buffer) error { return printPrices(b, pricesOf(pool, someMarkets(now)), false) },
		"cost":      func(b *bytes.Buffer) error { return printCosts(b, []provisioner.WorkerPoolCost{c, c}, now) },
		"status":    func(b *bytes.Buffer) error { return status.print(b, false) },
		"terms":     func(b *bytes.Buffer) error { return printTerms(b, &d) },
		"decisions": func(b *bytes.Buffer) error { return printDecisions(b, []provisioner.Decision{d, d}, now) },
		"workers": func(b *bytes.Buffer) error {
			return printWorkers(b, []provisioner.WorkerState{{
				WorkerPoolID: pool, WorkerID: "i-0123456789abcdef0", Activity: "quarantined", IdleSince: now.Add(-30 * time.Hour), Created: now.Add(-40 * time.Hour),
				Market: someMarkets(now)[0].Market, Capacity: 24, Claims: 12,
			}}, now)
		},
	} {
		var b bytes.Buffer
		if err := print(&b); err != nil || b.Len() == 0 {
			t.Errorf("%s: %v, %d bytes", name, err, b.Len())
		}
		for l := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(l, "\n")); n > 100 {
				t.Errorf("%s has a line of %d columns: %s", name, n, l)
			}
		}
	}
}

func TestClosedMarketsAreTakenTogether(t *testing.T) {
	now := timestamp.Now()
	all := closures(someMarkets(now))
	if len(all) != 1 || len(all[0].markets) != 3 || all[0].until != now.Add(time.Minute) {
		t.Errorf("they are closed by %+v", all)
	}
	x := explained{&provisioner.Explanation{At: now, Hindrances: []string{
		"lc-1 is new.", "The market " + someMarkets(now)[1].Market + " is closed until tomorrow: there is none.",
	}}, someMarkets(now)}
	list := x.hindrances()
	if len(list) != 2 || list[0] != "lc-1 is new." || !strings.HasPrefix(list[1], "3 of 6 markets are not open (") {
		t.Errorf("the hindrances are %q", list)
	}
	if next := x.next(); len(next) != 1 || next[0].text != "The first of 3 closed markets is probed" || next[0].at != now.Add(time.Minute) {
		t.Errorf("next is %+v", next)
	}
}

// What an operator is told at night.
func TestWhatIsWrongIsToldFirst(t *testing.T) {
	now := timestamp.Now()
	limit := int64(10)
	fleet := func() *fleetState {
		return &fleetState{At: now, LastPass: now, Providers: []provisioner.ProviderStatusProvider{{ProviderID: "aws", Ok: true, LookedAt: now}}}
	}
	pool := func(change func(*provisioner.PoolStatus)) *examination {
		x := provisioner.PoolStatus{WorkerPoolID: "aws/x", ProviderID: "aws", Max: &limit}
		change(&x)
		return &examination{PoolStatus: &x}
	}
	waiting := func(x *provisioner.PoolStatus) { x.Pending, x.OldestPending = 3, now.Add(-time.Hour) }
	stuck := pool(waiting)
	stuck.why = &provisioner.Explanation{LaunchConfigs: []provisioner.ExplanationLaunchConfig{{LaunchConfigID: "lc-1", State: "waiting", Failures: 4, StartAfter: now.Add(time.Minute)}},
		Errors: []provisioner.ExplanationError{{Title: "The provider refuses us", LaunchConfigID: "lc-1"}}}
	soldOut := pool(func(x *provisioner.PoolStatus) { x.Pending, x.OldestPending = 1, now.Add(-time.Second) })
	soldOut.markets = slices.DeleteFunc(someMarkets(now), func(m market) bool { return m.State == "open" })
	for name, test := range map[string]struct {
		judge       func(*fleetState)
		wrong, note string // part of the only one, "" where there is none
	}{
		"nothing":      {func(f *fleetState) { f.judgeServers(); f.judgePool(pool(func(*provisioner.PoolStatus) {})) }, "", ""},
		"nobody works": {func(f *fleetState) { f.LastPass = now.Add(-time.Hour); f.judgeServers() }, "No server has looked after the workers since", ""},
		"blind": {func(f *fleetState) {
			f.judgeProvider(&provisioner.ProviderStatusProvider{ProviderID: "aws", Error: "no route", FailingSince: now.Add(-time.Minute)})
		}, "1m00s ago: no route. Meanwhile", ""},
		"waiting": {func(f *fleetState) { f.judgePool(pool(waiting)) }, "3 tasks wait, the oldest for 1h00m, although it may have more workers", ""},
		"not for long": {func(f *fleetState) {
			f.judgePool(pool(func(x *provisioner.PoolStatus) { x.Pending, x.OldestPending = 3, now.Add(-time.Minute) }))
		}, "", ""},
		"full":        {func(f *fleetState) { f.judgePool(pool(func(x *provisioner.PoolStatus) { waiting(x); x.Running = 10 })) }, "", "it has all the capacity that it may have, 10"},
		"by hand":     {func(f *fleetState) { f.judgePool(pool(func(x *provisioner.PoolStatus) { waiting(x); x.Max = nil })) }, "nobody starts workers of this pool", ""},
		"breaker":     {func(f *fleetState) { f.judgePool(stuck) }, "workers of lc-1 cannot be started: The provider refuses us. It failed 4 times in a row", ""},
		"sold out":    {func(f *fleetState) { f.judgePool(soldOut) }, "none of its 3 markets is open: EC2 said", ""},
		"no provider": {func(f *fleetState) { f.judgePool(pool(func(x *provisioner.PoolStatus) { x.ProviderID = "gone" })) }, "its provider gone is not configured", ""},
		"deleted": {func(f *fleetState) {
			f.judgePool(pool(func(x *provisioner.PoolStatus) { x.ProviderID, x.Workers = nullProvider, 2 }))
		}, "", "it is being deleted; 2 workers are left"},
		"deleted, work": {func(f *fleetState) {
			f.judgePool(pool(func(x *provisioner.PoolStatus) { waiting(x); x.ProviderID = nullProvider }))
		}, "nobody will run them", ""},
		"errors":      {func(f *fleetState) { f.judgePool(pool(func(x *provisioner.PoolStatus) { x.Errors = 7 })) }, "", "7 errors in the last hour."},
		"quarantined": {func(f *fleetState) { f.judgePool(pool(func(x *provisioner.PoolStatus) { x.Quarantined = 4 })) }, "", "workers for 4 tasks are in quarantine"},
	} {
		f := fleet()
		test.judge(f)
		for _, x := range []struct {
			what string
			got  []finding
			want string
		}{{"wrong", f.Wrong, test.wrong}, {"a note", f.Notes, test.note}} {
			if x.want == "" && len(x.got) > 0 || x.want != "" && (len(x.got) != 1 || !strings.Contains(x.got[0].Text, x.want) || x.got[0].Next == "") {
				t.Errorf("%s: %s is %+v, want %q", name, x.what, x.got, x.want)
			}
		}
	}
}

func TestProvisionerCommandLinesThatMakeNoSense(t *testing.T) {
	fakePlatform(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("the server was asked: %s", r.URL) })
	for line, want := range map[string]string{
		"provisioner nonsense":                                `unknown command "nonsense"`,
		"provisioner explain":                                 "accepts 1 arg(s), received 0",
		"provisioner explain a/b --since soon":                "how long ago it was, such as 2h or 3d",
		"provisioner cost --since 1h --until 2h":              "--until 2h is not after --since 1h",
		"provisioner workers list --activity asleep":          `--activity is "asleep"; it must be one of booting, `,
		"provisioner workers drain a/b":                       "requires at least 2 arg(s)",
		"provisioner workers quarantine a/b c --for x":        "--for: \"x\" is no duration",
		"provisioner workers quarantine a/b c --for 1h --end": "[end for]",
		"provisioner preview":                                 "name a pool, or a file with --file",
		"provisioner preview a/b -f x":                        "naming the pool a/b makes no sense",
		"provisioner pools diff":                              `required flag(s) "file" not set`,
		"pool delete":                                         "accepts 1 arg(s)",
	} {
		out, errOut, code := command(t, strings.Split(line, " ")...)
		if code != exitUsage || !strings.Contains(errOut, want) || out != "" {
			t.Errorf("%q ended with %d, %q and\n%s\nwant %q", line, code, out, errOut, want)
		}
	}
}

func TestADiffThatFailsHasAnExitCodeOfItsOwn(t *testing.T) {
	fakePlatform(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(403)
		json.NewEncoder(w).Encode(map[string]string{"code": "InsufficientScopes", "message": "because"})
	})
	file := filepath.Join(t.TempDir(), "pool.yml")
	if err := os.WriteFile(file, []byte("{workerPoolId: a/b, providerId: local, owner: me, config: {maxCapacity: 1}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-f", file}, {"-f", "nowhere.yml"}} {
		if _, errOut, code := command(t, append([]string{"pool", "diff"}, args...)...); code != exitTrouble || errOut == "" {
			t.Errorf("%v ended with %d: %s", args, code, errOut)
		}
	}
	if _, errOut, _ := command(t, "pool", "diff", "-f", file); !strings.Contains(errOut, "ask an administrator") {
		t.Errorf("it says %s", errOut)
	}
}
