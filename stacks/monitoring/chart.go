package monitoring

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/signalfx/signalfx-go"
	"github.com/signalfx/signalfx-go/chart"
)

type charts = things[chart.Chart, ChartSpec]

// What kinds and plots are called at SignalFx.
var (
	chartKinds = map[string]string{"time": "TimeSeriesChart", "single": "SingleValue", "list": "List"}
	chartPlots = map[string]string{"line": "LineChart", "area": "AreaChart", "column": "ColumnChart"}
)

var sortPattern = regexp.MustCompile(`^[+-][A-Za-z0-9_.:-]{1,100}$`)

func newCharts(s *site) *charts {
	return &charts{
		site: s, token: TokenChart, noun: "chart",
		check: checkChart,
		text:  func(s *ChartSpec) *string { return &s.Description },
		head:  func(c *chart.Chart) head { return head{&c.Id, &c.Name, &c.Description, c.Created} },
		search: func(ctx context.Context, c *signalfx.Client, name string, offset int) (int, []*chart.Chart, error) {
			page, err := c.SearchCharts(ctx, pageSize, name, offset, "")
			if err != nil {
				return 0, nil, err
			}
			return int(page.Count), page.Results, nil
		},
		get: func(ctx context.Context, c *signalfx.Client, id string) (*chart.Chart, error) {
			return c.GetChart(ctx, id)
		},
		create: func(ctx context.Context, c *signalfx.Client, t *chart.Chart) (*chart.Chart, error) {
			r, err := as[chart.CreateUpdateChartRequest](t)
			if err != nil {
				return nil, err
			}
			return c.CreateChart(ctx, r)
		},
		update: func(ctx context.Context, c *signalfx.Client, id string, t *chart.Chart) (*chart.Chart, error) {
			r, err := as[chart.CreateUpdateChartRequest](t)
			if err != nil {
				return nil, err
			}
			return c.UpdateChart(ctx, id, r)
		},
		remove: func(ctx context.Context, c *signalfx.Client, id string) error { return c.DeleteChart(ctx, id) },
		write: func(_ context.Context, _ *signalfx.Client, t *chart.Chart, s ChartSpec) error {
			writeChart(t, s)
			return nil
		},
		read: func(_ context.Context, _ *signalfx.Client, t *chart.Chart, _ *stateOf[ChartSpec]) (ChartSpec, map[string]any, error) {
			return readChart(t), nil, nil
		},
	}
}

func checkChart(s *ChartSpec) []error {
	problems := append(checkProgram(&s.Program), checkDescription(s.Description))
	if chartKinds[s.Kind] == "" {
		problems = append(problems, problem("kind", "is %q; it must be time, single or list", s.Kind))
	}
	if s.Kind == "time" {
		s.Plot = cmp.Or(s.Plot, "line")
		if chartPlots[s.Plot] == "" {
			problems = append(problems, problem("plot", "is %q; it must be line, area or column", s.Plot))
		}
		if s.Range != "" {
			if milli, ok := milliseconds(s.Range); !ok {
				problems = append(problems, problem("range", "is %q; it must be a number of minutes, hours or days, such as 90m, 3h or 7d", s.Range))
			} else {
				s.Range = spelled(milli)
			}
		}
		if s.Axis != nil && *s.Axis == (Axis{}) {
			s.Axis = nil
		}
		if a := s.Axis; a != nil && a.Min != nil && a.Max != nil && *a.Min >= *a.Max {
			problems = append(problems, problem("axis.max", "must be more than axis.min"))
		}
	} else {
		for member, given := range map[string]bool{"plot": s.Plot != "", "stacked": s.Stacked, "range": s.Range != "", "axis": s.Axis != nil} {
			if given {
				problems = append(problems, problem(member, "is for charts of the kind time"))
			}
		}
	}
	if s.Kind == "list" {
		s.Sort = cmp.Or(s.Sort, "-value")
		if !sortPattern.MatchString(s.Sort) {
			problems = append(problems, problem("sort", "is %q; it must be - (largest first) or +, and value or a dimension", s.Sort))
		}
	} else if s.Sort != "" {
		problems = append(problems, problem("sort", "is for charts of the kind list"))
	}
	labels := published(s.Program)
	for i, x := range s.Series {
		at := fmt.Sprintf("series[%d]", i)
		switch {
		case !slices.Contains(labels, x.Label):
			problems = append(problems, problem(at+".label", "is %q; the program publishes nothing under it", x.Label))
		case slices.ContainsFunc(s.Series[:i], func(y Series) bool { return y.Label == x.Label }):
			problems = append(problems, problem(at+".label", "is %q, as that of another one", x.Label))
		case x == Series{Label: x.Label}:
			problems = append(problems, problem(at, "says nothing: give it name, unit, prefix or suffix, or leave it out"))
		case x.Unit != "" && !slices.Contains(valueUnits, x.Unit):
			problems = append(problems, problem(at+".unit", "is %q; SignalFx has %v", x.Unit, valueUnits))
		}
	}
	slices.SortFunc(s.Series, func(a, b Series) int { return cmp.Compare(a.Label, b.Label) })
	return problems
}

// valueUnits are those that SignalFx has.
var valueUnits = []string{"Bit", "Kilobit", "Megabit", "Gigabit", "Terabit", "Petabit", "Exabit", "Zettabit", "Yottabit",
	"Byte", "Kibibyte", "Mebibyte", "Gibibyte", "Tebibyte", "Pebibyte", "Exbibyte", "Zebibyte", "Yobibyte",
	"Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour", "Day", "Week"}

// writeChart leaves colours and what else there is as it is.
func writeChart(t *chart.Chart, s ChartSpec) {
	t.ProgramText = s.Program
	if t.Options == nil {
		t.Options = &chart.Options{}
	}
	o := t.Options
	o.Type, o.DefaultPlotType, o.Stacked, o.SortBy = chartKinds[s.Kind], chartPlots[s.Plot], s.Stacked, s.Sort
	if milli, ok := milliseconds(s.Range); ok {
		o.Time = &chart.TimeDisplayOptions{Type: "relative", Range: &milli}
	} else {
		o.Time = nil
	}
	if a := s.Axis; a != nil {
		if len(o.Axes) == 0 || o.Axes[0] == nil {
			o.Axes = append([]*chart.Axes{{}}, o.Axes[min(1, len(o.Axes)):]...)
		}
		o.Axes[0].Label, o.Axes[0].Min, o.Axes[0].Max = a.Label, a.Min, a.Max
	} else if len(o.Axes) > 0 {
		o.Axes[0] = &chart.Axes{}
	}
	left := slices.Clone(s.Series)
	for _, l := range o.PublishLabelOptions {
		var x Series
		if i := slices.IndexFunc(left, func(x Series) bool { return x.Label == l.Label }); i >= 0 {
			x = left[i]
			left = slices.Delete(left, i, i+1)
		}
		l.DisplayName, l.ValueUnit, l.ValuePrefix, l.ValueSuffix = x.Name, x.Unit, x.Prefix, x.Suffix
	}
	for _, x := range left {
		o.PublishLabelOptions = append(o.PublishLabelOptions,
			&chart.PublishLabelOptions{Label: x.Label, DisplayName: x.Name, ValueUnit: x.Unit, ValuePrefix: x.Prefix, ValueSuffix: x.Suffix})
	}
}

func readChart(t *chart.Chart) ChartSpec {
	o := t.Options
	if o == nil {
		o = &chart.Options{}
	}
	s := ChartSpec{Kind: called(chartKinds, o.Type), Program: t.ProgramText}
	switch s.Kind {
	case "time":
		s.Plot, s.Stacked = called(chartPlots, cmp.Or(o.DefaultPlotType, "LineChart")), o.Stacked
		if o.Time != nil && o.Time.Range != nil && *o.Time.Range > 0 {
			s.Range = spelled(*o.Time.Range)
		}
		if len(o.Axes) > 0 && o.Axes[0] != nil {
			if a := (Axis{o.Axes[0].Label, o.Axes[0].Min, o.Axes[0].Max}); a != (Axis{}) {
				s.Axis = &a
			}
		}
	case "list":
		s.Sort = o.SortBy
	}
	for _, l := range o.PublishLabelOptions {
		if x := (Series{l.Label, l.DisplayName, l.ValueUnit, l.ValuePrefix, l.ValueSuffix}); x != (Series{Label: l.Label}) {
			s.Series = append(s.Series, x)
		}
	}
	slices.SortFunc(s.Series, func(a, b Series) int { return cmp.Compare(a.Label, b.Label) })
	return s
}

// called is what is called so at SignalFx; what is not known here is called as it is there.
func called(names map[string]string, theirs string) string {
	for ours, x := range names {
		if x == theirs {
			return ours
		}
	}
	return theirs
}
