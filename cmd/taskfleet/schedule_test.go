//go:build !agent

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/client/schedules"
	"github.com/taskfleet/taskfleet/schedule/cron"
	"github.com/taskfleet/taskfleet/timestamp"
)

func TestSchedules(t *testing.T) {
	startReal(t)
	expect := func(code int, want string, args ...string) string {
		t.Helper()
		out, errOut, got := command(t, append([]string{"schedule"}, args...)...)
		if got != code || !regexp.MustCompile(want).MatchString(out+errOut) {
			t.Errorf("schedule %s: %d\n%s%s\nwant %d and %s", strings.Join(args, " "), got, out, errOut, code, want)
		}
		return out
	}
	const job = "schedule.tidy"
	expect(exitOK, `(?m)^schedule.tidy +idle +H H\(1-5\) \* \* \* +in \S+ +-$`, "list")
	expect(exitOK, `(?s)DATE IN UTC.*\+00:00`, "next", job, "--count", "3")
	expect(exitOK, `(?m)^Sun 2\d\d\d-\d\d-\d\d 02:30:00 \+0[12]:00 +2\d`, "next", "--expression", "30 2 * * SUN", "--zone", "Europe/Berlin")
	expect(exitFailed, `the hour is "25"`, "next", "--expression", "0 25 * * *")
	expect(exitFailed, `IANA name`, "next", "--expression", "0 2 * * *", "--zone", "Mars/Olympus")
	expect(exitOK, `schedule.tidy is paused; its next date is`, "pause", job)
	expect(exitOK, `(?m)^schedule.tidy +paused`, "list")
	expect(exitOK, `^done after \S+: forgot 0 runs`, "run", job, "--wait")
	expect(exitOK, `schedule.tidy is resumed`, "resume", job)
	expect(exitOK, `(?m)done +\S+ +1 +static/taskcluster/root +forgot 0 runs$`, "history", job)
	var list struct{ Jobs []schedules.Job }
	if err := json.Unmarshal([]byte(expect(exitOK, ``, "list", "--json")), &list); err != nil || len(list.Jobs) == 0 {
		t.Errorf("%d jobs, %v", len(list.Jobs), err)
	}
	var runs []schedules.Run
	if err := json.Unmarshal([]byte(expect(exitOK, ``, "history", job, "--json", "--state", "done")), &runs); err != nil || len(runs) != 1 {
		t.Errorf("%d runs, %v", len(runs), err)
	}
	for _, verb := range []string{"next", "run", "pause", "resume", "history"} {
		expect(exitFailed, `There is no job nothing.*\n?.*taskfleet schedule list shows`, verb, "nothing")
	}
	for _, wrong := range [][]string{{"next"}, {"next", job, "--zone", "UTC"}, {"next", job, "--count", "0"}, {"history", job, "--state", "well"}, {"history", job, "--limit", "0"}, {"run"}} {
		expect(exitUsage, `See taskfleet schedule`, wrong...)
	}
}

// Tables fit a terminal of 80 columns, whatever is in them.
func TestTablesOfSchedulesAreNarrow(t *testing.T) {
	now := timestamp.Now()
	long := strings.Repeat("long", 40)
	var b strings.Builder
	if err := printSchedules(&b, []schedules.Job{{
		Name: long, State: "no runner", Expression: long, Zone: "America/Argentina/ComodRivadavia", Next: now.Add(47 * time.Hour),
		Last: &schedules.Run{State: "missed", Ended: now.Add(-47 * time.Hour)},
	}}, []schedules.OtherListOther{{Source: "hook", Name: long, Expressions: []string{long, long}, Zone: "UTC", Next: now}}, now); err != nil {
		t.Fatal(err)
	}
	var wide table
	for i, line := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		cells := regexp.MustCompile(`  +`).Split(line, -1)
		if i == 0 {
			wide.head = cells
		} else {
			wide.add(cells...)
		}
	}
	for line := range strings.SplitSeq(wide.text(80), "\n") {
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// What docs/schedules.md shows is right: commands are there, and expressions can be
// read.
func TestWhatTheGuideToSchedulesShows(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "schedules.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	commands := regexp.MustCompile("taskfleet schedule( [a-z]+)+").FindAllString(text, -1)
	for _, line := range commands {
		words := strings.Fields(line)
		if cmd, _, err := newScheduleCommand().Find(words[2:3]); err != nil || cmd.Name() == "schedule" {
			t.Errorf("there is no command %q: %v", line, err)
		}
	}
	expressions := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1)
	for _, m := range expressions {
		if _, err := cron.Parse(m[1], "Europe/Berlin", "x"); err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
	}
	if len(commands) < 6 || len(expressions) < 10 {
		t.Errorf("it shows %d commands and %d expressions", len(commands), len(expressions))
	}
}
