package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A plan is what the configuration says of a request for an origin in a region.
// It is made without looking whether there is a copy.
type plan struct {
	Want  Want
	Route Route  // that the origin is on
	Off   string // why the answer is the origin, copy or not; "": it need not be
	None  string // why no copy is made, though one that is there is served; "": one is
}

// plan says what becomes of a request for an origin, which is an artifact unless
// that is nil, in a region ("": nobody knows where the caller is).
func (m *Mirror) plan(o Origin, a *Artifact, region string) plan {
	w := Want{Region: region, Origin: o, Priority: Waited, Size: -1, Expires: timestamp.Now().Add(m.guide.lifespan)}
	if a != nil {
		w.Size, w.Expires = a.Size, a.Expires
	}
	p := plan{Want: w, Route: m.guide.route(o, a, w.Size)}
	switch {
	case region == "":
		p.Off = "it is not known in which region the caller is"
	case region == m.guide.home:
		p.Off = fmt.Sprintf("%s is home, where nothing is copied to", region)
	case !m.guide.regions[region]:
		p.Off = fmt.Sprintf("there are no copies in the region %s", region)
	case a != nil && a.Open:
		p.Off = "the run that makes the artifact has not ended, so it may be written again"
	case w.Expires <= timestamp.Now():
		p.Off = fmt.Sprintf("the artifact expired at %s", w.Expires)
	case p.Route.Policy == Off:
		p.Off = fmt.Sprintf("the route %s makes no copies", p.Route.Name)
	case w.Size > maxObject:
		p.None = fmt.Sprintf("it has %d bytes, and nothing is copied that has more than %d", w.Size, int64(maxObject))
	case !p.Route.reaches(region):
		p.None = fmt.Sprintf("the route %s makes no copies in %s", p.Route.Name, region)
	}
	return p
}

// An outcome is where a request was sent, and why.
type outcome string

const (
	outcomeCopy    outcome = "copy"    // to the copy
	outcomeStream  outcome = "stream"  // to the bytes, which are stored at the same time
	outcomeOff     outcome = "off"     // to the origin, as no copy is made
	outcomeBehind  outcome = "behind"  // to the origin; the copy is made meanwhile
	outcomeLate    outcome = "late"    // to the origin, after waiting in vain
	outcomeFailed  outcome = "failed"  // to the origin, as copying failed
	outcomeLeaving outcome = "leaving" // to the origin, as the copy is being deleted
	outcomeAway    outcome = "away"    // to the origin, as the bucket does not answer or takes no copies
)

// A decision is what becomes of a request.
type decision struct {
	Outcome outcome
	URL     string // where to go; "": to the origin
	Copy    *Copy  // as it was last seen; nil: there was none
}

// decide does what a plan says: it finds the copy, or has it made and waits for
// it. What it returns an error of is best answered with the origin.
func (m *Mirror) decide(ctx context.Context, p plan) (d decision, err error) {
	start := time.Now()
	if p.Off != "" {
		return decision{Outcome: outcomeOff}, nil
	}
	id := p.Want.Origin.ID()
	looking, cancel := context.WithTimeout(ctx, p.Route.MaxWait+lookLimit)
	defer cancel()
	c, err := within(looking, func() (*Copy, error) { return m.find(looking, p.Want.Region, id) })
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return d, err
	case c.State == Present && c.Expires <= timestamp.Now():
		return decision{Outcome: outcomeLeaving, Copy: c}, nil // what it is of may have changed
	case c.State == Present, p.None == "" && (c.State == Leaving || c.State == Failed && c.Due > timestamp.Now()):
		return m.conclude(ctx, c)
	}
	if p.None != "" {
		return decision{Outcome: outcomeOff, Copy: c}, nil
	}
	away := m.trouble(p.Want.Region) != ""
	if p.Route.Policy == Stream && !away {
		d = decision{Outcome: outcomeStream, Copy: c}
		d.URL, err = m.streamURL(p.Want)
		return d, err
	}
	list, err := within(looking, func() ([]*Copy, error) { return m.want(looking, p.Want) })
	if err != nil {
		return d, err
	}
	if c = list[0]; p.Route.Policy == Wait && !away && (c.State == Waiting || c.State == Copying) {
		c, err = m.await(ctx, p.Want.Region, id, p.Route.MaxWait-time.Since(start))
		if errors.Is(err, store.ErrNotFound) { // purged meanwhile
			return decision{Outcome: outcomeLeaving}, nil
		} else if err != nil {
			return d, err
		}
	}
	d, err = m.conclude(ctx, c)
	switch {
	case d.Outcome != outcomeLate:
	case away:
		d.Outcome = outcomeAway
	case p.Route.Policy == Redirect:
		d.Outcome = outcomeBehind
	}
	return d, err
}

// conclude is the decision for those who do not wait any longer.
func (m *Mirror) conclude(ctx context.Context, c *Copy) (d decision, err error) {
	d.Copy = c
	switch c.State {
	case Present:
		if m.away(c.Region) != "" {
			d.Outcome = outcomeAway
			return d, nil
		}
		m.touch(c)
		d.Outcome = outcomeCopy
		d.URL, err = m.sign(ctx, c)
	case Failed:
		d.Outcome = outcomeFailed
	case Leaving:
		d.Outcome = outcomeLeaving
	default:
		d.Outcome = outcomeLate
	}
	return d, err
}

// Near finds out where a caller is, and returns the URL of a copy near it: of an
// artifact, or of what an artifact refers to, if url is not empty. It may wait for
// the copy, as long as the route says. The caller has been allowed to read the
// artifact; whoever has the URL can read the copy for a while. "" means that the
// origin is the place to go to.
func (m *Mirror) Near(ctx context.Context, r *http.Request, clientID string, a Artifact, url string) (location string, err error) {
	o, artifact := m.guide.stored(&a), &a
	if url != "" {
		// What is not ours to copy is the artifact's to refer to.
		if o, err = m.guide.origin(url); err != nil || o.URL == "" {
			return "", nil
		}
		artifact = nil
	}
	p := m.plan(o, artifact, m.guide.finder.Find(r, clientID).Region)
	d, err := m.decide(ctx, p)
	if err != nil {
		m.metrics.answer(p.Want.Region, string(outcomeFailed))
		return "", fmt.Errorf("mirror: a copy of %s in %s: %w", o.public(), p.Want.Region, err)
	}
	m.metrics.answer(p.Want.Region, string(d.Outcome))
	return d.URL, nil
}

// originLife is how long the URL of an origin in the artifact bucket is good.
const originLife = 30 * time.Minute

// originURL is where the bytes of an origin are.
func (m *Mirror) originURL(ctx context.Context, o Origin) (string, error) {
	if o.URL != "" {
		return o.URL, nil
	}
	return m.guide.bucket.PresignGet(ctx, o.Key, originLife, blob.Headers{})
}
