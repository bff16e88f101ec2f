package queue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/blobtest"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// withArtifacts runs f on a queue whose artifacts are in a real S3 gateway.
func withArtifacts(t *testing.T, f func(t *testing.T, s *stage, b *blob.Bucket)) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := blobtest.Bucket(t, blobtest.Gateway(t))
		f(t, newStage(t, db, b), b)
	})
}

func (s *stage) createArtifact(run, name string, body map[string]any) (int, map[string]any) {
	s.t.Helper()
	if body["expires"] == nil {
		body["expires"] = timestamp.Now().Add(time.Hour)
	}
	return s.call("POST", s.run(run)+"/artifacts/"+url.PathEscape(name), body)
}

func s3(contentType string) map[string]any {
	return map[string]any{"storageType": "s3", "contentType": contentType}
}

func send(t *testing.T, to, contentType string, body []byte) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "PUT", to, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

func fetch(t *testing.T, from string) (int, string) {
	t.Helper()
	resp, err := http.Get(from)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestArtifactsOfEveryKind(t *testing.T) {
	withArtifacts(t, func(t *testing.T, s *stage, _ *blob.Bucket) {
		s.do(strings.Fields("create A"))
		if code, _ := s.createArtifact("A/0", "public/early", s3("text/plain")); code != 404 && code != 409 {
			t.Errorf("before the claim: %d", code)
		}
		s.do(strings.Fields("claim w"))

		// s3, under a name that is hard to keep apart from a path
		const name = "public/../odd//name with ü%20.txt"
		code, out := s.createArtifact("A/0", name, s3("text/plain"))
		if code != 200 || out["storageType"] != "s3" || out["contentType"] != "text/plain" {
			t.Fatal(code, out)
		}
		if resp := send(t, out["putUrl"].(string), "text/plain", []byte("hello")); resp.StatusCode != 200 {
			t.Fatalf("PUT: %s", resp.Status)
		}
		_, again := s.createArtifact("A/0", name, s3("text/plain"))
		if again["putUrl"] == nil {
			t.Errorf("no new URL: %v", again)
		}
		if code, _ := s.createArtifact("A/0", name, s3("text/html")); code != 409 {
			t.Errorf("another content type: %d", code)
		}
		code, out = s.call("GET", s.run("A/0")+"/artifacts/"+url.PathEscape(name), nil)
		if code != 303 || out["storageType"] != "s3" {
			t.Fatal(code, out)
		}
		if code, body := fetch(t, out["url"].(string)); code != 200 || body != "hello" {
			t.Errorf("GET: %d %s", code, body)
		}

		// a reference becomes a link, as live logs do
		ref := map[string]any{"storageType": "reference", "contentType": "text/plain", "url": "http://127.0.0.1:1/log"}
		s.createArtifact("A/0", "public/log", ref)
		if _, out := s.call("GET", "/task/"+s.id("A")+"/artifacts/public/log", nil); out["url"] != "http://127.0.0.1:1/log" {
			t.Errorf("reference: %v", out)
		}
		link := map[string]any{"storageType": "link", "artifact": name}
		if code, out := s.createArtifact("A/0", "public/log", link); code != 200 {
			t.Errorf("link: %d %v", code, out)
		}
		if code, _ := s.createArtifact("A/0", "public/log", ref); code != 409 {
			t.Errorf("link back to reference: %d", code)
		}
		_, out = s.call("GET", "/task/"+s.id("A")+"/artifact-content/public/log", nil)
		if code, body := fetch(t, out["url"].(string)); body != "hello" {
			t.Errorf("through the link: %d %s", code, body)
		}
		// whoever may read the link but not its target is refused
		s.as = "queue:get-artifact:public/log"
		if code, _ := s.call("GET", "/task/"+s.id("A")+"/artifacts/public/log", nil); code != 403 {
			t.Errorf("link without scopes for its target: %d", code)
		}
		s.as = "queue:get-artifact:nothing"
		if code, out := s.call("GET", "/task/"+s.id("A")+"/artifacts/public/log", nil); code != 403 || strings.Contains(out["message"].(string), "odd") {
			t.Errorf("where a link leads is told to whoever may not read it: %d %v", code, out)
		}
		if code, _ := s.call("GET", "/task/"+s.id("A")+"/artifacts/private/secret", nil); code != 403 {
			t.Errorf("the existence of a private artifact is told: %d", code)
		}
		s.as = ""
		s.createArtifact("A/0", "ring/a", map[string]any{"storageType": "link", "artifact": "ring/b"})
		s.createArtifact("A/0", "ring/b", map[string]any{"storageType": "link", "artifact": "ring/a"})
		if code, _ := s.call("GET", "/task/"+s.id("A")+"/artifacts/ring/a", nil); code != 400 {
			t.Errorf("a ring of links: %d", code)
		}

		// error
		s.createArtifact("A/0", "public/gone", map[string]any{"storageType": "error", "reason": "file-missing-on-worker", "message": "no such file"})
		code, out = s.call("GET", "/task/"+s.id("A")+"/artifacts/public/gone", nil)
		if code != 424 || out["reason"] != "file-missing-on-worker" {
			t.Errorf("error: %d %v", code, out)
		}

		// listing, page by page
		var names []string
		for token := ""; ; {
			_, out := s.call("GET", s.run("A/0")+"/artifacts?limit=2&continuationToken="+token, nil)
			for _, a := range out["artifacts"].([]any) {
				names = append(names, a.(map[string]any)["name"].(string))
			}
			if token, _ = out["continuationToken"].(string); token == "" {
				break
			}
		}
		if got := strings.Join(names, "|"); got != name+"|public/gone|public/log|ring/a|ring/b" {
			t.Errorf("listing: %s", got)
		}
		if code, _ := s.call("GET", s.run("A/0")+"/artifacts?continuationToken="+api.Page{}.Token("1", ""), nil); code != 400 {
			t.Errorf("a token for a run that the caller's scopes are not for: %d", code)
		}
		if _, out := s.call("GET", "/task/"+s.id("A")+"/artifact-info/public/gone", nil); out["storageType"] != "error" {
			t.Errorf("info: %v", out)
		}

		// what cannot be
		for body, want := range map[string]int{
			`expires`: 400, `past`: 400, `shorter`: 409, `nothing`: 404,
		} {
			switch body {
			case "expires":
				b := s3("text/plain")
				b["expires"] = timestamp.Now().Add(10 * 366 * 24 * time.Hour)
				code, _ = s.createArtifact("A/0", "public/x", b)
			case "past":
				b := s3("text/plain")
				b["expires"] = timestamp.Now().Add(-time.Hour)
				code, _ = s.createArtifact("A/0", "public/x", b)
			case "shorter":
				b := map[string]any{"storageType": "link", "artifact": name, "expires": timestamp.Now().Add(time.Minute)}
				code, _ = s.createArtifact("A/0", "public/log", b)
			case "nothing":
				code, _ = s.call("GET", "/task/"+s.id("A")+"/artifacts/public/nothing", nil)
			}
			if code != want {
				t.Errorf("%s: %d, want %d", body, code, want)
			}
		}
		if code, _ := s.createArtifact("A/0", strings.Repeat("x", 1100), s3("text/plain")); code != 400 {
			t.Errorf("an endless name: %d", code)
		}
		s.do(strings.Fields("completed A/0"))
		if code, _ := s.createArtifact("A/0", "public/late", s3("text/plain")); code != 409 {
			t.Errorf("after the end: %d", code)
		}
	})
}

func TestALargeArtifactIsUploadedInParts(t *testing.T) {
	withArtifacts(t, func(t *testing.T, s *stage, _ *blob.Bucket) {
		s.do(strings.Fields("create A"))
		s.do(strings.Fields("claim w"))
		content := bytes.Repeat([]byte("0123456789abcdef"), (multipartAbove+partSize/2)/16)
		body := s3("application/zip")
		body["contentLength"] = len(content)
		code, out := s.createArtifact("A/0", "public/big.zip", body)
		m, ok := out["multipart"].(map[string]any)
		if code != 200 || !ok {
			t.Fatal(code, out)
		}
		size := int(m["partSize"].(float64))
		var tags []string
		for i, u := range m["urls"].([]any) {
			resp := send(t, u.(string), "", content[i*size:min(len(content), (i+1)*size)])
			if resp.StatusCode != 200 {
				t.Fatalf("part %d: %s", i+1, resp.Status)
			}
			tags = append(tags, resp.Header.Get("ETag"))
		}
		if code, _ := s.call("GET", s.run("A/0")+"/artifacts/public/big.zip", nil); code != 404 {
			t.Errorf("it can be read before it is whole: %d", code)
		}
		finish := func(id any, tags []string) (int, map[string]any) {
			return s.call("PUT", s.run("A/0")+"/artifacts/public/big.zip", map[string]any{"uploadId": id, "parts": tags})
		}
		if code, _ := finish(m["uploadId"], tags[:1]); code != 400 {
			t.Errorf("with a part missing: %d", code)
		}
		if code, _ := finish(s.id("other"), tags); code != 400 {
			t.Errorf("with another upload's id: %d", code)
		}
		if _, err := s.queue.abortUploads(t.Context()); err != nil { // which leaves it alone: it is young
			t.Fatal(err)
		}
		for range 2 { // again, as after a lost reply
			if code, out := finish(m["uploadId"], tags); code != 204 {
				t.Fatalf("finish: %d %v", code, out)
			}
		}
		_, out = s.call("GET", s.run("A/0")+"/artifacts/public/big.zip", nil)
		if code, got := fetch(t, out["url"].(string)); code != 200 || got != string(content) {
			t.Errorf("content: %d, %d bytes of %d", code, len(got), len(content))
		}
	})
}

func TestExpiredArtifactsLoseTheirBytesFirst(t *testing.T) {
	withArtifacts(t, func(t *testing.T, s *stage, b *blob.Bucket) {
		s.do(strings.Fields("create A"))
		s.do(strings.Fields("claim w"))
		for i := range 5 {
			_, out := s.createArtifact("A/0", fmt.Sprintf("public/%d", i), s3("text/plain"))
			send(t, out["putUrl"].(string), "text/plain", []byte("x"))
		}
		if err := s.db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE artifact SET expires = $1 WHERE name < 'public/3'`, timestamp.Now().Add(-putURLLife))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if code, out := s.createArtifact("A/0", "public/0", s3("text/plain")); code != 409 {
			t.Errorf("an artifact is created again while it is being deleted: %d %v", code, out)
		}
		if _, err := s.queue.expireArtifacts(t.Context()); err != nil {
			t.Fatal(err)
		}
		left := 0
		for o, err := range b.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(o.Key, "/3") && !strings.HasSuffix(o.Key, "/4") {
				t.Errorf("bytes of %s are left", o.Key)
			}
			left++
		}
		_, out := s.call("GET", s.run("A/0")+"/artifacts", nil)
		if n := len(out["artifacts"].([]any)); n != 2 || left != 2 {
			t.Errorf("%d rows and %d objects are left, want 2 and 2", n, left)
		}
	})
}

// More expire at once than S3 deletes in one request.
func TestManyArtifactsExpire(t *testing.T) {
	withArtifacts(t, func(t *testing.T, s *stage, b *blob.Bucket) {
		s.do(strings.Fields("create A"))
		s.do(strings.Fields("claim w"))
		const many = artifactBatch + 100
		var stored []string
		past := timestamp.Now().Add(-putURLLife - time.Minute)
		if err := s.db.Do(t.Context(), func(tx *store.Tx) error {
			stored = nil
			for i := range many {
				a := &artifact{TaskID: s.id("A"), Name: fmt.Sprintf("public/ü%d.txt", i), StorageType: "s3", ContentType: "text/plain", Expires: past}
				if i%100 == 0 {
					stored = append(stored, a.key())
				}
				if i == many/2 {
					a.Expires = timestamp.Now().Add(time.Hour)
				}
				if err := a.save(tx); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		kept := fmt.Sprintf("%s/0/public/ü%d.txt", s.id("A"), many/2)
		for _, key := range append(stored, kept) {
			if _, err := b.Put(t.Context(), key, strings.NewReader("x"), blob.Headers{}); err != nil {
				t.Fatal(err)
			}
		}
		for more := true; more; {
			var err error
			if more, err = s.queue.expireArtifacts(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, key := range stored {
			if _, err := b.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) && key != kept {
				t.Errorf("%s is still there: %v", key, err)
			}
		}
		if _, err := b.Stat(t.Context(), kept); err != nil {
			t.Error(err)
		}
		if n := s.count(`SELECT count(*) FROM artifact`); n != 1 {
			t.Errorf("%d rows are left", n)
		}
	})
}
