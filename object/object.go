// Package object keeps named, immutable data until it expires.
//
// An object is a row, and bytes in a bucket. The bytes travel between callers
// and the bucket over presigned URLs; only what is very small may come inside
// the call. Who uploads begins (createUpload), sends, and finishes
// (finishUpload); from then on there is an object. Five rules keep that right:
//
//   - The row is there before a byte can be, and goes after the last one: a
//     crash leaves rows that the loop object.expiry finds, never bytes that
//     nobody knows of.
//   - An upload is finished only when its bytes are there, as many as were
//     announced. What is small is also compared with its hashes; large objects
//     are compared by those who download them.
//   - The key in the bucket is new for each row. So a URL that was handed out
//     for an earlier object of the same name never reaches a later one, and two
//     names never meet in the bucket, however odd they are.
//   - What has ended (the object has expired, the upload was given up) is
//     refused from that moment on and deleted an hour later, when the URLs to
//     upload to are void, and clocks that differ have agreed. Until then its
//     name stays taken.
//   - Hashes are added, never changed, and not at all after the end of the
//     upload.
//
// A URL to upload to can be used until it expires, also after the upload was
// finished, by the one who got it. Readers notice by the hashes, which the one
// who writes cannot change.
package object

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

const (
	putURLLife = 45 * time.Minute // of a URL to upload to; ask again for a new one
	getURLLife = 30 * time.Minute // of a URL to download from
	uploadLife = 24 * time.Hour   // of an upload that is not finished

	// What has ended is deleted when no URL to upload to is valid any more,
	// by any clock.
	linger = putURLLife + 15*time.Minute
)

// Config is what an Objects needs.
type Config struct {
	DB     *store.DB
	Bucket *blob.Bucket // keys begin with "object/"
	Log    *slog.Logger
}

// Objects is the service.
type Objects struct {
	db     *store.DB
	bucket *blob.Bucket
	log    *slog.Logger
}

// New opens the objects, creating the table where it does not exist.
func New(ctx context.Context, c Config) (*Objects, error) {
	if err := c.DB.Migrate(ctx, "object", migrations); err != nil {
		return nil, fmt.Errorf("object: migrate: %w", err)
	}
	return &Objects{db: c.DB, bucket: c.Bucket, log: c.Log}, nil
}

// Loops are the work that goes on beside the calls.
func (o *Objects) Loops() []loop.Loop {
	return []loop.Loop{{
		Name: "object.expiry", Doc: "Deletes expired objects and uploads that nobody finished, first the bytes and then the record.",
		When: loop.Every(15 * time.Minute), Pass: o.expire,
	}}
}
