package mirror

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A sent is where a caller is sent.
type sent struct {
	Have    string `json:"status,omitempty"` // "present", of a copy
	URL     string `json:"url"`
	Message string `json:"msg,omitempty"` // why it is not a copy
}

// Status is that of the redirects of 2016.
func (sent) Status() int { return http.StatusFound }

// Header is for those who follow redirects.
func (s sent) Header() map[string]string { return map[string]string{"Location": s.URL} }

var redirect = api.Declare(api.Spec{
	Name: "redirect", Route: "GET /redirect/<service>/<region>/<url...>", AnyQuery: true,
	Hidden: []string{"url"}, Private: true, Output: "v1/redirect-response.json#", Stability: api.Stable, Category: "Downloads", Title: "Redirect to a copy",
	Doc: `Answers 302 with the place where to download a copy of what is at the URL, in a region. The service is ` + "`s3`" + `. It needs no
credentials, and so is for what anybody may read: allowed URLs, and public artifacts.

If there is no copy yet it is made, and the caller waits for it. If that takes longer than the route says that the URL is
on, or copying fails for other reasons than the URL, the redirect is to the URL itself. Routes can also say that callers
do not wait, but are redirected to the URL, or get the bytes while they are stored.

A URL that is not encoded, or makes no sense, is 400; an unknown service or region, 404; a URL that may not be copied, or
redirects to one that may not, 403; and one whose server has refused it, the status of the server.`,
}, func(ctx context.Context, m *Mirror, c api.Call[address, api.None]) (api.Reply, error) {
	if err := c.Path.check(c.HTTP); err != nil {
		return nil, err
	}
	region := c.Path.Region
	if region != m.guide.home && !m.guide.regions[region] {
		return nil, unknownRegion(region, append([]string{m.guide.home}, m.guide.names...))
	}
	o, err := m.origin(c.Path.URL)
	switch {
	case err != nil && forbidden(err):
		m.metrics.answer(region, answerRefused)
		return newUnfetchable(http.StatusForbidden, errInvalidURL, sentence(err.Error())), nil
	case err != nil:
		return nil, refuse(err)
	}
	if err := m.mayRead(ctx, c.Credential(), o); err != nil {
		return nil, err
	}
	return m.redirect(ctx, c.Credential(), o, region)
})

// mayRead checks that whoever makes a request may read an origin.
func (m *Mirror) mayRead(ctx context.Context, evidence api.Credential, o Origin) error {
	if o.URL != "" {
		return nil
	}
	name, ok := artifactName(o.Key)
	switch {
	case !ok:
		return api.Errorf(api.ResourceNotFound, "There is no artifact at this URL: its key in the bucket is not <taskId>/<runId>/<name>.")
	case m.auth == nil:
		ok = strings.HasPrefix(name, "public/")
	default:
		who, err := m.auth.Authenticate(ctx, evidence)
		if err != nil {
			return err
		}
		ok = who.Has("queue:get-artifact:" + name)
	}
	if !ok {
		return api.Errorf(api.InsufficientScopes, "The artifact %q is not for everybody. Get it by the queue's getArtifact, with credentials: it leads to the nearest copy by itself.", name)
	}
	return nil
}

// redirect finds the place for a caller in a region to download an origin from,
// which the caller may read.
func (m *Mirror) redirect(ctx context.Context, evidence api.Credential, o Origin, region string) (api.Reply, error) {
	if location := m.copyAtOnce(ctx, o, region); location != "" {
		m.metrics.answer(region, string(outcomeCopy))
		return sent{Have: string(Present), URL: location}, nil
	}
	a, err := m.artifact(ctx, o)
	if err != nil {
		// The artifact does not exist, or nobody knows: no URL of it is signed.
		return nil, err
	}
	p := m.plan(o, a, region)
	if o.URL != "" && p.None == "" {
		if p.None = m.crowded(ctx, region); p.None != "" && m.holds(ctx, evidence, "mirror:copy:"+region) {
			p.None = ""
		}
	}
	d, err := m.decide(ctx, p)
	if err != nil {
		return m.sendAfterError(ctx, o, region, err)
	}
	switch d.Outcome {
	case outcomeCopy:
		m.metrics.answer(region, string(d.Outcome))
		return sent{Have: string(Present), URL: d.URL}, nil
	case outcomeStream:
		m.metrics.answer(region, string(d.Outcome))
		return sent{URL: d.URL, Message: "The bytes come while the copy is made"}, nil
	case outcomeFailed:
		if u, ok := d.Copy.unfetchable(); ok {
			m.metrics.answer(region, answerRefused)
			return u, nil
		}
	}
	return m.sendToOrigin(ctx, o, region, d.Outcome, excuse(p, d))
}

// copyAtOnce is the URL of an artifact's copy that is there, without asking the
// catalog: it is of an artifact that was there, and expires with it. "" means that
// there is more to find out.
func (m *Mirror) copyAtOnce(ctx context.Context, o Origin, region string) string {
	name, ok := artifactName(o.Key)
	if !ok || !m.guide.regions[region] || m.guide.mayBeOff(name) {
		return ""
	}
	looking, cancel := context.WithTimeout(ctx, defaultMaxWait)
	defer cancel()
	c, err := within(looking, func() (*Copy, error) { return m.find(looking, region, o.ID()) })
	if err != nil || c.State != Present || c.Expires <= timestamp.Now() {
		return ""
	}
	d, _ := m.conclude(ctx, c) // what fails is tried again, and told then
	return d.URL
}

// holds tells that whoever makes a request has a scope.
func (m *Mirror) holds(ctx context.Context, evidence api.Credential, scope string) bool {
	if m.auth == nil {
		return false
	}
	who, err := m.auth.Authenticate(ctx, evidence)
	return err == nil && who.Has(scope)
}

// A crowd is how many copies wait in a region, as of a moment. Anybody can ask for
// an allowed URL with another query each time, each of which is another copy to be
// made.
type crowd struct{ looked, waiting atomic.Int64 }

const (
	maxCrowd   = 10_000
	crowdEvery = time.Second
)

// crowded says why no more copies are made in a region for anybody; "": they are.
func (m *Mirror) crowded(ctx context.Context, region string) string {
	p := m.region(region)
	if p == nil {
		return ""
	}
	now, last := time.Now().UnixNano(), p.crowd.looked.Load()
	if now-last >= int64(crowdEvery) && p.crowd.looked.CompareAndSwap(last, now) {
		looking, cancel := context.WithTimeout(ctx, lookLimit)
		defer cancel()
		if t, err := within(looking, func() (tally, error) { return m.tallies(looking) }); err == nil { // else it is as it was
			p.crowd.waiting.Store(t[tallied{region, Waiting}].Objects)
		}
	}
	n := p.crowd.waiting.Load()
	if n < maxCrowd {
		return ""
	}
	return fmt.Sprintf("%d copies wait in %s, and so none is made of a URL for callers without the scope mirror:copy:%s", n, region, region)
}

// excuse says why a caller gets the origin.
func excuse(p plan, d decision) string {
	switch d.Outcome {
	case outcomeOff:
		return "There is no copy: " + cmp.Or(p.Off, p.None)
	case outcomeBehind:
		return "The copy is being made, redirecting to original"
	case outcomeLate:
		return "Cached copy did not show up in " + strconv.FormatFloat(p.Route.MaxWait.Seconds(), 'f', -1, 64) + "s"
	case outcomeLeaving:
		return "The copy is being deleted, redirecting to original"
	case outcomeAway:
		return "The region's bucket cannot be relied on at the moment, redirecting to original"
	}
	return "Error caching file, redirecting to original"
}

// sendToOrigin is the reply where there is no copy to send the caller to.
func (m *Mirror) sendToOrigin(ctx context.Context, o Origin, region string, why outcome, message string) (api.Reply, error) {
	m.metrics.answer(region, string(why))
	location, err := m.originURL(ctx, o)
	return sent{URL: location, Message: message}, err
}

// sendAfterError is the reply where the mirror itself has failed, or is being
// stopped, which is no reason for a download to fail.
func (m *Mirror) sendAfterError(ctx context.Context, o Origin, region string, err error) (api.Reply, error) {
	if ctx.Err() != nil {
		// The server is being stopped, and the caller waits for an answer; or the
		// caller is gone, and nobody reads it.
		location, err := m.originURL(context.WithoutCancel(ctx), o)
		return sent{URL: location, Message: "The server is being stopped, redirecting to original"}, err
	}
	m.log.Error("cannot tell where a copy is: the caller gets the origin", "origin", o.public(), "region", region, "err", err)
	return m.sendToOrigin(ctx, o, region, outcomeFailed, "Error caching file, redirecting to original")
}
