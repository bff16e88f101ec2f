package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/task"
)

// A view is a graph at work at one moment, with the queues and pools it uses.
// It is a value: what it looks like depends on nothing else.
type view struct {
	name    string
	rootURL string
	elapsed time.Duration
	tasks   graph.Counts
	total   int // of the graph; while it is being submitted, fewer tasks may exist
	blocked int // of the unscheduled tasks
	running []runningTask
	pools   []poolView
	events  []eventView // latest last
}

type runningTask struct {
	name, worker string
	took         time.Duration
}

type poolView struct {
	id                          string
	known                       bool
	pending, claimed            int64
	starting, running, stopping int64
	least                       int64 // workers that it always has
}

type eventView struct {
	at    time.Time
	color color
	text  string
}

// A color is the number that selects it in a terminal; 0 is none.
type color int

const (
	noColor color = 0
	bold    color = 1
	dim     color = 2
	red     color = 31
	green   color = 32
	yellow  color = 33
)

// A line is spans of one color each, side by side.
type line []span

type span struct {
	text  string
	color color
}

// render lays the view out in at most height lines of at most width columns.
func (v *view) render(width, height int) []line {
	top := append([]line{v.title(width), v.bar(width), v.states()}, v.poolLines()...)
	room := height - len(top)
	running := v.runningLines(min(max(room/2-1, 0), len(v.running)))
	events := v.eventLines(room - len(running))
	return fit(slices.Concat(top, running, events), width, height)
}

func (v *view) title(width int) line {
	clock := took(v.elapsed.Truncate(time.Second))
	left := "taskfleet  " + v.rootURL
	return line{{left, bold}, {pad("", width-utf8.RuneCountInString(left)-len(clock)), noColor}, {clock, noColor}}
}

const maxBar = 60

// bar shows the graph's tasks by state, one share of its length each.
func (v *view) bar(width int) line {
	total := max(v.total, v.tasks.Total(), 1)
	text := fmt.Sprintf("  %d of %d completed", v.tasks.Completed, total)
	name := v.name + "  "
	length := min(width-utf8.RuneCountInString(name)-len(text), maxBar)
	l := line{{name, bold}}
	if length >= 10 {
		used := 0
		done := 0
		for _, part := range []struct {
			n     int
			cell  string
			color color
		}{
			{v.tasks.Completed, "█", green}, {v.tasks.Failed + v.tasks.Exception, "█", red}, {v.tasks.Running, "▓", yellow}, {total, "░", dim},
		} {
			done = min(done+part.n, total)
			cells := done*length/total - used
			used += cells
			l = append(l, span{strings.Repeat(part.cell, cells), part.color})
		}
	}
	return append(l, span{text, noColor})
}

func (v *view) states() line {
	l := line{{" ", noColor}}
	add := func(n int, word string, c color) {
		if n == 0 {
			c = dim
		}
		l = append(l, span{fmt.Sprintf(" %d %s ", n, word), c})
	}
	add(v.tasks.Running, "running", yellow)
	add(v.tasks.Pending, "pending", noColor)
	add(v.tasks.Unscheduled-v.blocked, "waiting", noColor)
	add(v.tasks.Failed, "failed", red)
	add(v.tasks.Exception, "exception", red)
	if v.blocked > 0 {
		add(v.blocked, "blocked", red)
	}
	if missing := v.total - v.tasks.Total(); missing > 0 {
		add(missing, "to submit", noColor)
	}
	return l
}

func (v *view) poolLines() (lines []line) {
	for _, p := range v.pools {
		l := line{{p.id + "  ", bold}}
		if p.known {
			l = append(l, span{p.words(), noColor})
		} else {
			l = append(l, span{"…", dim})
		}
		lines = append(lines, l)
	}
	return lines
}

func (p poolView) words() string {
	return fmt.Sprintf("queue: %d pending, %d claimed · workers: %d running, %d starting, %d stopping", p.pending, p.claimed, p.running, p.starting, p.stopping)
}

func (v *view) runningLines(n int) (lines []line) {
	if n == 0 {
		return nil
	}
	lines = append(lines, line{}) // apart from what is above
	shown := slices.Clone(v.running)
	slices.SortStableFunc(shown, func(a, b runningTask) int { return cmp.Compare(b.took, a.took) })
	for i, t := range shown[:n] {
		if i == n-1 && len(shown) > n {
			return append(lines, line{{fmt.Sprintf("  and %d more", len(shown)-i), dim}})
		}
		lines = append(lines, line{{"  " + pad(clip(t.name, 32), 34), yellow}, {pad(took(t.took.Truncate(time.Second)), 8), noColor}, {t.worker, dim}})
	}
	return lines
}

func (v *view) eventLines(room int) (lines []line) {
	n := min(room-1, len(v.events))
	if n <= 0 {
		return nil
	}
	lines = append(lines, line{})
	for _, e := range v.events[len(v.events)-n:] {
		lines = append(lines, line{{"  " + e.at.Format(time.TimeOnly) + "  ", dim}, {e.text, e.color}})
	}
	return lines
}

// fit cuts lines to what a screen holds.
func fit(lines []line, width, height int) []line {
	if len(lines) > height {
		lines = lines[:max(height, 0)]
	}
	for i, l := range lines {
		var short line
		room := width
		for _, s := range l {
			if s.text = clip(s.text, room); s.text != "" {
				short = append(short, s)
			}
			room -= utf8.RuneCountInString(s.text)
		}
		lines[i] = short
	}
	return lines
}

// text is a line for a terminal.
func (l line) text(colored bool) string {
	var b strings.Builder
	for _, s := range l {
		if s.color == noColor || !colored {
			b.WriteString(s.text)
		} else {
			fmt.Fprintf(&b, "\x1b[%dm%s\x1b[0m", s.color, s.text)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// describe words one step of a task, and says in which color.
func describe(c graph.Change) (string, color) {
	name := pad(clip(plain.Line(c.Task.Name), 28), 28)
	state := c.Task.Status.State
	run := c.Run()
	if run == nil {
		return fmt.Sprintf("%s  %s", name, state), dim
	}
	attempt := ""
	if run.RunID > 0 {
		attempt = fmt.Sprintf(" (run %d, %s)", run.RunID, run.ReasonCreated)
	}
	switch task.State(state) {
	case task.Pending:
		return fmt.Sprintf("%s  pending%s", name, attempt), dim
	case task.Running:
		return fmt.Sprintf("%s  running on %s%s", name, run.WorkerID, attempt), yellow
	}
	c2 := red
	if task.State(state) == task.Completed {
		c2 = green
	}
	return fmt.Sprintf("%s  %s%s%s", name, outcome(&c.Task.Status), runTime(run), attempt), c2
}

func runTime(r *queue.TaskStatusRun) string {
	if r.Started.IsZero() || r.Resolved.IsZero() {
		return ""
	}
	return " in " + took(r.Resolved.Sub(r.Started))
}
