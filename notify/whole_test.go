package notify_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/notify"
	"github.com/taskfleet/taskfleet/notify/matrix"
	"github.com/taskfleet/taskfleet/notify/slack"
	"github.com/taskfleet/taskfleet/notify/smtp"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// From an event of the queue to a mail server, a homeserver and Slack, with
// nothing in between but what a deployment has.
func TestAnEventOfTheQueueReachesThreeServices(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		arrived := make(chan string, 10)
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			place, _, _ := strings.Cut(r.URL.Path[1:], "/")
			arrived <- place + " " + string(b)
			fmt.Fprint(w, `{"ok":true,"event_id":"$x"}`)
		}))
		t.Cleanup(web.Close)
		mails, err := smtp.New(smtp.Config{Host: "127.0.0.1", Port: mailServer(t, arrived), Security: "none", From: "taskfleet@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		rooms, err := matrix.New(matrix.Config{URL: web.URL, AccessToken: "m"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		channels, err := slack.New(slack.Config{URL: web.URL + "/api", Token: "s"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		bus, err := event.New(t.Context(), db, log)
		if err != nil {
			t.Fatal(err)
		}
		n, err := notify.New(t.Context(), notify.Config{
			DB: db, Events: bus, Tasks: tasks{}, RootURL: "https://tasks.example.com", Log: log, Metrics: prometheus.NewRegistry(),
			Email: mails, Matrix: rooms, Slack: channels,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range bus.Loops() {
			if l.Name == "event.deliver.notify" { // it hears what comes after its first pass
				if _, err := l.Pass(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- loop.NewRunner(log, loop.Alone, prometheus.NewRegistry()).Run(ctx, slices.Concat(n.Loops(), bus.Loops())...)
		}()
		defer func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		if err := n.Email(t.Context(), "bob@example.com", "A hook failed", "It *failed*."); err != nil {
			t.Fatal(err)
		}
		if first := <-arrived; !strings.HasPrefix(first, "mail ") || !strings.Contains(first, "A hook failed") {
			t.Errorf("first mail: %s", first)
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			return bus.Publish(tx, "exchange/taskcluster-queue/v1/task-failed", "primary.x", []string{
				"route.notify.email.ann@example.com.on-failed", "route.notify.matrix-room.!r:example.org.on-failed", "route.notify.slack-channel.C1.on-failed",
			}, map[string]any{"status": map[string]any{"taskId": "fN1SbArXTPSVFNUvaOlinQ", "taskGroupId": "dSlITZ4yQgmvxxAi4A8fHQ", "state": "failed", "runs": []any{}}})
		}); err != nil {
			t.Fatal(err)
		}
		heard := map[string]bool{}
		for range 3 {
			what, text, _ := strings.Cut(<-arrived, " ")
			heard[what] = strings.Contains(text, "the build") && strings.Contains(text, "failed")
		}
		if !heard["mail"] || !heard["_matrix"] || !heard["api"] {
			t.Errorf("heard %v", heard)
		}
	})
}

type tasks struct{}

func (tasks) Definition(context.Context, string) (json.RawMessage, error) {
	return json.RawMessage(`{"metadata": {"name": "the build"}}`), nil
}

func mailServer(t *testing.T, arrived chan<- string) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := gosmtp.NewServer(gosmtp.BackendFunc(func(*gosmtp.Conn) (gosmtp.Session, error) { return session(arrived), nil }))
	s.Domain, s.ErrorLog = "mail.test", quiet{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l) // until it is closed
	}()
	t.Cleanup(func() { s.Close(); l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

type session chan<- string

func (session) Reset()                                 {}
func (session) Logout() error                          { return nil }
func (session) Mail(string, *gosmtp.MailOptions) error { return nil }
func (session) Rcpt(string, *gosmtp.RcptOptions) error { return nil }
func (s session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s <- "mail " + string(b)
	return err
}
