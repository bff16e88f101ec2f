package object

import (
	"context"
	"errors"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// What follows is for other services of this process, which decide themselves
// who may do it. Errors that are meant for a caller are those of package api.

// CreateUpload reserves a name for an object that somebody is going to upload
// with that id, as the method createUpload does when it is told no way to
// upload. Repeating it is harmless, also when the upload is finished.
func (o *Objects) CreateUpload(ctx context.Context, name, projectID, uploadID string, expires time.Time) error {
	in := createUploadRequest{ProjectID: projectID, UploadID: uploadID, Expires: timestamp.Of(expires)}
	_, err := o.begin(ctx, name, in)
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.RequestConflict {
		return err
	}
	r, readErr := o.read(ctx, name)
	if readErr != nil {
		return readErr
	}
	if r != nil && r.Finished && !r.ended() && r.UploadID == uploadID && r.ProjectID == projectID && r.Expires == in.Expires {
		return nil
	}
	return err
}

// Finished tells whether there is an object of that name, all of it.
func (o *Objects) Finished(ctx context.Context, name string) (bool, error) {
	r, err := o.read(ctx, name)
	return r != nil && r.Finished && !r.ended(), err
}

// URL is where anybody can get an object, for that long. If there is none, the
// error is a ResourceNotFound.
func (o *Objects) URL(ctx context.Context, name string, life time.Duration) (string, error) {
	r, err := o.find(ctx, name)
	if err != nil {
		return "", err
	}
	return o.sign(ctx, r, life)
}

// DownloadURL is URL for as long as the methods of the API give.
func (o *Objects) DownloadURL(ctx context.Context, name string) (string, error) {
	return o.URL(ctx, name, getURLLife)
}

// read is load in a transaction of its own.
func (o *Objects) read(ctx context.Context, name string) (r *record, err error) {
	err = o.db.View(ctx, func(tx *store.Tx) error {
		r, err = load(tx, name)
		return err
	})
	return r, err
}
