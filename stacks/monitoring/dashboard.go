package monitoring

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/signalfx/signalfx-go"
	"github.com/signalfx/signalfx-go/dashboard"
)

type dashboards = things[dashboard.Dashboard, DashboardSpec]

// newDashboards needs groups and charts, as SignalFx knows them by ids alone. Which id has which
// name is in the state, so that reading a dashboard is one request.
func newDashboards(s *site, g *groups, ch *charts) *dashboards {
	type board = dashboard.Dashboard
	return &dashboards{
		site: s, token: TokenDashboard, noun: "dashboard", computed: []string{"groupId", "chartIds"},
		check: checkDashboard,
		text:  func(s *DashboardSpec) *string { return &s.Description },
		head:  func(d *board) head { return head{&d.Id, &d.Name, &d.Description, d.Created} },
		search: func(ctx context.Context, c *signalfx.Client, name string, offset int) (int, []*board, error) {
			page, err := c.SearchDashboard(ctx, pageSize, name, offset, "")
			if err != nil {
				return 0, nil, err
			}
			return int(page.Count), pointers(page.Results), nil
		},
		get: func(ctx context.Context, c *signalfx.Client, id string) (*board, error) {
			return c.GetDashboard(ctx, id)
		},
		create: func(ctx context.Context, c *signalfx.Client, d *board) (*board, error) {
			r, err := as[dashboard.CreateUpdateDashboardRequest](d)
			if err != nil {
				return nil, err
			}
			return c.CreateDashboard(ctx, r)
		},
		update: func(ctx context.Context, c *signalfx.Client, id string, d *board) (*board, error) {
			r, err := as[dashboard.CreateUpdateDashboardRequest](d)
			if err != nil {
				return nil, err
			}
			return c.UpdateDashboard(ctx, id, r)
		},
		remove: func(ctx context.Context, c *signalfx.Client, id string) error { return c.DeleteDashboard(ctx, id) },
		write: func(ctx context.Context, c *signalfx.Client, d *board, s DashboardSpec) (err error) {
			if d.GroupId, err = g.id(ctx, c, s.Group); err != nil {
				return err
			}
			d.Charts = nil
			for _, p := range s.Charts {
				id, err := ch.id(ctx, c, p.Chart)
				if err != nil {
					return err
				}
				d.Charts = append(d.Charts, &dashboard.DashboardChart{ChartId: id, Row: int32(p.Row), Column: int32(p.Column), Width: int32(p.Width), Height: int32(p.Height)})
			}
			if d.Filters == nil && len(s.Variables) > 0 {
				d.Filters = &dashboard.ChartsFilters{}
			}
			if d.Filters != nil {
				d.Filters.Variables = nil
				for _, v := range s.Variables {
					values := v.Values
					if values == nil {
						values = []string{}
					}
					d.Filters.Variables = append(d.Filters.Variables, &dashboard.ChartsWebUiFilter{Property: v.Property, Alias: v.Label, Value: values, ApplyIfExists: true})
				}
			}
			return nil
		},
		read: func(ctx context.Context, c *signalfx.Client, d *board, state *stateOf[DashboardSpec]) (s DashboardSpec, computed map[string]any, err error) {
			groupID, ids := "", map[string]string{} // as they were: ids by name
			if state != nil && state.id != "" {
				if err := errors.Join(read(state.computed["groupId"], &groupID), read(state.computed["chartIds"], &ids)); err != nil {
					return s, nil, err
				}
			}
			s.Group = ""
			if state != nil && d.GroupId == groupID {
				s.Group = state.spec.Group
			} else if s.Group, err = nameOf(g, ctx, c, d.GroupId); err != nil {
				return s, nil, err
			}
			names := map[string]string{}
			for name, id := range ids {
				names[id] = name
			}
			now := map[string]string{}
			for _, p := range d.Charts {
				name, ok := names[p.ChartId]
				if !ok {
					if name, err = nameOf(ch, ctx, c, p.ChartId); err != nil {
						return s, nil, err
					}
				}
				if now[name] != "" { // a copy
					name += " " + p.ChartId
				}
				now[name] = p.ChartId
				s.Charts = append(s.Charts, Placed{name, int(p.Row), int(p.Column), int(p.Width), int(p.Height)})
			}
			slices.SortFunc(s.Charts, inOrder)
			if d.Filters != nil {
				for _, v := range d.Filters.Variables {
					s.Variables = append(s.Variables, Variable{v.Property, cmp.Or(v.Alias, v.Property), slices.Clone([]string(v.Value))})
				}
			}
			for i, v := range s.Variables {
				if len(v.Values) == 0 {
					s.Variables[i].Values = nil
				}
			}
			return s, map[string]any{"groupId": d.GroupId, "chartIds": now}, nil
		},
		keeps: func(state *stateOf[DashboardSpec], s DashboardSpec) bool {
			names := func(s DashboardSpec) map[string]bool {
				all := map[string]bool{}
				for _, p := range s.Charts {
					all[p.Chart] = true
				}
				return all
			}
			return state.spec.Group == s.Group && maps.Equal(names(state.spec), names(s))
		},
	}
}

// read reads what is there.
func read(text json.RawMessage, out any) error {
	if text == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// nameOf is the name of what has an id; the id where that is gone.
func nameOf[T, S any](k *things[T, S], ctx context.Context, c *signalfx.Client, id string) (string, error) {
	t, err := k.there(k.get(ctx, c, id))
	if err != nil || t == nil {
		return id, err
	}
	return *k.head(t).name, nil
}

func pointers[T any](list []T) (out []*T) {
	for i := range list {
		out = append(out, &list[i])
	}
	return out
}

func inOrder(a, b Placed) int {
	return cmp.Or(cmp.Compare(a.Row, b.Row), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Chart, b.Chart))
}

func checkDashboard(s *DashboardSpec) []error {
	problems := []error{checkDescription(s.Description)}
	if !line(s.Group, mostName) {
		problems = append(problems, problem("group", "is %q; it must be the name of a dashboard group", s.Group))
	}
	if len(s.Charts) == 0 || len(s.Charts) > mostCharts {
		problems = append(problems, problem("charts", "has %d charts; it must have 1 to %d", len(s.Charts), mostCharts))
	}
	taken, seen := map[[2]int]string{}, map[string]bool{}
	for i := range s.Charts {
		p, at := &s.Charts[i], fmt.Sprintf("charts[%d]", i)
		switch {
		case !line(p.Chart, mostName):
			problems = append(problems, problem(at+".chart", "is %q; it must be the name of a chart", p.Chart))
		case seen[p.Chart]:
			problems = append(problems, problem(at+".chart", "is %q, as that of another one: a chart has one place", p.Chart))
		case p.Width < 1 || p.Column < 0 || p.Column+p.Width > columns:
			problems = append(problems, problem(at, "has the columns %d to %d; a dashboard has 0 to %d", p.Column, p.Column+p.Width-1, columns-1))
		case p.Row < 0 || p.Height < 1 || p.Height > 3 || p.Row+p.Height > 100:
			problems = append(problems, problem(at, "must have a height of 1 to 3 rows, and be within the first 100"))
		default:
			for row := p.Row; row < p.Row+p.Height; row++ {
				for column := p.Column; column < p.Column+p.Width; column++ {
					if other := taken[[2]int{row, column}]; other != "" && other != p.Chart {
						problems = append(problems, problem(at, "lies on %q", other))
						row = p.Row + p.Height
						break
					}
					taken[[2]int{row, column}] = p.Chart
				}
			}
		}
		seen[p.Chart] = true
	}
	slices.SortFunc(s.Charts, inOrder)
	for i := range s.Variables {
		v, at := &s.Variables[i], fmt.Sprintf("variables[%d]", i)
		v.Label = cmp.Or(v.Label, v.Property)
		if !line(v.Property, mostName) || !line(v.Label, mostName) {
			problems = append(problems, problem(at, "must have a property, which is a dimension, and a label of one line"))
		}
		if len(v.Values) == 0 {
			v.Values = nil
		}
	}
	return problems
}
