package acme

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// published is a consumer's secret.
type published struct{ now json.RawMessage }

func (p *published) Set(_ context.Context, _ string, value json.RawMessage, _ timestamp.Time) error {
	p.now = value
	return nil
}

// For a year certificates are renewed in time without a plan, though the authority is
// away now and then, and no more of them are issued than have to be. A year is long: it
// passes on one database, as what depends on that is seen in shorter tests.
func TestAYearOfRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t, storetest.Open(t, storetest.URL(t, "sqlite")))
		bus, err := event.New(t.Context(), p.db, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		var held published
		engine, err := credentials.New(t.Context(), credentials.Config{
			DB: p.db, Events: bus, Keys: p.keys, Log: slog.New(slog.DiscardHandler), Replica: "one", Secrets: &held, Kinds: map[string]credentials.Kind{"acme": p.Kind},
			Definitions: []credentials.Definition{{Name: "web", Kind: "acme", Settings: json.RawMessage(p.text()), Consumers: []credentials.Use{{Name: "app", Secret: "project/web"}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		p.ca.fault = func(string, int) (int, bool, http.Header) {
			if day := int(time.Since(began).Hours() / 24); day > 0 && day%9 < 2 {
				return 503, false, nil
			}
			return 0, false, nil
		}
		for range 365 {
			for range 4 { // steps follow one another
				for _, l := range engine.Loops() {
					if l.Name == "credentials.rotate" {
						if _, err := l.Pass(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				time.Sleep(15 * time.Minute)
			}
			if err := p.ca.works(held.now); err != nil {
				t.Fatalf("after %s: %v", time.Since(began), err)
			}
			time.Sleep(23 * time.Hour)
		}
		if n := len(p.ca.issued); n < 6 || n > 7 {
			t.Errorf("%d certificates were issued in a year", n)
		}
	})
}
