package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A world is the service behind its HTTP server, and how tests call it.
type world struct {
	testing.TB
	*Secrets
	config Config
	server *api.Server
	as     []string // scopes of the caller; none is all
	log    bytes.Buffer
	audit  []string
}

func newWorld(t testing.TB, db *store.DB, keys ...seal.Key) *world {
	t.Helper()
	w := &world{TB: t}
	if len(keys) == 0 {
		keys = []seal.Key{seal.NewKey()}
	}
	w.config = Config{DB: db, Audit: w, Log: slog.New(slog.NewJSONHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	w.restart(keys...)
	return w
}

// restart is the service after its keys were changed.
func (w *world) restart(keys ...seal.Key) {
	w.Helper()
	var err error
	if w.config.Keys, err = seal.NewKeys(keys...); err != nil {
		w.Fatal(err)
	}
	if w.Secrets, err = New(w.Context(), w.config); err != nil {
		w.Fatal(err)
	}
	w.server = api.NewServer(api.Options{
		RootURL: "http://tasks.test", Auth: w, Log: w.config.Log, Metrics: prometheus.NewRegistry(), CheckOutput: true,
	})
	if err := api.Mount(w.server, API, w.Secrets); err != nil {
		w.Fatal(err)
	}
}

// Authenticate makes everybody a caller with the scopes of the moment.
func (w *world) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	if w.as == nil {
		return api.Identity{ClientID: "tester", Scopes: scope.NewSet("*")}, nil
	}
	return api.Identity{ClientID: "tester", Scopes: scope.NewSet(w.as...)}, nil
}

// Audit is that of a deployment which keeps a history.
func (w *world) Audit(_ *store.Tx, entityType, entityID, clientID, action string) error {
	w.audit = append(w.audit, strings.Join([]string{action, entityType, entityID, "by", clientID}, " "))
	return nil
}

func (w *world) send(method, path, contentType, body string) (int, string) {
	r := httptest.NewRequest(method, "http://tasks.test/api/secrets/v1"+path, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	return rec.Code, rec.Body.String()
}

// want makes a call and checks its status.
func (w *world) want(status int, method, path, body string) string {
	w.Helper()
	contentType := ""
	if body != "" {
		contentType = "application/json"
	}
	code, text := w.send(method, path, contentType, body)
	if code != status {
		w.Fatalf("%s %s: %d, want %d: %s", method, path, code, status, text)
	}
	return text
}

func at(name string) string { return "/secret/" + url.PathEscape(name) }

func body(value string, in time.Duration) string {
	return fmt.Sprintf(`{"secret": %s, "expires": %q}`, value, timestamp.Now().Add(in))
}

func (w *world) set(name, value string) {
	w.Helper()
	w.want(200, "PUT", at(name), body(value, time.Hour))
}

// value is the value of a secret, as compact JSON.
func (w *world) value(name string) string {
	w.Helper()
	var out secret
	if err := json.Unmarshal([]byte(w.want(200, "GET", at(name), "")), &out); err != nil {
		w.Fatal(err)
	}
	return string(out.Secret)
}

func (w *world) list(query string) (out names) {
	w.Helper()
	if err := json.Unmarshal([]byte(w.want(200, "GET", "/secrets"+query, "")), &out); err != nil {
		w.Fatal(err)
	}
	return out
}

// pass runs passes of a loop until there is nothing more to do.
func (w *world) pass(name string) error {
	w.Helper()
	for _, l := range w.Loops() {
		if l.Name != name {
			continue
		}
		for range 1000 {
			if more, err := l.Pass(w.Context()); err != nil || !more {
				return err
			}
		}
		w.Fatalf("%s finds no end", name)
	}
	w.Fatalf("there is no loop %s", name)
	return nil
}

func (w *world) mustPass(name string) {
	w.Helper()
	if err := w.pass(name); err != nil {
		w.Fatal(err)
	}
}

// rows is what the table holds of the values.
func (w *world) rows() (sealed []string) {
	w.Helper()
	if err := w.db.View(w.Context(), func(tx *store.Tx) (err error) {
		sealed, err = tx.Column(`SELECT sealed FROM secret ORDER BY name`)
		return err
	}); err != nil {
		w.Fatal(err)
	}
	return sealed
}

func TestASecretIsSetReadReplacedAndDeleted(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		if text := w.want(404, "GET", at("project/a"), ""); !strings.Contains(text, "ResourceNotFound") {
			t.Errorf("a secret that is not there: %s", text)
		}
		if text := w.want(200, "PUT", at("project/a"), body(`{"password": "hunter2"}`, time.Hour)); text != "{}" {
			t.Errorf("set answers %s", text)
		}
		if got := w.value("project/a"); got != `{"password":"hunter2"}` {
			t.Errorf("got %s", got)
		}
		w.want(200, "PUT", at("project/a"), body(`{"password": "hunter2"}`, time.Hour))
		w.want(200, "PUT", "/secret/project/a", body(`{"n": 12345678901234567890.5, "deep": [{"<&>": null}]}`, time.Hour)) // a plain slash
		if got := w.value("project/a"); got != `{"deep":[{"<&>":null}],"n":12345678901234567890.5}` {
			t.Errorf("replaced by %s", got)
		}
		for range 2 {
			if text := w.want(200, "DELETE", at("project/a"), ""); text != "{}" {
				t.Errorf("remove answers %s", text)
			}
		}
		w.want(404, "GET", at("project/a"), "")
		want := []string{"created secret project/a by tester", "updated secret project/a by tester", "updated secret project/a by tester", "deleted secret project/a by tester"}
		if !slices.Equal(w.audit, want) {
			t.Errorf("the audit says %q", w.audit)
		}
	})
}

func TestAnExpiredSecretIsGone(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.set("short", `{"a": 1}`)
		w.want(200, "PUT", at("long"), body(`{"a": 2}`, 72*time.Hour))
		w.want(200, "PUT", at("never"), body(`{"a": 3}`, -time.Hour)) // as the published service allows
		w.want(410, "GET", at("never"), "")
		time.Sleep(time.Hour - time.Millisecond)
		if w.value("short") != `{"a":1}` {
			t.Error("it expired early")
		}
		time.Sleep(time.Millisecond)
		if text := w.want(410, "GET", at("short"), ""); !strings.Contains(text, "ResourceExpired") || strings.Contains(text, `"a"`) {
			t.Errorf("expired: %s", text)
		}
		if got := w.list(""); !slices.Equal(got.Secrets, []string{"long"}) {
			t.Errorf("the list has %q", got.Secrets)
		}
		time.Sleep(erasedAfter)
		w.mustPass("secrets.expiry")
		if rows := w.rows(); len(rows) != 3 || rows[0] == "" || rows[1] != "" || rows[2] != "" {
			t.Errorf("values were not erased: %q", rows)
		}
		if sealed, err := w.Sealed(t.Context()); err != nil || len(sealed) != 1 || sealed[w.keys.Newest()] != 1 {
			t.Errorf("sealed: %v, %v", sealed, err)
		}
		w.want(410, "GET", at("short"), "")
		w.mustPass("secrets.reseal") // for which there is nothing in it
		w.set("short", `{"a": 4}`)   // it can be used again
		w.mustPass("secrets.expiry")
		if w.value("short") != `{"a":4}` {
			t.Error("it was not set again")
		}
		time.Sleep(time.Hour + expiredFor)
		w.mustPass("secrets.expiry")
		w.want(404, "GET", at("short"), "")
		w.want(404, "GET", at("never"), "")
		if w.value("long") != `{"a":2}` {
			t.Error("long went with the others")
		}
		want := []string{
			"created secret short by tester", "created secret long by tester", "created secret never by tester",
			"expired secret never by " + self, "expired secret short by " + self, "created secret short by tester", "expired secret short by " + self,
		}
		if !slices.Equal(w.audit, want) {
			t.Errorf("the audit says %q", w.audit)
		}
	})
}

func TestTheListHasPagesOfNames(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		want := []string{"Z", "a", "a/b", "a~", "b", "é"} // by their bytes
		for _, name := range want {
			w.set(name, `{"password": "hunter2"}`)
		}
		if got := w.list(""); !slices.Equal(got.Secrets, want) || got.ContinuationToken != "" {
			t.Errorf("the list is %q", got)
		}
		var got []string
		for query := "?limit=2"; ; {
			page := w.list(query)
			if len(page.Secrets) > 2 {
				t.Errorf("a page of two has %q", page.Secrets)
			}
			got = append(got, page.Secrets...)
			if page.ContinuationToken == "" {
				break
			}
			w.set("0"+page.Secrets[0], `{}`) // before what was listed
			w.want(200, "DELETE", at(page.Secrets[1]), "")
			query = "?limit=2&continuationToken=" + page.ContinuationToken
		}
		if !slices.Equal(got, want) {
			t.Errorf("the pages have %q", got)
		}
		for _, query := range []string{"?limit=0", "?limit=x", "?continuationToken=eA", "?continuationToken=é", "?prefix=a"} {
			w.want(400, "GET", "/secrets"+query, "")
		}
	})
}

func TestEveryMethodIsRefusedWithoutItsScope(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.set("project/a", `{"password": "hunter2"}`)
		for _, c := range []struct{ method, path, scope, wrong string }{
			{"GET", at("project/a"), "secrets:get:project/*", "secrets:set:project/a"},
			{"GET", at("project/missing"), "secrets:get:project/missing", "secrets:get:project/a"},
			{"PUT", at("project/a"), "secrets:set:project/a", "secrets:get:project/a"},
			{"DELETE", at("project/a"), "secrets:set:*", "secrets:set:project/b"},
			{"GET", "/secrets", "secrets:list-secrets", "secrets:get:*"},
		} {
			send := func() string {
				text := ""
				if c.method == "PUT" {
					text = body(`{"password": "hunter2"}`, time.Hour)
				}
				code, answer := w.send(c.method, c.path, "application/json", text)
				if strings.Contains(answer, "hunter2") && c.method != "GET" {
					t.Errorf("%s %s shows the value: %s", c.method, c.path, answer)
				}
				return fmt.Sprint(code)
			}
			for _, scopes := range [][]string{{}, {c.wrong}} {
				w.as = scopes
				if code := send(); code != "403" {
					t.Errorf("%s %s with %q: %s", c.method, c.path, scopes, code)
				}
			}
			w.as = []string{c.scope}
			if code := send(); code == "403" {
				t.Errorf("%s %s with %q: refused", c.method, c.path, c.scope)
			}
		}
	})
}

// Whatever goes wrong, the value is neither in the answer nor in the log, and
// the database has nothing that could be read.
func TestAValueShowsNowhere(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		const planted = "hunter2-planted"
		value := `{"password": "` + planted + `"}`
		good := body(value, time.Hour)
		w.want(200, "PUT", at("a"), good)
		var answers []string
		for _, c := range []struct{ contentType, body string }{
			{"application/json", good[:len(good)-3]},
			{"application/json", `{"secret": "` + planted + `", "expires": "2030-01-01T00:00:00Z"}`},
			{"application/json", `{"secret": ["` + planted + `"], "expires": "2030-01-01T00:00:00Z"}`},
			{"application/json", `{"secret": ` + value + `}`},
			{"application/json", `{"secret": ` + value + `, "expires": "tomorrow"}`},
			{"application/json", `{"secret": ` + value + `, "expires": "9999-12-31T23:59:59-23:59"}`},
			{"application/json", `{"secret": ` + value + `, "expires": 12, "more": "` + planted + `"}`},
			{"application/json", `{"secret": {"` + planted + `": "\u0000"}, "expires": "2030-01-01T00:00:00Z"}`},
			{"application/json", `"` + planted + `"`},
			{"text/plain", good},
			{"", good},
		} {
			code, answer := w.send("PUT", at("a"), c.contentType, c.body)
			if code != 400 {
				t.Errorf("%s: %d", c.body, code)
			}
			answers = append(answers, answer)
		}
		_, answer := w.send("PUT", at("a")+"?x=y", "application/json", good)
		answers = append(answers, answer)
		_, answer = w.send("PUT", at(strings.Repeat("n", maxName+1)), "application/json", good)
		answers = append(answers, answer)

		// The key is lost; then a row was moved to another name, then it was broken.
		key := seal.NewKey()
		w.restart(key)
		answers = append(answers, w.want(500, "GET", at("a"), ""))
		if err := w.pass("secrets.reseal"); !errors.Is(err, seal.ErrUnknownKey) || !strings.Contains(err.Error(), "secret a ") {
			t.Errorf("reseal without the key: %v", err)
		} else {
			answers = append(answers, err.Error())
		}
		w.want(200, "PUT", at("b"), good)
		for _, statement := range []string{
			`UPDATE secret SET sealed = (SELECT sealed FROM secret WHERE name = 'b') WHERE name = 'a'`,
			`UPDATE secret SET sealed = 'broken' WHERE name = 'a'`,
		} {
			if err := db.Do(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(statement); return err }); err != nil {
				t.Fatal(err)
			}
			answers = append(answers, w.want(500, "GET", at("a"), ""))
		}
		for i, text := range append(append(answers, w.rows()...), w.log.String()) {
			if strings.Contains(text, planted) {
				t.Errorf("text %d shows the value: %s", i, text)
			}
		}
		if !strings.Contains(w.log.String(), `"secret":"a"`) {
			t.Errorf("the log does not tell that a was created: %s", w.log.String())
		}
	})
}

func TestHostileNamesAndValuesAreBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for _, name := range []string{"..", "../../x", "a//b/", "/", "%2F", "a b", "worker-pool:x/y", "ü", strings.Repeat("n", maxName), `'; DROP TABLE secret; --`} {
			value := fmt.Sprintf(`{"of":%q}`, name)
			w.set(name, value)
			var want, got map[string]string
			json.Unmarshal([]byte(value), &want)
			if err := json.Unmarshal([]byte(w.value(name)), &got); err != nil || got["of"] != want["of"] {
				t.Errorf("%q has %v", name, got)
			}
		}
		if got := w.list(""); len(got.Secrets) != 10 {
			t.Errorf("the list is %q", got.Secrets)
		}
		w.want(400, "PUT", at("a\nb"), body(`{}`, time.Hour))
		w.want(404, "PUT", "/secret/%00", body(`{}`, time.Hour))
		w.want(404, "PUT", "/secret/%ff", body(`{}`, time.Hour))
		if text := w.want(400, "PUT", at(strings.Repeat("n", maxName+1)), body(`{}`, time.Hour)); !strings.Contains(text, "name") {
			t.Errorf("a name that is too long: %s", text)
		}
		const around = `{"a":""}`
		w.set("large", `{"a":"`+strings.Repeat("x", maxValue-len(around))+`"}`)
		if got := w.value("large"); len(got) != maxValue {
			t.Errorf("a large value came back with %d bytes", len(got))
		}
		if text := w.want(400, "PUT", at("large"), body(`{"a":"`+strings.Repeat("x", maxValue-len(around)+1)+`"}`, time.Hour)); !strings.Contains(text, "member secret") || len(text) > 2000 {
			t.Errorf("a value that is too large: %.2000s", text)
		}
		deep := strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000)
		if code, text := w.send("PUT", at("deep"), "application/json", body(deep, time.Hour)); code != 200 && code != 400 {
			t.Errorf("a deep value: %d %.300s", code, text)
		}
	})
}

func TestKeysChangeWithoutDowntime(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		old, newest := seal.NewKey(), seal.NewKey()
		w := newWorld(t, db, old)
		const n = 2*resealBatch + 7
		for i := range n {
			w.set(fmt.Sprintf("s/%03d", i), fmt.Sprintf(`{"n":%d}`, i))
		}
		check := func(when string) {
			t.Helper()
			for i := range n {
				if got, want := w.value(fmt.Sprintf("s/%03d", i)), fmt.Sprintf(`{"n":%d}`, i); got != want {
					t.Fatalf("%s, secret %d is %s", when, i, got)
				}
			}
		}
		sealed := func() string {
			t.Helper()
			m, err := w.Sealed(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(m[old.ID()], " ", m[newest.ID()])
		}
		w.restart(newest, old) // every replica learns the new key before one seals with it
		w.mustPass("secrets.reseal")
		if got := sealed(); got != fmt.Sprint(n, " 0") {
			t.Errorf("with the new key that opens only: %s", got)
		}
		w.restart(old, newest)
		check("with both keys")
		w.set("s/000", `{"n":0}`)
		if got := sealed(); got != fmt.Sprint(n-1, " 1") {
			t.Errorf("one was set anew: %s", got)
		}
		w.mustPass("secrets.reseal")
		if got := sealed(); got != fmt.Sprint("0 ", n) {
			t.Errorf("after reseal: %s", got)
		}
		if !strings.Contains(w.log.String(), "does not need the older keys any more") {
			t.Error("the log does not say that the old key can go")
		}
		check("moved")
		w.restart(newest)
		check("without the old key")
	})
}

func TestASecretThatCannotBeOpenedKeepsNoOtherFromMoving(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		lost, old, newest := seal.NewKey(), seal.NewKey(), seal.NewKey()
		w := newWorld(t, db, lost)
		w.set("a", `{}`)
		w.restart(old)
		w.set("b", `{}`)
		w.restart(old, newest)
		err := w.pass("secrets.reseal")
		if !errors.Is(err, seal.ErrUnknownKey) || !strings.Contains(err.Error(), lost.ID()) || !strings.Contains(err.Error(), "1 secrets") {
			t.Errorf("what is lost is not said: %v", err)
		}
		if m, err := w.Sealed(t.Context()); err != nil || m[newest.ID()] != 1 || m[lost.ID()] != 1 || m[old.ID()] != 0 {
			t.Errorf("sealed: %v, %v", m, err)
		}
		if !strings.Contains(w.log.String(), "old keys are still needed") {
			t.Error("the log does not say that old keys are needed")
		}
	})
}

func TestAValueThatIsSetWhileKeysChangeStays(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		old, newest := seal.NewKey(), seal.NewKey()
		w := newWorld(t, db, old)
		w.config.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
		w.restart(old)
		w.set("counter", `{"n":0}`)
		behind := w.Secrets // a replica that seals with the old key still
		w.restart(old, newest)
		stop, done := make(chan struct{}), make(chan error, 1)
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if _, err := w.reseal(t.Context()); err != nil {
					done <- err
					return
				}
			}
		}()
		for i := 1; i <= 100; i++ {
			value := fmt.Sprintf(`{"n":%d}`, i)
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`UPDATE secret SET sealed = $1, key_id = $2 WHERE name = 'counter'`,
					behind.keys.Seal([]byte(value), place("counter")), behind.keys.Newest())
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if got := w.value("counter"); got != value {
				t.Fatalf("set to %s, it is %s", value, got)
			}
		}
		close(stop)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}
