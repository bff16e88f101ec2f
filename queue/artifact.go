package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An artifact is a row that says where a run's output is. The bytes of an s3
// artifact travel between worker, bucket and reader; the queue only signs URLs.
type artifact struct {
	TaskID        string
	RunID         int
	Name          string
	StorageType   string
	ContentType   string
	ContentLength *int64
	Expires       timestamp.Time
	detail        artifactDetail
	upload        *upload // if it has to be finished
}

// unfinished reports whether the artifact is not there yet.
func (a *artifact) unfinished() bool { return a.upload != nil && !a.upload.Done }

// artifactDetail is what a storage type needs beyond that.
type artifactDetail struct {
	URL     string `json:"url,omitempty"`      // reference
	Link    string `json:"artifact,omitempty"` // link: the name that is meant
	Reason  string `json:"reason,omitempty"`   // error
	Message string `json:"message,omitempty"`  // error
}

// An upload has to be finished before there is an artifact: one in parts, which
// is known to the worker by an id of ours, as that of S3 has another form, and
// one to the object service.
type upload struct {
	ID    string `json:"id"`
	S3    string `json:"s3,omitempty"`
	Parts int    `json:"parts,omitempty"`
	Done  bool   `json:"done"` // it is finished; kept so that finishing again is harmless
}

const (
	putURLLife = 45 * time.Minute // of a URL to upload to; ask again for a new one
	getURLLife = 30 * time.Minute // of a URL to download from

	// An object of more than multipartAbove bytes is uploaded in parts of
	// partSize, or larger ones where it would have too many.
	multipartAbove = 64 << 20
	partSize       = 32 << 20
	maxParts       = 2000
	maxObject      = 5 << 40 // S3's limit

	maxLinks = 8 // links followed before a chain is taken for a ring
)

func (a *artifact) key() string { return fmt.Sprintf("%s/%d/%s", a.TaskID, a.RunID, a.Name) }

const artifactColumns = `task_id, run_id, name, storage_type, content_type, content_length, expires, detail, upload`

func scanArtifact(row scanner) (*artifact, error) {
	var a artifact
	var detail, up string
	if err := row.Scan(&a.TaskID, &a.RunID, &a.Name, &a.StorageType, &a.ContentType, &a.ContentLength, &a.Expires, &detail, &up); err != nil {
		return nil, err
	}
	err := json.Unmarshal([]byte(detail), &a.detail)
	if err == nil && up != "" {
		err = json.Unmarshal([]byte(up), &a.upload)
	}
	return &a, err
}

func loadArtifact(tx *store.Tx, taskID string, runID int, name string) (*artifact, error) {
	a, err := scanArtifact(tx.QueryRow(`SELECT `+artifactColumns+` FROM artifact WHERE task_id = $1 AND run_id = $2 AND name = $3`, taskID, runID, name))
	if isNotFound(err) {
		return nil, noArtifact(taskID, runID, name)
	}
	return a, err
}

func noArtifact(taskID string, runID int, name string) error {
	return api.Errorf(api.ResourceNotFound, "Run %d of task %s has no artifact %q.", runID, taskID, name)
}

// save inserts or replaces the row.
func (a *artifact) save(tx *store.Tx) error {
	detail, err := json.Marshal(a.detail)
	if err != nil {
		return err
	}
	up := ""
	if a.upload != nil {
		b, err := json.Marshal(a.upload)
		if err != nil {
			return err
		}
		up = string(b)
	}
	_, err = tx.Exec(`
		INSERT INTO artifact (`+artifactColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (task_id, run_id, name) DO UPDATE SET
		  storage_type = $4, content_type = $5, content_length = $6, expires = $7, detail = $8, upload = $9`,
		a.TaskID, a.RunID, a.Name, a.StorageType, a.ContentType, a.ContentLength, a.Expires, detail, up)
	return err
}

type artifactPath struct {
	TaskID string `path:"taskId"`
	RunID  int    `path:"runId"`
	Name   string `path:"name"`
}

type createArtifactRequest struct {
	StorageType     string         `json:"storageType"`
	Expires         timestamp.Time `json:"expires"`
	ContentType     string         `json:"contentType"`
	ContentLength   *int64         `json:"contentLength"`
	ContentEncoding string         `json:"contentEncoding"`
	artifactDetail
}

type createArtifactResponse struct {
	StorageType string         `json:"storageType"`
	PutURL      string         `json:"putUrl,omitempty"`
	Expires     timestamp.Time `json:"expires,omitzero"`
	ContentType string         `json:"contentType,omitempty"`
	Multipart   *multipart     `json:"multipart,omitempty"`
	objectUpload
}

type multipart struct {
	UploadID string   `json:"uploadId"`
	PartSize int64    `json:"partSize"`
	URLs     []string `json:"urls"`
}

const maxArtifactName = 1024 // bytes; as many as an S3 key

var createArtifact = api.Declare(api.Spec{
	Name: "createArtifact", Route: "POST /task/<taskId>/runs/<runId>/artifacts/<name...>",
	Scopes: scope.Scope("queue:create-artifact:<taskId>/<runId>"),
	Input:  "v1/post-artifact-request.json#", Output: "v1/post-artifact-response.json#",
	Stability: api.Stable, Category: "Artifacts", Title: "Create an artifact",
	Doc: `Records an artifact of a run that is running, or that was lost to the platform a moment ago.

For the storage type s3 the reply has a URL to PUT the bytes to, with the given content type. Repeating the call
gives a new URL. A caller that tells a large ` + "`contentLength`" + ` also gets URLs for an upload in parts, to be
completed with finishArtifact. For the storage type object it has credentials for an upload to the object service,
to be completed with finishArtifact as well. The other types (reference, link, error) need nothing more.

The same name can be used again only for the same thing, and for no shorter time; a reference may become a link, as
a live log does when it ends.`,
}, func(ctx context.Context, q *Queue, c api.Call[artifactPath, createArtifactRequest]) (out createArtifactResponse, err error) {
	in := c.Body
	if in.ContentType == "" {
		in.ContentType = "application/binary" // what a link without a type is shown as
	}
	a := &artifact{
		TaskID: c.Path.TaskID, RunID: c.Path.RunID, Name: c.Path.Name, StorageType: in.StorageType,
		ContentType: in.ContentType, ContentLength: in.ContentLength, Expires: in.Expires, detail: in.artifactDetail,
	}
	out = createArtifactResponse{StorageType: a.StorageType}
	switch {
	case len(a.Name) > maxArtifactName:
		return out, api.Errorf(api.InputError, "The name of the artifact has %d bytes; up to %d are allowed.", len(a.Name), maxArtifactName)
	case now().Sub(a.Expires) > clockSkew:
		return out, api.Errorf(api.InputError, "expires is %s, which is past; it is %s now.", a.Expires, now())
	}
	switch a.StorageType {
	case "object":
		if err := q.checkObject(a); err != nil {
			return out, err
		}
	case "s3":
		// The upload is prepared first: a row that exists has a place for its
		// bytes. What is prepared in vain is removed by the bucket's life cycle.
		if err := q.prepareUpload(ctx, a, in.ContentEncoding, &out); err != nil {
			return out, err
		}
	}
	var projectID string
	var worker Worker
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		r, err := lock(tx, a.TaskID)
		if err != nil {
			return err
		}
		run, err := r.run(a.RunID)
		switch {
		case err != nil:
			return err
		case !takesArtifacts(run):
			return notRunning(r, run)
		case a.Expires > r.Expires:
			return api.Errorf(api.InputError, "expires %s is after the task's own expiry, %s.", a.Expires, r.Expires)
		}
		old, err := loadArtifact(tx, a.TaskID, a.RunID, a.Name)
		if err = ignoreMissing(err); err != nil {
			return err
		}
		if old != nil {
			if err := old.allows(a); err != nil {
				return err
			}
		}
		if a.StorageType == "object" {
			projectID, worker = r.ProjectID, Worker{run.WorkerGroup, run.WorkerID}
			a.upload = &upload{ID: slugid.New()}
			if old != nil {
				a.upload = old.upload
			}
		}
		if err := a.save(tx); err != nil {
			return err
		}
		if a.StorageType == "s3" || a.unfinished() {
			return nil
		}
		return q.announce(tx, a, r, run)
	})
	if err != nil || a.StorageType != "object" {
		return out, err
	}
	out.Expires = a.Expires
	out.objectUpload, err = q.offerObject(ctx, a, projectID, worker)
	return out, err
})

// announce tells that there is an artifact.
func (q *Queue) announce(tx *store.Tx, a *artifact, r *record, run *task.Run) error {
	m := message{Version: 1, Status: r.Status, RunID: &run.RunID, WorkerGroup: run.WorkerGroup, WorkerID: run.WorkerID, Artifact: a.info()}
	m.Artifact.ContentLength = nil
	return q.send(tx, artifactCreated, r, run, m)
}

// lateUpload is how long after its end a run may still be given artifacts: a
// worker that is told to stop uploads its log.
const lateUpload = 25 * time.Minute

func takesArtifacts(run *task.Run) bool {
	return run.State == task.Running ||
		run.State == task.Exception && run.WorkerID != "" && now().Sub(run.Resolved) < lateUpload
}

func notRunning(r *record, run *task.Run) error {
	return api.Errorf(api.RequestConflict, "Run %d of task %s is %s; artifacts are created while it is running.", run.RunID, r.TaskID, run.State)
}

// allows reports whether an artifact may be replaced by b.
func (a *artifact) allows(b *artifact) error {
	becomesLink := a.StorageType == "reference" && b.StorageType == "link"
	switch {
	case a.Expires <= deletable():
		return api.Errorf(api.RequestConflict, "Artifact %q expired at %s and is being deleted. Use another name.", a.Name, a.Expires)
	case a.StorageType != b.StorageType && !becomesLink:
		return api.Errorf(api.RequestConflict, "Artifact %q exists with the storage type %s and cannot become %s.", a.Name, a.StorageType, b.StorageType)
	case a.ContentType != b.ContentType && !becomesLink:
		return api.Errorf(api.RequestConflict, "Artifact %q exists with the content type %q; it cannot become %q.", a.Name, a.ContentType, b.ContentType)
	case a.StorageType != "reference" && a.detail != b.detail:
		return api.Errorf(api.RequestConflict, "Artifact %q exists with other content.", a.Name)
	case b.Expires < a.Expires:
		return api.Errorf(api.RequestConflict, "Artifact %q is kept until %s; it cannot expire at %s, which is earlier.", a.Name, a.Expires, b.Expires)
	case a.StorageType == "object" && a.upload.Done:
		return api.Errorf(api.RequestConflict, "Artifact %q is uploaded and finished; an object is not replaced. Use another name.", a.Name)
	case a.StorageType == "object" && b.Expires != a.Expires:
		return api.Errorf(api.RequestConflict, "Artifact %q is being uploaded as an object that expires at %s, not at %s.", a.Name, a.Expires, b.Expires)
	}
	return nil
}

// prepareUpload signs the URLs that the bytes of a go to.
func (q *Queue) prepareUpload(ctx context.Context, a *artifact, encoding string, out *createArtifactResponse) error {
	var err error
	out.PutURL, err = q.artifacts.PresignPut(ctx, a.key(), a.ContentType, putURLLife)
	if err != nil {
		return badKey(a, err)
	}
	out.Expires, out.ContentType = now().Add(putURLLife), a.ContentType
	if a.ContentLength == nil || *a.ContentLength <= multipartAbove {
		return nil
	}
	if *a.ContentLength > maxObject {
		return api.Errorf(api.InputError, "contentLength is %d bytes; an artifact may have up to %d.", *a.ContentLength, int64(maxObject))
	}
	size := max(int64(partSize), (*a.ContentLength+maxParts-1)/maxParts)
	n := int((*a.ContentLength + size - 1) / size)
	// What is begun in S3 has to be ended, so it is not begun in vain.
	r, err := q.read(ctx, a.TaskID)
	if err != nil {
		return err
	}
	if run, err := r.run(a.RunID); err != nil {
		return err
	} else if !takesArtifacts(run) {
		return notRunning(r, run)
	}
	id, err := q.artifacts.StartMultipart(ctx, a.key(), blob.Headers{ContentType: a.ContentType, ContentEncoding: encoding})
	if err != nil {
		return err
	}
	a.upload = &upload{ID: slugid.New(), S3: id, Parts: n}
	out.Multipart = &multipart{UploadID: a.upload.ID, PartSize: size, URLs: make([]string, n)}
	for i := range n {
		if out.Multipart.URLs[i], err = q.artifacts.PresignPart(ctx, a.key(), id, i+1, putURLLife); err != nil {
			return err
		}
	}
	return nil
}

// badKey tells a name that a bucket cannot hold from a bucket that fails.
func badKey(a *artifact, err error) error {
	if errors.Is(err, blob.ErrKey) {
		return api.Errorf(api.InputError, "The artifact name %.100q cannot be stored: %v", a.Name, err)
	}
	return err
}

type finishArtifactRequest struct {
	UploadID string   `json:"uploadId"`
	Parts    []string `json:"parts"`
}

var finishArtifact = api.Declare(api.Spec{
	Name: "finishArtifact", Route: "PUT /task/<taskId>/runs/<runId>/artifacts/<name...>",
	Scopes: scope.Scope("queue:create-artifact:<taskId>/<runId>"), Input: "v1/finish-artifact-request.json#",
	Stability: api.Stable, Category: "Artifacts", Title: "Complete an upload",
	Doc: `Says that an upload to the object service is complete, or puts the parts of another together. It takes the uploadId
that createArtifact returned and, for parts, the ETag of every one, in order. Repeating it is harmless. Artifacts that
were uploaded with one PUT, references, links and errors are complete without it.`,
}, func(ctx context.Context, q *Queue, c api.Call[artifactPath, finishArtifactRequest]) (none api.NoContent, err error) {
	var a *artifact
	err = q.db.View(ctx, func(tx *store.Tx) error {
		a, err = loadArtifact(tx, c.Path.TaskID, c.Path.RunID, c.Path.Name)
		return err
	})
	switch {
	case err != nil:
		return none, err
	case a.StorageType == "object":
		return none, q.finishObject(ctx, a, c.Body.UploadID)
	case a.upload == nil:
		return none, api.Errorf(api.InputError, "Artifact %q has no upload in parts to complete.", a.Name)
	case a.upload.ID != c.Body.UploadID:
		return none, api.Errorf(api.InputError, "uploadId is not that of artifact %q; another createArtifact has replaced it.", a.Name)
	case a.upload.Done:
		return none, nil
	case len(c.Body.Parts) != a.upload.Parts:
		return none, api.Errorf(api.InputError, "parts has %d ETags; the upload has %d parts.", len(c.Body.Parts), a.upload.Parts)
	}
	parts := make([]blob.Part, len(c.Body.Parts))
	for i, tag := range c.Body.Parts {
		parts[i] = blob.Part{Number: i + 1, ETag: tag}
	}
	object, err := q.artifacts.CompleteMultipart(ctx, a.key(), a.upload.S3, parts)
	if errors.Is(err, blob.ErrNoUpload) {
		// Completed by a call that died before it could say so in the row.
		object, err = q.artifacts.Stat(ctx, a.key())
	}
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return none, api.Errorf(api.InputError, "The upload of artifact %q was given up; call createArtifact again.", a.Name)
	case errors.Is(err, blob.ErrPart):
		return none, api.Errorf(api.InputError, "The upload of artifact %q cannot be completed: %v", a.Name, err)
	case err != nil:
		return none, err
	case a.ContentLength != nil && object.Size != 0 && object.Size != *a.ContentLength:
		return none, api.Errorf(api.InputError, "Artifact %q was announced with %d bytes; %d were uploaded.", a.Name, *a.ContentLength, object.Size)
	}
	return none, q.db.Do(ctx, func(tx *store.Tx) error {
		if _, err := lock(tx, a.TaskID); err != nil { // as createArtifact does
			return err
		}
		a, err := loadArtifact(tx, a.TaskID, a.RunID, a.Name)
		switch {
		case err != nil:
			return err
		case a.upload == nil || a.upload.ID != c.Body.UploadID:
			return api.Errorf(api.InputError, "The upload of artifact %q was replaced meanwhile by another createArtifact.", a.Name)
		}
		a.upload.Done = true
		return a.save(tx)
	})
})
