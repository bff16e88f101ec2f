package auth

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestAWSCredentials(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := everywhere(t, db)
		reader := w.client("reader", "auth:aws-s3:read-only:builds/a/*")
		writer := w.client("writer", "auth:aws-s3:read-write:builds/a/*")
		for _, c := range []struct {
			who    cred.Credentials
			path   string
			status int
			says   string
		}{
			{reader, "read-only/builds/a/", 200, `"secretAccessKey":"a/ write=false"`},
			{reader, "read-only/builds/a/b/c", 200, `"secretAccessKey":"a/b/c write=false"`},
			{reader, "read-only/builds/a/b%2Fc%20d", 200, `"secretAccessKey":"a/b/c d write=false"`},
			{writer, "read-only/builds/a/", 200, `"sessionToken":"session"`},
			{writer, "read-write/builds/a/", 200, `"expires":"2100-01-02T03:04:05.000Z"`},
			{w.root, "read-write/builds/", 200, `"secretAccessKey":" write=true"`},
			{reader, "read-write/builds/a/", 403, "auth:aws-s3:read-write:builds/a/"},
			{reader, "read-only/builds/", 403, "auth:aws-s3:read-only:builds/"},
			{reader, "read-only/other/a/", 403, "auth:aws-s3:read-only:other/a/"},
			{w.root, "read-only/other/a/", 404, "no bucket other"},
			{w.root, "read-only/builds//a/", 400, "begins with a slash"},
			{w.root, "read-only/builds/" + strings.Repeat("a", maxPrefix+1), 400, "512 are allowed"},
			{w.root, "write/builds/a/", 400, "level"},
			{w.root, "read-only/a.b/a/", 400, "bucket"},
			{w.root, "read-only/builds/a/?format=xml", 400, "format"},
		} {
			p := w.call(c.who, "GET", "/aws/s3/"+c.path, nil)
			if p.status != c.status || !strings.Contains(p.text, c.says) {
				t.Errorf("%s by %s: %d %s; want %d with %s", c.path, c.who.ClientID, p.status, p.text, c.status, c.says)
			}
		}
		p := w.want(200, reader, "GET", "/aws/s3/read-only/builds/a/?format=iam-role-compat", nil)
		for name, want := range map[string]string{
			"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIA", "SecretAccessKey": "a/ write=false", "Token": "session",
			"Expiration": "2100-01-02T03:04:05.000Z", "LastUpdated": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
		} {
			if p.member(name) != want {
				t.Errorf("as a role of an instance: %s is %q, want %q", name, p.member(name), want)
			}
		}
	})
}

func TestAzure(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := everywhere(t, db)
		c := w.client("c", "auth:azure-table:list-*", "auth:azure-table:read-only:one/Logs", "auth:azure-container:read-write:one/logs", "auth:azure-container:list-containers:*")
		get := func(status int, path string) reply {
			t.Helper()
			return w.want(status, c, "GET", "/azure/"+path, nil)
		}
		if p := get(200, "accounts"); fmt.Sprint(p.body["accounts"]) != "[one two]" {
			t.Errorf("accounts: %s", p.text)
		}
		p := get(200, "one/tables")
		next := p.member("continuationToken")
		if fmt.Sprint(p.body["tables"]) != "[oneFirst]" || next == "" {
			t.Errorf("tables: %s", p.text)
		}
		if p := get(200, "one/tables?continuationToken="+next); fmt.Sprint(p.body["tables"]) != "[oneLast]" || p.member("continuationToken") != "" {
			t.Errorf("more tables: %s", p.text)
		}
		get(400, "one/tables?continuationToken=1!48!x")
		if p := get(200, "two/containers"); fmt.Sprint(p.body["containers"]) != "[]" {
			t.Errorf("containers: %s", p.text)
		}
		if p := get(404, "three/tables"); !strings.Contains(p.text, "auth.azure") {
			t.Errorf("an account that is not configured: %s", p.text)
		}
		if p := get(200, "one/table/Logs/read-only"); p.member("sas") != "table=one/Logs&write=false" || p.member("expiry") != "2100-01-02T03:04:05.000Z" {
			t.Errorf("a table: %s", p.text)
		}
		get(403, "one/table/Logs/read-write")
		get(403, "two/table/Logs/read-only")
		for level, want := range map[string]string{"read-only": "container=one/logs&write=false", "read-write": "container=one/logs&write=true"} {
			if p := get(200, "one/containers/logs/"+level); p.member("sas") != want {
				t.Errorf("a container: %s", p.text)
			}
		}
		for _, bad := range []string{"one/table/1Logs/read-only", "one/containers/a--b/read-only", "one/containers/Abc/read-only", "one/containers/ab-/read-only",
			"one/containers/" + strings.Repeat("a", 64) + "/read-only", "One/tables", "one/table/Logs/write"} {
			if p := w.call(w.root, "GET", "/azure/"+bad, nil); p.status != 400 {
				t.Errorf("%s: %d %s", bad, p.status, p.text)
			}
		}
	})
}

func TestOtherCredentials(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := everywhere(t, db)
		c := w.client("c", "auth:gcp:access-token:fleet-1/ci@fleet.example", "auth:sentry:*", "auth:github-repo-token:ci/acme/one:*", "auth:github-repo-token:ci/acme/two:contents:read")
		if p := w.want(200, c, "GET", "/gcp/credentials/fleet-1/ci@fleet.example", nil); p.member("accessToken") != "fleet-1 ci@fleet.example" || p.member("expireTime") != "2100-01-02T03:04:05.000Z" {
			t.Errorf("GCP: %s", p.text)
		}
		w.want(403, c, "GET", "/gcp/credentials/fleet-1/root@fleet.example", nil)

		if p := w.want(200, c, "GET", "/sentry/fleet/dsn", nil); !strings.Contains(p.text, `"dsn":{"secret":"https://key:secret@sentry.example/1","public":"https://key@sentry.example/1"}`) || p.member("project") != "fleet" {
			t.Errorf("Sentry: %s", p.text)
		}
		w.want(404, c, "GET", "/sentry/other/dsn", nil)
		w.want(400, c, "GET", "/sentry/a.b/dsn", nil)

		token := func(status int, owner string, permissions map[string]string, repositories ...string) reply {
			t.Helper()
			return w.want(status, c, "POST", "/github/ci/"+owner+"/repo-token", map[string]any{"repositories": repositories, "permissions": permissions})
		}
		read := map[string]string{"contents": "read"}
		if p := token(200, "Acme", read, "TWO", "One", "one"); p.member("token") != "ci acme [one two] map[contents:read]" || p.member("expires") != "2100-01-02T03:04:05.000Z" {
			t.Errorf("GitHub: %s", p.text)
		}
		if p := token(403, "acme", map[string]string{"contents": "write"}, "one", "two"); !strings.Contains(p.text, "auth:github-repo-token:ci/acme/two:contents:write") {
			t.Errorf("GitHub: %s", p.text)
		}
		token(403, "other", read, "one")
		token(400, "acme", map[string]string{"contents": "admin"}, "one")
		token(400, "acme", map[string]string{"gardening": "read"}, "one")
		token(400, "acme", read)
		token(400, "acme", read, "one/two")
		token(400, "acme", map[string]string{}, "one")
	})
}

func TestTunnelTokens(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := everywhere(t, db)
		c := w.client("worker/1", "auth:websocktunnel-token:tunnels/worker~1.*")
		now := time.Now().Truncate(time.Second)
		p := w.want(200, c, "GET", "/websocktunnel/tunnels/worker~1.x", nil)
		claims := jwt.MapClaims{}
		token, err := jwt.ParseWithClaims(p.member("token"), claims, func(*jwt.Token) (any, error) { return []byte(tunnelSecret), nil }, jwt.WithValidMethods([]string{"HS256"}))
		if err != nil || !token.Valid {
			t.Fatalf("%s: %v", p.text, err)
		}
		got, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`{"aud":"tunnels","exp":%d,"iat":%d,"iss":"taskcluster-auth","nbf":%d,"sub":"worker/1","tid":"worker~1.x"}`,
			now.Add(96*time.Hour).Unix(), now.Unix(), now.Add(-15*time.Minute).Unix())
		if string(got) != want {
			t.Errorf("the token says %s, want %s", got, want)
		}
		if p.member("wstClient") != "worker~1.x" || p.member("wstAudience") != "tunnels" || p.member("expires") != now.Add(96*time.Hour).UTC().Format("2006-01-02T15:04:05.000Z") {
			t.Errorf("%s", p.text)
		}
		w.want(403, c, "GET", "/websocktunnel/other/worker~1.x", nil)
		w.want(400, w.root, "GET", "/websocktunnel/"+strings.Repeat("a", 39)+"/x", nil)
		w.want(400, w.root, "GET", "/websocktunnel/a/x%20y", nil)
		w.want(400, w.root, "GET", "/websocktunnel/a/"+strings.Repeat("x", maxTunnel+1), nil)

		w.config.WebsocktunnelSecret = "short secret"
		if _, err := New(t.Context(), w.config); err == nil || strings.Contains(err.Error(), "short secret") {
			t.Errorf("a short secret: %v", err)
		}
	})
}
