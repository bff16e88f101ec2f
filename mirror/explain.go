package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An explanation says what becomes of who asks for a URL in a region, and why.
type explanation struct {
	Region   string        `json:"region"`
	Origin   string        `json:"origin,omitempty"`
	Kind     string        `json:"kind,omitempty"`
	ID       string        `json:"id,omitempty"`
	Artifact *artifactView `json:"artifact,omitempty"`
	Route    *routeView    `json:"route,omitempty"`
	Copy     *view         `json:"copy,omitempty"`
	Answer   string        `json:"answer"`  // copy, wait, stream, origin or refused
	Summary  []string      `json:"summary"` // in sentences, the last of which says the answer
}

type artifactView struct {
	TaskID      string         `json:"taskId"`
	RunID       int            `json:"runId"`
	Name        string         `json:"name"`
	TaskQueueID string         `json:"taskQueueId"`
	Size        *int64         `json:"size,omitempty"`
	Expires     timestamp.Time `json:"expires"`
}

// The answers that an explanation foretells.
const (
	answerCopy    = "copy"
	answerWait    = "wait"
	answerStream  = "stream"
	answerOrigin  = "origin"
	answerRefused = "refused"
)

// ofCaller stands for the region that the caller is in.
const ofCaller = "caller"

type explainPath struct {
	Region string `path:"region"`
	URL    string `path:"url"`
}

var explain = api.Declare(api.Spec{
	Name: "explain", Route: "GET /explain/<region>/<url...>", AnyQuery: true, Scopes: scope.Scope("mirror:explain"), Output: "v1/explanation.json#",
	Hidden: []string{"url"}, Stability: api.Experimental, Category: "Operations", Title: "Explain what a caller gets",
	Doc: `Says, in words and values, what who asks for a URL in a region would get, and why: what the URL means, whether it may be
copied, on which route it is, and how its copy is. The region ` + "`caller`" + ` stands for that of the caller. Nothing is asked for
or waited for.`,
}, func(ctx context.Context, m *Mirror, c api.Call[explainPath, api.None]) (out explanation, err error) {
	if err := checkEncoded(c.HTTP, 6); err != nil {
		return out, err
	}
	out = explanation{Region: c.Path.Region, Summary: []string{}}
	switch {
	case out.Region == ofCaller:
		found := m.guide.finder.Find(c.HTTP, c.Caller().ClientID)
		out.Region = found.Region
		out.say("The caller is in %s: %s.", orNowhere(found.Region), found.Detail)
	case out.Region != m.guide.home:
		if err := m.checkRegion(out.Region); err != nil {
			return out, err
		}
	}
	return out, m.explain(ctx, c.Path.URL, &out)
})

func orNowhere(region string) string {
	if region == "" {
		return "no region that is known"
	}
	return region
}

func (x *explanation) say(format string, args ...any) {
	x.Summary = append(x.Summary, fmt.Sprintf(format, args...))
}

func (x *explanation) answer(with, format string, args ...any) {
	x.Answer = with
	x.say(format, args...)
}

// explain fills in an explanation for a URL, of which the region is known.
func (m *Mirror) explain(ctx context.Context, text string, x *explanation) error {
	o, err := m.origin(text)
	if err != nil {
		if err := refuse(err); !isInputError(err) {
			return err
		}
		x.answer(answerRefused, "%s", sentence(err.Error()))
		return m.explainFormer(ctx, text, x)
	}
	x.Origin, x.Kind, x.ID = o.public(), o.kind(), o.ID()
	a, err := m.artifact(ctx, o)
	if e, ok := errors.AsType[*api.Error](err); ok {
		x.answer(answerRefused, "%s", e.Message)
		return nil
	} else if err != nil {
		return err
	}
	if a != nil {
		x.Artifact = &artifactView{TaskID: a.TaskID, RunID: a.RunID, Name: a.Name, TaskQueueID: a.TaskQueueID, Expires: a.Expires}
		if a.Size >= 0 {
			x.Artifact.Size = &a.Size
		}
		x.say("It is the artifact %q of run %d of task %s.", a.Name, a.RunID, a.TaskID)
	} else {
		x.say("It is a URL that may be copied.")
	}
	p := m.plan(o, a, x.Region)
	r := p.Route.view(m.guide.names)
	x.Route = &r
	x.say("It is on the route %s, with the policy %s.", r.Name, r.Policy)
	if p.None == "" && o.URL != "" {
		p.None = m.crowded(ctx, x.Region)
	}
	c, err := m.find(ctx, x.Region, x.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		c = nil
	case err != nil:
		return err
	default:
		v := c.view()
		x.Copy = &v
	}
	served := c != nil && c.State == Present && c.Expires > timestamp.Now()
	if why := cmp.Or(p.Off, p.None); p.Off != "" || p.None != "" && !served {
		x.answer(answerOrigin, "The answer is the origin: %s.", why)
		return nil
	}
	if away := m.away(x.Region); away != "" {
		x.answer(answerOrigin, "The answer is the origin, as %s.", away)
		return nil
	}
	if trouble := m.trouble(x.Region); trouble != "" && !served {
		x.say("Nobody waits for a copy, as %s.", trouble)
		p.Route.Policy = Redirect
	}
	x.foretell(p, c)
	return nil
}

// explainFormer adds what is known of a URL that is refused, of which there may be
// a copy from when it was not.
func (m *Mirror) explainFormer(ctx context.Context, text string, x *explanation) error {
	o, err := m.originOfCopy(text)
	if err != nil {
		return nil
	}
	x.Origin, x.Kind, x.ID = o.public(), o.kind(), o.ID()
	c, err := m.find(ctx, x.Region, x.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	v := c.view()
	x.Copy = &v
	return nil
}

func isInputError(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == api.InputError
}

// foretell says what decide would, of a copy that may be nil.
func (x *explanation) foretell(p plan, c *Copy) {
	switch {
	case c == nil:
		x.say("There is no copy in %s yet.", x.Region)
	case c.State == Present && c.Expires <= timestamp.Now():
		x.answer(answerOrigin, "The answer is the origin: the copy in %s has expired, at %s.", x.Region, c.Expires)
		return
	case c.State == Present:
		x.answer(answerCopy, "The answer is the copy, which has been in %s since %s.", x.Region, c.Requested)
		return
	case c.State == Leaving:
		x.answer(answerOrigin, "The answer is the origin: the copy in %s is being deleted.", x.Region)
		return
	case c.State == Failed && c.Due > timestamp.Now():
		x.say("Copying failed in %d attempts, and is not tried again before %s. The last error was: %s", c.Attempts, c.Due, c.Error)
		if u, ok := c.unfetchable(); ok {
			x.answer(answerRefused, "The answer is %d, as that is the URL's fault.", u.status)
		} else {
			x.answer(answerOrigin, "The answer is the origin.")
		}
		return
	case c.Error != "":
		x.say("The copy in %s is %s, after %d attempts that failed. The last error was: %s", x.Region, c.State, c.Attempts, c.Error)
	default:
		x.say("The copy in %s is %s, since %s.", x.Region, c.State, c.Requested)
	}
	switch p.Route.Policy {
	case Stream:
		x.answer(answerStream, "The answer is the bytes, which are stored at the same time.")
	case Redirect:
		x.answer(answerOrigin, "The answer is the origin, and the copy is made behind.")
	default:
		x.answer(answerWait, "The answer is the copy, for which the caller waits up to %s, and the origin after that.", p.Route.MaxWait)
	}
}
