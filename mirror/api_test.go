package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/api/apitest"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

func TestEveryMethodDemandsItsScopes(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		o := w.artifact(someTask, "public/a", []byte("a"))
		w.wanting(wish(near, o))
		w.settle(w.Mirror)
		apitest.Scopes(t, API, w.Mirror, apitest.Samples{
			Path: map[string]string{"service": "s3", "region": near, "id": o.ID(), "url": o.String()},
			Open: []string{"redirect", "stream"},
			Methods: map[string]apitest.Sample{
				"wantCopies": {
					Body: map[string]any{"region": near, "pinned": true, "copies": []map[string]any{{"url": o.String()}}},
					Vars: scope.Vars{"region": near, "pinned": true},
				},
				"purge": {Path: map[string]string{"region": everywhere}},
				"verifyCopy": {Before: func() {
					w.wanting(wish(near, o))
					w.settle(w.Mirror)
				}},
			},
		})
	})
}

// The redirects of 2016, and of today where they were wrong.
func TestRedirects(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		w.copying()
		body := noise(1, 5000)
		o := w.artifact(someTask, "public/logs/a b.log", body)
		signed, err := w.artifacts.PresignGet(w.Context(), o.Key, time.Minute, blob.Headers{})
		if err != nil {
			t.Fatal(err)
		}
		bare, _, _ := strings.Cut(signed, "?")
		for _, text := range []string{signed, bare, o.String(), w.root + "/api/queue/v1/task/" + someTask + "/runs/0/artifacts/public%2Flogs%2Fa%20b.log"} {
			w.demandCopy(far, text, body)
		}
		if n := w.count()[tallied{far, Present}]; n != (Sum{1, 5000}) {
			t.Errorf("there are %v", n)
		}
		if p := w.redirected(home, bare); p.status != 302 || w.get("GET", p.location, nil).text != string(body) {
			t.Errorf("at home: %d %s", p.status, p.text)
		}
		old := w.call("GET", "/v1/redirect/s3/"+far+"/"+url.PathEscape(bare), nil)
		head := w.call("HEAD", "/redirect/s3/"+far+"/"+url.PathEscape(bare), nil)
		if old.status != 302 || head.status != 302 || old.location != head.location || head.text != "" {
			t.Errorf("as of old: %+v; HEAD: %+v", old, head)
		}
		if p := w.call("GET", "/v1/ping", nil); p.body["alive"] != true {
			t.Errorf("ping: %s", p.text)
		}
		if p := w.call("GET", "/v1/api-reference", nil); p.body["serviceName"] != "mirror" {
			t.Errorf("reference: %s", p.text)
		}
		// Keys that are hard on everybody.
		for i, name := range []string{"public/../..//x", "public/naïve/日本", "public/" + strings.Repeat("k", 970), "public/" + strings.Repeat("ü", 480), "public/a%2Fb?c#d&e+f"} {
			body := noise(i, 100)
			w.demandCopy(near, w.artifact(someTask, name, body).String(), body)
			w.demandCopy(far, w.root+"/api/queue/v1/task/"+someTask+"/runs/0/artifacts/"+url.PathEscape(name), body)
		}
		w.remote("/pub/日本/a", faulty.Object{Size: 77})
		content, _ := io.ReadAll(w.origin.Content("/pub/日本/a"))
		w.demandCopy(near, w.originURL+"/pub/日本/a", content)
		w.demandCopy(near, w.originURL+"/pub/%E6%97%A5本/%61?", content)
		if n := w.origin.Count("/pub/日本/a").Gets; n != 1 {
			t.Errorf("the origin was asked %d times", n)
		}
	})
}

func TestWhatCannotBeRedirectedIsToldWhy(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		w.copying()
		private := w.artifact(someTask, "private/key", []byte("secret"))
		w.remote("/pub/metadata", faulty.Object{Size: 5, Always: []faulty.Fault{faulty.RedirectToMetadata}})
		w.remote("/pub/loop", faulty.Object{Size: 5, Always: []faulty.Fault{faulty.RedirectLoop}})
		w.remote("/pub/missing", faulty.Object{Size: 5, Always: []faulty.Fault{faulty.Missing}})
		w.remote("/pub/empty", faulty.Object{Size: 5, Always: []faulty.Fault{faulty.Empty}})
		w.remote("/pub/elsewhere", faulty.Object{Size: 5, Redirect: "https://example.com/x?Signature=secret"})
		copyURL, err := w.region(near).Bucket.PresignGet(w.Context(), "copies/x/y", time.Minute, blob.Headers{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			path   string // below /redirect/
			status int
			is     string // the code, or err
			says   string
		}{
			{"s3/mars/" + url.PathEscape(private.String()), 404, "ResourceNotFound", "Region mars is not configured for s3"},
			{"gcs/" + near + "/" + url.PathEscape(private.String()), 404, "ResourceNotFound", "Service gcs is not known"},
			{"s3/" + near + "/" + w.originURL + "/pub/a", 400, "InputError", "URL Must be URL Encoded!"},
			{"s3/" + near + "/" + url.PathEscape(w.originURL+"/pub/a") + "?v=1", 400, "InputError", "URL Must be URL Encoded!"},
			{"s3/" + near + "/nonsense", 400, "InputError", "scheme"},
			{"s3/" + near + "/" + url.PathEscape("ftp://example.com/a"), 400, "InputError", "only http and https"},
			{"s3/" + near + "/" + url.PathEscape("https://user:secret@example.com/a"), 400, "InputError", "user name or password"},
			{"s3/" + near + "/" + url.PathEscape(w.originURL+"/pub/../etc"), 400, "InputError", `a segment ".."`},
			{"s3/" + near + "/" + url.PathEscape(w.originURL+"/pub/%2e%2E/etc"), 400, "InputError", `a segment ".."`},
			{"s3/" + near + "/" + url.PathEscape(w.originURL+"/"+strings.Repeat("x", 9000)), 400, "InputError", "and may have 8192"},
			{"s3/" + near + "/" + url.PathEscape("s3://elsewhere/T/0/public/a"), 400, "InputError", "not in the artifact bucket"},
			{"s3/" + near + "/" + url.PathEscape(w.root+"/api/queue/v1/task/"+someTask+"/artifacts/public/a"), 400, "InputError", "that name the run"},
			{"s3/" + near + "/" + url.PathEscape("https://example.com/a?token=secret"), 403, "InvalidUrl", "is not an allowed origin"},
			{"s3/" + near + "/" + url.PathEscape("http://169.254.169.254/latest/meta-data/"), 403, "InvalidUrl", "is not an allowed origin"},
			{"s3/" + near + "/" + url.PathEscape(copyURL), 403, "InvalidUrl", "a bucket of the mirror's own"},
			{"s3/" + near + "/" + url.PathEscape(w.originURL+"/pub/metadata"), 403, "InvalidUrl", "169.254.169.254"},
			{"s3/" + near + "/" + url.PathEscape(w.originURL+"/pub/elsewhere"), 403, "InvalidUrl", "https://example.com/x"},
			{"s3/" + near + "/" + url.PathEscape(w.originURL+"/pub/loop"), 403, "InvalidUrl", "redirects"},
			{"s3/" + near + "/" + url.PathEscape(w.originURL+"/pub/missing"), 404, "BadHTTPStatus", "404 Not Found"},
			{"s3/" + near + "/" + url.PathEscape(w.originURL+"/pub/empty"), 502, "BadHTTPStatus", "204 No Content"},
			{"s3/" + near + "/" + url.PathEscape(private.String()), 403, "InsufficientScopes", "getArtifact"},
			{"s3/" + near + "/" + url.PathEscape("s3://artifacts/"+someTask+"/0/public/none"), 404, "ResourceNotFound", "no artifact"},
			{"s3/" + near + "/" + url.PathEscape("s3://artifacts/none"), 404, "ResourceNotFound", "not <taskId>/<runId>/<name>"},
		} {
			p := w.call("GET", "/redirect/"+c.path, nil)
			is, says := p.body["code"], fmt.Sprint(p.body["message"])
			if p.body["err"] != nil && (p.body["err"] != is || p.body["msg"] != says) {
				t.Errorf("%s: the old form is not the new one: %s", c.path, p.text)
			}
			if p.status != c.status || is != c.is || !strings.Contains(says, c.says) || strings.Contains(says, "secret") {
				t.Errorf("%.200s: %d %s", c.path, p.status, p.text)
			}
		}
		// What failed for the URL's sake is not tried again by the next who asks.
		before := w.origin.Count("/pub/missing").Gets
		if p := w.redirected(near, w.originURL+"/pub/missing"); p.status != 404 || w.origin.Count("/pub/missing").Gets != before {
			t.Errorf("the second time: %d, after %d requests", p.status, w.origin.Count("/pub/missing").Gets)
		}
	})
}

// Who waits in vain, or does not wait, gets the origin.
func TestTheOriginIsTheWayOut(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db,
			Route{Name: "off", Artifact: "public/off/*", Policy: Off},
			Route{Name: "behind", Artifact: "public/behind/*", Policy: Redirect},
			Route{Name: "short", MaxWait: 1500 * time.Millisecond},
		)
		for name, message := range map[string]string{
			"public/off/a":    "There is no copy: the route off makes no copies",
			"public/behind/a": "The copy is being made, redirecting to original",
			"public/a":        "Cached copy did not show up in 1.5s",
		} {
			o := w.artifact(someTask, name, []byte(name))
			p := w.redirected(near, o.String())
			for end := time.Now().Add(patience); p.body["msg"] == "Error caching file, redirecting to original" && time.Now().Before(end); { // a machine that is too busy to look in time
				p = w.redirected(near, o.String())
			}
			if p.status != 302 || p.body["msg"] != message || p.body["status"] != nil || w.get("GET", p.location, nil).text != name {
				t.Errorf("%s: %d %s", name, p.status, p.text)
			}
		}
		o := w.remote("/pub/a", faulty.Object{Size: 5})
		if p := w.redirected(near, o.URL); p.location != o.URL || p.body["url"] != o.URL {
			t.Errorf("a URL: %d %s", p.status, p.text)
		}
		// The copy failed, and not for what the origin did.
		if err := w.change(w.Context(), func(ch *changes) error {
			list, err := ch.named(name{near, o.ID()})
			for _, c := range list {
				c.State, c.Error, c.Attempts, c.Due = Failed, "the bucket is away", 8, timestamp.Now().Add(time.Hour)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if p := w.redirected(near, o.URL); p.location != o.URL || p.body["msg"] != "Error caching file, redirecting to original" {
			t.Errorf("after a failure: %d %s", p.status, p.text)
		}
		w.count()
	})
}

func TestWhoMayReadIsAskedOfTheCaller(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.auth = holder("queue:get-artifact:private/yes")
		for name, may := range map[string]bool{"private/yes": true, "private/no": false, "public/a": false} {
			err := w.mayRead(t.Context(), api.Credential{}, Origin{Bucket: "artifacts", Key: someTask + "/0/" + name})
			if (err == nil) != may {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// A holder has one scope.
type holder string

func (h holder) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	return api.Identity{Scopes: scope.NewSet(string(h))}, nil
}

func TestPurge(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		w.remote("/pub/a", faulty.Object{Size: 500})
		o := Origin{URL: w.originURL + "/pub/a"}
		w.wanting(wish(near, o), wish(far, o))
		w.settle(w.Mirror)
		purge := func(status int, region, of string) {
			t.Helper()
			w.answers(status, "DELETE", "/purge/s3/"+region+"/"+url.PathEscape(of), nil)
		}
		purge(204, near, o.URL)
		if a, b := w.copyOf(near, o).State, w.copyOf(far, o).State; a != Leaving || b != Present {
			t.Errorf("near %s, far %s", a, b)
		}
		purge(204, everywhere, o.URL)
		if b := w.copyOf(far, o).State; b != Leaving {
			t.Errorf("far %s", b)
		}
		purge(204, near, "https://example.com/none") // neither there nor allowed
		purge(404, "mars", o.URL)
		purge(400, home, o.URL)
		purge(400, near, "ftp://example.com")
		w.answers(400, "DELETE", "/purge/s3/"+near+"/"+o.URL, nil)
		// A copy that waits is not waited for any longer.
		other := w.remote("/pub/b", faulty.Object{Size: 500})
		w.wanting(wish(near, other))
		waited := make(chan State)
		go func() {
			c, err := w.await(t.Context(), near, other.ID(), patience)
			if err != nil {
				t.Error(err)
			}
			waited <- c.State
		}()
		w.answers(204, "DELETE", "/v1/purge/s3/all/"+url.PathEscape(other.URL), nil)
		if s := <-waited; s != Leaving {
			t.Errorf("who waited found it %s", s)
		}
		w.count()
	})
}

func TestOrders(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		o := w.artifact(someTask, "private/a", noise(1, 300))
		w.remote("/pub/a", faulty.Object{Size: 500})
		positions := func(body map[string]any) (list []position) {
			t.Helper()
			var out orderResponse
			if err := json.Unmarshal([]byte(w.answers(200, "POST", "/copies", body).text), &out); err != nil {
				t.Fatal(err)
			}
			return out.Copies
		}
		told := func(list []position) string {
			var texts []string
			for _, p := range list {
				size := int64(-1)
				if p.Size != nil {
					size = *p.Size
				}
				texts = append(texts, fmt.Sprintf("%s %d/%d", p.State, p.Done, size))
			}
			return strings.Join(texts, ", ")
		}
		items := []map[string]any{
			{"url": o.String()}, {"url": w.originURL + "/pub/a?X-Amz-Signature=topsecret", "size": 500},
			{"url": "https://example.com/topsecret"}, {"url": "s3://artifacts/" + someTask + "/0/none"}, {"url": "s3://artifacts/none"}, {"url": "nonsense"},
		}
		body := map[string]any{"region": far, "dryRun": true, "copies": items}
		if got := told(positions(body)); got != "missing 0/300, missing 0/500, refused 0/-1, refused 0/-1, refused 0/-1, refused 0/-1" {
			t.Errorf("dry run: %s", got)
		}
		if n := len(w.count()); n != 0 {
			t.Errorf("a dry run has left %d", n)
		}
		delete(body, "dryRun")
		for range 2 {
			if got := told(positions(body)); !strings.HasPrefix(got, "waiting 0/300, waiting 0/500, refused") {
				t.Errorf("at first: %s", got)
			}
		}
		w.settle(w.Mirror)
		if got := told(positions(body)); !strings.HasPrefix(got, "present 300/300, present 500/500, refused") {
			t.Errorf("at last: %s", got)
		}
		if n := w.count()[tallied{far, Present}].Objects; n != 2 {
			t.Errorf("there are %d", n)
		}
		// A pin is added to what is there.
		body["pinned"], body["copies"] = true, items[:1]
		positions(body)
		if c := w.copyOf(far, o); !c.Pinned || c.State != Present {
			t.Errorf("after pinning: %+v", c)
		}
		path := "/copies/" + far + "/" + o.ID()
		if p := w.answers(200, "DELETE", path+"/pin", nil); p.body["pinned"] != false || w.copyOf(far, o).Pinned {
			t.Errorf("after unpinning: %s", p.text)
		}
		if p := w.answers(200, "PUT", path+"/pin", nil); p.body["pinned"] != true {
			t.Errorf("after pinning again: %s", p.text)
		}
		if p := w.answers(200, "GET", path, nil); p.body["state"] != "present" || p.body["origin"] != o.String() || p.body["done"] != 300. {
			t.Errorf("found: %s", p.text)
		}
		w.answers(404, "PUT", "/copies/"+near+"/"+o.ID()+"/pin", nil)
		w.answers(404, "GET", "/copies/"+near+"/"+o.ID(), nil)
		w.answers(404, "GET", "/copies/mars/"+o.ID(), nil)
		w.answers(400, "POST", "/copies", map[string]any{"region": home, "copies": items})
		w.answers(400, "POST", "/copies", map[string]any{"region": far, "copies": []any{}})
		w.answers(400, "POST", "/copies", map[string]any{"region": far, "copies": []any{map[string]any{"url": w.originURL + "/pub/b", "sha256": "short"}}})
		w.answers(200, "GET", "/status", nil)
		w.answers(200, "GET", "/copies", nil)
		w.answers(200, "GET", "/explain/"+far+"/"+url.PathEscape(w.originURL+"/pub/a?X-Amz-Signature=topsecret"), nil)
		if strings.Contains(w.said.String(), "Signature") {
			t.Errorf("a signature was shown: %s", w.said.String())
		}
	})
}

func TestVerifying(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		o := w.artifact(someTask, "public/a", noise(1, 300))
		w.wanting(wish(far, o))
		path := "/copies/" + far + "/" + o.ID() + "/verify"
		w.answers(409, "POST", path, nil)
		w.settle(w.Mirror)
		if p := w.answers(200, "POST", path, nil); p.body["intact"] != true || !strings.Contains(p.text, "SHA-256 of its bytes are right") {
			t.Errorf("intact: %s", p.text)
		}
		if _, err := w.region(far).Bucket.Put(t.Context(), w.copyOf(far, o).key(), bytes.NewReader(noise(2, 300)), blob.Headers{}); err != nil {
			t.Fatal(err)
		}
		if p := w.answers(200, "POST", path, nil); p.body["intact"] != false || !strings.Contains(p.text, "ETag") {
			t.Errorf("damaged: %s", p.text)
		}
		if c := w.copyOf(far, o); c.State == Present {
			t.Error("a damaged copy is served")
		}
		w.answers(404, "POST", "/copies/"+near+"/"+o.ID()+"/verify", nil)
	})
}

func TestListingCopies(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		var wants []Want
		for i := range 5 {
			o := Origin{URL: fmt.Sprintf("%s/pub/%d", w.originURL, i)}
			if i == 3 {
				o.URL = fmt.Sprintf("%s/other/%d?query", w.originURL, i)
			}
			wants = append(wants, wish(near, o), wish(far, o))
		}
		w.wanting(wants...)
		if err := w.purge(t.Context(), wants[0].Origin.ID(), near); err != nil {
			t.Fatal(err)
		}
		list := func(query string) (n int) {
			t.Helper()
			token := ""
			last := ""
			for {
				var page copyList
				if err := json.Unmarshal([]byte(w.answers(200, "GET", "/copies?limit=2&"+query+"&continuationToken="+token, nil).text), &page); err != nil {
					t.Fatal(err)
				}
				for _, c := range page.Copies {
					if name := c.Region + c.ID; name <= last {
						t.Errorf("%s comes after %s", name, last)
					} else {
						last = name
					}
				}
				n += len(page.Copies)
				if token = page.ContinuationToken; token == "" {
					return n
				}
			}
		}
		for query, want := range map[string]int{
			"region=" + near: 5, "region=" + far: 5, "state=waiting": 9, "state=leaving": 1, "state=leaving&region=" + far: 0,
			"prefix=" + url.QueryEscape(w.originURL+"/other/"): 2, "prefix=" + url.QueryEscape(w.originURL+"/other/3?"): 0,
			"prefix=" + url.QueryEscape(w.originURL) + "&region=" + near: 5,
		} {
			if got := list(query); got != want {
				t.Errorf("%s: %d, want %d", query, got, want)
			}
		}
		w.answers(404, "GET", "/copies?region=mars", nil)
		w.answers(400, "GET", "/copies?state=lost", nil)
	})
}

func TestStatus(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		w.remote("/pub/a", faulty.Object{Size: 500})
		w.wanting(wish(near, Origin{URL: w.originURL + "/pub/a"}), wish(far, Origin{URL: w.originURL + "/pub/missing?secret"}))
		w.settle(w.Mirror)
		w.wanting(Want{Region: far, Origin: Origin{URL: w.originURL + "/pub/b"}, Size: 70, Expires: timestamp.Now().Add(time.Hour)})
		var s statusReport
		text := w.answers(200, "GET", "/status", nil).text
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		a, b := s.Regions[0], s.Regions[1]
		if s.Home != home || a.Region != near || a.States[Present] != (Sum{1, 500}) || a.Backlog != (Sum{}) || a.Rate.Bytes != 500 || a.Rate.Objects != 1 || len(a.Errors) != 0 {
			t.Errorf("near: %s", text)
		}
		if b.States[Failed].Objects != 1 || b.Backlog != (Sum{1, 70}) || b.OldestWaiting.IsZero() || len(b.Errors) != 1 {
			t.Fatalf("far: %s", text)
		}
		if e := b.Errors[0]; e.State != Failed || e.Attempts != 1 || !strings.Contains(e.Error, "404") || strings.Contains(text, "secret") {
			t.Errorf("the error: %+v", e)
		}
		if r := w.answers(200, "GET", "/routes", nil); r.body["home"] != home || !strings.Contains(r.text, `"default"`) || !strings.Contains(r.text, w.originURL) {
			t.Errorf("routes: %s", r.text)
		}
	})
}

func TestExplanations(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db,
			Route{Name: "streamed", Artifact: "public/stream/*", Policy: Stream}, Route{Name: "behind", Artifact: "*/behind", Policy: Redirect},
			Route{Name: "never", Artifact: "*/never", Policy: Off}, Route{Name: "far", Artifact: "*/far", Regions: []string{far}},
		)
		explained := func(region, of, answer string, says ...string) {
			t.Helper()
			p := w.answers(200, "GET", "/explain/"+region+"/"+url.PathEscape(of), nil)
			if p.body["answer"] != answer {
				t.Errorf("%s: %s", of, p.text)
			}
			for _, s := range says {
				if !strings.Contains(p.text, s) {
					t.Errorf("%s: nothing of %q: %s", of, s, p.text)
				}
			}
		}
		at := func(name string) string { return w.artifact(someTask, name, []byte(name)).String() }
		explained(near, at("private/a"), "wait", `"route":{"name":"default"`, "There is no copy in "+near+" yet", "run 0 of task "+someTask, "waits up to 28s")
		explained(near, at("public/stream/a"), "stream", "on the route streamed")
		explained(near, at("public/behind"), "origin", "the copy is made behind")
		explained(near, at("public/never"), "origin", "the route never makes no copies")
		explained(near, at("public/far"), "origin", "makes no copies in "+near)
		never, elsewhere := w.artifact(someTask, "x/never", []byte("x")), w.artifact(someTask, "x/far", []byte("x"))
		w.wanting(wish(near, never), wish(near, elsewhere))
		explained(near, elsewhere.String(), "origin", "makes no copies in "+near, `"state":"waiting"`)
		w.settle(w.Mirror)
		explained(near, elsewhere.String(), "copy", `"state":"present"`)
		explained(near, never.String(), "origin", "the route never makes no copies", `"state":"present"`)
		explained(home, at("public/a"), "origin", "is home")
		explained("caller", at("public/a"), "origin", "127.0.0.1 is in no network")
		explained(near, "https://example.com/a", "refused", "is not an allowed origin")
		explained(near, "nonsense", "refused", "scheme")
		explained(near, "s3://artifacts/"+someTask+"/0/none", "refused", "There is no artifact")
		o := w.artifact(someTask, "public/a", []byte("a"))
		w.wanting(wish(far, o), wish(near, Origin{URL: w.originURL + "/none"}))
		explained(far, o.String(), "wait", "is waiting, since")
		w.settle(w.Mirror)
		explained(far, o.String(), "copy", `"state":"present"`)
		explained(near, w.originURL+"/none", "refused", "The answer is 404")
		if err := w.purge(t.Context(), o.ID(), far); err != nil {
			t.Fatal(err)
		}
		explained(far, o.String(), "origin", "is being deleted")
		w.answers(404, "GET", "/explain/mars/x", nil)
		w.answers(400, "GET", "/explain/"+near+"/https://example.com/a", nil)
	})
}

// What is looked up and signed for a redirect to a copy that is there.
func BenchmarkRedirect(b *testing.B) {
	db := storetest.Open(b, "sqlite:"+b.TempDir()+"/db")
	w := newTest(b, db)
	o := w.artifact(someTask, "public/a", []byte("a"))
	w.wanting(wish(near, o))
	w.settle(w.Mirror)
	s := api.NewServer(api.Options{RootURL: "https://tasks.example.com", Auth: everybody{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err := api.Mount(s, API, w.Mirror); err != nil {
		b.Fatal(err)
	}
	signed, err := w.artifacts.PresignGet(b.Context(), o.Key, time.Minute, blob.Headers{})
	if err != nil {
		b.Fatal(err)
	}
	target := "https://tasks.example.com/api/mirror/v1/redirect/s3/" + near + "/" + url.PathEscape(signed)
	b.ReportAllocs()
	for b.Loop() {
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, httptest.NewRequest("GET", target, nil))
		if rec.Code != 302 {
			b.Fatal(rec.Body.String())
		}
	}
}
