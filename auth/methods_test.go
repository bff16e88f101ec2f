package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/api/apitest"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// elsewhere is all that auth gives access to: one account of each kind.
type elsewhere struct{}

var later = time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)

func (elsewhere) S3Credentials(_ context.Context, bucket, prefix string, write bool) (S3Credentials, error) {
	if bucket != "builds" {
		return S3Credentials{}, api.Errorf(api.ResourceNotFound, "no bucket %s", bucket)
	}
	return S3Credentials{"ASIA", fmt.Sprintf("%s write=%v", prefix, write), "session", later}, nil
}

func (elsewhere) Accounts() []string { return []string{"two", "one"} }

func (elsewhere) Tables(_ context.Context, account, after string) ([]string, string, error) {
	if after != "" {
		return []string{account + "Last"}, "", nil
	}
	return []string{account + "First"}, "1!48!next", nil
}

func (elsewhere) Containers(_ context.Context, account, after string) ([]string, string, error) {
	return nil, "", nil
}

func (elsewhere) TableSAS(_ context.Context, account, table string, write bool) (Token, error) {
	return Token{fmt.Sprintf("table=%s/%s&write=%v", account, table, write), later}, nil
}

func (elsewhere) ContainerSAS(_ context.Context, account, container string, write bool) (Token, error) {
	return Token{fmt.Sprintf("container=%s/%s&write=%v", account, container, write), later}, nil
}

func (elsewhere) AccessToken(_ context.Context, project, account string) (Token, error) {
	return Token{project + " " + account, later}, nil
}

func (elsewhere) RepoToken(_ context.Context, app, owner string, repositories []string, permissions map[string]string) (Token, error) {
	return Token{fmt.Sprint(app, " ", owner, " ", repositories, " ", permissions), later}, nil
}

func (elsewhere) DSN(_ context.Context, project string) (SentryDSN, error) {
	if project != "fleet" {
		return SentryDSN{}, api.Errorf(api.ResourceNotFound, "no project %s", project)
	}
	return SentryDSN{"https://key:secret@sentry.example/1", "https://key@sentry.example/1", later}, nil
}

const tunnelSecret = "a secret of the tunnels"

// everywhere is a world whose deployment is configured for all there is.
func everywhere(t *testing.T, db *store.DB) *world {
	w := newWorld(t, db)
	x := elsewhere{}
	w.config.AWS, w.config.Azure, w.config.GCP, w.config.GitHub, w.config.Sentry = x, x, x, x, x
	w.config.WebsocktunnelSecret = tunnelSecret
	w.Auth = w.start()
	w.server = w.serve(w.Auth)
	return w
}

func TestEveryMethodDemandsItsScopes(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := everywhere(t, db)
		at := time.Now().Add(time.Hour)
		readWrite := func(p map[string]string) apitest.Sample {
			p["level"] = "read-write"
			return apitest.Sample{Path: p, Vars: scope.Vars{"levelIsReadOnly": false}}
		}
		samples := apitest.Samples{
			Path: map[string]string{
				"clientId": "team/ci", "roleId": "team:*", "entityType": "hook", "entityId": "group/hook",
				"bucket": "builds", "prefix": "a/b/", "account": "one", "table": "Table1", "container": "c-1",
				"project": "fleet", "projectId": "fleet-1", "serviceAccount": "ci@fleet.example", "appName": "ci", "owner": "acme",
				"wstAudience": "tunnels", "wstClient": "worker~1",
			},
			Open: []string{"authenticateHawk", "testAuthenticate", "testAuthenticateGet"},
			Methods: map[string]apitest.Sample{
				"createClient": {Body: clientBody(at, "a:x", "b"), Vars: scope.Vars{"scopes": []string{"a:x", "b"}}},
				"updateClient": {Path: map[string]string{"clientId": "nobody"}, Body: clientBody(at, "a:x", "b"), Vars: scope.Vars{"scopesAdded": []string{"a:x", "b"}}},
				"createRole":   {Body: roleBody("a:x", "b"), Vars: scope.Vars{"scopes": []string{"a:x", "b"}}},
				"updateRole":   {Path: map[string]string{"roleId": "none"}, Body: roleBody("a:x", "b"), Vars: scope.Vars{"scopesAdded": []string{"a:x", "b"}}},
				"expandScopes": {Body: map[string]any{"scopes": []string{"a"}}},
				"githubRepoToken": {
					Path: map[string]string{"owner": "Acme"},
					Body: map[string]any{"repositories": []string{"One", "two"}, "permissions": map[string]string{"contents": "read", "checks": "write"}},
					Vars: scope.Vars{"owner": "acme", "repoPerms": []string{"one:contents:read", "two:contents:read", "one:checks:write", "two:checks:write"}},
				},
				"awsS3Credentials":  readWrite(map[string]string{}),
				"azureTableSAS":     readWrite(map[string]string{}),
				"azureContainerSAS": readWrite(map[string]string{}),
			},
		}
		apitest.Scopes(t, API, w.Auth, samples)

		// The same for reading, which takes one scope or the other.
		read := API
		read.Methods = slices.DeleteFunc(slices.Clone(API.Methods), func(m api.Method[*Auth]) bool {
			return !slices.Contains([]string{"awsS3Credentials", "azureTableSAS", "azureContainerSAS"}, m.Name)
		})
		samples.Open, samples.Methods = nil, map[string]apitest.Sample{}
		for _, m := range read.Methods {
			samples.Methods[m.Name] = apitest.Sample{Path: map[string]string{"level": "read-only"}, Vars: scope.Vars{"levelIsReadOnly": true}}
		}
		apitest.Scopes(t, read, w.Auth, samples)
	})
}

// A deployment that is not configured for something says so, to callers with
// the scopes.
func TestWhatIsNotConfigured(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for path, entry := range map[string]string{
			"/aws/s3/read-only/builds/a/":          "auth.aws",
			"/azure/one/tables":                    "auth.azure",
			"/azure/one/containers":                "auth.azure",
			"/azure/one/table/Abc/read-only":       "auth.azure",
			"/azure/one/containers/abc/read-write": "auth.azure",
			"/gcp/credentials/p/s":                 "auth.gcp",
			"/sentry/fleet/dsn":                    "auth.sentry",
			"/websocktunnel/a/b":                   "auth.websocktunnel",
		} {
			if p := w.call(w.root, "GET", path, nil); p.status != 404 || !strings.Contains(p.member("message"), entry) {
				t.Errorf("%s: %d %s; want a 404 naming %s", path, p.status, p.member("message"), entry)
			}
		}
		body := map[string]any{"repositories": []string{"one"}, "permissions": map[string]string{"contents": "read"}}
		if p := w.call(w.root, "POST", "/github/ci/acme/repo-token", body); p.status != 404 || !strings.Contains(p.member("message"), "auth.github") {
			t.Errorf("GitHub: %d %s", p.status, p.member("message"))
		}
		if p := w.want(200, w.root, "GET", "/azure/accounts", nil); len(p.body["accounts"].([]any)) != 0 {
			t.Errorf("accounts: %s", p.text)
		}
	})
}
