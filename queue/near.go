package queue

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Nearby knows where there are copies of artifacts near those who read them.
type Nearby interface {
	// Near returns the URL of a copy for whoever makes a request, who has been
	// allowed to read the artifact; "" where there is none, and the artifact itself
	// is the one to read. It may take its time, as a copy is made.
	Near(ctx context.Context, r *http.Request, clientID string, a StoredArtifact) (url string, err error)
}

// A StoredArtifact is one whose bytes are under a key of the artifact bucket, or
// that refers to a URL.
type StoredArtifact struct {
	TaskID      string
	RunID       int
	Name        string
	TaskQueueID string
	Size        int64 // as its worker has announced it; -1: it has not
	Expires     timestamp.Time
	Key         string // in the bucket
	URL         string // or what it refers to
	Open        bool   // its worker may still write it again
}

func (a *artifact) stored(of *record) StoredArtifact {
	s := StoredArtifact{TaskID: a.TaskID, RunID: a.RunID, Name: a.Name, TaskQueueID: of.TaskQueueID, Size: -1, Expires: a.Expires}
	if a.ContentLength != nil {
		s.Size = *a.ContentLength
	}
	switch a.StorageType {
	case "s3":
		s.Key, s.Open = a.key(), takesArtifacts(&of.Runs[a.RunID])
	case "reference":
		s.URL = a.detail.URL
	}
	return s
}

// A reader is who asks for the content of an artifact.
type reader struct {
	request   *http.Request
	clientID  string
	authorize func(scope.Vars) error
}

func readerOf[P any](c api.Call[P, api.None]) reader {
	return reader{c.HTTP, c.Caller().ClientID, c.Authorize}
}

// skipsCopies tells that the reader wants the artifact itself.
func (r reader) skipsCopies() bool {
	v := r.request.Header.Get("x-taskcluster-skip-cache")
	return v == "1" || strings.EqualFold(v, "true")
}

// place is where the content of an artifact is for a reader: a copy near it, or
// the artifact itself. Whatever is wrong with copies is no reason for a download
// to fail.
func (q *Queue) place(ctx context.Context, r reader, a *artifact, of *record) (string, error) {
	if q.nearby == nil || r.skipsCopies() {
		return q.url(ctx, a)
	}
	s := a.stored(of)
	if near := q.near(ctx, r, s); near != "" {
		return near, nil // for which the artifact's own URL need not be signed
	}
	origin, err := q.url(ctx, a)
	if err != nil || a.StorageType != "object" {
		return origin, err
	}
	// What the object service has in the same bucket. A finished object is never
	// written again.
	if u, err := url.Parse(origin); err == nil {
		s.Key, _ = q.artifacts.ParseURL(u)
	}
	return cmp.Or(q.near(ctx, r, s), origin), nil
}

// near is the URL of a copy near a reader; "": there is none.
func (q *Queue) near(ctx context.Context, r reader, s StoredArtifact) string {
	if s.Key == "" && s.URL == "" {
		return ""
	}
	location, err := q.nearby.Near(ctx, r.request, r.clientID, s)
	if err != nil && ctx.Err() == nil {
		q.log.Warn("no copy could be found of an artifact; its reader was sent to the artifact itself", "taskId", s.TaskID, "runId", s.RunID, "name", s.Name, "err", err)
	}
	return location
}

// ArtifactAt is the artifact whose bytes are under a key of the artifact bucket.
// Where there is none (any more) the error is an *api.Error with the code
// ResourceNotFound or ResourceExpired.
func (q *Queue) ArtifactAt(ctx context.Context, key string) (s StoredArtifact, err error) {
	storage := "s3"
	taskID, runID, name, ok := parseKey(key)
	if !ok {
		// The object service has an object under a key that ends in its name.
		if _, named, found := strings.Cut(key, "/t/"); found && q.objects != nil {
			storage = "object"
			taskID, runID, name, ok = parseKey(named)
		}
	}
	if !ok {
		return s, api.Errorf(api.ResourceNotFound, "No artifact has the key %q; that of an artifact is <taskId>/<runId>/<name>.", key)
	}
	var a *artifact
	err = q.db.View(ctx, func(tx *store.Tx) error {
		of, run, err := pick(tx, taskID, runID)
		if err != nil {
			return err
		}
		a, err = loadArtifact(tx, taskID, run, name)
		switch {
		case err != nil:
			return err
		case a.StorageType != storage || a.unfinished():
			return noArtifact(taskID, run, name)
		case a.Expires <= now():
			return a.expired()
		}
		s = a.stored(of)
		return nil
	})
	if err != nil || storage == "s3" {
		return s, err
	}
	location, err := q.objectURL(ctx, a)
	if err != nil {
		return s, err
	}
	if u, err := url.Parse(location); err == nil {
		s.Key, _ = q.artifacts.ParseURL(u)
	}
	if s.Key != key { // it is elsewhere
		return s, noArtifact(taskID, runID, name)
	}
	return s, nil
}

// parseKey takes apart what artifact.key makes.
func parseKey(key string) (taskID string, runID int, name string, ok bool) {
	taskID, rest, _ := strings.Cut(key, "/")
	run, name, _ := strings.Cut(rest, "/")
	runID, err := strconv.Atoi(run)
	return taskID, runID, name, err == nil && runID >= 0 && name != ""
}

// StoredArtifacts are those of a task's latest run whose bytes are in the artifact
// bucket, in the order of their names, up to a limit.
func (q *Queue) StoredArtifacts(ctx context.Context, taskID string, limit int) (list []StoredArtifact, err error) {
	err = q.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		of, run, err := pick(tx, taskID, latestRun)
		if err != nil {
			return err
		}
		rows, err := tx.Query(`SELECT `+artifactColumns+` FROM artifact
			 WHERE task_id = $1 AND run_id = $2 AND storage_type = 's3' AND expires > $3 ORDER BY name LIMIT $4`, taskID, run, now(), limit)
		if err != nil {
			return err
		}
		for rows.Next() {
			a, err := scanArtifact(rows)
			if err != nil {
				return err
			}
			if !a.unfinished() {
				list = append(list, a.stored(of))
			}
		}
		return rows.Err()
	})
	return list, err
}

// Dependencies are the task queue of a task, and the tasks that it depends on, up
// to a limit.
func (q *Queue) Dependencies(ctx context.Context, taskID string, limit int) (taskQueueID string, required []string, err error) {
	err = q.db.View(ctx, func(tx *store.Tx) error {
		err := tx.QueryRow(`SELECT task_queue_id FROM task WHERE task_id = $1`, taskID).Scan(&taskQueueID)
		if isNotFound(err) {
			return noTask(taskID)
		} else if err != nil {
			return err
		}
		required, err = tx.Column(`SELECT required FROM dependency WHERE task_id = $1 ORDER BY required LIMIT $2`, taskID, limit)
		return err
	})
	return taskQueueID, required, err
}
