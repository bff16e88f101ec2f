package object

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"strconv"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	maxName        = 1024    // bytes
	maxContentType = 255     // bytes
	maxInline      = 8192    // bytes inside a call
	maxPut         = 5 << 30 // bytes in one PUT; S3's limit

	// Up to so many bytes are read and hashed when their upload is finished.
	maxVerified = 1 << 20
)

type createUploadRequest struct {
	ProjectID string         `json:"projectId"`
	UploadID  string         `json:"uploadId"`
	Expires   timestamp.Time `json:"expires"`
	Hashes    hashes         `json:"hashes"`
	Proposed  struct {
		DataInline *inline `json:"dataInline"`
		PutURL     *put    `json:"putUrl"`
	} `json:"proposedUploadMethods"`
}

type inline struct {
	ContentType string `json:"contentType"`
	ObjectData  string `json:"objectData"`
}

type put struct {
	ContentType   string `json:"contentType"`
	ContentLength int64  `json:"contentLength"`
}

type createUploadResponse struct {
	ProjectID string         `json:"projectId"`
	UploadID  string         `json:"uploadId"`
	Expires   timestamp.Time `json:"expires"`
	Method    uploadMethod   `json:"uploadMethod"`
}

type uploadMethod struct {
	DataInline bool    `json:"dataInline,omitempty"`
	PutURL     *putURL `json:"putUrl,omitempty"`
}

type putURL struct {
	URL     string            `json:"url"`
	Expires timestamp.Time    `json:"expires"`
	Headers map[string]string `json:"headers"`
}

var createUpload = api.Declare(api.Spec{
	Name: "createUpload", Route: "PUT /upload/<name...>",
	Scopes: scope.Scope("object:upload:<projectId>:<name>"),
	Input:  "v1/create-upload-request.json#", Output: "v1/create-upload-response.json#",
	Private:   true, // it holds the data, and the id that lets others go on with the upload
	Stability: api.Stable, Category: "Upload", Title: "Begin the upload of an object",
	Doc: fmt.Sprintf(`Takes a name for an object that is going to be uploaded, and agrees with the caller on how. Of the proposed
methods, `+"`dataInline`"+` (up to %d bytes inside the call) is preferred to `+"`putUrl`"+` (one PUT of up to 5 GiB to a URL). Calls can
be repeated, to get a fresh URL, to propose other methods, or to add hashes; they have to have the same uploadId,
projectId and expiry. Another uploadId is refused with 409, so that nobody else uploads under the name.

A name has up to %d printable ASCII characters, including spaces and slashes. An upload that is not finished within 24
hours is removed.`, maxInline, maxName),
}, func(ctx context.Context, o *Objects, c api.Call[path, createUploadRequest]) (out createUploadResponse, err error) {
	if err := c.Authorize(scope.Vars{"projectId": c.Body.ProjectID}); err != nil {
		return out, err
	}
	return o.begin(ctx, c.Path.Name, c.Body)
})

// begin is createUpload for a caller that may do so.
func (o *Objects) begin(ctx context.Context, name string, in createUploadRequest) (out createUploadResponse, err error) {
	data, err := in.check(name)
	if err != nil {
		return out, err
	}
	var r *record
	err = o.db.Do(ctx, func(tx *store.Tx) error {
		if err := newRecord(name, in.ProjectID, in.UploadID, in.Expires).insert(tx); err != nil {
			return err
		}
		if r, err = lock(tx, name); err != nil {
			return err
		}
		if r == nil {
			return api.Errorf(api.ServiceUnavailable, "An earlier object %q was being deleted just now. Call again.", name)
		}
		if err := r.continues(in); err != nil {
			return err
		}
		if err := r.add(in.Hashes); err != nil {
			return err
		}
		switch inline, put := in.Proposed.DataInline, in.Proposed.PutURL; {
		case inline != nil:
			length := int64(len(data))
			r.ContentLength = &length
			if err := compare(bytes.NewReader(data), r.Hashes); err != nil {
				return err
			}
		case put != nil:
			r.ContentLength = &put.ContentLength
		}
		return r.save(tx)
	})
	if err != nil {
		return out, err
	}
	// The record is there, now the bytes may come.
	out = createUploadResponse{ProjectID: in.ProjectID, UploadID: in.UploadID, Expires: in.Expires}
	switch inline, put := in.Proposed.DataInline, in.Proposed.PutURL; {
	case inline != nil:
		_, err = o.bucket.Put(ctx, r.Key, bytes.NewReader(data), blob.Headers{ContentType: inline.ContentType})
		out.Method.DataInline = true
	case put != nil:
		out.Method.PutURL = &putURL{
			Expires: timestamp.Now().Add(putURLLife),
			Headers: map[string]string{"Content-Type": put.ContentType, "Content-Length": strconv.FormatInt(put.ContentLength, 10)},
		}
		out.Method.PutURL.URL, err = o.bucket.PresignPutSized(ctx, r.Key, put.ContentType, put.ContentLength, putURLLife)
	}
	return out, err
}

// check refuses what the schema cannot, and decodes the data inside the call.
func (in *createUploadRequest) check(name string) (data []byte, err error) {
	if len(name) > maxName {
		return nil, api.Errorf(api.InputError, "The name of the object has %d characters; up to %d are allowed.", len(name), maxName)
	}
	if now := timestamp.Now(); in.Expires <= now {
		return nil, api.Errorf(api.InputError, "expires is %s, which is past; it is %s now.", in.Expires, now)
	}
	if m := in.Proposed.DataInline; m != nil {
		const field = "proposedUploadMethods.dataInline"
		if err := checkContentType(field, m.ContentType); err != nil {
			return nil, err
		}
		data, err = base64.StdEncoding.DecodeString(m.ObjectData)
		if err != nil { // without padding, as some encoders have it
			data, err = base64.RawStdEncoding.DecodeString(m.ObjectData)
		}
		if err != nil {
			return nil, api.Errorf(api.InputError, "%s.objectData is not base64.", field)
		}
		if len(data) > maxInline {
			return nil, api.Errorf(api.InputError, "%s.objectData has %d bytes; up to %d are allowed. Propose putUrl for more.", field, len(data), maxInline)
		}
	}
	if m := in.Proposed.PutURL; m != nil {
		const field = "proposedUploadMethods.putUrl"
		if err := checkContentType(field, m.ContentType); err != nil {
			return nil, err
		}
		if m.ContentLength < 0 || m.ContentLength > maxPut {
			return nil, api.Errorf(api.InputError, "%s.contentLength is %d; one PUT takes 0 to %d bytes.", field, m.ContentLength, int64(maxPut))
		}
	}
	return data, nil
}

func checkContentType(field, value string) error {
	_, _, err := mime.ParseMediaType(value)
	if err != nil || len(value) > maxContentType || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
		return api.Errorf(api.InputError, "%s.contentType is not a media type of up to %d characters, such as text/plain; charset=utf-8.", field, maxContentType)
	}
	return nil
}

// continues reports whether a request to begin an upload is about the upload
// that r is.
func (r *record) continues(in createUploadRequest) error {
	conflict := func(format string, args ...any) error {
		return api.Errorf(api.RequestConflict, "Object %q exists already"+format, append([]any{r.Name}, args...)...)
	}
	switch {
	case r.ended():
		return conflict(", has ended at %s and is being deleted. Use another name, or wait for an hour or two.", r.end())
	case r.Finished:
		return conflict(". Use another name.")
	case r.UploadID != in.UploadID:
		return conflict(", being uploaded with another uploadId. Use another name.")
	case r.ProjectID != in.ProjectID:
		return conflict(", being uploaded for another project. Begin with the same projectId, or use another name.")
	case r.Expires != in.Expires:
		return conflict(", being uploaded to expire at %s. Begin with the same expiry, or use another name.", r.Expires)
	}
	return nil
}

type finishUploadRequest struct {
	ProjectID string `json:"projectId"`
	UploadID  string `json:"uploadId"`
	Hashes    hashes `json:"hashes"`
}

var finishUpload = api.Declare(api.Spec{
	Name: "finishUpload", Route: "POST /finish-upload/<name...>",
	Scopes: scope.Scope("object:upload:<projectId>:<name>"), Input: "v1/finish-upload-request.json#",
	Private:   true, // the id lets others go on with the upload, if this call was refused
	Stability: api.Stable, Category: "Upload", Title: "Finish the upload of an object",
	Doc: `Says that all bytes have been sent. From now on the object can be downloaded, and does not change any more. The call is
refused with 409 while the bytes are not there, or not as many as were announced; those of a small object are also
compared with its hashes.

Repeating the call is harmless, unless it brings hashes that the object does not have.`,
}, func(ctx context.Context, o *Objects, c api.Call[path, finishUploadRequest]) (none api.None, err error) {
	name, in := c.Path.Name, c.Body
	if err := c.Authorize(scope.Vars{"projectId": in.ProjectID}); err != nil {
		return none, err
	}
	var r *record
	err = o.db.View(ctx, func(tx *store.Tx) error {
		if r, err = load(tx, name); err != nil {
			return err
		}
		return r.finishes(name, in)
	})
	if err != nil || r.Finished {
		return none, err
	}
	stored, err := o.verify(ctx, r)
	if err != nil {
		return none, err
	}
	length := r.ContentLength
	return none, o.db.Do(ctx, func(tx *store.Tx) error {
		r, err := lock(tx, name)
		if err != nil {
			return err
		}
		if err := r.finishes(name, in); err != nil || r.Finished {
			return err
		}
		if length == nil || r.ContentLength == nil || *length != *r.ContentLength {
			return api.Errorf(api.RequestConflict, "Object %q was begun anew while its upload was being finished. Call again.", name)
		}
		r.Finished, r.ContentType = true, stored.ContentType
		return r.save(tx)
	})
})

// finishes reports whether a request can finish the upload that r is, or has
// finished it. It adds the request's hashes to r.
func (r *record) finishes(name string, in finishUploadRequest) error {
	switch {
	case r == nil:
		return api.Errorf(api.ResourceNotFound, "There is no upload of object %q. Begin with createUpload.", name)
	case r.ProjectID != in.ProjectID:
		return api.Errorf(api.InputError, "Object %q does not belong to project %s.", name, in.ProjectID)
	case r.Finished:
		for algorithm, hash := range in.Hashes {
			if known, is := r.Hashes[algorithm]; !is || known != hash {
				return api.Errorf(api.RequestConflict, "The upload of object %q is finished, without this %.64s hash; it cannot be added or changed now.", name, algorithm)
			}
		}
		return nil
	case r.UploadID != in.UploadID:
		return api.Errorf(api.RequestConflict, "Object %q is being uploaded with another uploadId.", name)
	case r.ended():
		return api.Errorf(api.ResourceExpired, "The upload of object %q was not finished before %s and is being deleted. Use another name.", name, r.end())
	}
	return r.add(in.Hashes)
}

// verify makes sure that the bytes of r are there.
func (o *Objects) verify(ctx context.Context, r *record) (stored blob.Object, err error) {
	stored, err = o.bucket.Stat(ctx, r.Key)
	switch {
	case errors.Is(err, blob.ErrNotFound) || err == nil && r.ContentLength == nil:
		return stored, api.Errorf(api.RequestConflict, "No bytes of object %q have arrived. Send them the way that createUpload has answered, and finish then.", r.Name)
	case err != nil:
		return stored, err
	case stored.Size != *r.ContentLength:
		return stored, api.Errorf(api.RequestConflict, "Object %q was announced with %d bytes, and %d have arrived. Send them again, or call createUpload with the right contentLength.", r.Name, *r.ContentLength, stored.Size)
	case stored.Size > maxVerified || stored.ContentEncoding != "" && stored.ContentEncoding != "identity": // hashes are those of the decoded bytes
		return stored, nil
	}
	body, err := o.bucket.Get(ctx, r.Key, blob.Range{})
	if err != nil {
		return stored, err
	}
	defer body.Close()
	return stored, compare(body, r.Hashes)
}

// compare reads bytes and compares them with those of their hashes that are
// known here.
func compare(body io.Reader, hashes map[string]string) error {
	sums := map[string]hash.Hash{"sha256": sha256.New(), "sha512": sha512.New()}
	if _, err := io.Copy(io.MultiWriter(sums["sha256"], sums["sha512"]), body); err != nil {
		return err
	}
	for _, algorithm := range []string{"sha256", "sha512"} {
		if want, got := hashes[algorithm], hex.EncodeToString(sums[algorithm].Sum(nil)); want != "" && want != got {
			return api.Errorf(api.InputError, "hashes.%s is %s, and the bytes that have arrived have %s.", algorithm, want, got)
		}
	}
	return nil
}
