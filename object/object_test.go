package object

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/blobtest"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A world is the service behind its HTTP server, over a real S3 gateway, and
// how tests call it.
type world struct {
	testing.TB
	*Objects
	s3   *faults
	root string
	as   []string // scopes of the caller; none is all
}

// faults stand between the service and S3, not between callers and S3.
type faults struct {
	mu   sync.Mutex
	fail func(*http.Request) bool
}

func (f *faults) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	broken := f.fail != nil && f.fail(r)
	f.mu.Unlock()
	if broken { // in a way that is not worth repeating
		return &http.Response{StatusCode: 403, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<Error><Code>AccessDenied</Code></Error>")), Request: r}, nil
	}
	return http.DefaultTransport.RoundTrip(r)
}

func (f *faults) set(fail func(*http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func each(t *testing.T, f func(t *testing.T, w *world)) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) { f(t, newWorld(t, db)) })
}

func newWorld(t testing.TB, db *store.DB) *world {
	t.Helper()
	w := &world{TB: t, s3: &faults{}}
	c := blobtest.Start(t, t.TempDir(), "127.0.0.1:0").Blob()
	c.Transport = w.s3
	opened, err := blob.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	bucket := opened.Bucket("objects")
	if err := bucket.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if w.Objects, err = New(t.Context(), Config{DB: db, Bucket: bucket, Log: log}); err != nil {
		t.Fatal(err)
	}
	server := api.NewServer(api.Options{RootURL: "http://tasks.test", Auth: w, Log: log, Metrics: prometheus.NewRegistry(), CheckOutput: true})
	if err := api.Mount(server, API, w.Objects); err != nil {
		t.Fatal(err)
	}
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	w.root = listening.URL + "/api/object/v1"
	return w
}

// Authenticate makes everybody a caller with the scopes of the moment.
func (w *world) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	if w.as == nil {
		return api.Identity{ClientID: "tester", Scopes: scope.NewSet("*")}, nil
	}
	return api.Identity{ClientID: "tester", Scopes: scope.NewSet(w.as...)}, nil
}

// A reply is the answer to a call.
type reply struct {
	status   int
	location string
	body     map[string]any
	text     string
}

// direct follows no redirects.
var direct = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (w *world) call(method, path string, body any) reply {
	w.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			w.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(w.Context(), method, w.root+path, in)
	if err != nil {
		w.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := direct.Do(r)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	p := reply{status: resp.StatusCode, location: resp.Header.Get("Location"), text: string(text)}
	json.Unmarshal(text, &p.body)
	return p
}

// want makes a call and checks its status.
func (w *world) want(status int, method, path string, body any) reply {
	w.Helper()
	p := w.call(method, path, body)
	if p.status != status {
		w.Fatalf("%s %s: %d, want %d: %s", method, path, p.status, status, p.text)
	}
	return p
}

// An upload is what its uploader knows.
type upload struct {
	name, project, id string
	expires           timestamp.Time
}

func newUpload(name string) upload {
	return upload{name, "tests", slugid.New(), timestamp.Now().Add(time.Hour)}
}

func at(method, name string) string { return "/" + method + "/" + url.PathEscape(name) }

// fields are a JSON object.
type fields = map[string]any

func (u upload) create(methods fields, hashes fields) fields {
	b := fields{"projectId": u.project, "uploadId": u.id, "expires": u.expires, "proposedUploadMethods": methods}
	if methods == nil {
		b["proposedUploadMethods"] = fields{}
	}
	if hashes != nil {
		b["hashes"] = hashes
	}
	return b
}

func (u upload) finish(hashes fields) fields {
	b := fields{"projectId": u.project, "uploadId": u.id}
	if hashes != nil {
		b["hashes"] = hashes
	}
	return b
}

func proposeInline(contentType, data string) fields {
	return fields{"dataInline": fields{"contentType": contentType, "objectData": base64.StdEncoding.EncodeToString([]byte(data))}}
}

func proposePut(contentType string, length int) fields {
	return fields{"putUrl": fields{"contentType": contentType, "contentLength": length}}
}

func hashesOf(data string) fields {
	a, b := sha256.Sum256([]byte(data)), sha512.Sum512([]byte(data))
	return fields{"sha256": hex.EncodeToString(a[:]), "sha512": hex.EncodeToString(b[:])}
}

// put sends data where a createUpload has answered, as the clients do: with the
// headers of the answer.
func (w *world) put(answer reply, data string, change func(http.Header)) int {
	w.Helper()
	m := answer.body["uploadMethod"].(fields)["putUrl"].(fields)
	r, err := http.NewRequestWithContext(w.Context(), "PUT", m["url"].(string), strings.NewReader(data))
	if err != nil {
		w.Fatal(err)
	}
	for k, v := range m["headers"].(fields) {
		if k != "Content-Length" { // which Go sets by itself
			r.Header.Set(k, v.(string))
		}
	}
	if change != nil {
		change(r.Header)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		w.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// store uploads data the way that clients do, with hashes at the end.
func (w *world) store(name, contentType, data string) upload {
	w.Helper()
	u := newUpload(name)
	answer := w.want(200, "PUT", at("upload", name), u.create(proposePut(contentType, len(data)), nil))
	if status := w.put(answer, data, nil); status != 200 {
		w.Fatalf("PUT: %d", status)
	}
	w.want(200, "POST", at("finish-upload", name), u.finish(hashesOf(data)))
	return u
}

// fetch gets the bytes of an object.
func (w *world) fetch(from string) (int, string, http.Header) {
	w.Helper()
	resp, err := http.Get(from)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

var both = fields{"acceptDownloadMethods": fields{"getUrl": true, "simple": true}}

// load downloads an object the way that clients do, and compares the hashes.
func (w *world) load(name string) string {
	w.Helper()
	p := w.want(200, "PUT", at("start-download", name), both)
	status, data, _ := w.fetch(p.body["url"].(string))
	if status != 200 {
		w.Fatalf("GET: %d %s", status, data)
	}
	for algorithm, hash := range hashesOf(data) {
		if known, is := p.body["hashes"].(fields)[algorithm]; is && known != hash {
			w.Errorf("the %s of %q is not the one that was told", algorithm, name)
		}
	}
	return data
}

// keys is what there is in the bucket.
func (w *world) keys() (keys []string) {
	w.Helper()
	for o, err := range w.bucket.List(w.Context(), "") {
		if err != nil {
			w.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// age lets time pass for what is recorded.
func (w *world) age(d time.Duration) {
	w.Helper()
	if err := w.db.Do(w.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE object SET expires = expires - $1, upload_expires = upload_expires - $1, deletable = deletable - $1`, d.Milliseconds())
		return err
	}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) records() (n int) {
	w.Helper()
	if err := w.db.View(w.Context(), func(tx *store.Tx) error { return tx.QueryRow(`SELECT COUNT(*) FROM object`).Scan(&n) }); err != nil {
		w.Fatal(err)
	}
	return n
}

// pass runs the loop until there is nothing more to do.
func (w *world) pass() error {
	w.Helper()
	for range 100 {
		if more, err := w.Loops()[0].Pass(w.Context()); err != nil || !more {
			return err
		}
	}
	w.Fatal("the loop finds no end")
	return nil
}

func TestAnObjectIsUploadedAndDownloaded(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		data := strings.Repeat("0123456789", 2000)
		u := newUpload("public/logs/a.txt")
		answer := w.want(200, "PUT", at("upload", u.name), u.create(proposePut("text/plain", len(data)), nil))
		m := answer.body["uploadMethod"].(fields)["putUrl"].(fields)
		if answer.body["uploadId"] != u.id || answer.body["projectId"] != u.project || answer.body["expires"] != u.expires.String() {
			t.Errorf("the answer is %s", answer.text)
		}
		expires, err := time.Parse(time.RFC3339, m["expires"].(string))
		if left := time.Until(expires); err != nil || left > putURLLife || left < putURLLife-time.Minute {
			t.Errorf("the URL expires at %v, %v", m["expires"], err)
		}
		if h := m["headers"].(fields); len(h) != 2 || h["Content-Type"] != "text/plain" || h["Content-Length"] != "20000" {
			t.Errorf("the headers are %v", h)
		}
		for what, path := range map[string]string{"start-download": "PUT", "metadata": "GET", "download": "GET"} {
			var body any
			if path == "PUT" {
				body = both
			}
			if p := w.want(404, path, at(what, u.name), body); !strings.Contains(p.text, "not finished") {
				t.Errorf("%s before the end of the upload: %s", what, p.text)
			}
		}
		if status := w.put(answer, data, nil); status != 200 {
			t.Fatalf("PUT: %d", status)
		}
		for range 2 { // it can be repeated
			if p := w.want(200, "POST", at("finish-upload", u.name), u.finish(hashesOf(data))); p.text != "{}" {
				t.Errorf("finishUpload answers %s", p.text)
			}
		}

		p := w.want(200, "PUT", at("start-download", u.name), both)
		if got := p.body["hashes"].(fields); p.body["method"] != "getUrl" || p.body["expires"] == nil || len(got) != 2 || got["sha512"] != hashesOf(data)["sha512"] {
			t.Errorf("startDownload answers %s", p.text)
		}
		if status, got, h := w.fetch(p.body["url"].(string)); status != 200 || got != data || h.Get("Content-Type") != "text/plain" || h.Get("Content-Disposition") != "" {
			t.Errorf("GET: %d, %d bytes, %v", status, len(got), h)
		}
		p = w.want(200, "PUT", at("start-download", u.name), fields{"acceptDownloadMethods": fields{"simple": true}})
		if len(p.body) != 2 || p.body["method"] != "simple" {
			t.Errorf("startDownload answers %s", p.text)
		}
		if _, got, _ := w.fetch(p.body["url"].(string)); got != data {
			t.Error("simple has other bytes")
		}
		p = w.want(406, "PUT", at("start-download", u.name), fields{"acceptDownloadMethods": fields{}})
		if p.body["code"] != "NoMatchingMethod" || p.body["message"] == nil || p.body["requestInfo"] == nil {
			t.Errorf("without a method: %s", p.text)
		}
		w.want(400, "PUT", at("start-download", u.name), fields{"acceptDownloadMethods": fields{"simple": false}})
		p = w.want(303, "GET", at("download", u.name), nil)
		if _, got, _ := w.fetch(p.location); got != data {
			t.Error("download has other bytes")
		}
		if status, got, _ := w.fetch(w.root + "/download/public/logs/a.txt"); status != 200 || got != data { // a plain slash
			t.Errorf("following redirects: %d", status)
		}
		p = w.want(200, "GET", at("metadata", u.name), nil)
		if p.body["projectId"] != u.project || p.body["expires"] != u.expires.String() || len(p.body["hashes"].(fields)) != 2 {
			t.Errorf("the object is %s", p.text)
		}
		w.want(409, "PUT", at("upload", u.name), u.create(proposePut("text/plain", len(data)), nil))
		w.want(409, "PUT", at("upload", u.name), newUpload(u.name).create(nil, nil))
		w.want(404, "GET", at("metadata", "another"), nil)
		w.want(404, "POST", at("finish-upload", "another"), u.finish(nil))
	})
}

func TestSmallDataComesInsideTheCall(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, data := range []string{"", "signature", strings.Repeat("x", maxInline)} {
			u := newUpload("inline/" + slugid.New())
			methods := proposeInline("text/plain", data)
			methods["putUrl"] = proposePut("text/plain", len(data))["putUrl"] // as the clients do
			for range 2 {
				p := w.want(200, "PUT", at("upload", u.name), u.create(methods, nil))
				if m := p.body["uploadMethod"].(fields); len(m) != 1 || m["dataInline"] != true {
					t.Errorf("the method is %v", m)
				}
			}
			w.want(200, "POST", at("finish-upload", u.name), u.finish(hashesOf(data)))
			if got := w.load(u.name); got != data {
				t.Errorf("got %d bytes, want %d", len(got), len(data))
			}
		}
		u := newUpload("inline/bad")
		for data, want := range map[string]string{"AAA!": "not base64", strings.Repeat("A", 10926): "up to 8192"} {
			methods := fields{"dataInline": fields{"contentType": "text/plain", "objectData": data}}
			if p := w.want(400, "PUT", at("upload", u.name), u.create(methods, nil)); !strings.Contains(p.text, want) || strings.Contains(p.text, data) {
				t.Errorf("%s", p.text)
			}
		}
		w.want(400, "PUT", at("upload", u.name), u.create(fields{"dataInline": fields{"contentType": "text/plain", "objectData": strings.Repeat("A", 10928)}}, nil))
		// Hashes that are wrong are found at once, at the beginning and at the end.
		if p := w.want(400, "PUT", at("upload", u.name), u.create(proposeInline("text/plain", "a"), hashesOf("b"))); !strings.Contains(p.text, "hashes.sha256") {
			t.Errorf("%s", p.text)
		}
		w.want(200, "PUT", at("upload", u.name), u.create(proposeInline("text/plain", "a"), nil))
		w.want(400, "POST", at("finish-upload", u.name), u.finish(hashesOf("b")))
		w.want(200, "POST", at("finish-upload", u.name), u.finish(hashesOf("a")))
		// Without padding, as some encoders write it.
		u = newUpload("inline/raw")
		w.want(200, "PUT", at("upload", u.name), u.create(fields{"dataInline": fields{"contentType": "text/plain", "objectData": "YQ"}}, nil))
		w.want(200, "POST", at("finish-upload", u.name), u.finish(nil))
		if got := w.load(u.name); got != "a" {
			t.Errorf("got %q", got)
		}
	})
}

func TestAnUploadBelongsToWhoBeganIt(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		u := newUpload("mine")
		p := w.want(200, "PUT", at("upload", u.name), u.create(nil, nil)) // takes the name
		if m := p.body["uploadMethod"].(fields); len(m) != 0 {
			t.Errorf("a method nobody has proposed: %v", m)
		}
		other := u
		other.id = slugid.New()
		project := u
		project.project = "others"
		later := u
		later.expires = u.expires.Add(time.Millisecond)
		for what, v := range map[string]upload{"id": other, "project": project, "expiry": later} {
			p := w.want(409, "PUT", at("upload", u.name), v.create(proposeInline("text/plain", "evil"), nil))
			if strings.Contains(p.text, u.id) || strings.Contains(p.text, "ZXZpbA") {
				t.Errorf("another %s: the error shows too much: %s", what, p.text)
			}
		}
		w.want(200, "PUT", at("upload", u.name), u.create(proposeInline("text/plain", "good"), nil))
		if p := w.want(409, "POST", at("finish-upload", u.name), other.finish(nil)); strings.Contains(p.text, u.id) {
			t.Errorf("the error shows the id: %s", p.text)
		}
		w.want(400, "POST", at("finish-upload", u.name), project.finish(nil))
		w.want(200, "POST", at("finish-upload", u.name), u.finish(nil))
		w.want(200, "POST", at("finish-upload", u.name), other.finish(nil)) // no matter once it is finished
		if got := w.load(u.name); got != "good" {
			t.Errorf("got %q", got)
		}
	})
}

func TestHashesAreAddedAndNeverChanged(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		u := newUpload("hashed")
		right, wrong := hashesOf("data"), hashesOf("other")
		w.want(200, "PUT", at("upload", u.name), u.create(nil, fields{"sha256": right["sha256"], "md5": "00"}))
		w.want(200, "PUT", at("upload", u.name), u.create(nil, fields{"md5": "00"}))
		w.want(409, "PUT", at("upload", u.name), u.create(nil, fields{"md5": "01"}))
		w.want(409, "PUT", at("upload", u.name), u.create(nil, fields{"sha256": wrong["sha256"], "crc": "1"}))
		w.want(400, "PUT", at("upload", u.name), u.create(proposeInline("text/plain", "other"), nil)) // not what the hash says
		w.want(200, "PUT", at("upload", u.name), u.create(proposeInline("text/plain", "data"), nil))
		w.want(409, "POST", at("finish-upload", u.name), u.finish(fields{"md5": "01"}))
		w.want(200, "POST", at("finish-upload", u.name), u.finish(fields{"sha512": right["sha512"]}))
		w.want(200, "POST", at("finish-upload", u.name), u.finish(fields{"md5": "00"}))
		w.want(409, "POST", at("finish-upload", u.name), u.finish(fields{"md5": "01"}))
		w.want(409, "POST", at("finish-upload", u.name), u.finish(fields{"blake3": "01"}))
		want := fields{"sha256": right["sha256"], "sha512": right["sha512"], "md5": "00"}
		if p := w.want(200, "GET", at("metadata", u.name), nil); len(p.body["hashes"].(fields)) != 3 || p.body["hashes"].(fields)["sha512"] != want["sha512"] {
			t.Errorf("the hashes are %s", p.text)
		}
		u = newUpload("hostile hashes")
		many := fields{}
		for range maxHashes + 1 {
			many[slugid.New()] = "1"
		}
		for _, bad := range []fields{
			many, {"": "1"}, {strings.Repeat("a", maxAlgorithm+1): "1"}, {"md5": strings.Repeat("0", maxHash+1)}, {"md5": ""}, {"md5": 1}, {"md5": fields{}},
			{"sha256": "short"}, {"sha256": strings.Repeat("z", 64)}, {"sha512": strings.Repeat("A", 128)},
		} {
			w.want(400, "PUT", at("upload", u.name), u.create(nil, bad))
		}
		if n := w.records(); n != 1 {
			t.Errorf("there are %d records", n)
		}
	})
}

func TestNoObjectWithoutItsBytes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		u := newUpload("a")
		data := "the bytes"
		w.want(200, "PUT", at("upload", u.name), u.create(nil, nil))
		if p := w.want(409, "POST", at("finish-upload", u.name), u.finish(nil)); !strings.Contains(p.text, "No bytes") {
			t.Errorf("nothing was agreed on: %s", p.text)
		}
		answer := w.want(200, "PUT", at("upload", u.name), u.create(proposePut("text/plain", len(data)), nil))
		w.want(409, "POST", at("finish-upload", u.name), u.finish(hashesOf(data)))
		for what, send := range map[string]func() int{
			"fewer bytes":          func() int { return w.put(answer, data[1:], nil) },
			"more bytes":           func() int { return w.put(answer, data+"!", nil) },
			"no bytes":             func() int { return w.put(answer, "", nil) },
			"another content type": func() int { return w.put(answer, data, func(h http.Header) { h.Set("Content-Type", "text/html") }) },
			"no content type":      func() int { return w.put(answer, data, func(h http.Header) { h.Del("Content-Type") }) },
		} {
			if status := send(); status != 403 {
				t.Errorf("%s: %d", what, status)
			}
		}
		w.want(409, "POST", at("finish-upload", u.name), u.finish(hashesOf(data)))
		if status := w.put(answer, data, nil); status != 200 {
			t.Fatalf("PUT: %d", status)
		}
		// The caller changes its mind about the length: what is there does not count.
		longer := w.want(200, "PUT", at("upload", u.name), u.create(proposePut("text/plain", len(data)+1), nil))
		if p := w.want(409, "POST", at("finish-upload", u.name), u.finish(nil)); !strings.Contains(p.text, "10 bytes, and 9 have arrived") {
			t.Errorf("%s", p.text)
		}
		if status := w.put(longer, data+"!", nil); status != 200 {
			t.Fatalf("PUT: %d", status)
		}
		w.want(400, "POST", at("finish-upload", u.name), u.finish(hashesOf(data)))
		w.want(200, "POST", at("finish-upload", u.name), u.finish(hashesOf(data+"!")))
		if got := w.load(u.name); got != data+"!" {
			t.Errorf("got %q", got)
		}

		empty := newUpload("empty")
		answer = w.want(200, "PUT", at("upload", empty.name), empty.create(proposePut("text/plain", 0), nil))
		w.want(409, "POST", at("finish-upload", empty.name), empty.finish(nil))
		if status := w.put(answer, "not", nil); status != 200 { // which S3 cannot refuse
			t.Fatalf("PUT: %d", status)
		}
		w.want(409, "POST", at("finish-upload", empty.name), empty.finish(nil))
		if status := w.put(answer, "", nil); status != 200 {
			t.Fatalf("PUT: %d", status)
		}
		w.want(200, "POST", at("finish-upload", empty.name), empty.finish(hashesOf("")))
	})
}

func TestOnlySmallBytesAreHashedHere(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		large := strings.Repeat("x", maxVerified+1)
		u := newUpload("large")
		answer := w.want(200, "PUT", at("upload", u.name), u.create(proposePut("text/plain", len(large)), nil))
		if status := w.put(answer, large, nil); status != 200 {
			t.Fatalf("PUT: %d", status)
		}
		w.s3.set(func(r *http.Request) bool { return r.Method == "GET" })
		w.want(200, "POST", at("finish-upload", u.name), u.finish(hashesOf(large)))
		w.s3.set(nil)

		// The hashes of encoded bytes are those of what they stand for.
		u = newUpload("encoded")
		answer = w.want(200, "PUT", at("upload", u.name), u.create(proposePut("text/plain", 7), nil))
		if status := w.put(answer, "encoded", func(h http.Header) { h.Set("Content-Encoding", "gzip") }); status != 200 {
			t.Fatalf("PUT: %d", status)
		}
		w.want(200, "POST", at("finish-upload", u.name), u.finish(hashesOf("decoded")))
	})
}

func TestHostileRequestsAreRefused(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		u := newUpload("ok")
		past := u
		past.expires = timestamp.Now().Add(-time.Second)
		if p := w.want(400, "PUT", at("upload", u.name), past.create(nil, nil)); !strings.Contains(p.text, "expires") {
			t.Errorf("%s", p.text)
		}
		for _, methods := range []fields{
			proposePut("text/plain", -1), proposePut("text/plain", maxPut+1), proposePut("", 1), proposePut("text/plain\r\nX-Evil: 1", 1),
			proposePut("text/plain; x=ü", 1), proposePut("text/"+strings.Repeat("x", maxContentType), 1), proposeInline("no type at all", "a"),
			{"putUrl": fields{"contentType": "text/plain", "contentLength": 1e300}}, {"another": true},
		} {
			w.want(400, "PUT", at("upload", u.name), u.create(methods, nil))
		}
		for _, name := range []string{strings.Repeat("n", maxName+1), "ü", "a\nb", "\x7f"} {
			w.want(400, "PUT", at("upload", name), u.create(nil, nil))
		}
		bad := u
		bad.id = "not-a-slug"
		w.want(400, "PUT", at("upload", u.name), bad.create(nil, nil))
		bad = u
		bad.project = "a b"
		w.want(400, "PUT", at("upload", u.name), bad.create(nil, nil))
		bad.project = strings.Repeat("p", 501)
		w.want(400, "PUT", at("upload", u.name), bad.create(nil, nil))
		if n := w.records(); n != 0 {
			t.Errorf("there are %d records", n)
		}
	})
}

func TestAnyNameHasItsOwnBytes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		names := []string{
			"a", "a/b", "a/b/c", "a/", "/a", "//", "..", "../../etc/passwd", "a/../b", ".", "a/./b", " ", "a b", `\`, "%2e%2e", "%2F", "~", "a~", "?x=y", "#", "a?versionId=1",
			"object/a", strings.Repeat("n", maxName), strings.Repeat("a/", maxName/2), strings.Repeat("~", maxName), `"><script>`, "*", "con", "$(reboot)", "A",
		}
		for _, name := range names {
			w.store(name, "text/plain", "the bytes of "+name)
		}
		for _, name := range names {
			if got := w.load(name); got != "the bytes of "+name {
				t.Errorf("%.60q has %.60q", name, got)
			}
			p := w.want(303, "GET", at("download", name), nil)
			if _, got, _ := w.fetch(p.location); got != "the bytes of "+name {
				t.Errorf("%.60q redirects to %.60q", name, got)
			}
		}
		if keys := w.keys(); len(keys) != len(names) {
			t.Errorf("%d names have %d keys", len(names), len(keys))
		} else {
			for _, key := range keys {
				if !strings.HasPrefix(key, "object/") || !slugid.Valid(strings.Split(key, "/")[1]) {
					t.Errorf("a key is %.60q", key)
				}
			}
		}
	})
}

func TestWhatCanHoldScriptsIsSavedNotShown(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for contentType, want := range map[string]string{"text/html": "attachment", "Text/HTML; charset=utf-8": "attachment", "image/svg+xml": "attachment", "text/plain": "", "image/png": ""} {
			name := "page " + contentType
			w.store(name, contentType, "<script>")
			p := w.want(303, "GET", at("download", name), nil)
			if _, _, h := w.fetch(p.location); h.Get("Content-Disposition") != want {
				t.Errorf("%s has the disposition %q", contentType, h.Get("Content-Disposition"))
			}
		}
	})
}

func TestEveryMethodIsRefusedWithoutItsScope(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		u := newUpload("a/b")
		for _, c := range []struct {
			method, path string
			body         any
			scope        string
			wrong        []string
		}{
			{"PUT", at("upload", u.name), u.create(proposeInline("text/plain", "x"), nil), "object:upload:tests:a/*", []string{"object:upload:tests:a", "object:upload:other:a/b", "object:download:*"}},
			{"POST", at("finish-upload", u.name), u.finish(nil), "object:upload:tests:a/b", []string{"object:upload:tests:b", "object:upload:other:*"}},
			{"PUT", at("start-download", u.name), both, "object:download:a/*", []string{"object:upload:*", "object:download:a"}},
			{"GET", at("metadata", u.name), nil, "object:download:a/b", []string{"object:download:b"}},
			{"GET", at("download", u.name), nil, "object:download:*", []string{"object:download:b"}},
			{"GET", at("download", "missing"), nil, "object:download:missing", []string{"object:download:a"}},
		} {
			for _, wrong := range append(c.wrong, "") {
				if w.as = []string{}; wrong != "" {
					w.as = []string{wrong}
				}
				w.want(403, c.method, c.path, c.body)
			}
			w.as = []string{c.scope}
			if p := w.call(c.method, c.path, c.body); p.status >= 400 && p.status != 404 {
				t.Errorf("%s %s with %s: %s", c.method, c.path, c.scope, p.text)
			}
		}
	})
}

func TestExpiredObjectsGoBytesFirst(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		u := w.store("short", "text/plain", "short")
		long := newUpload("long")
		long.expires = timestamp.Now().Add(72 * time.Hour)
		w.want(200, "PUT", at("upload", long.name), long.create(proposeInline("text/plain", "long"), nil))
		long.expires = long.expires.Add(-time.Hour) // as time passes below
		w.want(200, "POST", at("finish-upload", long.name), long.finish(nil))

		w.age(time.Hour)
		for what, method := range map[string]string{"start-download": "PUT", "metadata": "GET", "download": "GET"} {
			var body any
			if method == "PUT" {
				body = both
			}
			w.want(404, method, at(what, u.name), body)
		}
		if p := w.want(409, "PUT", at("upload", u.name), newUpload(u.name).create(nil, nil)); !strings.Contains(p.text, "being deleted") {
			t.Errorf("its name is still taken: %s", p.text)
		}
		if err := w.pass(); err != nil || w.records() != 2 {
			t.Errorf("an object was deleted while URLs to upload to may be valid: %v", err)
		}
		w.age(linger)
		w.s3.set(func(r *http.Request) bool { return r.Method == "POST" }) // deletions
		if err := w.pass(); err == nil || w.records() != 2 || len(w.keys()) != 2 {
			t.Errorf("S3 does not delete, but %d records and %d keys are left: %v", w.records(), len(w.keys()), err)
		}
		w.s3.set(nil)
		for range 2 {
			if err := w.pass(); err != nil || w.records() != 1 || len(w.keys()) != 1 {
				t.Errorf("%d records and %d keys are left: %v", w.records(), len(w.keys()), err)
			}
		}
		w.store("short", "text/plain", "another") // the name is free
		if got := w.load("short"); got != "another" {
			t.Errorf("got %q", got)
		}
		if got := w.load("long"); got != "long" {
			t.Errorf("got %q", got)
		}
	})
}

func TestAbandonedUploadsAreRemoved(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		u := newUpload("abandoned")
		u.expires = timestamp.Now().Add(1000 * time.Hour)
		answer := w.want(200, "PUT", at("upload", u.name), u.create(proposePut("text/plain", 4), nil))
		if status := w.put(answer, "data", nil); status != 200 {
			t.Fatalf("PUT: %d", status)
		}
		w.age(uploadLife)
		u.expires = u.expires.Add(-uploadLife)
		if err := w.pass(); err != nil || len(w.keys()) != 1 {
			t.Errorf("the bytes went while somebody could send more: %v", err)
		}
		if p := w.want(410, "POST", at("finish-upload", u.name), u.finish(nil)); p.body["code"] != "ResourceExpired" {
			t.Errorf("finished too late: %s", p.text)
		}
		w.want(409, "PUT", at("upload", u.name), u.create(proposePut("text/plain", 4), nil))
		w.age(linger)
		if err := w.pass(); err != nil || len(w.keys()) != 0 || w.records() != 0 {
			t.Errorf("%d records and %d keys are left: %v", w.records(), len(w.keys()), err)
		}
		// A URL of the first upload does not reach the second.
		second := newUpload(u.name)
		w.want(200, "PUT", at("upload", u.name), second.create(proposeInline("text/plain", "good"), nil))
		if status := w.put(answer, "evil", nil); status != 200 {
			t.Fatalf("PUT: %d", status)
		}
		w.want(200, "POST", at("finish-upload", u.name), second.finish(hashesOf("good")))
		if got := w.load(u.name); got != "good" {
			t.Errorf("got %q", got)
		}
	})
}

func TestBytesThatCannotBeDeletedAreInNobodysWay(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, name := range []string{"a", "b", "c", "locked"} {
			w.store(name, "text/plain", name)
		}
		w.age(time.Hour + linger)
		w.s3.set(func(r *http.Request) bool {
			if r.Method != "POST" {
				return false
			}
			b, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(b))
			return bytes.Contains(b, []byte("locked"))
		})
		if err := w.pass(); err == nil || !strings.Contains(err.Error(), `"locked"`) {
			t.Errorf("nobody is told: %v", err)
		}
		if keys := w.keys(); w.records() != 1 || len(keys) != 1 || !strings.HasSuffix(keys[0], "locked") {
			t.Errorf("left are %q", keys)
		}
		if err := w.pass(); err != nil { // it waits for better times
			t.Error(err)
		}
		w.s3.set(nil)
		w.age(retryTime)
		if err := w.pass(); err != nil || w.records() != 0 || len(w.keys()) != 0 {
			t.Errorf("%d records and %d keys are left: %v", w.records(), len(w.keys()), err)
		}
	})
}

// S3 fails at every request that it gets in turn; what was begun can be gone on
// with, and nothing is said to be there that is not.
func TestS3FailsBetweenCalls(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		fail := func(method string) { w.s3.set(func(r *http.Request) bool { return r.Method == method }) }
		u := newUpload("inline")
		begin := u.create(proposeInline("text/plain", "data"), nil)
		fail("PUT")
		w.want(500, "PUT", at("upload", u.name), begin)
		w.s3.set(nil)
		w.want(409, "POST", at("finish-upload", u.name), u.finish(nil)) // the bytes have not arrived
		w.want(404, "GET", at("metadata", u.name), nil)
		w.want(200, "PUT", at("upload", u.name), begin)
		fail("HEAD")
		w.want(500, "POST", at("finish-upload", u.name), u.finish(nil))
		fail("GET")
		w.want(500, "POST", at("finish-upload", u.name), u.finish(hashesOf("data")))
		w.want(404, "GET", at("metadata", u.name), nil)
		w.s3.set(nil)
		w.want(200, "POST", at("finish-upload", u.name), u.finish(hashesOf("data")))
		if got := w.load(u.name); got != "data" {
			t.Errorf("got %q", got)
		}
		if n := len(w.keys()); n != 1 {
			t.Errorf("there are %d keys", n)
		}
	})
}

func TestOfManyWhoBeginOneWins(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const n = 8
		var group sync.WaitGroup
		status := make([]int, n)
		uploads := make([]upload, n)
		for i := range n {
			uploads[i] = newUpload("contended")
			group.Go(func() {
				status[i] = w.call("PUT", at("upload", "contended"), uploads[i].create(proposeInline("text/plain", uploads[i].id), nil)).status
			})
		}
		group.Wait()
		winner := slices.Index(status, 200)
		if winner < 0 || slices.Index(status[winner+1:], 200) >= 0 {
			t.Fatalf("the calls are answered %v", status)
		}
		u := uploads[winner]
		for i := range n { // many finish at once, each with a hash of its own
			group.Go(func() {
				status[i] = w.call("POST", at("finish-upload", u.name), u.finish(fields{"x": "1"})).status
			})
		}
		group.Wait()
		if !slices.Equal(status, slices.Repeat([]int{200}, n)) {
			t.Errorf("finishing is answered %v", status)
		}
		if got := w.load(u.name); got != u.id {
			t.Errorf("the bytes are those of %s, not of %s", got, u.id)
		}
	})
}

// What the queue uses for artifacts with the storage type object.
func TestOtherServicesReserveAndRead(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		u := newUpload("t/" + slugid.New() + "/0/public/build.zip")
		reserve := func(u upload) error {
			return w.CreateUpload(t.Context(), u.name, u.project, u.id, u.expires.Time())
		}
		finished := func(want bool) {
			t.Helper()
			if got, err := w.Finished(t.Context(), u.name); err != nil || got != want {
				t.Errorf("finished: %v, %v", got, err)
			}
		}
		code := func(err error) api.Code {
			e, ok := err.(*api.Error)
			if !ok {
				return ""
			}
			return e.Code
		}
		finished(false)
		for range 2 {
			if err := reserve(u); err != nil {
				t.Fatal(err)
			}
		}
		other := u
		other.id = slugid.New()
		if err := reserve(other); code(err) != api.RequestConflict {
			t.Errorf("another upload: %v", err)
		}
		finished(false)
		if _, err := w.DownloadURL(t.Context(), u.name); code(err) != api.ResourceNotFound {
			t.Errorf("not finished: %v", err)
		}
		w.want(200, "PUT", at("upload", u.name), u.create(proposeInline("application/zip", "zip"), nil))
		w.want(200, "POST", at("finish-upload", u.name), u.finish(nil))
		finished(true)
		if err := reserve(u); err != nil {
			t.Errorf("reserved again: %v", err)
		}
		if err := reserve(other); code(err) != api.RequestConflict {
			t.Errorf("another upload: %v", err)
		}
		for _, get := range []func() (string, error){
			func() (string, error) { return w.DownloadURL(t.Context(), u.name) },
			func() (string, error) { return w.URL(t.Context(), u.name, time.Minute) },
		} {
			from, err := get()
			if err != nil {
				t.Fatal(err)
			}
			if _, got, _ := w.fetch(from); got != "zip" {
				t.Errorf("got %q", got)
			}
		}
		w.age(time.Hour)
		finished(false)
	})
}
