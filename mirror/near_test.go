package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/mirror/region"
	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A library is a Catalog and Pools in memory.
type library struct {
	artifacts map[string][]Artifact // by task
	required  map[string][]string
	regions   map[string][]string // by task queue
	asked     map[string]int
	err       error
}

func (l *library) note(what string) error {
	if l.asked == nil {
		l.asked = map[string]int{}
	}
	l.asked[what]++
	return l.err
}

func (l *library) ArtifactAt(_ context.Context, key string) (Artifact, error) {
	taskID, _, _ := strings.Cut(key, "/")
	for _, a := range l.artifacts[taskID] {
		if a.Key == key {
			return a, nil
		}
	}
	return Artifact{}, api.Errorf(api.ResourceNotFound, "There is no artifact %s.", key)
}

func (l *library) Artifacts(_ context.Context, taskID string) ([]Artifact, error) {
	if err := l.note("artifacts"); err != nil {
		return nil, err
	}
	list, ok := l.artifacts[taskID]
	if !ok {
		return nil, api.Errorf(api.ResourceNotFound, "There is no task %s.", taskID)
	}
	return list, nil
}

func (l *library) Dependencies(_ context.Context, taskID string) (string, []string, error) {
	if err := l.note("dependencies"); err != nil {
		return "", nil, err
	}
	return "", l.required[taskID], nil
}

func (l *library) Regions(_ context.Context, taskQueueID string) ([]string, error) {
	return l.regions[taskQueueID], l.note("regions")
}

// deskMirror is a mirror between us (home), eu and ap that decides, and copies
// nothing: no store is behind its buckets.
func deskMirror(t testing.TB, db *store.DB, l *library, routes ...Route) (*Mirror, *event.Bus) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	bus, err := event.New(t.Context(), db, log)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	site, err := source.New(source.Config{Allow: []string{"https://archive.test/pub/"}})
	if err != nil {
		t.Fatal(err)
	}
	finder, err := region.New(region.Config{
		Regions: []string{"us", "eu", "ap"}, Log: log,
		Networks: map[netip.Prefix]string{netip.MustParsePrefix("10.1.0.0/16"): "eu", netip.MustParsePrefix("10.2.0.0/16"): "us"},
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(t.Context(), Config{
		DB: db, Events: bus, Keys: keys, Log: log, RootURL: "http://tasks.test", Home: "us", Artifacts: deskBucket(t, "artifacts"),
		Regions: []Region{{Name: "eu", Bucket: deskBucket(t, "copies-eu")}, {Name: "ap", Bucket: deskBucket(t, "copies-ap")}},
		Routes:  routes, HTTP: site, Finder: finder, Catalog: l, Pools: l,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, bus
}

func deskBucket(t testing.TB, name string) *blob.Bucket {
	t.Helper()
	s, err := blob.Open(t.Context(), blob.Config{Endpoint: "http://s3.test", Region: "us-east-1", AccessKeyID: "id", SecretAccessKey: "secret", PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	return s.Bucket(name)
}

func deskArtifact(name string) Artifact {
	const task = "fN1SbArXTPSVFNUvaOlinQ"
	return Artifact{
		TaskID: task, Name: name, TaskQueueID: "proj/build", Size: 100, Expires: timestamp.Now().Add(24 * time.Hour), Key: task + "/0/" + name,
	}
}

// become has a copy be in a state.
func (m *Mirror) become(t testing.TB, region string, o Origin, state State, more ...func(*Copy)) {
	t.Helper()
	if err := m.change(t.Context(), func(ch *changes) error {
		list, err := ch.named(name{region, o.ID()})
		if err != nil {
			return err
		}
		c := &Copy{Region: region, ID: o.ID(), Origin: o, Size: 100, Requested: timestamp.Now(), Expires: timestamp.Now().Add(time.Hour)}
		if len(list) == 1 {
			c = list[0]
		} else {
			ch.add(c)
		}
		c.State, c.Token = state, slugid.New()
		for _, f := range more {
			f(c)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func (m *Mirror) stateOf(t testing.TB, region string, o Origin) string {
	t.Helper()
	c, err := m.find(t.Context(), region, o.ID())
	if errors.Is(err, store.ErrNotFound) {
		return "none"
	} else if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(string(c.State), " ", c.Priority)
}

func TestNearIsWhereTheCallerIs(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		m, _ := deskMirror(t, db, &library{}, Route{Name: "off", Artifact: "off/*", Policy: Off}, Route{Name: "ap", Artifact: "ap/*", Regions: []string{"ap"}},
			Route{Name: "rest", Policy: Redirect})
		a := deskArtifact("public/x")
		o := m.guide.stored(&a)
		m.become(t, "eu", o, Present)
		m.become(t, "ap", o, Present)
		site := Origin{URL: "https://archive.test/pub/x"}
		m.become(t, "eu", site, Present)
		open, off, ap := a, deskArtifact("off/x"), deskArtifact("ap/x")
		open.Open = true
		for _, other := range []Artifact{off, ap} {
			m.become(t, "eu", m.guide.stored(&other), Present)
		}
		for _, x := range []struct {
			what, address, client, header string
			a                             Artifact
			url                           string
			want                          string // bucket
		}{
			{"by address", "10.1.2.3:1", "", "", a, "", "copies-eu"},
			{"at home", "10.2.2.3:1", "", "", a, "", ""},
			{"nowhere", "192.168.0.1:1", "", "", a, "", ""},
			{"by group", "10.2.2.3:1", "task-client/x/0/on/ap/i-1/until/1", "", a, "", "copies-ap"},
			{"by header", "10.1.2.3:1", "", "ap", a, "", "copies-ap"},
			{"that may be written", "10.1.2.3:1", "", "", open, "", ""},
			{"off", "10.1.2.3:1", "", "", off, "", ""},
			{"of a route in other regions, there all the same", "10.1.2.3:1", "", "", ap, "", "copies-eu"},
			{"a URL", "10.1.2.3:1", "", "", Artifact{}, "HTTPS://Archive.Test:443/pub/x", "copies-eu"},
			{"a URL that is not allowed", "10.1.2.3:1", "", "", Artifact{}, "https://archive.test/private/x", ""},
			{"a URL that is none", "10.1.2.3:1", "", "", Artifact{}, "https://", ""},
			// Whoever writes a reference says where it leads, not who may read that.
			{"a URL of the artifact bucket", "10.1.2.3:1", "", "", Artifact{}, "http://s3.test/artifacts/" + mustSpell(t, a.Key), ""},
			{"a URL of a copy", "10.1.2.3:1", "", "", Artifact{}, "http://s3.test/copies-eu/copies~/x", ""},
		} {
			r := httptest.NewRequest("GET", "http://tasks.test/x", nil)
			r.RemoteAddr = x.address
			if x.header != "" {
				r.Header.Set(region.Header, x.header)
			}
			got, err := m.Near(t.Context(), r, x.client, x.a, x.url)
			if err != nil || x.want == "" && got != "" || x.want != "" && (!strings.HasPrefix(got, "http://s3.test/"+x.want+"/") || !strings.Contains(got, "X-Amz-Signature=")) {
				t.Errorf("%s: %s, %v; want %s", x.what, got, err, x.want)
			}
		}
	})
}

func mustSpell(t testing.TB, key string) string {
	t.Helper()
	s, err := blob.Spell(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPoliciesDecideWhatBecomesOfARequest(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		m, _ := deskMirror(t, db, &library{},
			Route{Name: "wait", Artifact: "wait/*", MaxWait: 10 * time.Second}, Route{Name: "redirect", Artifact: "redirect/*", Policy: Redirect},
			Route{Name: "stream", Artifact: "stream/*", Policy: Stream})
		decide := func(a Artifact) (decision, time.Duration) {
			t.Helper()
			start := time.Now()
			d, err := m.decide(t.Context(), m.plan(m.guide.stored(&a), &a, "eu"))
			if err != nil {
				t.Fatal(err)
			}
			return d, time.Since(start)
		}
		check := func(what string, d decision, took time.Duration, want outcome, after time.Duration, url string) {
			t.Helper()
			if d.Outcome != want || took != after || !strings.HasPrefix(d.URL, url) || url == "" && d.URL != "" {
				t.Errorf("%s: %s after %s, %q; want %s after %s, %q", what, d.Outcome, took, d.URL, want, after, url)
			}
		}
		const copies, tickets = "http://s3.test/copies-eu/", "http://tasks.test/api/mirror/v1/stream/"

		a := deskArtifact("redirect/x")
		d, took := decide(a)
		check("redirected", d, took, outcomeBehind, 0, "")
		if got := m.stateOf(t, "eu", m.guide.stored(&a)); got != "waiting 2" {
			t.Errorf("behind: %s", got)
		}
		if c := d.Copy; c.Size != 100 || c.Expires != a.Expires {
			t.Errorf("what is wanted: %+v", c)
		}

		a = deskArtifact("stream/x")
		d, took = decide(a)
		check("streamed", d, took, outcomeStream, 0, tickets)
		m.become(t, "eu", m.guide.stored(&a), Present)
		d, took = decide(a)
		check("there", d, took, outcomeCopy, 0, copies)

		a = deskArtifact("wait/late")
		d, took = decide(a)
		check("waited in vain", d, took, outcomeLate, 10*time.Second, "")

		ends := func(a Artifact, state State, more ...func(*Copy)) {
			go func() {
				time.Sleep(3 * time.Second)
				m.become(t, "eu", m.guide.stored(&a), state, more...)
			}()
		}
		a = deskArtifact("wait/there")
		ends(a, Present)
		d, took = decide(a)
		check("waited for", d, took, outcomeCopy, 3*time.Second, copies)

		a = deskArtifact("wait/failed")
		later := func(c *Copy) { c.Due = timestamp.Now().Add(10 * time.Minute) }
		ends(a, Failed, later)
		d, took = decide(a)
		check("failed meanwhile", d, took, outcomeFailed, 3*time.Second, "")
		d, took = decide(a)
		check("failed before", d, took, outcomeFailed, 0, "")
		time.Sleep(10 * time.Minute)
		ends(a, Present)
		d, took = decide(a)
		check("tried again", d, took, outcomeCopy, 3*time.Second, copies)

		a = deskArtifact("wait/leaving")
		m.become(t, "eu", m.guide.stored(&a), Leaving)
		d, took = decide(a)
		check("leaving", d, took, outcomeLeaving, 0, "")

		a = deskArtifact("wait/expired")
		m.become(t, "eu", m.guide.stored(&a), Present, func(c *Copy) { c.Expires = timestamp.Now() })
		d, took = decide(a)
		check("expired", d, took, outcomeLeaving, 0, "")
		a.Expires = timestamp.Now()
		d, took = decide(a)
		check("an artifact that expired", d, took, outcomeOff, 0, "")

		// A caller that goes away waits no longer.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a = deskArtifact("wait/gone")
		start := time.Now()
		if _, err := m.decide(ctx, m.plan(m.guide.stored(&a), &a, "eu")); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("a caller that is gone: %v after %s", err, time.Since(start))
		}
	})
}

func TestManyWhoWaitAreAnsweredTogether(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		m, _ := deskMirror(t, db, &library{})
		a := deskArtifact("public/x")
		o := m.guide.stored(&a)
		var all sync.WaitGroup
		urls := make([]string, 200)
		for i := range urls {
			all.Go(func() {
				d, err := m.decide(t.Context(), m.plan(o, &a, "eu"))
				if err != nil {
					t.Error(err)
				}
				urls[i] = d.URL
			})
		}
		synctest.Wait()
		time.Sleep(time.Second)
		start := time.Now()
		m.become(t, "eu", o, Present)
		all.Wait()
		if d := time.Since(start); d > 0 {
			t.Errorf("answered after %s", d)
		}
		for _, u := range urls {
			if !strings.HasPrefix(u, "http://s3.test/copies-eu/") {
				t.Fatalf("one got %q", u)
			}
		}
	})
}
