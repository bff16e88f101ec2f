package simulate

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// colors are told apart by most people, on white.
var colors = []string{"#2563c9", "#d9730d", "#258a55", "#8b46c1", "#c2344a", "#0e8a9a", "#7a6a00", "#555e68"}

const (
	ink   = "#1d2730"
	faint = "#dfe4e8"

	plotWidth = 1000
	left      = 76 // of the panels, from the left edge
	right     = 24
	inner     = plotWidth - left - right
)

// Plot draws how simulations went as an SVG: the queue, the capacity and the
// cost against time. The capacity of a single simulation is divided into what
// works, what is idle and what boots.
func Plot(w io.Writer, title string, results []*Result) error {
	span := 0.0
	for _, r := range results {
		span = max(span, float64(len(r.Series.Steps))*r.Series.Step.Hours())
	}
	if span == 0 {
		return fmt.Errorf("there is nothing to plot: the simulation took no time")
	}
	d := &drawing{}
	d.text(left, 30, "start", 17, true, title)
	d.legend(results)
	unit, scale := "hours", 1.0
	if span < 2 {
		unit, scale = "minutes", 60
	}
	pick := func(f func(Step) float64) [][]float64 {
		var all [][]float64
		for _, r := range results {
			values := make([]float64, len(r.Series.Steps))
			for i, s := range r.Series.Steps {
				values[i] = f(s)
			}
			all = append(all, values)
		}
		return all
	}
	x := axis{0, span * scale, left, inner}
	top := 94
	panel := func(title string, height int, lines [][]float64) axis {
		most := 0.0
		for _, l := range lines {
			most = max(most, slices.Max(append(l, 0)))
		}
		y := axis{0, most * 1.05, float64(top + height), -float64(height)}
		if most == 0 {
			y.to = 1
		}
		d.frame(title, top, height, x, y)
		top += height + 58
		return y
	}
	steps := func(i int) (float64, float64) { return 0, results[i].Series.Step.Hours() * scale }
	lines := func(all [][]float64, y axis) {
		for i, values := range all {
			from, each := steps(i)
			d.line(x, y, from, each, values, colors[i%len(colors)])
		}
	}

	pending := pick(func(s Step) float64 { return float64(s.Pending) })
	lines(pending, panel("tasks that wait", 150, pending))

	total := pick(func(s Step) float64 { return float64(max(s.Ready, s.Busy) + s.Booting) })
	y := panel("capacity", 240, total)
	if len(results) == 1 {
		from, each := steps(0)
		ready, busy := pick(func(s Step) float64 { return float64(max(s.Ready, s.Busy)) }), pick(func(s Step) float64 { return float64(s.Busy) })
		d.area(x, y, from, each, total[0], "#f3c08f")
		d.area(x, y, from, each, ready[0], "#a9c8f5")
		d.area(x, y, from, each, busy[0], colors[0])
	} else {
		lines(total, y)
	}

	paid := pick(func(s Step) float64 { return s.Paid })
	lines(paid, panel("machine-hours paid", 150, paid))
	d.text(left+inner/2, float64(top-18), "middle", 13, false, unit+" since the start")
	return d.write(w, top)
}

// A Point is a simulation as a point of a front.
type Point struct {
	*Result
	Label string // what was varied
	Best  bool   // no other one has both less waiting and less cost
}

// Front finds the points that no other one is better than in both waiting and
// cost, and sorts all by waiting.
func Front(points []Point) []Point {
	points = slices.Clone(points)
	slices.SortStableFunc(points, func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.Wait.Mean, b.Wait.Mean), cmp.Compare(a.Overhead, b.Overhead))
	})
	least := math.Inf(1)
	for i := range points {
		points[i].Best = points[i].Overhead < least
		least = min(least, points[i].Overhead)
	}
	return points
}

// PlotFront draws mean waiting against overhead as an SVG, a line for each
// policy.
func PlotFront(w io.Writer, title string, points []Point) error {
	if len(points) == 0 {
		return fmt.Errorf("there is nothing to plot: no simulation was made")
	}
	d := &drawing{}
	d.text(left, 30, "start", 17, true, title)
	var names []string
	wait, cost := 0.0, 0.0
	for _, p := range points {
		wait, cost = max(wait, p.Wait.Mean), max(cost, 100*p.Overhead)
		if !slices.Contains(names, p.Policy) {
			names = append(names, p.Policy)
		}
	}
	const top, height = 94, 440
	x, y := axis{0, max(wait, 1) * 1.08, left, inner}, axis{0, max(cost, 1) * 1.08, top + height, -height}
	d.frame("overhead: what is paid beyond the work, in %", top, height, x, y)
	bound := 100 * points[0].BoundOverhead
	d.add(`<path d="M%s %sH%s" stroke="%s" stroke-dasharray="5 4"/>`, px(left), px(y.place(bound)), px(left+inner), ink)
	d.text(left+6, y.place(bound)+15, "start", 12, false, "knowing the future, without waiting")
	at := float64(left)
	for i, name := range names {
		color := colors[i%len(colors)]
		at = d.key(at, name, color)
		var path strings.Builder
		for _, p := range Front(points) {
			if p.Policy != name {
				continue
			}
			px0, py0 := x.place(p.Wait.Mean), y.place(100*p.Overhead)
			fmt.Fprintf(&path, "%s%s %s", map[bool]string{true: "M", false: "L"}[path.Len() == 0], px(px0), px(py0))
			fill := "#fff"
			if p.Best {
				fill = color
			}
			d.add(`<circle cx="%s" cy="%s" r="4.5" fill="%s" stroke="%s" stroke-width="1.8"><title>%s</title></circle>`, px(px0), px(py0), fill, color,
				html.EscapeString(fmt.Sprintf("%s, %s: mean wait %.1f s, p95 %.1f s, overhead %.1f %%", p.Policy, p.Label, p.Wait.Mean, p.Wait.P95, 100*p.Overhead)))
			d.text(px0+8, py0-7, "start", 11, false, p.Label[strings.LastIndexByte(p.Label, ' ')+1:])
		}
		d.under(`<path d="%s" fill="none" stroke="%s" stroke-width="1.5" opacity="0.55"/>`, path.String(), color)
	}
	d.text(left+inner/2, top+height+40, "middle", 13, false, "mean wait in seconds")
	return d.write(w, top+height+58)
}

// An axis turns values into places.
type axis struct{ from, to, at, length float64 }

func (a axis) place(v float64) float64 { return a.at + (v-a.from)/(a.to-a.from)*a.length }

// ticks are round numbers on it: at most n or so.
func (a axis) ticks(n int) (list []float64) {
	raw := (a.to - a.from) / float64(n)
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5, 10} {
		if raw <= m*unit {
			unit *= m
			break
		}
	}
	if raw > 5 && raw <= 96 && n > 8 {
		for _, hours := range []float64{6, 12, 24, 48, 96} { // of days
			if raw <= hours {
				unit = hours
				break
			}
		}
	}
	for v := math.Ceil(a.from/unit) * unit; v <= a.to+unit/1e6; v += unit {
		list = append(list, v)
	}
	return list
}

// A drawing is an SVG in the making.
type drawing struct{ below, above strings.Builder }

func (d *drawing) add(format string, args ...any)   { fmt.Fprintf(&d.above, format+"\n", args...) }
func (d *drawing) under(format string, args ...any) { fmt.Fprintf(&d.below, format+"\n", args...) }

func (d *drawing) text(x, y float64, anchor string, size int, bold bool, text string) {
	weight := ""
	if bold {
		weight = ` font-weight="600"`
	}
	d.add(`<text x="%s" y="%s" text-anchor="%s" font-size="%d"%s>%s</text>`, px(x), px(y), anchor, size, weight, html.EscapeString(text))
}

// frame draws a panel's grid, numbers and title.
func (d *drawing) frame(title string, top, height int, x, y axis) {
	for _, v := range y.ticks(5) {
		d.under(`<path d="M%s %sH%s" stroke="%s"/>`, px(left), px(y.place(v)), px(left+inner), faint)
		d.text(left-8, y.place(v)+4, "end", 12, false, label(v))
	}
	for _, v := range x.ticks(12) {
		d.under(`<path d="M%s %dV%d" stroke="%s"/>`, px(x.place(v)), top, top+height, faint)
		d.text(x.place(v), float64(top+height+18), "middle", 12, false, label(v))
	}
	d.add(`<path d="M%d %dV%dH%d" fill="none" stroke="%s"/>`, left, top, top+height, left+inner, ink)
	d.text(left, float64(top-10), "start", 13, true, title)
}

// key adds an entry of the legend and returns where the next one goes.
func (d *drawing) key(at float64, name, color string) float64 {
	d.add(`<rect x="%s" y="44" width="16" height="6" rx="1" fill="%s"/>`, px(at), color)
	d.text(at+22, 52, "start", 13, false, name)
	return at + 22 + 7.4*float64(len(name)) + 24
}

func (d *drawing) legend(results []*Result) {
	at := float64(left)
	if len(results) == 1 {
		for _, k := range [][2]string{{"works", colors[0]}, {"idle", "#a9c8f5"}, {"boots", "#f3c08f"}} {
			at = d.key(at, k[0], k[1])
		}
		return
	}
	for i, r := range results {
		at = d.key(at, r.Policy, colors[i%len(colors)])
	}
}

func (d *drawing) line(x, y axis, from, each float64, values []float64, color string) {
	d.add(`<path d="%s" fill="none" stroke="%s" stroke-width="1.3" stroke-linejoin="round"/>`, path(x, y, from, each, values), color)
}

func (d *drawing) area(x, y axis, from, each float64, values []float64, color string) {
	end := x.place(from + each*float64(len(values)))
	d.under(`<path d="%sL%s %sL%s %sZ" fill="%s"/>`, path(x, y, from, each, values), px(end), px(y.at), px(x.place(from)), px(y.at), color)
}

func path(x, y axis, from, each float64, values []float64) string {
	var b strings.Builder
	for i, v := range values {
		c := byte('L')
		if i == 0 {
			c = 'M'
		}
		b.WriteByte(c)
		b.WriteString(px(x.place(from+each*float64(i+1))) + " " + px(y.place(v)))
	}
	return b.String()
}

func (d *drawing) write(w io.Writer, height int) error {
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif" fill="%s">
<rect width="100%%" height="100%%" fill="#fff"/>
%s%s</svg>
`, plotWidth, height, plotWidth, height, ink, d.below.String(), d.above.String())
	return err
}

func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// label is a number of an axis.
func label(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + "M"
	case a >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(math.Round(v*1e6)/1e6, 'f', -1, 64)
}
