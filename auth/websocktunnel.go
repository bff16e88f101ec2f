package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	tunnelValidity = 96 * time.Hour
	tunnelSlack    = 15 * time.Minute // that the server's clock may be behind ours
	maxTunnel      = 256              // characters of a tunnel's client
	minSecret      = 16               // characters; whoever has a token can try secrets at leisure
)

type tunnelPath struct {
	Audience string `path:"wstAudience"`
	Client   string `path:"wstClient"`
}

type tunnelResponse struct {
	Client   string         `json:"wstClient"`
	Audience string         `json:"wstAudience"`
	Token    string         `json:"token"`
	Expires  timestamp.Time `json:"expires"`
}

var websocktunnelToken = api.Declare(api.Spec{
	Name: "websocktunnelToken", Route: "GET /websocktunnel/<wstAudience>/<wstClient>",
	Scopes: scope.Scope("auth:websocktunnel-token:<wstAudience>/<wstClient>"), Output: "v1/websocktunnel-token-response.json#",
	Stability: api.Stable, Category: "Websocktunnel Credentials", Title: "Get a token for websocktunnel", Private: true,
	Doc: `Returns a token with which ` + "`wstClient`" + ` can connect to the websocktunnel servers that are set up for ` + "`wstAudience`" + `. Where
these servers are is not said here; whoever needs to know is told with the audience.

The token lasts some days; look at ` + "`expires`" + ` and get another one before.`,
}, func(_ context.Context, a *Auth, c api.Call[tunnelPath, api.None]) (r tunnelResponse, err error) {
	if a.tunnelSecret == "" {
		return r, unconfigured("websocktunnel", "secret that it shares with the tunnel's servers (auth.websocktunnel)")
	}
	p := c.Path
	if len(p.Client) > maxTunnel {
		return r, api.Errorf(api.InvalidRequestArguments, "wstClient has %d characters; %d are allowed.", len(p.Client), maxTunnel)
	}
	now := time.Now().Truncate(time.Second)
	expires := now.Add(tunnelValidity)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"tid": p.Client, "aud": p.Audience, "sub": c.Caller().ClientID, "iss": "taskcluster-auth",
		"iat": now.Unix(), "nbf": now.Add(-tunnelSlack).Unix(), "exp": expires.Unix(),
	}).SignedString([]byte(a.tunnelSecret))
	if err != nil {
		return r, fmt.Errorf("auth: sign a token for websocktunnel: %w", err)
	}
	return tunnelResponse{p.Client, p.Audience, token, timestamp.Of(expires)}, nil
})
