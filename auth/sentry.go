package auth

import (
	"context"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

type sentryPath struct {
	Project string `path:"project"`
}

type sentryResponse struct {
	Project string `json:"project"`
	DSN     struct {
		Secret string `json:"secret"`
		Public string `json:"public"`
	} `json:"dsn"`
	Expires timestamp.Time `json:"expires"`
}

var sentryDSN = api.Declare(api.Spec{
	Name: "sentryDSN", Route: "GET /sentry/<project>/dsn",
	Scopes: scope.Scope("auth:sentry:<project>"), Output: "v1/sentry-dsn-response.json#",
	Stability: api.Stable, Category: "Sentry Credentials", Title: "Get the DSN of a Sentry project", Private: true,
	Doc: `Returns where the errors of a project are to be sent to. A project that Sentry does not have is created. The keys in
these addresses are replaced regularly, and the old ones withdrawn a while later: ask again every day. Fails with 404 where the
deployment has no Sentry, and with 503 while Sentry is away and no key is good for another hour.`,
}, func(ctx context.Context, a *Auth, c api.Call[sentryPath, api.None]) (r sentryResponse, err error) {
	if a.sentry == nil {
		return r, unconfigured("Sentry", "Sentry projects whose keys it keeps (auth.sentry)")
	}
	dsn, err := a.sentry.DSN(ctx, c.Path.Project)
	r.Project, r.Expires = c.Path.Project, timestamp.Of(dsn.Expires)
	r.DSN.Secret, r.DSN.Public = dsn.Secret, dsn.Public
	return r, err
})
