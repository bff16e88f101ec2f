package api

import (
	"context"
	"errors"
	"time"

	"github.com/taskfleet/taskfleet/scope"
)

// An Identity is who makes a call and what they may do.
type Identity struct {
	ClientID string    // "" for an anonymous caller
	Scopes   scope.Set // expanded; of an anonymous caller, what anybody may do
	Expires  time.Time // when the credentials end; zero where they do not
	Witness  Witness   // nil: nobody wants to know
}

// A Witness is told which needs a caller's scopes have satisfied, so that it can
// be said which of them are of use. It must be quick: it is told of each call.
type Witness interface {
	Satisfied(need scope.Need, by scope.Set)
}

// Satisfies reports whether the caller's scopes grant what is needed, and tells
// the witness if they do.
func (i Identity) Satisfies(need scope.Need) bool {
	if !need.SatisfiedBy(i.Scopes) {
		return false
	}
	if i.Witness != nil {
		i.Witness.Satisfied(need, i.Scopes)
	}
	return true
}

// Has is Satisfies of a single scope.
func (i Identity) Has(s string) bool { return i.Satisfies(scope.Single(s)) }

// A Credential is the evidence of identity in one request.
type Credential struct {
	Method, Resource              string // verb; path and query as sent
	Host                          string // the Host header
	ForwardedPort, ForwardedProto string // X-Forwarded-Port and -Proto, "" where absent
	Authorization                 string // the Authorization header
	RemoteAddr                    string
	ContentType                   string
	Body                          []byte // for the payload hash
}

// An Authenticator establishes who makes a request. Without any evidence the
// answer is the anonymous identity; with evidence that does not hold it is an
// AuthenticationFailed error.
type Authenticator interface {
	Authenticate(context.Context, Credential) (Identity, error)
}

// An Adviser is an Authenticator that can also tell the caller of a request how
// the scopes could be had that it lacks: a paragraph of Markdown, or "" where
// there is nothing to say. It tells only what the caller may know.
type Adviser interface {
	Advise(Credential, Identity, scope.Need) string
}

// caller is the identity of one request and what it still has to prove.
type caller struct {
	Identity
	adviser    Adviser // nil: there is no advice
	credential Credential
	need       scope.Expression
	vars       map[string]string // from the URL
	checked    bool
	undo       []func()
}

// decidable reports whether the URL alone fills in the scope expression, which
// has these parameters.
func (c *caller) decidable(params []string) bool {
	for _, p := range params {
		if _, ok := c.vars[p]; !ok {
			return false
		}
	}
	return true
}

func (c *caller) check(vars scope.Vars) error {
	if c.need == nil {
		c.checked = true
		return nil
	}
	need, err := scope.ResolveWith(c.need, vars, c.vars)
	if err != nil {
		return errors.Join(errors.New("api: authorize"), err)
	}
	if !c.Satisfies(need) {
		advice := ""
		if c.adviser != nil {
			advice = c.adviser.Advise(c.credential, c.Identity, need.Missing(c.Scopes))
		}
		return insufficient(c.ClientID, need, c.Scopes, advice)
	}
	c.checked = true
	return nil
}
