package simulate

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Shape says what an invented trace is like. What is zero has the default of
// its kind.
type Shape struct {
	Seed   uint64        // of all that is drawn
	Length time.Duration // in which tasks arrive
	Rate   float64       // tasks an hour, on the average; of graphs, graphs
	Run    time.Duration // of a task: mean of a log-normal distribution
	Size   int           // of a burst, a step, a graph: tasks
	Every  time.Duration // between bursts or steps: mean, or exactly

	// Kinds of a graph's tasks to have in the trace: decision, build, test. None
	// are all. Traces of different kinds from one seed belong together, as tasks
	// of the same graphs on different pools.
	Kinds []string
}

// Shapes are the kinds of traces that can be invented, with what they are.
var Shapes = []struct {
	Name, About string
	Default     Shape
}{
	{"diurnal", "more by day than by night, and less at weekends", Shape{Length: 7 * 24 * time.Hour, Rate: 200, Run: 15 * time.Minute}},
	{"bursts", "a little all the time, and much within a minute now and then", Shape{Length: 24 * time.Hour, Rate: 60, Run: 10 * time.Minute, Size: 200, Every: time.Hour}},
	{"steps", "so and so many tasks at once, and nothing in between", Shape{Length: 8 * time.Hour, Run: 10 * time.Minute, Size: 1000, Every: 2 * time.Hour}},
	{"graphs", "graphs of a decision task, builds that depend on it, and tests that depend on builds", Shape{Length: 24 * time.Hour, Rate: 12, Run: 12 * time.Minute, Size: 100}},
}

// Generate invents a trace of a kind: one of Shapes.
func Generate(kind string, s Shape) ([]Task, error) {
	var names []string
	for _, k := range Shapes {
		names = append(names, k.Name)
		if k.Name == kind {
			if err := s.fill(k.Default); err != nil {
				return nil, err
			}
			g := &generator{Shape: s, draw: rand.New(rand.NewPCG(s.Seed, 1))}
			return g.generate(kind)
		}
	}
	return nil, fmt.Errorf("there is no kind of trace called %q; choose one of %s", kind, strings.Join(names, ", "))
}

func (s *Shape) fill(d Shape) error {
	set := func(to *time.Duration, otherwise time.Duration) {
		if *to == 0 {
			*to = otherwise
		}
	}
	set(&s.Length, d.Length)
	set(&s.Run, d.Run)
	set(&s.Every, d.Every)
	if s.Rate == 0 {
		s.Rate = d.Rate
	}
	if s.Size == 0 {
		s.Size = d.Size
	}
	if s.Seed == 0 {
		s.Seed = 1
	}
	const year = 366 * 24 * time.Hour
	switch {
	case s.Length < time.Minute || s.Length > year:
		return fmt.Errorf("length is %v; it must be from a minute to a year", s.Length)
	case s.Run < time.Second || s.Run > 7*24*time.Hour:
		return fmt.Errorf("run is %v; it must be from a second to a week", s.Run)
	case !(s.Rate >= 0 && s.Rate <= 1e6):
		return fmt.Errorf("rate is %g; it must be from 0 to a million an hour", s.Rate)
	case s.Size < 0 || s.Size > 1e6:
		return fmt.Errorf("size is %d; it must be from 1 to a million", s.Size)
	case s.Every < 0 || d.Every > 0 && s.Every < time.Second:
		return fmt.Errorf("every is %v; it must be at least a second", s.Every)
	}
	for _, k := range s.Kinds {
		if k != decision && k != build && k != test {
			return fmt.Errorf("there is no kind of task %q in a graph; choose of decision, build and test", k)
		}
	}
	return nil
}

// The kinds of a graph's tasks.
const (
	decision = "decision"
	build    = "build"
	test     = "test"
)

type generator struct {
	Shape
	draw  *rand.Rand
	tasks []Task
}

func (g *generator) generate(kind string) ([]Task, error) {
	switch kind {
	case "diurnal":
		for at := range g.arrivals(g.Rate, day) {
			g.add(at, g.Run)
		}
	case "bursts":
		for at := range g.arrivals(g.Rate, nil) {
			g.add(at, g.Run)
		}
		for at := range g.arrivals(float64(time.Hour)/float64(g.Every), nil) {
			for range g.Size/2 + g.draw.IntN(g.Size+1) {
				g.add(at+time.Duration(g.draw.Float64()*float64(time.Minute)), g.Run)
			}
		}
	case "steps":
		for at := g.Every / 4; at < g.Length; at += g.Every {
			for range g.Size {
				g.add(at, g.Run)
			}
		}
	case "graphs":
		n := 0
		for at := range g.arrivals(g.Rate, day) {
			n++
			g.graph(n, at)
		}
	}
	if len(g.tasks) == 0 {
		return nil, fmt.Errorf("no task arrives within %v; make length or rate greater", g.Length)
	}
	slices.SortStableFunc(g.tasks, func(a, b Task) int { return int(a.Arrival - b.Arrival) })
	return g.tasks, nil
}

// arrivals are times that are independent of each other: a Poisson process with
// a rate an hour, which shape, from 0 to 1, thins out.
func (g *generator) arrivals(rate float64, shape func(time.Duration) float64) func(func(time.Duration) bool) {
	return func(yield func(time.Duration) bool) {
		if rate <= 0 {
			return
		}
		if shape != nil {
			rate /= meanShape(shape, g.Length)
		}
		for at := time.Duration(0); ; {
			at += time.Duration(g.draw.ExpFloat64() / rate * float64(time.Hour))
			if at >= g.Length {
				return
			}
			if (shape == nil || g.draw.Float64() < shape(at)) && !yield(at) {
				return
			}
		}
	}
}

// day is how busy it is at a time of a week that begins on Monday: a fifth at
// night, and at weekends a third of what it is on other days.
func day(at time.Duration) float64 {
	hours := at.Hours()
	busy := 0.2 + 0.8*math.Pow(math.Sin(math.Pi*math.Mod(hours+3, 24)/24), 2) // most at nine in the morning
	if weekday := int(hours/24) % 7; weekday >= 5 {
		busy /= 3
	}
	return busy
}

func meanShape(shape func(time.Duration) float64, length time.Duration) float64 {
	const parts = 1000
	sum := 0.0
	for i := range parts {
		sum += shape(length * time.Duration(i) / parts)
	}
	return sum / parts
}

const runSigma = 0.8 // of the logarithm of durations

func (g *generator) duration(mean time.Duration, sigma float64) int64 {
	d := float64(mean) * math.Exp(sigma*g.draw.NormFloat64()-sigma*sigma/2)
	return max(time.Duration(d).Milliseconds(), 1000)
}

func (g *generator) add(at, mean time.Duration) {
	g.tasks = append(g.tasks, Task{Arrival: at.Milliseconds(), Duration: g.duration(mean, runSigma)})
}

// graph adds a graph of about Size tasks: one that decides, a tenth that build,
// and the rest that test what one of these has built. The decision creates the
// others before it ends.
func (g *generator) graph(n int, at time.Duration) {
	wanted := func(kind string) bool { return len(g.Kinds) == 0 || slices.Contains(g.Kinds, kind) }
	size := g.Size/2 + g.draw.IntN(g.Size+1)
	name := func(kind string, i int) string { return fmt.Sprintf("g%d-%s-%d", n, kind, i) }
	first := Task{ID: name(decision, 0), Kind: decision, Arrival: at.Milliseconds(), Duration: g.duration(90*time.Second, 0.3)}
	created := first.Arrival + first.Duration*9/10
	if wanted(decision) {
		g.tasks = append(g.tasks, first)
	}
	builds := max(size/10, 1)
	for i := range builds {
		t := Task{ID: name(build, i), Kind: build, Dependencies: []string{first.ID}, Arrival: created, Duration: g.duration(g.Run*3/2, 0.5)}
		if wanted(build) {
			g.tasks = append(g.tasks, t)
		}
	}
	for i := range max(size-builds-1, 0) {
		t := Task{ID: name(test, i), Kind: test, Dependencies: []string{name(build, i%builds)}, Arrival: created, Duration: g.duration(g.Run, runSigma)}
		if wanted(test) {
			g.tasks = append(g.tasks, t)
		}
	}
}

// Write writes tasks in the form that [Read] reads: as CSV or, if they depend on
// each other, as JSON lines.
func Write(w io.Writer, tasks []Task) error {
	b := bufio.NewWriter(w)
	if !slices.ContainsFunc(tasks, func(t Task) bool { return t.ID != "" }) {
		b.WriteString(header + "\n")
		for _, t := range tasks {
			b.WriteString(strconv.FormatInt(t.Arrival, 10) + "," + strconv.FormatInt(t.Duration, 10) + "\n")
		}
		return b.Flush()
	}
	e := json.NewEncoder(b)
	for _, t := range tasks {
		if err := e.Encode(line{t.ID, t.Kind, t.Dependencies, &t.Arrival, &t.Duration}); err != nil {
			return err
		}
	}
	return b.Flush()
}
