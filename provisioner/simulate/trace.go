package simulate

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A Task is work that comes to a pool.
type Task struct {
	ID           string   // "" where nothing depends on it
	Kind         string   // that its duration is typical of; may be empty
	Dependencies []string // ids of tasks, of any trace, that have to be completed first
	Arrival      int64    // when it is created, in milliseconds from the start
	Duration     int64    // of its run, in milliseconds

	line int
}

// A Trace is all that comes to one pool, in the order of arrival.
type Trace struct {
	Name  string // of the pool
	Tasks []Task

	file string
}

// header is the first line of a CSV trace.
const header = "arrival_ms,duration_ms"

// longest is the latest arrival and the longest duration that are believed.
const longest = 100 * 365 * 24 * 3600 * 1000

// ReadFile reads a trace; see [Read]. It is named after the file.
func ReadFile(file string) (Trace, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Trace{}, fmt.Errorf("there is no trace at %s; name a file, or invent one with taskfleet provisioner trace", file)
	} else if err != nil {
		return Trace{}, err
	}
	defer f.Close()
	return Read(file, f)
}

// Read reads a trace in one of two forms. CSV has the header
// arrival_ms,duration_ms and a line for each task. JSON lines have an object
// for each task, with arrival_ms and duration_ms and, as far as they matter,
// taskId, dependencies (a list of taskIds) and kind (such as the task's name).
// The error names the line and says what it should be.
func Read(file string, r io.Reader) (Trace, error) {
	name := filepath.Base(file)
	t := Trace{Name: strings.TrimSuffix(name, filepath.Ext(name)), file: file}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	read := t.csv
	n := 0
	for lines.Scan() {
		n++
		text := bytes.TrimSpace(bytes.TrimPrefix(lines.Bytes(), []byte("\uFEFF")))
		if len(text) == 0 {
			continue
		}
		if t.Tasks == nil {
			t.Tasks = []Task{} // the first line says which form it is
			if bytes.HasPrefix(text, []byte("\x1f\x8b")) {
				return t, fmt.Errorf("%s is compressed; unpack it with gunzip first", file)
			} else if text[0] == '{' {
				read = t.object
			} else if strings.ReplaceAll(string(text), " ", "") != header {
				return t, fmt.Errorf("%s:%d: the first line is %q; a trace begins with the line %s, or has a JSON object in each line", file, n, clip(text), header)
			} else {
				continue
			}
		}
		task, err := read(text)
		if err == nil {
			err = task.check()
		}
		if err != nil {
			return t, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		task.line = n
		t.Tasks = append(t.Tasks, task)
	}
	if err := lines.Err(); err != nil {
		return t, fmt.Errorf("%s:%d: %w", file, n+1, err)
	}
	if len(t.Tasks) == 0 {
		return t, fmt.Errorf("%s: there is no task in it; after the line %s, give each task a line such as 1500,60000", file, header)
	}
	slices.SortStableFunc(t.Tasks, func(a, b Task) int { return int(a.Arrival - b.Arrival) })
	return t, nil
}

func (*Trace) csv(text []byte) (t Task, err error) {
	arrival, duration, two := strings.Cut(string(text), ",")
	if !two || strings.Contains(duration, ",") {
		return t, fmt.Errorf("%q has not two fields; a line is the arrival and the duration in milliseconds, such as 1500,60000", clip(text))
	}
	if t.Arrival, err = milliseconds(header[:10], arrival); err != nil {
		return t, err
	}
	t.Duration, err = milliseconds(header[11:], duration)
	return t, err
}

func milliseconds(name, text string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is %q; it must be a whole number of milliseconds", name, text)
	}
	return n, nil
}

// A line is a task as an object.
type line struct {
	TaskID       string   `json:"taskId"`
	Kind         string   `json:"kind,omitempty"`
	Dependencies []string `json:"dependencies,omitempty"`
	Arrival      *int64   `json:"arrival_ms"`
	Duration     *int64   `json:"duration_ms"`
}

func (*Trace) object(text []byte) (Task, error) {
	var o line
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			want := map[reflect.Kind]string{reflect.Int64: "a whole number", reflect.String: "a string", reflect.Slice: "a list"}[e.Type.Kind()]
			return Task{}, fmt.Errorf("%s is a JSON %s, where %s is needed", e.Field, e.Value, cmp.Or(want, e.Type.String()))
		}
		return Task{}, fmt.Errorf("%w; a line is an object such as {\"taskId\": \"build\", \"dependencies\": [], \"arrival_ms\": 1500, \"duration_ms\": 60000}", err)
	}
	if o.Arrival == nil || o.Duration == nil {
		return Task{}, errors.New("arrival_ms or duration_ms is missing; each task needs both, in milliseconds")
	}
	return Task{ID: o.TaskID, Kind: o.Kind, Dependencies: o.Dependencies, Arrival: *o.Arrival, Duration: *o.Duration}, nil
}

func (t *Task) check() error {
	switch {
	case t.Arrival < 0 || t.Arrival > longest:
		return fmt.Errorf("arrival_ms is %d; it counts milliseconds from the start of the trace, so it must be from 0 to a century", t.Arrival)
	case t.Duration < 0 || t.Duration > longest:
		return fmt.Errorf("duration_ms is %d; it must be from 0 to a century", t.Duration)
	}
	return nil
}

func clip(text []byte) string {
	if len(text) > 60 {
		return string(text[:60]) + "…"
	}
	return string(text)
}

// at says where a task is written.
func (t *Trace) at(k *Task) string {
	if k.line == 0 {
		return t.Name
	}
	return fmt.Sprintf("%s:%d", t.file, k.line)
}

// A place is a task by its trace and its index there.
type place struct{ trace, task int }

// link finds the dependencies of all tasks, in the order of task and traces, and
// an order in which they can run.
func link(traces []Trace) (needs map[place][]place, order []place, err error) {
	where := map[string][]place{} // at most one in a trace
	for i := range traces {
		for k := range traces[i].Tasks {
			t := &traces[i].Tasks[k]
			if t.ID == "" {
				continue
			}
			if n := len(where[t.ID]); n > 0 && where[t.ID][n-1].trace == i {
				p := where[t.ID][n-1]
				return nil, nil, fmt.Errorf("%s: there is a task %s at %s already; give each its own taskId", traces[i].at(t), t.ID, traces[i].at(&traces[i].Tasks[p.task]))
			}
			where[t.ID] = append(where[t.ID], place{i, k})
		}
	}
	needs = map[place][]place{}
	for i := range traces {
		for k := range traces[i].Tasks {
			t := &traces[i].Tasks[k]
			for _, id := range t.Dependencies {
				p, err := find(where[id], i)
				if err != nil {
					return nil, nil, fmt.Errorf("%s: the task depends on %s, which is %w", traces[i].at(t), id, err)
				}
				if !slices.Contains(needs[place{i, k}], p) {
					needs[place{i, k}] = append(needs[place{i, k}], p)
				}
			}
		}
	}
	order, circle := inOrder(traces, needs)
	if circle != nil {
		t := &traces[circle.trace].Tasks[circle.task]
		return nil, nil, fmt.Errorf("%s: the task %s depends on itself, through other tasks, so it can never run; take one of the dependencies out", traces[circle.trace].at(t), t.ID)
	}
	return needs, order, nil
}

// find picks the task that one of a trace depends on: that of the same trace, or
// else the only one.
func find(places []place, trace int) (place, error) {
	for _, p := range places {
		if p.trace == trace {
			return p, nil
		}
	}
	switch len(places) {
	case 1:
		return places[0], nil
	case 0:
		return place{}, errors.New("in none of the traces; add it, or take the dependency out")
	}
	return place{}, errors.New("in several of the other traces; give each its own taskId")
}

// inOrder puts tasks after those that they need. If that cannot be done it
// returns a task of a circle.
func inOrder(traces []Trace, needs map[place][]place) (order []place, circle *place) {
	const (
		open = 1 + iota // what it needs comes first
		done
	)
	state := map[place]int{}
	var stack []place
	for i := range traces {
		for k := range traces[i].Tasks {
			stack = append(stack, place{i, k})
			for len(stack) > 0 {
				p := stack[len(stack)-1]
				if state[p] != 0 {
					stack = stack[:len(stack)-1]
					if state[p] == open {
						state[p] = done
						order = append(order, p)
					}
					continue
				}
				state[p] = open
				for _, q := range needs[p] {
					if state[q] == open {
						return nil, &q
					}
					stack = append(stack, q)
				}
			}
		}
	}
	return order, nil
}
