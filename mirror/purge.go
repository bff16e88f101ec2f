package mirror

import (
	"context"
	"errors"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

// everywhere stands for all regions.
const everywhere = "all"

var purge = api.Declare(api.Spec{
	Name: "purge", Route: "DELETE /purge/<service>/<region>/<url...>", AnyQuery: true, Scopes: scope.Scope("mirror:purge:<service>:<region>"),
	Hidden: []string{"url"}, Stability: api.Stable, Category: "Copies", Title: "Purge a copy",
	Doc: `Has the copy of what is at a URL deleted, in one region or, with the region ` + "`all`" + `, in all of them. Nobody who asks after
the reply gets it. A copy that is being made is given up. Who asks next has a new one made. That there is no copy is no
error.

The URL is the one that the copy was asked for by, and need not be allowed any more.`,
}, func(ctx context.Context, m *Mirror, c api.Call[address, api.None]) (none api.NoContent, err error) {
	if err := c.Path.check(c.HTTP); err != nil {
		return none, err
	}
	region := c.Path.Region
	if region != everywhere {
		if err := m.checkRegion(region); err != nil {
			return none, err
		}
	}
	o, err := m.originOfCopy(c.Path.URL)
	if err != nil {
		return none, refuse(err)
	}
	if err := m.forestall(ctx, o, region); err != nil {
		return none, err
	}
	return none, m.purge(ctx, o.ID(), region)
})

// originOfCopy is origin for a URL that was allowed when the copy was made.
func (m *Mirror) originOfCopy(text string) (Origin, error) {
	o, err := m.origin(text)
	if err == nil || errors.Is(err, errIsCopy) || !forbidden(err) {
		return o, err
	}
	u, err := source.Canonical(text)
	return Origin{URL: u.String()}, err
}

// forestall has a row leave where an index is being made anew and has none of an
// origin: an object of it that the sweep has yet to come to goes with that row, and
// does not become a copy again.
func (m *Mirror) forestall(ctx context.Context, o Origin, region string) error {
	rebuilt, err := m.rebuilt(ctx)
	if err != nil {
		return err
	}
	id := o.ID()
	var names []name
	for _, p := range m.regions {
		if (region == everywhere || region == p.Name) && !rebuilt[p.Name] {
			names = append(names, name{p.Name, id})
		}
	}
	if len(names) == 0 {
		return nil
	}
	return m.change(ctx, func(ch *changes) error {
		list, err := ch.named(names...)
		if err != nil {
			return err
		}
		for _, n := range names {
			if !slices.ContainsFunc(list, func(c *Copy) bool { return c.Region == n.region }) {
				ch.add(&Copy{Region: n.region, ID: id, Origin: o, State: Leaving, Size: -1, Requested: timestamp.Now()})
			}
		}
		return nil
	})
}

// purge has the copies of an origin leave.
func (m *Mirror) purge(ctx context.Context, id, region string) error {
	var gone []string
	err := m.change(ctx, func(ch *changes) error {
		list, err := ch.list(`SELECT `+copyColumns+` FROM mirror_copy
			 WHERE id = $1 AND (region = $2 OR $2 = 'all') ORDER BY region /*for update*/`, id, region)
		gone = nil
		for _, c := range list {
			c.leave()
			gone = append(gone, c.Region)
		}
		ch.tx.Wake(topicLeaving, len(list))
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range gone {
		m.metrics.removed.WithLabelValues(name, "purged").Inc()
	}
	return nil
}
