package mirror

import (
	"context"
	"errors"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/scope"
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
