package monitoring

import (
	"context"
	"slices"

	"github.com/signalfx/signalfx-go"
	"github.com/signalfx/signalfx-go/dashboard_group"
)

type groups = things[dashboard_group.DashboardGroup, GroupSpec]

func newGroups(s *site) *groups {
	type group = dashboard_group.DashboardGroup
	return &groups{
		site: s, token: TokenGroup, noun: "dashboard group",
		check: func(g *GroupSpec) []error {
			return append(checkIDs("teams", g.Teams), checkDescription(g.Description))
		},
		text: func(g *GroupSpec) *string { return &g.Description },
		head: func(g *group) head { return head{&g.Id, &g.Name, &g.Description, g.Created} },
		search: func(ctx context.Context, c *signalfx.Client, name string, offset int) (int, []*group, error) {
			page, err := c.SearchDashboardGroups(ctx, pageSize, name, offset)
			if err != nil {
				return 0, nil, err
			}
			return int(page.Count), page.Results, nil
		},
		get: func(ctx context.Context, c *signalfx.Client, id string) (*group, error) {
			return c.GetDashboardGroup(ctx, id)
		},
		create: func(ctx context.Context, c *signalfx.Client, g *group) (*group, error) {
			r, err := as[dashboard_group.CreateUpdateDashboardGroupRequest](g)
			if err != nil {
				return nil, err
			}
			return c.CreateDashboardGroup(ctx, r, true)
		},
		update: func(ctx context.Context, c *signalfx.Client, id string, g *group) (*group, error) {
			r, err := as[dashboard_group.CreateUpdateDashboardGroupRequest](g)
			if err != nil {
				return nil, err
			}
			return c.UpdateDashboardGroup(ctx, id, r)
		},
		remove: func(ctx context.Context, c *signalfx.Client, id string) error { return c.DeleteDashboardGroup(ctx, id) },
		write: func(_ context.Context, _ *signalfx.Client, g *group, s GroupSpec) error {
			g.Teams = s.Teams
			return nil
		},
		read: func(_ context.Context, _ *signalfx.Client, g *group, _ *stateOf[GroupSpec]) (GroupSpec, map[string]any, error) {
			teams := slices.Clone(g.Teams)
			slices.Sort(teams)
			return GroupSpec{Teams: teams}, nil, nil
		},
	}
}
