package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/api/apitest"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A world is a deployment as audits see it, and one that is auditing it.
type world struct {
	testing.TB
	*Audit
	server http.Handler
	bus    *event.Bus

	mu       sync.Mutex
	clients  []Client
	since    timestamp.Time
	tokens   map[string]string // by client
	rotated  []credentials.Audited
	versions map[string]string // JSON of secrets, by credential
	secrets  map[string]string // likewise, by name
	logs     map[Log]string
	fail     error
	opening  chan struct{} // opening a log waits for it, if there is one
}

func newWorld(t testing.TB, db *store.DB) *world {
	log := slog.New(slog.DiscardHandler)
	bus, err := event.New(t.Context(), db, log)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, bus: bus, since: timestamp.Now(), tokens: map[string]string{}, versions: map[string]string{}, secrets: map[string]string{}, logs: map[Log]string{}}
	metrics := prometheus.NewRegistry()
	if w.Audit, err = New(t.Context(), Config{DB: db, Events: bus, Log: log, Metrics: metrics, Clients: w, Credentials: w, Secrets: w, Logs: w}); err != nil {
		t.Fatal(err)
	}
	s := api.NewServer(api.Options{RootURL: "https://tc.example.com", Auth: w, Log: log, Metrics: metrics, CheckOutput: true})
	if err := api.Mount(s, API, w.Audit); err != nil {
		t.Fatal(err)
	}
	w.server = s
	return w
}

func (w *world) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	return api.Identity{ClientID: "someone", Scopes: scope.NewSet("credentials:audit")}, nil
}

func (w *world) Use(context.Context, timestamp.Time) ([]Client, timestamp.Time, error) {
	return w.clients, w.since, w.fail
}

func (w *world) EachToken(f func(clientID, id, token string)) error {
	for id, token := range w.tokens {
		f(id, "first", token)
	}
	return nil
}

func (w *world) Audited(context.Context) ([]credentials.Audited, error) { return w.rotated, nil }

func (w *world) EachSecret(_ context.Context, f func(credential, version string, secret json.RawMessage)) error {
	for name, secret := range w.versions {
		f(name, "v1", json.RawMessage(secret))
	}
	return nil
}

func (w *world) Each(_ context.Context, f func(name string, value json.RawMessage)) error {
	for name, value := range w.secrets {
		f(name, json.RawMessage(value))
	}
	return nil
}

func (w *world) Logs(_ context.Context, since timestamp.Time, after string, limit int) (list []Log, next string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.logs {
		if l.Resolved >= since && l.TaskID > after {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(x, y Log) int { return strings.Compare(x.TaskID, y.TaskID) })
	if len(list) > 2 { // a page
		list = list[:2]
		next = list[1].TaskID
	}
	return list, next, nil
}

func (w *world) Open(ctx context.Context, l Log) (io.ReadCloser, error) {
	if w.opening != nil {
		select {
		case <-w.opening:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	text := w.logs[l]
	switch text {
	case "gone":
		return nil, ErrGone
	case "broken":
		return nil, errors.New("no connection")
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// log has a task with a log that was resolved some time ago, and returns its id.
func (w *world) log(ago time.Duration, text string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := slugid.New()
	w.logs[Log{TaskID: id, Name: "public/logs/live_backing.log", Resolved: timestamp.Now().Add(-ago), Key: id}] = text
	return id
}

func (w *world) call(method, path, body string) (int, map[string]any) {
	r := httptest.NewRequest(method, "https://tc.example.com/api/credentials-audit/v1"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	var out map[string]any
	json.Unmarshal(rec.Body.Bytes(), &out)
	return rec.Code, out
}

// pass has all audits done that wait.
func (w *world) pass() {
	w.Helper()
	for more := true; more; {
		var err error
		if more, err = w.Loops()[0].Pass(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
}

// audit is the report of one.
func (w *world) audit(o Options) *report {
	w.Helper()
	id, err := w.Begin(w.Context(), "someone", o)
	if err != nil {
		w.Fatal(err)
	}
	w.pass()
	v, err := w.find(w.Context(), id)
	if err != nil || v.State != "done" {
		w.Fatalf("the audit is %+v, %v", v, err)
	}
	return v.Report
}

// ids are those of the findings, in one text.
func (r *report) ids() string {
	var list []string
	for _, f := range r.Findings {
		list = append(list, f.ID)
	}
	return strings.Join(list, "\n")
}

const day = 24 * time.Hour

func TestWhatIsTooOldOrNotUsed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		now := timestamp.Now()
		ago := func(days int) timestamp.Time { return now.Add(-time.Duration(days) * day) }
		w.since = ago(200)
		soon, never := now.Add(30*day), timestamp.Of(time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC))
		scopes := func(names ...string) (list []ScopeUse) {
			for _, name := range names {
				u := ScopeUse{Scope: strings.TrimPrefix(name, "+")}
				if u.Scope != name {
					u.LastUsed = ago(3)
				}
				list = append(list, u)
			}
			return list
		}
		client := func(id string, change func(*Client)) {
			c := Client{ClientID: id, Expires: soon, Created: ago(300), Modified: ago(300), LastUsed: ago(1), Tokens: []Token{{"t", ago(10)}}}
			change(&c)
			w.clients = append(w.clients, c)
		}
		client("good", func(c *Client) { c.Scopes = scopes("+a", "+b") })
		client("old-token", func(c *Client) { c.Tokens = []Token{{"t2", ago(91)}, {"t1", ago(400)}} })
		client("never-expires", func(c *Client) { c.Expires = never })
		client("disabled", func(c *Client) { c.Disabled, c.Expires, c.LastUsed = true, never, ago(300) })
		client("expired", func(c *Client) { c.Expires, c.LastUsed, c.Tokens[0].Created = ago(1), ago(300), ago(400) })
		client("unused", func(c *Client) { c.LastUsed, c.Scopes = ago(91), scopes("a") })
		client("new", func(c *Client) {
			c.Created, c.Modified, c.LastUsed, c.Scopes = ago(5), ago(5), ago(5), scopes("a")
		})
		client("changed", func(c *Client) { c.Modified, c.Scopes = ago(5), scopes("a") })
		client("scopes", func(c *Client) { c.Scopes = scopes("+a", "c:*", "b") })
		client("uncountable", func(c *Client) { c.Scopes, c.Uncountable = scopes("a"), true })
		client("everything", func(c *Client) { c.Scopes = scopes("+*", "a") })
		client("static/one", func(c *Client) {
			c.Static, c.Tokens, c.Expires, c.Created, c.Modified, c.LastUsed, c.Scopes = true, nil, never, now, now, now, scopes("a")
		})
		w.rotated = []credentials.Audited{
			{Name: "good", State: credentials.Good, Planned: true, MaxAge: 30 * day, Since: ago(3), Next: now.Add(day), UseTold: true, Used: ago(1)},
			{Name: "late", State: credentials.Overdue, Planned: true, MaxAge: 30 * day, Since: ago(40), Next: ago(10)},
			{Name: "unplanned", State: credentials.Good, Since: ago(100)},
			{Name: "by-hand", State: credentials.Good, Since: ago(20)},
			{Name: "gone", State: credentials.Undefined, Since: ago(100)},
			{Name: "idle", State: credentials.Good, Planned: true, Since: ago(100), Next: now.Add(day), UseTold: true},
			{Name: "not-told", State: credentials.Good, Planned: true, Since: ago(100), Next: now.Add(day)},
			{Name: "fresh", State: credentials.Fresh, Planned: true, MaxAge: 30 * day},
		}
		r := w.audit(Options{Only: []string{Age, Unused, Scopes}})
		want := `credential-overdue credential late
credential-unplanned credential unplanned
credential-undefined credential gone
client-token-old client old-token
client-token-old client old-token older
client-never-expires client never-expires
client-static client static/one
client-unused client unused
credential-unused credential idle
scopes-unused client scopes
scopes-unused client static/one
scopes-everything client everything`
		if got := r.ids(); got != want {
			t.Errorf("found\n%s\nwant\n%s", got, want)
		}
		for _, f := range r.Findings {
			if f.ID == "scopes-unused client scopes" && (fmt.Sprint(f.Scopes) != "[b c:*]" || !strings.Contains(f.Message, "2 of its 3 scopes within 90 days: b, c:*")) {
				t.Errorf("%+v", f)
			}
		}
		if text := strings.Join(r.Notes, "\n"); r.Recorded != w.since || !strings.Contains(text, "recorded since "+w.since.String()) || !strings.Contains(text, "2 clients that were made or changed within 90 days are not judged yet") {
			t.Errorf("recorded since %s: %s", r.Recorded, text)
		}
		if len(r.Rules) == 0 || slices.ContainsFunc(r.Rules, func(x Rule) bool { return x.Check == Leaks || x.Help == "" }) {
			t.Errorf("the rules are %+v", r.Rules)
		}

		// What is not asked for is not looked for, and days are those of whoever asks.
		if got := w.audit(Options{Only: []string{Unused}, UnusedDays: 200}).ids(); got != "" {
			t.Errorf("found %s", got)
		}
		if got := w.audit(Options{Only: []string{Age}, TokenDays: 3}).ids(); !strings.Contains(got, "client-token-old client good\n") || strings.Contains(got, "client-unused") {
			t.Errorf("found\n%s", got)
		}

		// As long as uses are recorded for less than that, nobody is told to have used nothing.
		w.since = ago(80)
		r = w.audit(Options{Only: []string{Scopes}})
		if got := r.ids(); got != "scopes-everything client everything" || !strings.Contains(strings.Join(r.Notes, ""), "are found from "+ago(-10).String()) {
			t.Errorf("found %s: %s", got, r.Notes)
		}
	})
}

func TestSecretsInLogs(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		token, password, key := slugid.Token(), "Pa55-w0rd-of-9", slugid.Token()
		w.tokens["team/ci"], w.tokens["team/quiet"] = token, slugid.Token()
		w.versions["database"] = `{"url": "postgres://a:` + password + `@db/x", "password": "` + password + `", "host": "db.internal.example.com"}`
		w.secrets["project/x"] = `{"key": "` + key + `"}`
		w.secrets["copy-of-the-password"] = `{"password": "` + password + `"}`
		w.log(time.Hour, "all is well on db.internal.example.com\n")
		late := w.log(2*time.Hour, "one\ntwo "+token+"\nand again "+token+"\n")
		early := w.log(3*time.Hour, zip(t, token))
		w.log(25*time.Hour, key) // too long ago
		w.log(time.Minute, "gone")
		w.log(time.Minute, "broken")
		w.log(time.Minute, "PGPASSWORD="+password)
		shape := w.log(time.Minute, "AKIAIOSFODNN7EXAMPLE")
		r := w.audit(Options{Only: []string{Leaks}})
		want := "secret-in-log client team/ci\nsecret-in-log credential database\naws-key-in-log log " + shape + "/0/public/logs/live_backing.log"
		if got := r.ids(); got != want {
			t.Fatalf("found\n%s\nwant\n%s", got, want)
		}
		places := r.Findings[0].Places
		slices.SortFunc(places, func(x, y Place) int { return x.Line - y.Line })
		if got, want := fmt.Sprint(places), fmt.Sprintf("[{%s 0 public/logs/live_backing.log 1 1 } {%s 0 public/logs/live_backing.log 2 2 }]", early, late); got != want {
			t.Errorf("it is at %s, want %s", got, want)
		}
		if text := strings.Join(r.Notes, "\n"); !strings.Contains(text, "6 of 7 logs of the last 24 hours") || !strings.Contains(text, "1 could not be read") || !strings.Contains(text, "1 texts in secrets were not looked for") {
			t.Errorf("%s", text)
		}
		if r := w.audit(Options{Only: []string{Leaks}, Hours: 48}); !strings.Contains(r.ids(), "secret-in-log secret project/x") {
			t.Errorf("found\n%s", r.ids())
		}

		// What a limit leaves out is said, and is the oldest.
		r = w.audit(Options{Only: []string{Leaks}, MaxBytes: 20})
		if text := strings.Join(r.Notes, "\n"); strings.Contains(r.ids(), "team/ci") || !strings.Contains(text, "the oldest ones, were not") {
			t.Errorf("found %s: %s", r.ids(), text)
		}

		// No secret is anywhere that can be read.
		var all string
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			rows, err := tx.Query(`SELECT options, progress, error, counts, report FROM credential_audit`)
			if err != nil {
				return err
			}
			for rows.Next() {
				var text [5]string
				if err := rows.Scan(&text[0], &text[1], &text[2], &text[3], &text[4]); err != nil {
					return err
				}
				all += fmt.Sprintln(text)
			}
			return rows.Err()
		}); err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{token, password, key, "AKIAIOSFODNN7EXAMPLE"} {
			if strings.Contains(all, secret) {
				t.Errorf("a secret is in the table:\n%s", all)
			}
		}
	})
}

func TestAnAuditIsAskedForAndFollowed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.log(time.Minute, "AKIAIOSFODNN7EXAMPLE")
		status, a := w.call("POST", "/audits", `{"only": ["leaks"], "hours": 2}`)
		id, _ := a["auditId"].(string)
		if status != 200 || a["state"] != "waiting" || a["requestedBy"] != "someone" || fmt.Sprint(a["options"]) != "map[hours:2 maxBytes:1.073741824e+10 only:[leaks] tokenDays:90 unusedDays:90]" {
			t.Fatalf("%d %v", status, a)
		}
		if _, again := w.call("POST", "/audits", `{"hours": 2, "only": ["leaks"]}`); again["auditId"] != id {
			t.Error("asking twice begins two")
		}
		time.Sleep(time.Second)
		if _, other := w.call("POST", "/audits", `{"only": ["age"]}`); other["auditId"] == id {
			t.Error("another one is taken for the same")
		}

		// While it runs it says how far it is.
		w.opening = make(chan struct{})
		done := make(chan error)
		go func() { _, err := w.next(t.Context()); done <- err }()
		time.Sleep(2 * progressEvery)
		if _, a := w.call("GET", "/audits/"+id, ""); a["state"] != "running" || fmt.Sprint(a["progress"]) == "map[]" || a["progress"].(map[string]any)["step"] != "listing logs" {
			t.Errorf("%v", a)
		}

		// A server that ends leaves it to another one, but not for ever.
		ctx, stop := context.WithCancel(t.Context())
		close(w.opening)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		stop()
		if _, err := w.next(ctx); err == nil {
			t.Error("a pass that is stopped does not say so")
		}
		w.pass()
		for _, path := range []string{"/audits/" + id} {
			if status, a := w.call("GET", path, ""); status != 200 || a["state"] != "done" || fmt.Sprint(a["counts"]) != "map[aws-key-in-log:1]" {
				t.Errorf("%d %v", status, a)
			}
		}
		if _, list := w.call("GET", "/audits?limit=1", ""); len(list["audits"].([]any)) != 1 || list["continuationToken"] == nil {
			t.Errorf("the list is %v", list)
		} else if _, rest := w.call("GET", "/audits?continuationToken="+list["continuationToken"].(string), ""); len(rest["audits"].([]any)) != 1 {
			t.Errorf("the rest is %v", rest)
		}
		if status, _ := w.call("GET", "/audits/"+slugid.New(), ""); status != 404 {
			t.Errorf("one that is not there: %d", status)
		}
		for _, body := range []string{`{"only": ["everything"]}`, `{"hours": 0}`, `{"unusedDays": 401}`, `{"what": 1}`} {
			if status, _ := w.call("POST", "/audits", body); status != 400 {
				t.Errorf("%s: %d", body, status)
			}
		}

		// One that fails says so, and not why: that is in the log.
		w.fail = errors.New("the database of the clients is at 10.0.0.1")
		_, a = w.call("POST", "/audits", `{"only": ["age"]}`)
		w.pass()
		if _, a := w.call("GET", "/audits/"+a["auditId"].(string), ""); a["state"] != "failed" || strings.Contains(fmt.Sprint(a), "10.0.0.1") {
			t.Errorf("%v", a)
		}

		time.Sleep(keepAudits + day)
		w.pass()
		if _, list := w.call("GET", "/audits", ""); len(list["audits"].([]any)) != 0 {
			t.Errorf("after long there are %v", list)
		}
	})
}

func TestAnAuditThatEndsServersIsGivenUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.log(time.Minute, "x")
		w.opening = make(chan struct{})
		id, err := w.Begin(t.Context(), "someone", Options{Only: []string{Leaks}})
		if err != nil {
			t.Fatal(err)
		}
		for range mostAttempts {
			ctx, stop := context.WithTimeout(t.Context(), time.Second)
			if _, err := w.next(ctx); err == nil {
				t.Error("it was done")
			}
			stop()
		}
		w.pass()
		if v, err := w.find(t.Context(), id); err != nil || v.State != "failed" || !strings.Contains(v.Error, "3 times") {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

func TestTheScheduleTellsOfFindings(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		token := slugid.Token()
		w.tokens["team/ci"] = token
		begin := func(by string) {
			if _, err := w.Begin(t.Context(), by, Options{Only: []string{Leaks}}); err != nil {
				t.Fatal(err)
			}
			w.pass()
		}
		messages := func() (n int, last string) {
			for _, l := range w.bus.Loops() {
				if l.Name == "event.place" {
					if _, err := l.Pass(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			list, err := w.bus.Read(t.Context(), 0, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range list {
				last = m.RoutingKey + " " + string(m.Payload)
			}
			return len(list), last
		}
		begin("")
		if n, _ := messages(); n > 0 {
			t.Error("it tells of nothing")
		}
		w.log(time.Minute, token)
		begin("someone")
		if n, _ := messages(); n > 0 {
			t.Error("it tells of what somebody has asked for")
		}
		time.Sleep(time.Second)
		begin("")
		if n, last := messages(); n != 1 || !strings.HasPrefix(last, "primary.error._ ") || !strings.Contains(last, `"errors":1,"warnings":0`) {
			t.Errorf("%d messages, the last one is %s", n, last)
		}
		time.Sleep(time.Second)
		if _, err := w.Begin(t.Context(), "someone", Options{Only: []string{Leaks}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		begin("")
		if n, _ := messages(); n != 2 {
			t.Error("it tells of nothing as somebody has asked for the same")
		}
		time.Sleep(time.Second)
		w.config.Exceptions = []Exception{{"known", "secret-in-log client team/*", "a test", timestamp.Now().Time().UTC().Format(time.DateOnly)}}
		begin("")
		if n, _ := messages(); n != 2 {
			t.Error("it tells of what is accepted")
		}
		time.Sleep(day)
		w.log(time.Minute, token)
		begin("")
		if n, _ := messages(); n != 3 {
			t.Error("it does not tell of what is not accepted any more")
		}
		found := make(chan prometheus.Metric, 100)
		latestFindings{w.Audit}.Collect(found)
		if len(found) != len(rules)+1 {
			t.Errorf("there are %d metrics", len(found))
		}
	})
}

func TestExceptions(t *testing.T) {
	for _, x := range []struct {
		pattern, text string
		want          bool
	}{
		{"a b", "a b", true}, {"a b", "a bc", false}, {"a *", "a b", true}, {"*", "", true}, {"a*c", "abc", true}, {"a*c", "ac", true},
		{"a*c", "abcd", false}, {"*b*", "abc", true}, {"a*b*c", "axxbyyc", true}, {"a*b*c", "acb", false}, {"ab*b", "ab", false},
	} {
		if matches(x.pattern, x.text) != x.want {
			t.Errorf("%q and %q", x.pattern, x.text)
		}
	}
	good := Exception{"n", "a", "b", "2027-01-01"}
	for want, list := range map[string][]Exception{
		"number 1 has no name": {{"", "a", "b", "2027-01-01"}}, "n has no finding": {{"n", "", "b", "2027-01-01"}}, "n has no reason": {{"n", "a", " ", "2027-01-01"}},
		`n has until ""; it must be a date`: {{"n", "a", "b", ""}}, `n has until "soon"`: {{"n", "a", "b", "soon"}}, "there are two called n": {good, good},
	} {
		if err := CheckExceptions(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := CheckExceptions([]Exception{good}); err != nil {
		t.Error(err)
	}

	found := []Finding{finding(ruleNever, "client a", ""), finding(ruleNever, "client b", ""), finding(ruleStatic, "client c", "")}
	now := timestamp.Of(time.Date(2027, 1, 1, 23, 59, 59, 0, time.UTC))
	notes := accept(found, []Exception{
		{"over", "client-never-expires *", "r", "2026-12-31"}, {"good", "* client a", "r", "2027-01-01"},
		{"idle", "client-static client x", "r", "2027-01-01"}, {"other", "secret-in-log *", "r", "2027-01-01"},
	}, []Rule{ruleOf(ruleNever), ruleOf(ruleStatic)}, now)
	sorted(found)
	if found[2].Subject != "client a" || found[2].Exception.Name != "good" || found[0].Exception != nil || found[1].Exception != nil {
		t.Errorf("accepted: %+v", found)
	}
	if len(notes) != 2 || !strings.HasPrefix(notes[0], "The exception over was good until 2026-12-31") || !strings.HasPrefix(notes[1], "The exception idle is about nothing") {
		t.Errorf("notes: %q", notes)
	}
}

func TestEveryMethodNeedsItsScopes(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		id, err := w.Begin(t.Context(), "someone", Options{})
		if err != nil {
			t.Fatal(err)
		}
		apitest.Scopes(t, API, w.Audit, apitest.Samples{
			Path: map[string]string{"auditId": id}, Methods: map[string]apitest.Sample{"beginAudit": {Body: map[string]any{}}},
		})
	})
}

func TestRulesAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rules {
		if seen[r.ID] || !slices.Contains(Checks, r.Check) || r.Title == "" || r.Help == "" || !slices.Contains([]string{levelError, levelWarning, levelNote}, r.Level) {
			t.Errorf("%+v", r)
		}
		seen[r.ID] = true
	}
}
