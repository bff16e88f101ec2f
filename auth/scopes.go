package auth

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

type scopeSet struct {
	Scopes []string `json:"scopes"`
}

var expandScopes = api.Declare(api.Spec{
	Name: "expandScopes", Route: "POST /scopes/expand",
	Scopes: scope.Scope("auth:expand-scopes"), Input: "v1/scopeset.json#", Output: "v1/scopeset.json#",
	Stability: api.Stable, Category: "Scopes and Auth", Title: "Expand scopes",
	Doc: `Returns the scopes with all that they imply through roles. What is granted by another scope of the set is left
out.`,
}, func(_ context.Context, a *Auth, c api.Call[api.None, scopeSet]) (scopeSet, error) {
	set, err := scope.Set(nil), checkNumber(c.Body.Scopes)
	if err == nil {
		set, err = a.current.Load().rules.expand(c.Body.Scopes...)
	}
	if err != nil {
		return scopeSet{}, api.Errorf(api.InputError, "The scopes cannot be expanded: %v.", err)
	}
	return scopeSet{listed(set)}, nil
})

var currentScopes = api.Declare(api.Spec{
	Name: "currentScopes", Route: "GET /scopes/current",
	Scopes: scope.Scope("auth:current-scopes"), Output: "v1/scopeset.json#",
	Stability: api.Stable, Category: "Scopes and Auth", Title: "Show one's own scopes",
	Doc: `Returns all that the caller may do: by the client's scopes, its certificate, authorized scopes and roles.`,
}, func(_ context.Context, _ *Auth, c api.Call[api.None, api.None]) (scopeSet, error) {
	return scopeSet{listed(c.Caller().Scopes)}, nil
})

type hawkRequest struct {
	Method        string `json:"method"`
	Resource      string `json:"resource"`
	Host          string `json:"host"`
	Port          int    `json:"port"`
	Authorization string `json:"authorization"`
	SourceIP      string `json:"sourceIp"`
}

type hawkResponse struct {
	Status   string         `json:"status"`
	Message  string         `json:"message,omitempty"`
	Scheme   string         `json:"scheme,omitempty"`
	ClientID string         `json:"clientId,omitempty"`
	Scopes   *[]string      `json:"scopes,omitempty"`
	Expires  timestamp.Time `json:"expires,omitzero"`
	Hash     string         `json:"hash,omitempty"`
}

var authenticateHawk = api.Declare(api.Spec{
	Name: "authenticateHawk", Route: "POST /authenticate-hawk",
	Input: "v1/authenticate-hawk-request.json#", Output: "v1/authenticate-hawk-response.json#",
	Stability: api.Stable, Category: "Scopes and Auth", Title: "Check the signature of a request", Private: true,
	Doc: `Tells who made a request that another service has received, and what they may do, so that the service need not
know anybody's secret. A ` + "`hash`" + ` in the reply is what the caller has signed as the hash of the payload; checking it is
up to the service.

The same request can be asked about again and again: whether it is a replay is for the service to notice.`,
}, func(_ context.Context, a *Auth, c api.Call[api.None, hawkRequest]) (hawkResponse, error) {
	b := c.Body
	s, err := a.trusted()
	if err != nil {
		return hawkResponse{}, err
	}
	p, err := readProof(api.Credential{
		Method: b.Method, Resource: b.Resource, Authorization: b.Authorization,
		Host: net.JoinHostPort(b.Host, strconv.Itoa(b.Port)),
	})
	if err == nil && p == nil {
		return hawkResponse{Status: "no-auth", Scheme: "none", Scopes: listOf(s.anonymous), Expires: never}, nil
	}
	var id identity
	if err == nil {
		id, err = p.verify(s.directory(), s.grants, time.Now())
	}
	if err != nil {
		a.log.Debug("authentication of a request to another service failed", "remote", b.SourceIP, "reason", err)
		return hawkResponse{Status: "auth-failed", Message: err.Error()}, nil
	}
	a.usedToken(id.issuer, id.token, time.Now())
	r := hawkResponse{Status: "auth-success", Scheme: "hawk", ClientID: id.ClientID, Scopes: listOf(id.Scopes), Expires: never}
	if !id.Expires.IsZero() {
		r.Expires = timestamp.Of(id.Expires)
	}
	if p.header != nil {
		r.Hash = p.header.Hash
	}
	return r, nil
})

func listOf(s scope.Set) *[]string {
	l := listed(s)
	return &l
}

type testRequest struct {
	ClientScopes   []string `json:"clientScopes"`
	RequiredScopes []string `json:"requiredScopes"`
}

type testResponse struct {
	ClientID string   `json:"clientId"`
	Scopes   []string `json:"scopes"`
}

var testAuthenticate = api.Declare(api.Spec{
	Name: "testAuthenticate", Route: "POST /test-authenticate",
	Input: "v1/test-authenticate-request.json#", Output: "v1/test-authenticate-response.json#",
	Stability: api.Stable, Category: "Scopes and Auth", Title: "Try out a client library",
	Doc: `Authenticates the call as any other would be, but with a client ` + "`tester`" + ` that has the access token ` + "`no-secret`" + ` and the
scopes ` + "`clientScopes`" + `, and checks that it has ` + "`requiredScopes`" + `. For testing how a client library signs, issues temporary
credentials and restricts itself.`,
}, func(_ context.Context, a *Auth, c api.Call[api.None, testRequest]) (testResponse, error) {
	return a.test(c.Credential(), c.Body)
})

var testAuthenticateGet = api.Declare(api.Spec{
	Name: "testAuthenticateGet", Route: "GET /test-authenticate-get/",
	Output:    "v1/test-authenticate-response.json#",
	Stability: api.Stable, Category: "Scopes and Auth", Title: "Try out a client library with GET",
	Doc: `Does the same for a GET, so that signed URLs can be tried out. The client's scopes are ` + "`test:*`" + ` and
` + "`auth:create-client:test:*`" + `, the one required is ` + "`test:authenticate-get`" + `.`,
}, func(_ context.Context, a *Auth, c api.Call[api.None, api.None]) (testResponse, error) {
	return a.test(c.Credential(), testRequest{
		ClientScopes:   []string{"test:*", "auth:create-client:test:*"},
		RequiredScopes: []string{"test:authenticate-get"},
	})
})

// test authenticates a request against a client of its own. Its secret is
// known to all, so what it does leaves no trace: neither among the grants nor
// among the nonces.
func (a *Auth) test(r api.Credential, t testRequest) (testResponse, error) {
	if err := checkScopes(t.ClientScopes); err != nil {
		return testResponse{}, api.Errorf(api.InputError, "clientScopes are wrong: %v.", err)
	}
	if err := checkNumber(t.RequiredScopes); err != nil {
		return testResponse{}, api.Errorf(api.InputError, "requiredScopes are wrong: %v.", err)
	}
	tester := &client{ClientID: "tester", tokens: []*token{{secret: "no-secret"}}, Scopes: t.ClientScopes, Expires: never}
	d := directory{map[string]*client{tester.ClientID: tester}, a.current.Load().rules}
	p, err := readProof(r)
	if err == nil && p == nil {
		err = errors.New("the call has no credentials")
	}
	if err != nil {
		return testResponse{}, refusal(err)
	}
	id, err := p.verify(d, nil, time.Now())
	if err == nil {
		err = p.checkPayload(r.ContentType, r.Body)
	}
	if err != nil {
		return testResponse{}, refusal(err)
	}
	need, err := scope.Resolve(scope.AllOf{scope.ForEach{For: "scope", In: "scopes", Each: "<scope>"}}, scope.Vars{"scopes": listed(t.RequiredScopes)})
	if err != nil {
		return testResponse{}, err
	}
	if !need.SatisfiedBy(id.Scopes) {
		return testResponse{}, api.Errorf(api.InsufficientScopes, "%s lacks scopes for this call. Missing:\n\n```\n%s\n```", id.ClientID, need.Missing(id.Scopes))
	}
	return testResponse{id.ClientID, listed(id.Scopes)}, nil
}
