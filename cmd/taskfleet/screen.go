package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/task"
)

// A screen shows a view as it changes: on a terminal by drawing it over the
// last one, elsewhere by printing a line for each event.
type screen struct {
	out     io.Writer
	file    *os.File // nil without a terminal
	colored bool

	mu    sync.Mutex
	view  view
	since time.Time
	live  map[string]graph.TaskProgress // tasks that are running
	drawn int                           // lines that are on the screen
	width int                           // at which they were drawn
	quit  chan struct{}
	gone  sync.WaitGroup
}

const (
	redrawInterval = 200 * time.Millisecond
	keptEvents     = 100
)

// newScreen begins to show v.
func newScreen(out io.Writer, v view) *screen {
	s := &screen{out: out, view: v, since: time.Now(), live: map[string]graph.TaskProgress{}, quit: make(chan struct{})}
	if file, ok := terminal(out); ok {
		s.file, s.colored = file, os.Getenv("NO_COLOR") == ""
		s.gone.Go(s.redraw)
	}
	return s
}

func (s *screen) redraw() {
	tick := time.NewTicker(redrawInterval)
	defer tick.Stop()
	for {
		s.mu.Lock()
		s.draw()
		s.mu.Unlock()
		select {
		case <-tick.C:
		case <-s.quit:
			return
		}
	}
}

// draw writes the whole view in one go, over the last one, so that nothing
// flickers: a line is cleared only from its new end on.
func (s *screen) draw() {
	width, height, err := term.GetSize(int(s.file.Fd()))
	if err != nil || width < 20 || height < 5 {
		width, height = 80, 24
	}
	v := s.view
	now := time.Now()
	v.elapsed = now.Sub(s.since)
	v.running = nil
	for _, t := range s.live {
		if r := graph.LatestRun(&t.Status); r != nil {
			v.running = append(v.running, runningTask{plain.Line(t.Name), r.WorkerID, now.Sub(r.Started.Time())})
		}
	}
	slices.SortFunc(v.running, func(a, b runningTask) int { return strings.Compare(a.name, b.name) })
	lines := v.render(width, height-1)
	var b strings.Builder
	b.WriteString("\x1b[?25l") // no cursor
	switch {
	case s.drawn > 0 && s.width != width:
		b.WriteString("\x1b[2J\x1b[H") // lines have wrapped: where they begin is not known any more
	case s.drawn > 0:
		fmt.Fprintf(&b, "\x1b[%dF", s.drawn)
	}
	for _, l := range lines {
		b.WriteString(l.text(s.colored) + "\x1b[K\n")
	}
	b.WriteString("\x1b[J\x1b[?25h")
	s.drawn, s.width = len(lines), width
	io.WriteString(s.out, b.String())
}

// change changes the view.
func (s *screen) change(f func(*view)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.view)
}

// event shows that something happened.
func (s *screen) event(c color, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(eventView{time.Now(), c, fmt.Sprintf(format, args...)})
}

func (s *screen) add(e eventView) {
	if s.file == nil {
		fmt.Fprintf(s.out, "%s  %s\n", e.at.Format(time.TimeOnly), strings.TrimRight(e.text, " "))
		return
	}
	s.view.events = append(s.view.events, e)
	if len(s.view.events) > 2*keptEvents {
		s.view.events = slices.Clone(s.view.events[keptEvents:])
	}
}

// step shows a step of a task.
func (s *screen) step(p *graph.Progress, c graph.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.tasks = p.Counts()
	s.view.total = max(s.view.total, s.view.tasks.Total())
	if s.view.tasks.Failed+s.view.tasks.Exception > 0 {
		s.view.blocked = len(p.Blocked())
	}
	if task.State(c.Task.Status.State) == task.Running {
		s.live[c.Task.ID] = c.Task
	} else {
		delete(s.live, c.Task.ID)
	}
	// Tasks that begin by waiting are in the counts; a line each would hide the rest.
	if c.Before == "" && len(c.Task.Status.Runs) == 0 {
		return
	}
	text, color := describe(c)
	s.add(eventView{time.Now(), color, text})
}

// close leaves the last view on the screen and prints no more.
func (s *screen) close() {
	close(s.quit)
	s.gone.Wait()
	if s.file != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.draw()
	}
}
