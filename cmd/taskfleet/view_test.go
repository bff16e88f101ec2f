package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/graph"
)

func busyView() *view {
	v := &view{
		name: "self", rootURL: "http://127.0.0.1:8080", elapsed: 72*time.Second + 300*time.Millisecond, total: 20,
		tasks: graph.Counts{Unscheduled: 6, Pending: 2, Running: 3, Completed: 8, Failed: 1}, blocked: 2,
		pools: []poolView{{id: "local/build", known: true, pending: 2, claimed: 3, starting: 1, running: 3}},
	}
	for i := range 3 {
		v.running = append(v.running, runningTask{fmt.Sprintf("test-%d", i), "w-AAAAAAAAAAAAAAAAAAAAAA", time.Duration(i+1) * time.Second})
	}
	for i := range 50 {
		v.events = append(v.events, eventView{time.Date(2016, 5, 11, 12, 0, i, 0, time.UTC), green, fmt.Sprintf("event %d with a name that is longer than narrow terminals are wide", i)})
	}
	return v
}

func screenText(v *view, width, height int) []string {
	var lines []string
	for _, l := range v.render(width, height) {
		lines = append(lines, l.text(false))
	}
	return lines
}

func TestAViewShowsWhatMatters(t *testing.T) {
	text := strings.Join(screenText(busyView(), 100, 24), "\n")
	for _, part := range []string{
		"http://127.0.0.1:8080", "1m12s", "8 of 20 completed", "3 running", "2 pending", "4 waiting", "1 failed", "2 blocked",
		"local/build  queue: 2 pending, 3 claimed · workers: 3 running, 1 starting, 0 stopping", "test-2", "12:00:49  event 49",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("the view lacks %q:\n%s", part, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("there are colors where none were asked for")
	}
}

func TestAViewFitsItsScreen(t *testing.T) {
	for _, width := range []int{20, 40, 80, 200} {
		for _, height := range []int{0, 1, 5, 10, 24, 60} {
			lines := screenText(busyView(), width, height)
			if len(lines) > height {
				t.Errorf("%d lines on a screen of %d", len(lines), height)
			}
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > width {
					t.Errorf("a line has %d columns on a screen of %d: %s", n, width, l)
				}
			}
		}
	}
	// What does not change its height does not jump.
	v := busyView()
	before := len(screenText(v, 80, 24))
	v.events = append(v.events, eventView{text: "one more"})
	v.running = v.running[:2]
	if after := len(screenText(v, 80, 24)); after != before {
		t.Errorf("%d lines became %d", before, after)
	}
}

func TestTheBarIsFullAtTheEnd(t *testing.T) {
	for _, total := range []int{1, 3, 7, 60, 61, 1000} {
		length := strings.Count((&view{name: "x", total: total}).bar(80).text(false), "░")
		for done := range total + 1 {
			v := &view{name: "x", total: total, tasks: graph.Counts{Completed: done, Unscheduled: total - done}}
			bar := v.bar(80).text(false)
			full, empty := strings.Count(bar, "█"), strings.Count(bar, "░")
			if full+empty > length || full+empty < length-8 || done == total && empty > 0 || done == 0 && full > 0 {
				t.Fatalf("%d of %d is %s", done, total, bar)
			}
		}
	}
	if bar := (&view{}).bar(80).text(false); !strings.Contains(bar, "0 of 1") && !strings.Contains(bar, "0 of 0") {
		t.Errorf("nothing is %s", bar)
	}
}

func TestColorsStayInTheirSpan(t *testing.T) {
	l := line{{"a", bold}, {"b", noColor}, {"c", red}}
	if got, want := l.text(true), "\x1b[1ma\x1b[0mb\x1b[31mc\x1b[0m"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStepsAreDescribed(t *testing.T) {
	for want, s := range map[string]queue.TaskStatus{
		"unscheduled":                    {State: "unscheduled"},
		"pending":                        {State: "pending", Runs: []queue.TaskStatusRun{{State: "pending", ReasonCreated: "scheduled"}}},
		"pending (run 1, retry)":         {State: "pending", Runs: []queue.TaskStatusRun{{}, {RunID: 1, State: "pending", ReasonCreated: "retry"}}},
		"running on w-1":                 {State: "running", Runs: []queue.TaskStatusRun{{State: "running", WorkerID: "w-1"}}},
		"completed in 1.5s":              {State: "completed", Runs: []queue.TaskStatusRun{{State: "completed", ReasonResolved: "completed", Started: 1000, Resolved: 2500}}},
		"exception (canceled)":           {State: "exception", Runs: []queue.TaskStatusRun{{State: "exception", ReasonResolved: "canceled", Resolved: 2500}}},
		"failed in 2m03s (run 1, rerun)": {State: "failed", Runs: []queue.TaskStatusRun{{}, {RunID: 1, State: "failed", ReasonCreated: "rerun", ReasonResolved: "failed", Started: 1000, Resolved: 124000}}},
	} {
		got, _ := describe(graph.Change{Task: graph.TaskProgress{Name: "build", Status: s}})
		if !strings.HasPrefix(got, "build ") || !strings.HasSuffix(got, "  "+want) {
			t.Errorf("got %q, want it to end with %q", got, want)
		}
	}
}

func TestTablesGiveWayAtTheirWidestColumn(t *testing.T) {
	table := table{head: []string{"A", "NAME", "B"}}
	table.add("1", strings.Repeat("x", 30), "2")
	table.add("10", "é", "20")
	if got, want := table.text(0), "A   NAME                            B\n1   xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx  2\n10  é                               20\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := table.text(20), "A   NAME          B\n1   xxxxxxxxxxx…  2\n10  é             20\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLengthsOfTimeAreWorded(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 12 * time.Millisecond: "12ms", 1234 * time.Millisecond: "1.2s", 12600 * time.Millisecond: "13s",
		59999 * time.Millisecond: "1m00s", 125 * time.Second: "2m05s", 3 * time.Hour: "3h00m", 100 * time.Hour: "4d",
	} {
		if got := took(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
