package queue

import (
	"context"
	"strconv"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

type artifactResponse struct {
	StorageType   string         `json:"storageType"`
	Name          string         `json:"name"`
	Expires       timestamp.Time `json:"expires"`
	ContentType   string         `json:"contentType"`
	ContentLength *int64         `json:"contentLength,omitempty"`
}

func (a *artifact) info() *artifactResponse {
	return &artifactResponse{a.StorageType, a.Name, a.Expires, a.ContentType, a.ContentLength}
}

type latestPath struct {
	TaskID string `path:"taskId"`
	Name   string `path:"name"`
}

// located is where the content of an artifact is: a reply of getArtifact.
type located struct {
	StorageType string `json:"storageType"`
	URL         string `json:"url"`
}

// Status sends the caller on to the content.
func (located) Status() int { return 303 }

// Header names the content for those who follow redirects.
func (l located) Header() map[string]string {
	return map[string]string{"Location": l.URL, "X-Taskcluster-Artifact-Storage-Type": l.StorageType}
}

// neverMade is the reply for an error artifact.
type neverMade struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Status is "failed dependency": the task did not make what is asked for.
func (neverMade) Status() int { return 424 }

// Header has nothing to add.
func (neverMade) Header() map[string]string {
	return map[string]string{"X-Taskcluster-Artifact-Storage-Type": "error"}
}

var byNames = scope.AllOf{scope.ForEach{For: "name", In: "names", Each: "queue:get-artifact:<name>"}}

const getArtifactDoc = `Answers 303 with the place where the content is: a URL that is valid for half an hour for stored artifacts, the
given URL for references, or that of a copy near the caller (never with the header ` + "`x-taskcluster-skip-cache: true`" + `). A
link is followed, and the caller needs the scopes of both names. An artifact that the task failed to make is 424, with
the reason.`

var getArtifact = api.Declare(api.Spec{
	Name: "getArtifact", Route: "GET /task/<taskId>/runs/<runId>/artifacts/<name...>", Scopes: byNames,
	Output: "v1/get-artifact-response.json#", Stability: api.Stable, Category: "Artifacts", Title: "Get an artifact of a run",
	Doc: getArtifactDoc,
}, func(ctx context.Context, q *Queue, c api.Call[artifactPath, api.None]) (api.Reply, error) {
	return q.locate(ctx, readerOf(c), c.Path.TaskID, c.Path.RunID, c.Path.Name)
})

var getLatestArtifact = api.Declare(api.Spec{
	Name: "getLatestArtifact", Route: "GET /task/<taskId>/artifacts/<name...>", Scopes: byNames,
	Output: "v1/get-artifact-response.json#", Stability: api.Stable, Category: "Artifacts", Title: "Get an artifact of the latest run",
	Doc: getArtifactDoc,
}, func(ctx context.Context, q *Queue, c api.Call[latestPath, api.None]) (api.Reply, error) {
	return q.locate(ctx, readerOf(c), c.Path.TaskID, latestRun, c.Path.Name)
})

const latestRun = -1

// resolve finds the artifact that a name means, following links, and checks
// that the reader may read every name on the way.
func (q *Queue) resolve(ctx context.Context, r reader, taskID string, runID int, name string) (a *artifact, of *record, err error) {
	// Each name is checked before it is looked up: whoever may not read it learns
	// neither whether it exists nor where it leads.
	mayRead := func(name string) error { return r.authorize(scope.Vars{"names": []string{name}}) }
	if err := mayRead(name); err != nil {
		return nil, nil, err
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		var run int
		if of, run, err = pick(tx, taskID, runID); err != nil {
			return err
		}
		at := name
		for range maxLinks {
			a, err = loadArtifact(tx, taskID, run, at)
			switch {
			case err != nil:
				return err
			case a.unfinished():
				return noArtifact(taskID, run, at)
			case a.Expires <= now():
				return a.expired()
			case a.StorageType != "link":
				return nil
			}
			at = a.detail.Link
			if err := mayRead(at); err != nil {
				return err
			}
		}
		return api.Errorf(api.InputError, "Artifact %q is a link that leads over more than %d others.", name, maxLinks)
	})
	return a, of, err
}

func (a *artifact) expired() error {
	return api.Errorf(api.ResourceExpired, "Artifact %q of run %d of task %s expired at %s.", a.Name, a.RunID, a.TaskID, a.Expires)
}

func (q *Queue) locate(ctx context.Context, r reader, taskID string, runID int, name string) (api.Reply, error) {
	a, of, err := q.resolve(ctx, r, taskID, runID, name)
	if err != nil {
		return nil, err
	}
	if a.StorageType == "error" {
		return neverMade{a.detail.Reason, a.detail.Message}, nil
	}
	url, err := q.place(ctx, r, a, of)
	return located{a.StorageType, url}, err
}

// url is where an artifact itself is.
func (q *Queue) url(ctx context.Context, a *artifact) (string, error) {
	switch a.StorageType {
	case "reference":
		return a.detail.URL, nil
	case "object":
		return q.objectURL(ctx, a)
	}
	return q.artifacts.PresignGet(ctx, a.key(), getURLLife, blob.Headers{})
}

// content is the reply of the artifact-content methods.
type content struct {
	StorageType string `json:"storageType"`
	URL         string `json:"url,omitempty"`
	Name        string `json:"name,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Message     string `json:"message,omitempty"`

	Credentials *cred.Credentials `json:"credentials,omitempty"`
}

const contentDoc = `Says where the content of an artifact is, as getArtifact does, but in the body of an ordinary reply, for clients that
download themselves. Of an object it tells the name, with credentials to download it from the object service.`

var artifactContent = api.Declare(api.Spec{
	Name: "artifact", Route: "GET /task/<taskId>/runs/<runId>/artifact-content/<name...>", Scopes: byNames,
	Output: "v1/artifact-content-response.json#", Stability: api.Stable, Category: "Artifacts", Title: "Get the content of a run's artifact",
	Doc: contentDoc,
}, func(ctx context.Context, q *Queue, c api.Call[artifactPath, api.None]) (content, error) {
	return q.content(ctx, readerOf(c), c.Path.TaskID, c.Path.RunID, c.Path.Name)
})

var latestArtifactContent = api.Declare(api.Spec{
	Name: "latestArtifact", Route: "GET /task/<taskId>/artifact-content/<name...>", Scopes: byNames,
	Output: "v1/artifact-content-response.json#", Stability: api.Stable, Category: "Artifacts", Title: "Get the content of the latest run's artifact",
	Doc: contentDoc,
}, func(ctx context.Context, q *Queue, c api.Call[latestPath, api.None]) (content, error) {
	return q.content(ctx, readerOf(c), c.Path.TaskID, latestRun, c.Path.Name)
})

func (q *Queue) content(ctx context.Context, r reader, taskID string, runID int, name string) (out content, err error) {
	a, of, err := q.resolve(ctx, r, taskID, runID, name)
	if err != nil {
		return out, err
	}
	if a.StorageType == "object" {
		return q.objectContent(ctx, a)
	}
	out = content{StorageType: a.StorageType, Reason: a.detail.Reason, Message: a.detail.Message}
	if a.StorageType != "error" {
		out.URL, err = q.place(ctx, r, a, of)
	}
	return out, err
}

var artifactInfo = api.Declare(api.Spec{
	Name: "artifactInfo", Route: "GET /task/<taskId>/runs/<runId>/artifact-info/<name...>",
	Scopes: scope.Scope("queue:list-artifacts:<taskId>:<runId>"), Output: "v1/artifact-response.json#",
	Stability: api.Stable, Category: "Artifacts", Title: "Describe a run's artifact",
	Doc: "Returns what is known of an artifact without its content.",
}, func(ctx context.Context, q *Queue, c api.Call[artifactPath, api.None]) (*artifactResponse, error) {
	return q.info(ctx, c.Path.TaskID, c.Path.RunID, c.Path.Name)
})

var latestArtifactInfo = api.Declare(api.Spec{
	Name: "latestArtifactInfo", Route: "GET /task/<taskId>/artifact-info/<name...>",
	Scopes: scope.Scope("queue:list-artifacts:<taskId>"), Output: "v1/artifact-response.json#",
	Stability: api.Stable, Category: "Artifacts", Title: "Describe the latest run's artifact",
	Doc: "Returns what is known of an artifact without its content.",
}, func(ctx context.Context, q *Queue, c api.Call[latestPath, api.None]) (*artifactResponse, error) {
	return q.info(ctx, c.Path.TaskID, latestRun, c.Path.Name)
})

func (q *Queue) info(ctx context.Context, taskID string, runID int, name string) (out *artifactResponse, err error) {
	err = q.db.View(ctx, func(tx *store.Tx) error {
		run, err := pickRun(tx, taskID, runID)
		if err != nil {
			return err
		}
		a, err := loadArtifact(tx, taskID, run, name)
		if err == nil && a.unfinished() {
			err = noArtifact(taskID, run, name)
		}
		if err == nil {
			out = a.info()
		}
		return err
	})
	return out, err
}

// pickRun checks that a run exists; latestRun means the newest.
func pickRun(tx *store.Tx, taskID string, runID int) (int, error) {
	_, run, err := pick(tx, taskID, runID)
	return run, err
}

// pick is pickRun with the task.
func pick(tx *store.Tx, taskID string, runID int) (r *record, run int, err error) {
	if r, err = load(tx, taskID); err != nil {
		return nil, 0, err
	}
	if runID == latestRun {
		if r.Latest() == nil {
			return nil, 0, api.Errorf(api.ResourceNotFound, "Task %s is unscheduled and has no run yet.", taskID)
		}
		return r, len(r.Runs) - 1, nil
	}
	_, err = r.run(runID)
	return r, runID, err
}

type listArtifactsResponse struct {
	Artifacts         []*artifactResponse `json:"artifacts"`
	ContinuationToken string              `json:"continuationToken,omitempty"`
}

var listArtifacts = api.Declare(api.Spec{
	Name: "listArtifacts", Route: "GET /task/<taskId>/runs/<runId>/artifacts", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("queue:list-artifacts:<taskId>:<runId>"), Output: "v1/list-artifacts-response.json#",
	Stability: api.Stable, Category: "Artifacts", Title: "List a run's artifacts",
	Doc: "Lists the artifacts of a run in the order of their names.",
}, func(ctx context.Context, q *Queue, c api.Call[runPath, api.None]) (out listArtifactsResponse, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	return q.listArtifacts(ctx, c.Path.TaskID, c.Path.RunID, page)
})

var listLatestArtifacts = api.Declare(api.Spec{
	Name: "listLatestArtifacts", Route: "GET /task/<taskId>/artifacts", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("queue:list-artifacts:<taskId>"), Output: "v1/list-artifacts-response.json#",
	Stability: api.Stable, Category: "Artifacts", Title: "List the latest run's artifacts",
	Doc: "Lists the artifacts of the latest run in the order of their names. Further pages are of the run that the first page was of.",
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, api.None]) (out listArtifactsResponse, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	return q.listArtifacts(ctx, c.Path.TaskID, latestRun, page)
})

// listArtifacts returns a page; its token holds the run and the last name.
func (q *Queue) listArtifacts(ctx context.Context, taskID string, runID int, page api.Page) (out listArtifactsResponse, err error) {
	name := ""
	if page.After != nil {
		n, err := page.Int(0)
		if err != nil {
			return out, err
		}
		if runID != latestRun && int(n) != runID {
			return out, api.Errorf(api.InvalidRequestArguments, "continuationToken is of another run; leave it out to start over")
		}
		runID, name = int(n), page.After[1]
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		out = listArtifactsResponse{Artifacts: []*artifactResponse{}}
		run, err := pickRun(tx, taskID, runID)
		if err != nil {
			return err
		}
		rows, err := tx.Query(`SELECT `+artifactColumns+` FROM artifact
			 WHERE task_id = $1 AND run_id = $2 AND name > $3 ORDER BY name LIMIT $4`, taskID, run, name, page.Limit+1)
		if err != nil {
			return err
		}
		for rows.Next() {
			a, err := scanArtifact(rows)
			if err != nil {
				return err
			}
			out.Artifacts = append(out.Artifacts, a.info())
		}
		if len(out.Artifacts) > page.Limit {
			out.Artifacts = out.Artifacts[:page.Limit]
			out.ContinuationToken = page.Token(strconv.Itoa(run), out.Artifacts[page.Limit-1].Name)
		}
		return rows.Err()
	})
	return out, err
}
