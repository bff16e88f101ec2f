package auth

import (
	"context"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

type gcpPath struct {
	Project        string `path:"projectId"`
	ServiceAccount string `path:"serviceAccount"`
}

type gcpResponse struct {
	AccessToken string         `json:"accessToken"`
	ExpireTime  timestamp.Time `json:"expireTime"`
}

var gcpCredentials = api.Declare(api.Spec{
	Name: "gcpCredentials", Route: "GET /gcp/credentials/<projectId>/<serviceAccount>",
	Scopes: scope.Scope("auth:gcp:access-token:<projectId>/<serviceAccount>"), Output: "v1/gcp-credentials-response.json#",
	Stability: api.Stable, Category: "GCP Credentials", Title: "Get an access token of a service account", Private: true,
	Doc: `Returns an access token with which to act as a service account of Google Cloud, in all that the account may do. Projects
and accounts are those that the deployment is configured for.

The token lasts an hour; look at ` + "`expireTime`" + `.`,
}, func(ctx context.Context, a *Auth, c api.Call[gcpPath, api.None]) (r gcpResponse, err error) {
	if a.gcp == nil {
		return r, unconfigured("Google Cloud", "projects (auth.gcp)")
	}
	t, err := a.gcp.AccessToken(ctx, c.Path.Project, c.Path.ServiceAccount)
	return gcpResponse{t.Text, timestamp.Of(t.Expires)}, err
})
