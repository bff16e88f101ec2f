//go:build !agent

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/secrets"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryfake"
	server "github.com/taskfleet/taskfleet/test/postgres"
	"github.com/taskfleet/taskfleet/timestamp"
)

// The role that the platform logs in to its database as is rotated by the platform
// itself, while requests come: none fails. In the end the old role cannot log in, and a
// restart begins with the one that can.
func TestTheDatabaseIsRotatedUnderLoad(t *testing.T) {
	if os.Getenv("TASKFLEET_TEST_DATABASES") == "sqlite" {
		t.Log("TASKFLEET_TEST_DATABASES asks for no PostgreSQL: a database in a file has nobody who logs in")
		return
	}
	programs := server.Find(t.Context())
	if programs == "" {
		t.Fatalf("there is no PostgreSQL %d or newer on this machine; apt-get install postgresql", server.Oldest)
	}
	s, err := server.Start(t.Context(), programs, server.Disposable...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	admin, err := pgx.Connect(t.Context(), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close(context.Background()) })
	for _, statement := range []string{
		"CREATE ROLE rotator LOGIN CREATEROLE PASSWORD 'rotator-password'", "GRANT pg_signal_backend TO rotator",
		"CREATE ROLE platform", "GRANT platform TO rotator WITH ADMIN OPTION",
		"CREATE ROLE installer LOGIN PASSWORD 'installer-password' IN ROLE platform", "ALTER ROLE installer SET role = platform",
		"CREATE DATABASE taskfleet OWNER platform",
	} {
		if _, err := admin.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	at := fmt.Sprintf("%s:%d", admin.Config().Host, admin.Config().Port)
	file := filepath.Join(t.TempDir(), "database")
	if err := os.WriteFile(file, fmt.Appendf(nil, "postgres://installer:installer-password@%s/taskfleet?sslmode=disable&pool_max_conn_idle_time=1s\n", at), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := loadText(t, `
database: file:`+file+`
credentials:
- name: database
  kind: postgres
  settings: {url: "postgres://rotator:rotator-password@`+at+`/taskfleet?sslmode=disable", roles: [platform_a, platform_b], memberOf: [platform]}
  overlap: 1s
  quiet: 1s
  grace: 1s
  consumers:
  - {name: at-start, file: `+file+`, member: url}
  - {name: platform, platform: database}
`)
	if err != nil {
		t.Fatal(err)
	}
	c.Data, c.Listen = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0"
	start := func() *platform {
		t.Helper()
		p, err := startPlatform(t.Context(), c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("TASKFLEET_DATA", c.Data)
		return p
	}
	stop := func(p *platform) {
		t.Helper()
		end, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := p.Stop(end); err != nil {
			t.Error(err)
		}
	}
	connected := func() (who string) {
		if err := admin.QueryRow(t.Context(), `SELECT COALESCE(string_agg(DISTINCT usename::text, ' ' ORDER BY usename::text), '') FROM pg_stat_activity WHERE application_name = 'taskfleet'`).Scan(&who); err != nil {
			t.Fatal(err)
		}
		return who
	}
	until := func(what string, f func() bool) {
		t.Helper()
		for limit := time.Now().Add(soon); !f(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("%s; connected are %s; the credential is\n%s", what, connected(), expect(t, exitOK, "", "credentials", "show", "database"))
			}
		}
	}

	// A connection that nobody uses is closed, and so nobody may be connected for a moment.
	theOnly := func() (who string) {
		t.Helper()
		until("it is not one role that is connected", func() bool { who = connected(); return who != "" && !strings.Contains(who, " ") })
		return who
	}

	p := start()
	ctx, halt := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var calls, failed atomic.Int64
	for n := range 4 {
		core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root, Retry: client.Retry{For: -1}})
		if err != nil {
			t.Fatal(err)
		}
		load.Go(func() {
			all, name := secrets.New(core), fmt.Sprint("load/", n)
			for ctx.Err() == nil {
				err := all.Set(context.Background(), name, &secrets.Secret{Secret: json.RawMessage(`{"a":1}`), Expires: timestamp.Now().Add(time.Hour)})
				if err == nil {
					_, err = all.Get(context.Background(), name)
				}
				if calls.Add(2); err != nil && failed.Add(1) < 5 {
					t.Errorf("a call failed: %v", err)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	until("the first version is not in use", func() bool { return !strings.Contains(connected(), "installer") })
	until("the first rotation does not end", func() bool {
		out, _, _ := command(t, "credentials", "show", "database", "--json")
		return strings.Contains(out, `"state": "good"`)
	})
	before := theOnly()
	expect(t, exitOK, "has the version", "credentials", "rotate", "database", "--wait")
	until(before+" is still in use", func() bool { who := connected(); return who != "" && !strings.Contains(who, before) })
	halt()
	load.Wait()
	t.Logf("%d calls, %d failed", calls.Load(), failed.Load())
	now := theOnly()
	until("the old role can log in", func() bool {
		var n int
		if err := admin.QueryRow(t.Context(), `SELECT COUNT(*) FROM pg_roles WHERE rolname IN ('platform_a', 'platform_b') AND rolcanlogin`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 1
	})
	stop(p)

	p = start()
	if who := theOnly(); who != now {
		t.Errorf("after a restart %s is connected, not %s", who, now)
	}
	stop(p)
}

// A credential in a file is taken when the file changes. What does not work leaves what
// is in use, and is tried again.
func TestFilesOfCredentialsAreLookedAt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("amqp://a:1@host")
	r := newReload()
	if _, err := r.first(file); err != nil {
		t.Fatal(err)
	}
	var hidden []string
	r.hide = func(secrets ...string) { hidden = append(hidden, secrets...) }
	var took []string
	var refuse error
	r.takeServer("x", file, func(_ context.Context, user, password string) error {
		if refuse == nil {
			took = append(took, user+" "+password)
		}
		return refuse
	})
	look := func(want string) {
		t.Helper()
		_, err := r.look(t.Context())
		if want == "" != (err == nil) || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "planted")) {
			t.Errorf("looking: %v, want %q", err, want)
		}
	}
	look("")
	write("amqp://b:%2Fplanted@host\n")
	look("")
	look("")
	write(`{"username":"c","password":"planted","url":"amqp://x:y@host"}`)
	refuse = errors.New("not yet")
	look("not yet")
	refuse = nil
	look("")
	for text, want := range map[string]string{"": "empty", "{planted": "JSON", "planted": "neither", `{"url":7}`: "members", "amqp://host": "neither"} {
		write(text)
		look(want)
	}
	os.Remove(file)
	look("no such file")
	if got := strings.Join(took, ", "); got != "b /planted, c planted" {
		t.Errorf("it took %s", got)
	}
	if !slices.Contains(hidden, "/planted") || !slices.Contains(hidden, "planted") {
		t.Errorf("of what it took, %q are kept out of what is told of errors", hidden)
	}
}

// The platform's own errors go to Sentry, whose address is replaced without a restart.
func TestThePlatformSendsItsErrors(t *testing.T) {
	var mu sync.Mutex
	var got []string
	sentry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		_, key, _ := strings.Cut(r.Header.Get("X-Sentry-Auth"), "sentry_key=")
		if key == "dead" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, key+" "+string(body))
		io.WriteString(w, "{}")
	}))
	defer sentry.Close()
	at := func(key string) string { return strings.Replace(sentry.URL, "://", "://"+key+"@", 1) + "/1" }
	file := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(file, []byte(at("first")), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startReal(t, func(c *Config) { c.Sentry = SentryConfig{DSNFile: file, Environment: "test", ServerName: "here"} })
	await := func(pattern string) {
		t.Helper()
		for limit := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			all := strings.Join(got, "\n\n")
			mu.Unlock()
			if regexp.MustCompile(pattern).MatchString(all) {
				return
			}
			if time.Now().After(limit) {
				t.Fatalf("nothing like %s came, but\n%s", pattern, all)
			}
		}
	}
	p.log.Error("it broke", "err", errors.New("with the token "+p.Root.AccessToken))
	await(`^first (?s).*"environment":"test".*"release":"taskfleet@.*"server_name":"here".*with the token`)
	if err := os.WriteFile(file, []byte(at("second")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.again.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.log.Error("it broke in another way")
	await(`second (?s).*another way`)
	take := p.again.parts["sentry"]
	if err := take(t.Context(), "id", json.RawMessage(`{"dsn":"`+at("dead")+`"}`)); err == nil {
		t.Error("a key that is dead is taken")
	}
	if err := take(t.Context(), "id", json.RawMessage(`{"dsn":"`+at("third")+`"}`)); err != nil {
		t.Fatal(err)
	}
	p.log.Error("it broke for the third time")
	await(`third (?s).*third time`)

	// A start that fails is told, too.
	c := defaultConfig()
	c.Data, c.Listen, c.Sentry.DSN, c.SealKeysFile = t.TempDir(), "127.0.0.1:0", at("start"), filepath.Join(t.TempDir(), "none")
	if _, err := startPlatform(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("it starts without keys")
	}
	await(`start (?s).*does not start`)
	mu.Lock()
	defer mu.Unlock()
	if all := strings.Join(got, ""); strings.Contains(all, p.Root.AccessToken) || strings.Contains(all, "dead") {
		t.Error("a secret was sent")
	}
}

func TestMistakesInWhatIsReloadedAreTold(t *testing.T) {
	for text, want := range map[string]string{
		"database: file:x": "absolute", "rabbitmq: {urlFile: x}": "absolute", "rabbitmq: {urlFile: /x, url: amqp://a:b@c}": "one of them",
		"s3: {keyFile: /x}": "gateway", "s3: {region: a, keyFile: /x, accessKeyId: a, secretAccessKey: b}": "one of them",
		"sentry: {dsn: 'https://planted.test/'}": "sentry.dsn", "sentry: {dsn: 'https://a@b.test/1', project: x}": "one of them",
		"sentry: {project: 'a b'}": "letters", "sentry: {rate: -1}": "rate",
	} {
		if _, err := loadText(t, text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A platform that keeps the keys of Sentry projects asks itself for the DSN of its own.
func TestThePlatformAsksItselfWhereItsErrorsGo(t *testing.T) {
	fake := sentryfake.New(sentryfake.Options{})
	at := httptest.NewServer(fake)
	defer at.Close()
	fake.SetURL(at.URL)
	fake.AddProject("builds", "platform")
	c, err := loadText(t, "sentry: {project: platform}\nauth:\n  sentry: {url: "+at.URL+", organization: acme, token: "+fake.Token()+", initialTeam: builds}\n")
	if err != nil {
		t.Fatal(err)
	}
	p := startReal(t, func(to *Config) { to.Auth, to.Sentry = c.Auth, c.Sentry })
	events := func() (list []string) {
		for _, e := range fake.Envelopes("platform") {
			for _, item := range e.Items {
				if item.Type == "event" {
					list = append(list, string(item.Payload))
				}
			}
		}
		return list
	}
	// Until the platform has its DSN, nothing is sent.
	for limit := time.Now().Add(soon); len(events()) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("nothing came")
		}
		p.log.Error("it broke", "accessToken", p.Root.AccessToken)
	}
	if all := strings.Join(events(), ""); !strings.Contains(all, "it broke") || strings.Contains(all, p.Root.AccessToken) {
		t.Errorf("what came is %s", all)
	}
}

// An agent that keeps the file up to date may change the username and the password alone, and leave the URL of the first day.
func TestWhoLogsInToTheDatabaseStandsBesideItsURL(t *testing.T) {
	file := filepath.Join(t.TempDir(), "database.json")
	for text, want := range map[string]string{
		"postgres://first:old@db.example.com/taskfleet": "postgres://first:old@db.example.com/taskfleet",
		`{"url": "postgres://first:old@db.example.com:5432/taskfleet?sslmode=verify-full", "username": "now", "password": "n/@:w %"}`: "postgres://now:n%2F%40%3Aw%20%25@db.example.com:5432/taskfleet?sslmode=verify-full",
		`{"url": "postgres://a.example.com,b.example.com/taskfleet", "username": "now", "password": "new"}`:                           "postgres://now:new@a.example.com,b.example.com/taskfleet",
		`{"url": "postgres://db.example.com?application_name=a@b", "username": "now", "password": "new"}`:                             "postgres://now:new@db.example.com?application_name=a@b",
		`{"url": "postgres://db.example.com", "username": "now", "password": "new"}`:                                                  "postgres://now:new@db.example.com",
		`{"url": "postgres://first:old@db.example.com/a@b"}`:                                                                          "postgres://first:old@db.example.com/a@b",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := Config{Database: "file:" + file}
		if err := newReload().readDatabaseFile(&c); err != nil || c.Database != want || c.databaseFile != file {
			t.Errorf("%s: %v, %s", text, err, c.Database)
		}
	}
}
