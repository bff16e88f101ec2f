package mirror

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// readOnly has the bucket of far take nothing. What is there can be read.
func (w *world) readOnly() {
	w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
		if strings.HasPrefix(r.URL.Path, "/copies-far/") && (r.Method == "PUT" || r.Method == "POST") {
			return answer(r, http.StatusForbidden, `<Error><Code>AccessDenied</Code></Error>`)
		}
		return on()
	})
}

// Whoever is streamed to gets all of what is verified, though it cannot be stored.
func TestReadersGetAllOfWhatCannotBeStored(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "small": 500_000, "large": 2*partSize + 5} {
		t.Run(name, func(t *testing.T) {
			onSQLite(t, func(t *testing.T, db *store.DB) {
				w := newTest(t, db)
				w.copying()
				w.readOnly()
				body := noise(1, size)
				artifact, site := w.artifact("t", "x", body), w.remote("/x", faulty.Object{Size: int64(size)})
				for _, o := range []Origin{artifact, site} {
					want := wish(far, o)
					if o == site {
						want.SHA256 = w.origin.SHA256("/x")
					}
					var r reader
					c, err := w.through(t.Context(), want, r.open)
					if errors.Is(err, errBusy) { // it is known by now
						continue
					}
					if err != nil || c.State == Present || o == artifact && !bytes.Equal(r.Bytes(), body) || o == site && sha(r.Bytes()) != want.SHA256 {
						t.Errorf("%d of %d bytes came: %+v %v", r.Len(), size, c, err)
					}
				}
				// What is not known to be right is not given away.
				o := w.artifact("t", "wrong", body)
				wrong := wish(far, o)
				wrong.SHA256 = sumOf("something else")
				if _, err := w.through(t.Context(), wrong, new(reader).open); err == nil {
					t.Error("another SHA-256 is taken for right")
				}
			})
		})
	}
}

// Where a bucket takes nothing downloads go on, and nobody is kept waiting once that
// is known.
func TestStreamsWhereTheBucketTakesNothing(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db, streamed)
		there := w.artifact(someTask, "public/there", noise(9, 100))
		w.wanting(wish(far, there))
		w.settle(w.Mirror)
		w.copying()
		w.readOnly()
		follow := &http.Client{}
		for i, name := range []string{"a", "b", "c", "d", "e"} {
			body := noise(i, 500_000)
			o := w.artifact(someTask, "public/"+name, body)
			r, err := follow.Get(w.root + "/api/mirror/v1/redirect/s3/" + far + "/" + url.PathEscape(o.String()))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%s: %d, %d bytes, %v", name, r.StatusCode, len(got), err)
			}
		}
		// What was not streamed is known to fail when the copies are tried again.
		o := w.artifact(someTask, "public/late", noise(7, 500))
		ticket, err := w.streamURL(wish(far, o))
		if err != nil {
			t.Fatal(err)
		}
		w.region(far).desk.broken.Store(true)
		var r reader
		if _, err := w.through(t.Context(), wish(far, w.artifact(someTask, "public/other", []byte("other"))), r.open); !errors.Is(err, errBusy) || r.Len() != 0 {
			t.Errorf("handed over: %v", err)
		}
		if p := w.get("GET", ticket, nil); p.status != 302 || !strings.Contains(p.location, "/artifacts/") {
			t.Errorf("with a ticket: %d to %s", p.status, p.location)
		}
		if s := w.state(far, o); s != Waiting && s != Copying {
			t.Errorf("it is %s, and is to be copied once that is possible", s)
		}
		w.demandCopy(far, there.String(), noise(9, 100))
	})
}

// Nobody waits for a copy in a bucket that is known to take none.
func TestNobodyWaitsWhereTheBucketTakesNothing(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		there, missing := w.artifact(someTask, "public/there", []byte("there")), w.artifact(someTask, "public/missing", []byte("missing"))
		w.wanting(wish(far, there))
		w.settle(w.Mirror)
		w.region(far).desk.broken.Store(true)
		for what, want := range map[Origin]outcome{there: outcomeCopy, missing: outcomeAway} {
			a, err := w.artifactAt(what)
			if err != nil {
				t.Fatal(err)
			}
			p := w.plan(what, a, far)
			p.Route.MaxWait = time.Hour
			if d, err := w.decide(t.Context(), p); err != nil || d.Outcome != want {
				t.Errorf("%s: %+v, %v", what, d, err)
			}
		}
		if s := w.state(far, missing); s != Waiting {
			t.Errorf("it is %s", s)
		}
		if p := w.answers(200, "GET", "/explain/"+far+"/"+url.PathEscape(missing.String()), nil); p.body["answer"] != answerOrigin || !strings.Contains(p.text, "what is copied to the bucket copies-far") {
			t.Errorf("explained: %s", p.text)
		}
		if p := w.answers(200, "GET", "/explain/"+far+"/"+url.PathEscape(there.String()), nil); p.body["answer"] != answerCopy {
			t.Errorf("what is there is explained: %s", p.text)
		}
		if p := w.answers(200, "GET", "/status", nil); !strings.Contains(p.text, "what is copied to the bucket copies-far of "+far+" fails") {
			t.Errorf("status: %s", p.text)
		}
		w.settle(w.Mirror)
		if trouble := w.trouble(far); trouble != "" {
			t.Errorf("after a copy was made: %s", trouble)
		}
		w.demandCopy(far, missing.String(), []byte("missing"))
	})
}

// A server that is being stopped sends those who wait to the origin.
func TestAServerThatIsStoppedSendsToTheOrigin(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newQuiet(t, db)
		w.config.Catalog = &catalog{list: map[string]Artifact{
			thing.Key: {TaskID: "task", Name: "public/thing", Size: 10, Expires: timestamp.Now().Add(time.Hour), Key: thing.Key},
		}}
		w.Mirror = w.start()
		ctx, stop := context.WithCancel(t.Context())
		var answer api.Reply
		var err error
		var caller sync.WaitGroup
		caller.Go(func() { answer, err = w.redirect(ctx, api.Credential{}, thing, near) })
		synctest.Wait() // it waits for the copy
		stop()
		caller.Wait()
		s, ok := answer.(sent)
		if err != nil || !ok || s.Status() != 302 || !strings.Contains(s.URL, "/artifacts/") || !strings.Contains(s.URL, "X-Amz-Signature") {
			t.Errorf("%+v, %v", answer, err)
		}
	})
}

// It does not break off what comes already, either.
func TestAServerThatIsStoppedStreamsOn(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.copying()
		body := noise(1, 1000)
		o := w.artifact("t", "x", body)
		stored, letGo := w.holdUp(puts)
		ctx, stop := context.WithCancel(t.Context())
		var r reader
		var err error
		comes := make(chan struct{})
		var caller sync.WaitGroup
		caller.Go(func() {
			_, err = w.through(ctx, wish(far, o), func(h blob.Headers, size int64) io.Writer {
				close(comes)
				return r.open(h, size)
			})
		})
		<-comes
		<-stored
		stop()
		close(letGo)
		caller.Wait()
		if err != nil || !bytes.Equal(r.Bytes(), body) {
			t.Errorf("%d bytes came: %v", r.Len(), err)
		}
	})
}
