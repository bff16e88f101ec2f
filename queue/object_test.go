package queue

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A shelf is an object service in memory: names that are reserved, and those
// whose bytes are there.
type shelf struct {
	mu      sync.Mutex
	uploads map[string]string // name -> what it was reserved with
	whole   map[string]bool
	in      *blob.Bucket // that has the bytes, if any
	down    bool
}

func (s *shelf) CreateUpload(_ context.Context, name, projectID, uploadID string, expires time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	as := projectID + " " + uploadID + " " + expires.String()
	switch {
	case s.down:
		return errors.New("the object service is down")
	case s.uploads[name] != "" && s.uploads[name] != as:
		return api.Errorf(api.RequestConflict, "Object %s exists.", name)
	}
	s.uploads[name] = as
	return nil
}

func (s *shelf) Finished(_ context.Context, name string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole[name], nil
}

func (s *shelf) URL(ctx context.Context, name string, life time.Duration) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.whole[name] {
		return "", api.Errorf(api.ResourceNotFound, "There is no object %s.", name)
	}
	if s.in != nil {
		return s.in.PresignGet(ctx, "object/slug/"+name, life, blob.Headers{})
	}
	return "http://objects.test/" + name, nil
}

func (s *shelf) put(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole[name] = true
}

func TestAnObjectArtifact(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		s.do(strings.Fields("create A projectId=some/project"))
		s.do(strings.Fields("claim w"))
		time.Sleep(time.Second)
		s.do([]string{"events"})
		object := func(contentType string) map[string]any {
			return map[string]any{"storageType": "object", "contentType": contentType, "contentLength": 5, "expires": timestamp.Of(time.Date(2000, 1, 1, 5, 0, 0, 0, time.UTC))}
		}
		code, out := s.createArtifact("A/0", "public/x y.txt", object("text/plain"))
		name := "t/" + s.id("A") + "/0/public/x y.txt"
		if code != 200 || out["name"] != name || out["projectId"] != "some/project" || out["expires"] != "2000-01-01T05:00:00.000Z" {
			t.Fatal(code, out)
		}
		credentials := out["credentials"].(map[string]any)
		if credentials["certificate"] != `["object:upload:some/project:`+name+`"]` || !strings.HasPrefix(credentials["clientId"].(string), "artifact-upload/"+s.id("A")+"/0/on/grp/w") {
			t.Error(credentials)
		}
		// Nothing is there yet, and the call can be repeated.
		path := s.run("A/0") + "/artifacts/public/x%20y.txt"
		info := s.run("A/0") + "/artifact-info/public/x%20y.txt"
		for _, p := range []string{path, info, s.run("A/0") + "/artifact-content/public/x%20y.txt"} {
			if code, out := s.call("GET", p, nil); code != 404 {
				t.Error(p, code, out)
			}
		}
		if _, again := s.createArtifact("A/0", "public/x y.txt", object("text/plain")); again["uploadId"] != out["uploadId"] {
			t.Errorf("repeated: %v", again)
		}
		if code, out := s.createArtifact("A/0", "public/x y.txt", object("text/html")); code != 409 {
			t.Error(code, out)
		}
		finish := map[string]any{"uploadId": out["uploadId"]}
		if code, out := s.call("PUT", path, finish); code != 400 {
			t.Error("finished without an object:", code, out)
		}
		s.objects.put(name)
		if code, out := s.call("PUT", path, map[string]any{"uploadId": s.id("another")}); code != 400 {
			t.Error("finished by another:", code, out)
		}
		if got := s.do([]string{"events"}); got != "none" {
			t.Error(got)
		}
		for range 2 {
			if code, out := s.call("PUT", path, finish); code != 204 {
				t.Error(code, out)
			}
		}
		time.Sleep(time.Second)
		if got := s.do([]string{"events"}); got != "artifact-created A/0" {
			t.Error(got)
		}
		if code, out := s.call("GET", path, nil); code != 303 || out["url"] != "http://objects.test/"+name || out["storageType"] != "object" {
			t.Error(code, out)
		}
		_, out = s.call("GET", s.run("A/0")+"/artifact-content/public/x%20y.txt", nil)
		if out["name"] != name || out["credentials"].(map[string]any)["certificate"] != `["object:download:`+name+`"]` {
			t.Error(out)
		}
		if code, out := s.call("GET", info, nil); code != 200 || out["storageType"] != "object" || out["contentLength"] != 5.0 {
			t.Error(code, out)
		}
		if code, out := s.createArtifact("A/0", "public/x y.txt", object("text/plain")); code != 409 {
			t.Error("a finished object was replaced:", code, out)
		}
		if code, out := s.createArtifact("A/0", "public/ü", object("text/plain")); code != 400 {
			t.Error("a name that no object can have:", code, out)
		}
		time.Sleep(5 * time.Hour)
		if code, out := s.call("GET", path, nil); code != 410 {
			t.Error("after it expired:", code, out)
		}
	})
}

func TestWithoutAnObjectService(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		s.queue.objects = nil
		s.do(strings.Fields("create A"))
		s.do(strings.Fields("claim w"))
		code, out := s.createArtifact("A/0", "public/x", map[string]any{"storageType": "object", "contentType": "text/plain"})
		if code != 400 || !strings.Contains(out["message"].(string), "Use s3") {
			t.Error(code, out)
		}
	})
}
