package queue

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
)

// A spy is a Nearby that has copies of everything that is not open, but for what
// its error is about.
type spy struct {
	asked []StoredArtifact
	who   []string
	err   error
}

func (s *spy) Near(_ context.Context, r *http.Request, clientID string, a StoredArtifact) (string, error) {
	s.asked, s.who = append(s.asked, a), append(s.who, clientID+" "+r.RemoteAddr)
	if s.err != nil || a.Open {
		return "", s.err
	}
	return "http://copies.test/" + a.Name, nil
}

// location is where a reader is sent.
func (s *stage) location(path string, headers ...string) string {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), "GET", "http://tasks.test/api/queue/v1"+path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.server.ServeHTTP(w, r)
	if w.Code != 303 {
		s.t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
	}
	return w.Header().Get("Location")
}

func TestReadersAreSentToCopies(t *testing.T) {
	withArtifacts(t, func(t *testing.T, s *stage, b *blob.Bucket) {
		near := &spy{}
		s.queue.nearby = near
		s.do(strings.Fields("create A"))
		s.do(strings.Fields("claim w"))
		size := int64(5)
		body := s3("text/plain")
		body["contentLength"] = size
		_, out := s.createArtifact("A/0", "public/a", body)
		send(t, out["putUrl"].(string), "text/plain", []byte("hello"))
		s.createArtifact("A/0", "public/link", map[string]any{"storageType": "link", "artifact": "public/a"})
		s.createArtifact("A/0", "public/ref", map[string]any{"storageType": "reference", "contentType": "text/plain", "url": "http://elsewhere.test/x"})
		task := "/task/" + s.id("A")

		if at := s.location(task + "/artifacts/public/a"); strings.Contains(at, "copies.test") || len(near.asked) != 1 || !near.asked[0].Open {
			t.Errorf("an artifact that can still be written: %s, %+v", at, near.asked)
		}
		s.do(strings.Fields("completed A/0"))

		key := s.id("A") + "/0/public/a"
		for _, path := range []string{"/artifacts/public/a", "/runs/0/artifacts/public/a", "/artifacts/public/link"} {
			near.asked, near.who = nil, nil
			if at := s.location(task + path); at != "http://copies.test/public/a" {
				t.Errorf("%s: %s", path, at)
			}
			want := StoredArtifact{TaskID: s.id("A"), Name: "public/a", TaskQueueID: "prov/wt", Size: size, Key: key}
			if len(near.asked) != 1 || near.asked[0].Expires.IsZero() || !strings.HasPrefix(near.who[0], "tester 192.0.2.1:") {
				t.Fatalf("%s: %+v by %v", path, near.asked, near.who)
			}
			want.Expires = near.asked[0].Expires
			if near.asked[0] != want {
				t.Errorf("%s: %+v, want %+v", path, near.asked[0], want)
			}
		}
		for _, path := range []string{"/artifact-content/public/a", "/runs/0/artifact-content/public/a"} {
			if _, out := s.call("GET", task+path, nil); out["url"] != "http://copies.test/public/a" {
				t.Errorf("%s: %v", path, out)
			}
		}
		near.asked = nil
		if at := s.location(task + "/artifacts/public/ref"); at != "http://copies.test/public/ref" || near.asked[0].URL != "http://elsewhere.test/x" || near.asked[0].Key != "" {
			t.Errorf("a reference: %s, %+v", at, near.asked)
		}

		// Where there is a copy no URL of the artifact itself is signed.
		s.queue.artifacts = nil
		if at := s.location(task + "/artifacts/public/a"); at != "http://copies.test/public/a" {
			t.Errorf("without a bucket to sign URLs of: %s", at)
		}
		s.queue.artifacts = b

		near.asked = nil
		for _, v := range []string{"true", "1", "True"} {
			if at := s.location(task+"/artifacts/public/a", "x-taskcluster-skip-cache", v); strings.Contains(at, "copies.test") {
				t.Errorf("with skip-cache %s: %s", v, at)
			}
		}
		if len(near.asked) != 0 {
			t.Errorf("a reader that wants no copy was looked for one: %+v", near.asked)
		}
		if at := s.location(task+"/artifacts/public/a", "x-taskcluster-skip-cache", "false"); !strings.Contains(at, "copies.test") {
			t.Errorf("with skip-cache false: %s", at)
		}

		near.err = errors.New("the mirror is down")
		if code, content := fetch(t, s.location(task+"/artifacts/public/a")); code != 200 || content != "hello" {
			t.Errorf("without a mirror: %d %s", code, content)
		}
		near.err, near.asked = nil, nil
		s.as = "queue:get-artifact:private/*"
		if code, _ := s.call("GET", task+"/artifacts/public/a", nil); code != 403 || len(near.asked) != 0 {
			t.Errorf("without the scope: %d, %+v", code, near.asked)
		}
	})
}

func TestAnObjectInTheArtifactBucketIsCopiedToo(t *testing.T) {
	withArtifacts(t, func(t *testing.T, s *stage, b *blob.Bucket) {
		near := &spy{}
		s.queue.nearby = near
		s.do(strings.Fields("create A"))
		s.do(strings.Fields("claim w"))
		_, out := s.createArtifact("A/0", "public/o", map[string]any{"storageType": "object", "contentType": "text/plain"})
		name := out["name"].(string)
		s.objects.put(name)
		if code, out := s.call("PUT", s.run("A/0")+"/artifacts/public/o", map[string]any{"uploadId": out["uploadId"]}); code != 204 && code != 200 {
			t.Fatal(code, out)
		}
		s.location("/task/" + s.id("A") + "/artifacts/public/o")
		if len(near.asked) != 0 {
			t.Errorf("an object that is elsewhere: %+v", near.asked)
		}
		s.objects.in = b
		if at := s.location("/task/" + s.id("A") + "/artifacts/public/o"); at != "http://copies.test/public/o" || near.asked[0].Key != "object/slug/"+name || near.asked[0].Open {
			t.Errorf("an object in the bucket: %s, %+v", at, near.asked)
		}
		if a, err := s.queue.ArtifactAt(t.Context(), near.asked[0].Key); err != nil || a != near.asked[0] {
			t.Errorf("%+v, %v, want %+v", a, err, near.asked[0])
		}
		for _, key := range []string{"object/other/" + name, "object/slug/" + name + "x", "object/slug/t/public/o", "object/slug"} {
			if a, err := s.queue.ArtifactAt(t.Context(), key); err == nil {
				t.Errorf("%s is %+v", key, a)
			}
		}
	})
}

func TestWhatTheMirrorLearnsOfArtifacts(t *testing.T) {
	withArtifacts(t, func(t *testing.T, s *stage, _ *blob.Bucket) {
		s.do(strings.Fields("create A"))
		s.do(strings.Fields("create B"))
		s.do(strings.Fields("create C deps=A,B"))
		s.do(strings.Fields("claim w 2"))
		const odd = "public/../odd//ü%20"
		for _, name := range []string{odd, "public/b"} {
			if code, out := s.createArtifact("A/0", name, s3("text/plain")); code != 200 {
				t.Fatal(code, out)
			}
		}
		s.createArtifact("A/0", "public/link", map[string]any{"storageType": "link", "artifact": "public/b"})
		large := s3("text/plain")
		large["contentLength"] = 100 << 20
		s.createArtifact("A/0", "public/unfinished", large)
		ctx, id := t.Context(), s.id("A")

		code := func(err error) api.Code {
			e, _ := errors.AsType[*api.Error](err)
			if e == nil {
				t.Fatalf("%v is no *api.Error", err)
			}
			return e.Code
		}
		a, err := s.queue.ArtifactAt(ctx, id+"/0/"+odd)
		if err != nil || a.Name != odd || a.Size != -1 || !a.Open || a.Key != id+"/0/"+odd || a.TaskQueueID != "prov/wt" {
			t.Errorf("%+v, %v", a, err)
		}
		for _, key := range []string{"", "x", id + "/0/public/none", id + "/1/public/b", id + "/-1/public/b", id + "/0/public/link", id + "/0/public/unfinished", "t/" + id + "/0/public/b"} {
			if _, err := s.queue.ArtifactAt(ctx, key); code(err) != api.ResourceNotFound {
				t.Errorf("%s: %v", key, err)
			}
		}
		s.do(strings.Fields("completed A/0"))
		list, err := s.queue.StoredArtifacts(ctx, id, 10)
		if err != nil || len(list) != 2 || list[0].Name != odd || list[1].Name != "public/b" || list[0].Open {
			t.Errorf("%+v, %v", list, err)
		}
		if list, _ := s.queue.StoredArtifacts(ctx, id, 1); len(list) != 1 {
			t.Errorf("a limit of one: %+v", list)
		}
		for range 2 { // before and after what C waits for is done
			queue, required, err := s.queue.Dependencies(ctx, s.id("C"), 10)
			want := []string{s.id("A"), s.id("B")}
			slices.Sort(want)
			if err != nil || queue != "prov/wt" || !slices.Equal(required, want) {
				t.Errorf("%s, %v, %v", queue, required, err)
			}
			s.do(strings.Fields("completed B/0"))
		}
		if _, _, err := s.queue.Dependencies(ctx, s.id("none"), 10); code(err) != api.ResourceNotFound {
			t.Error(err)
		}
		if _, err := s.queue.StoredArtifacts(ctx, s.id("none"), 10); code(err) != api.ResourceNotFound {
			t.Error(err)
		}
	})
}
