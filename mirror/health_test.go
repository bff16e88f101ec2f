package mirror

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Readers are sent to a copy only as long as its bucket answers.
func TestWhereTheBucketIsAwayReadersGetTheOrigin(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		there := w.artifact("T", "public/there", []byte("there"))
		w.wanting(wish(near, there), wish(far, there))
		w.settle(w.Mirror)
		decide := func(region string, o Origin) decision {
			t.Helper()
			a, err := w.artifactAt(o)
			if err != nil {
				t.Fatal(err)
			}
			p := w.plan(o, a, region)
			p.Route.MaxWait = time.Minute // nobody waits so long
			d, err := w.decide(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		probe := func() {
			t.Helper()
			if _, err := w.probe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		probe()
		if d := decide(near, there); d.Outcome != outcomeCopy {
			t.Errorf("with all buckets there: %s", d.Outcome)
		}

		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if strings.Contains(r.URL.Path, "/copies-near/") {
				return answer(r, http.StatusForbidden, `<Error><Code>AccessDenied</Code></Error>`)
			}
			return on()
		})
		probe()
		if d := decide(near, there); d.Outcome != outcomeCopy {
			t.Errorf("after one failure: %s; one is no proof", d.Outcome)
		}
		probe()
		if d := decide(near, there); d.Outcome != outcomeAway || d.URL != "" {
			t.Errorf("what is there, in a bucket that is away: %s %q", d.Outcome, d.URL)
		}
		missing := w.artifact("T", "public/missing", []byte("missing"))
		if d := decide(near, missing); d.Outcome != outcomeAway || d.Copy.State != Waiting {
			t.Errorf("what is missing there: %s, %+v; it is wanted, but not waited for", d.Outcome, d.Copy)
		}
		if d := decide(far, there); d.Outcome != outcomeCopy {
			t.Errorf("in another region: %s", d.Outcome)
		}

		w.wire.set(nil)
		probe()
		if d := decide(near, there); d.Outcome != outcomeCopy {
			t.Errorf("with the bucket back: %s", d.Outcome)
		}
	})
}

// artifactAt is the artifact that an origin is.
func (w *world) artifactAt(o Origin) (*Artifact, error) {
	a, err := w.catalog.ArtifactAt(w.Context(), o.Key)
	a.Expires = timestamp.Now().Add(time.Hour)
	return &a, err
}
