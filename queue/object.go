package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Objects is the object service, where the bytes of artifacts with the storage
// type object are. It deletes them itself when they expire. An error that a
// caller may see is an *api.Error: that an object does not exist, say.
type Objects interface {
	// CreateUpload reserves a name for one upload. Repeating it is harmless.
	CreateUpload(ctx context.Context, name, projectID, uploadID string, expires time.Time) error

	// Finished tells whether all of an object is there.
	Finished(ctx context.Context, name string) (bool, error)

	// URL is where anybody can get an object, for a while.
	URL(ctx context.Context, name string, life time.Duration) (string, error)
}

const (
	objectUploadLife   = 24 * time.Hour // of credentials to upload with, if the artifact lives as long
	objectDownloadLife = time.Hour      // of credentials to download with
)

// objectName is what an artifact is called in the object service. It is written
// nowhere, and so must never change.
func (a *artifact) objectName() string { return "t/" + a.key() }

func noObjects() error {
	return api.Errorf(api.InputError, "This deployment has no object service, so there are no artifacts of storage type object. Use s3.")
}

// checkObject refuses what the object service has no room for.
func (q *Queue) checkObject(a *artifact) error {
	if q.objects == nil {
		return noObjects()
	}
	for _, c := range a.Name {
		if c < 0x20 || c > 0x7e {
			return api.Errorf(api.InputError, "The artifact name %.100q has the character %q; an object's name is printable ASCII. Use the storage type s3, or another name.", a.Name, c)
		}
	}
	return nil
}

// An objectUpload is what a worker is told of where to put an object.
type objectUpload struct {
	Name        string            `json:"name,omitempty"`
	ProjectID   string            `json:"projectId,omitempty"`
	UploadID    string            `json:"uploadId,omitempty"`
	Credentials *cred.Credentials `json:"credentials,omitempty"`
}

// offerObject reserves the object of an artifact that is recorded, and makes
// credentials to upload it. It comes after the record: if it fails, createArtifact
// is called again, finds the record and comes here with the same upload.
func (q *Queue) offerObject(ctx context.Context, a *artifact, projectID string, w Worker) (u objectUpload, err error) {
	u = objectUpload{Name: a.objectName(), ProjectID: projectID, UploadID: a.upload.ID}
	if err := q.objects.CreateUpload(ctx, u.Name, projectID, u.UploadID, a.Expires.Time()); err != nil {
		return u, err
	}
	expiry := min(a.Expires, now().Add(objectUploadLife))
	clientID := fmt.Sprintf("artifact-upload/%s/%d/on/%s", a.TaskID, a.RunID, w)
	u.Credentials, err = q.objectCredentials(ctx, clientID, "object:upload:"+projectID+":"+u.Name, expiry)
	return u, err
}

func (q *Queue) objectCredentials(ctx context.Context, clientID, scope string, expiry timestamp.Time) (*cred.Credentials, error) {
	c, err := q.mint.Mint(ctx, clientID, []string{scope}, expiry.Time())
	return &c, err
}

// finishObject marks an artifact as complete whose object is, and announces it.
func (q *Queue) finishObject(ctx context.Context, a *artifact, uploadID string) error {
	switch {
	case q.objects == nil:
		return noObjects()
	case a.upload.ID != uploadID:
		return api.Errorf(api.InputError, "uploadId is not that of artifact %q, which createArtifact returned.", a.Name)
	case a.upload.Done:
		return nil
	}
	there, err := q.objects.Finished(ctx, a.objectName())
	if err != nil {
		return err
	}
	if !there {
		return api.Errorf(api.InputError, "The object %q of artifact %q is not there. Finish its upload with the object service first.", a.objectName(), a.Name)
	}
	return q.db.Do(ctx, func(tx *store.Tx) error {
		r, err := lock(tx, a.TaskID) // as createArtifact does
		if err != nil {
			return err
		}
		run, err := r.run(a.RunID)
		if err != nil {
			return err
		}
		a, err := loadArtifact(tx, a.TaskID, a.RunID, a.Name)
		if err != nil || a.upload == nil || a.upload.ID != uploadID || a.upload.Done {
			return err
		}
		a.upload.Done = true
		if err := a.save(tx); err != nil {
			return err
		}
		return q.announce(tx, a, r, run)
	})
}

// objectURL is where the bytes of an object artifact are.
func (q *Queue) objectURL(ctx context.Context, a *artifact) (string, error) {
	if q.objects == nil {
		return "", noObjects()
	}
	return q.objects.URL(ctx, a.objectName(), getURLLife)
}

// objectContent is the name of an object and credentials to download it, for
// clients that can do so in more ways than by a URL.
func (q *Queue) objectContent(ctx context.Context, a *artifact) (out content, err error) {
	if q.objects == nil {
		return out, noObjects()
	}
	out = content{StorageType: a.StorageType, Name: a.objectName()}
	clientID := fmt.Sprintf("artifact-download/%s/%d", a.TaskID, a.RunID)
	out.Credentials, err = q.objectCredentials(ctx, clientID, "object:download:"+out.Name, now().Add(objectDownloadLife))
	return out, err
}
