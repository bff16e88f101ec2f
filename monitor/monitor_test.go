package monitor_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/monitor"
)

const dsn = "https://0123456789abcdef0123456789abcdef@sentry.test/7"

// A sink is where Sentry would be: it takes envelopes apart.
type sink struct {
	mu      sync.Mutex
	events  []event
	reports int
	wrong   []error
	answer  func(w http.ResponseWriter, r *http.Request) bool // true: it has answered by itself
}

type event struct {
	ID          string            `json:"event_id"`
	Message     string            `json:"message"`
	Release     string            `json:"release"`
	Environment string            `json:"environment"`
	ServerName  string            `json:"server_name"`
	Transaction string            `json:"transaction"`
	Fingerprint []string          `json:"fingerprint"`
	Tags        map[string]string `json:"tags"`
	Exception   []struct{ Type, Value string }
	Contexts    map[string]map[string]any

	key string // of the DSN
	raw string // all of the envelope
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if s.answer != nil && s.answer(w, r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.take(r, body); err != nil {
		s.wrong = append(s.wrong, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	io.WriteString(w, "{}")
}

func (s *sink) take(r *http.Request, body []byte) error {
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/envelope/") {
		return fmt.Errorf("%s %s", r.Method, r.URL.Path)
	}
	_, key, ok := strings.Cut(r.Header.Get("X-Sentry-Auth"), "sentry_key=")
	if !ok {
		return errors.New("no key")
	}
	lines := bufio.NewReader(bytes.NewReader(body))
	var header struct{}
	text, err := lines.ReadBytes('\n')
	if err := errors.Join(err, json.Unmarshal(text, &header)); err != nil {
		return fmt.Errorf("header of the envelope: %w", err)
	}
	for {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(text) == 0 {
			return nil
		}
		var item struct {
			Type   string `json:"type"`
			Length int    `json:"length"`
		}
		if err := json.Unmarshal(text, &item); err != nil {
			return fmt.Errorf("header of an item: %w", err)
		}
		payload := make([]byte, item.Length)
		if _, err := io.ReadFull(lines, payload); err != nil {
			return fmt.Errorf("an item: %w", err)
		}
		lines.ReadByte()
		switch item.Type {
		case "event":
			e := event{key: key, raw: string(body)}
			if err := json.Unmarshal(payload, &e); err != nil {
				return fmt.Errorf("an event: %w", err)
			}
			s.events = append(s.events, e)
		case "client_report":
			s.reports++
		default:
			return fmt.Errorf("an item of type %s", item.Type)
		}
	}
}

// RoundTrip has the sink answer without a network.
func (s *sink) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func (s *sink) got() []event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events
}

func reporter(t testing.TB, s *sink, c monitor.Config) (*monitor.Reporter, *slog.Logger, *bytes.Buffer) {
	t.Helper()
	c.Transport = s
	r := monitor.New(c)
	if err := r.Assume(dsn); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	t.Cleanup(func() {
		if len(s.wrong) > 0 {
			t.Errorf("what was sent is wrong: %v", s.wrong)
		}
	})
	return r, slog.New(r.Handler(slog.NewTextHandler(&out, nil))), &out
}

func pass(t testing.TB, r *monitor.Reporter) {
	t.Helper()
	for more := true; more; {
		var err error
		if more, err = r.Loops()[0].Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnErrorIsSentWithWhereAndWhat(t *testing.T) {
	s := &sink{}
	r, log, out := reporter(t, s, monitor.Config{Release: "taskfleet@1", Environment: "test", ServerName: "here"})
	log.Info("nothing")
	log.Warn("nothing much")
	log.With("loop", "queue.deadlines").Error("pass of a loop failed", "error", fmt.Errorf("look at the task %q: %w", "abc", io.ErrUnexpectedEOF), "took", time.Second)
	log.WithGroup("x").Error("another", "accessToken", "abcdef", "plain", "word")
	pass(t, r)
	got := s.got()
	if len(got) != 2 {
		t.Fatalf("%d events", len(got))
	}
	e := got[0]
	if e.Release != "taskfleet@1" || e.Environment != "test" || e.ServerName != "here" || e.Transaction != "queue.deadlines" ||
		e.Exception[0].Type != "pass of a loop failed (queue.deadlines)" || e.Exception[0].Value != `look at the task "abc": unexpected EOF` ||
		e.Tags["loop"] != "queue.deadlines" || e.Contexts["details"]["took"] != "1s" {
		t.Errorf("%+v", e)
	}
	id := e.Tags["incident"]
	if strings.ReplaceAll(id, "-", "") != e.ID || strings.Count(out.String(), monitor.IDKey+"="+id) != 1 {
		t.Errorf("incident %s is the event %s, and the log\n%s", id, e.ID, out)
	}
	if got[1].Contexts["details"]["x.accessToken"] != "[…]" || got[1].Contexts["details"]["x.plain"] != "word" {
		t.Errorf("%+v", got[1].Contexts)
	}
}

func TestErrorsOfASortAreOneIssue(t *testing.T) {
	s := &sink{}
	r, log, _ := reporter(t, s, monitor.Config{Rate: 1000})
	for i := range 5 {
		log.Error("internal error", "service", "queue", "method", "claimWork", "err",
			fmt.Errorf("task %q of run %d at 10.0.0.%d: %w", fmt.Sprint("task", i), i, i, io.EOF))
	}
	log.Error("internal error", "service", "queue", "method", "claimWork", "err", errors.New("something else"))
	log.Error("internal error", "service", "queue", "method", "status", "err", io.EOF)
	pass(t, r)
	sorts := map[string]int{}
	for _, e := range s.got() {
		sorts[strings.Join(e.Fingerprint, "|")]++
	}
	if len(sorts) != 3 {
		t.Errorf("%v", sorts)
	}
}

// What has the shape of a secret is not sent, wherever it stands.
func TestSecretsAreScrubbed(t *testing.T) {
	s := &sink{}
	r, log, _ := reporter(t, s, monitor.Config{Rate: 1000, Queue: 1000})
	r.Hide("correct horse battery")
	const secret = "Planted1Secret2Word"
	const token = "Dn3xKj9sQ0aV7mZpT2wYbRfLcE5hGuIoN8kM4vXyPqA1"
	texts := []string{
		"correct horse battery", "correct+horse+battery", `{\"x\":\"correct horse battery\"}`,
		`Authorization: Hawk id="a", ts="1", nonce="` + secret + `", mac="` + secret + `"`,
		`got header Hawk id="a", mac="` + secret + `"`, "Bearer " + secret, "basic " + secret + "==", `"authorization": "` + secret + `"`,
		"accessToken=" + secret, `{"accessToken":"` + secret + `"}`, `{\"accessToken\":\"` + secret + `\"}`, "access_token: " + secret,
		`password "x": password=` + secret, `secret: '` + secret + `'`, `"certificate":{"version":1,"seed":"` + secret + `","signature":"` + secret + `"}`,
		"https://user:" + secret + "@example.com/x", "postgres://u:" + secret + "/@host/db", "amqp://" + secret + "@host",
		"https://s3.test/b/k?X-Amz-Signature=" + secret + "&X-Amz-Credential=" + secret, "/path?bewit=" + secret, "https://x.test/?bewit=" + secret,
		"-----BEGIN RSA PRIVATE KEY-----\n" + secret + "\n-----END RSA PRIVATE KEY-----", "-----BEGIN CERTIFICATE-----\n" + secret,
		"the token is " + token, "token " + token, "(" + token + ")", strings.Repeat("ab12", 16), "AKIAIOSFODNN7EXAMPLE", "xoxb-12-ab", "ghp_0123456789abcdef",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig", "SG.abcdefghijk.lmnop", "X-Vault-Token: " + secret, "Cookie: a=" + secret + "; b=" + secret,
		"payload: {\"command\":[\"" + secret + "\"]}",
	}
	for _, text := range texts {
		log.Error("failed", "err", errors.New("doing something: "+text), "detail", text)
		log.Error("failed", "payload", text, "panic", text, "stack", text)
	}
	pass(t, r)
	planted := []string{secret, token, "correct horse battery", "correct+horse", "AKIAIOSF", "xoxb-12", "ghp_012", "eyJzdWI", "lmnop", "ab12ab12ab12"}
	if n := len(s.got()); n != 2*len(texts) {
		t.Fatalf("%d events", n)
	}
	for i, e := range s.got() {
		for _, p := range planted {
			if strings.Contains(e.raw, p) {
				t.Errorf("of %s was sent %s", texts[i/2], e.raw)
			}
		}
	}
	// And what is none is left, or nobody could make anything of it.
	log.Error("failed", "err", errors.New(`store: begin a transaction: dial tcp 10.0.0.1:5432 for task fN1SbArXTPSVFNUvaOlinQ, incident 0b5e2a2e-1111-4222-8333-944445555666, "some words"`))
	pass(t, r)
	if v := s.got()[2*len(texts)].Exception[0].Value; strings.Contains(v, "[…]") {
		t.Errorf("too much was taken out: %s", v)
	}
}

// counted is the value of a metric for a reason.
func counted(t *testing.T, m *prometheus.Registry, reason string) float64 {
	t.Helper()
	families, err := m.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "taskfleet_sentry_dropped_total" {
			for _, x := range f.GetMetric() {
				if x.GetLabel()[0].GetValue() == reason {
					return x.GetCounter().GetValue()
				}
			}
		}
	}
	return -1
}

// Time is virtual and passes only when everybody waits: so whoever logs an error has
// waited for nothing if none has passed.
func TestNobodyWaitsForASentryThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{answer: func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }}
		m := prometheus.NewRegistry()
		r, log, _ := reporter(t, s, monitor.Config{Rate: 1_000_000, Queue: 100, Metrics: m})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- loop.NewRunner(slog.New(slog.DiscardHandler), loop.Alone, prometheus.NewRegistry()).Run(ctx, r.Loops()...)
		}()
		log.Error("the first one")
		synctest.Wait() // it is being sent
		start := time.Now()
		for range 1000 {
			log.Error("failed")
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("whoever logs has waited for %s", d)
		}
		if n := counted(t, m, "queue-full"); n != 900 {
			t.Errorf("%v were dropped", n)
		}
		time.Sleep(time.Minute)
		if n := counted(t, m, "unreachable"); n < 1 {
			t.Errorf("%v were given up", n)
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("the end waited for %s", d)
		}
		total := 0.0
		for _, reason := range []string{"queue-full", "unreachable", "end"} {
			total += counted(t, m, reason)
		}
		if total != 1001 || len(s.got()) != 0 {
			t.Errorf("%v of 1001 are counted", total)
		}
	})
}

func TestWhatSentryDoesNotTakeAtOnceIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := &sink{}
		s.answer = func(w http.ResponseWriter, _ *http.Request) bool {
			if asked++; asked%3 != 0 {
				w.WriteHeader(http.StatusBadGateway)
				return true
			}
			return false
		}
		r, log, _ := reporter(t, s, monitor.Config{})
		for range 10 {
			log.Error("failed")
		}
		for range 150 {
			pass(t, r)
			time.Sleep(time.Second)
		}
		if n := len(s.got()); n != 10 {
			t.Errorf("%d of 10 came", n)
		}
	})
}

func TestAStormDoesNotEatTheQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m := &sink{}, prometheus.NewRegistry()
		r, log, out := reporter(t, s, monitor.Config{Rate: 30, Queue: 10_000, Metrics: m})
		const each = 1000
		for range 10 {
			for range each {
				log.Error("failed")
			}
			pass(t, r)
			time.Sleep(time.Minute)
		}
		if n := len(s.got()); n < 290 || n > 310 {
			t.Errorf("%d events in ten minutes", n)
		}
		if sum := float64(len(s.got())) + counted(t, m, "rate"); sum != 10*each || strings.Count(out.String(), monitor.IDKey) != 10*each {
			t.Errorf("%v errors are accounted for", sum)
		}
	})
}

// Sentry says for how long it wants nothing.
func TestLimitsOfSentryAreHeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s, m := &sink{}, prometheus.NewRegistry()
		s.answer = func(w http.ResponseWriter, _ *http.Request) bool {
			if asked++; asked > 1 {
				return false
			}
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		r, log, _ := reporter(t, s, monitor.Config{Metrics: m})
		for range 5 {
			log.Error("failed")
		}
		pass(t, r)
		if asked != 1 || counted(t, m, "refused") != 5 {
			t.Errorf("it was asked %d times", asked)
		}
		time.Sleep(2 * time.Minute)
		log.Error("failed")
		pass(t, r)
		if len(s.got()) != 1 {
			t.Error("nothing is sent any more")
		}
	})
}

// Errors go on to be sent while the address is replaced, and one that does not work is
// not taken.
func TestTheAddressIsReplaced(t *testing.T) {
	s := &sink{}
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.Header.Get("X-Sentry-Auth"), "sentry_key=dead") {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	r, log, _ := reporter(t, s, monitor.Config{})
	log.Error("one")
	pass(t, r)
	err := r.Use(t.Context(), "https://dead@sentry.test/7")
	if err == nil || strings.Contains(err.Error(), "dead") || !strings.Contains(err.Error(), "is the key active?") {
		t.Errorf("a key that is dead: %v", err)
	}
	for _, wrong := range []string{"", "nonsense-key", "https://sentry.test/7", "https://key@sentry.test/"} {
		if err := r.Use(t.Context(), wrong); err == nil || strings.Contains(err.Error(), "nonsense") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	log.Error("two")
	pass(t, r)
	if err := r.Use(t.Context(), "https://fedcba9876543210@sentry.test/7"); err != nil {
		t.Fatal(err)
	}
	log.Error("three")
	pass(t, r)
	var keys []string
	for _, e := range s.got() {
		keys = append(keys, e.Message+" "+e.key[:4])
	}
	if got := strings.Join(keys, ", "); got != "one 0123, two 0123, three fedc" || s.reports != 1 {
		t.Errorf("%s, with %d questions", got, s.reports)
	}
}

func TestWithoutAnAddressNothingWaits(t *testing.T) {
	m := prometheus.NewRegistry()
	r := monitor.New(monitor.Config{Metrics: m})
	log := slog.New(r.Handler(slog.DiscardHandler))
	for range 1000 {
		log.Error("failed")
	}
	pass(t, r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n := counted(t, m, "end"); n != 0 {
		t.Errorf("%v errors waited", n)
	}
}
