package replicas

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/object"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An artifact is one that a worker of ours made.
type artifact struct {
	name     string
	run      int
	content  []byte
	finished bool // as acknowledged
}

// uploads are the ways of an artifact's bytes: one PUT to S3, the object service with a PUT, the object service with the
// bytes in the call.
var uploads = []string{"s3", "object", "inline"}

func (l *load) upload(ctx context.Context, core *client.Client, id string, run, kind int) error {
	a := &artifact{name: "public/" + uploads[kind], run: run}
	a.content = []byte(strings.Repeat(fmt.Sprintf("%s of run %d of task %s\n", a.name, run, id), 20))
	l.mu.Lock()
	h := l.tasks[id]
	h.artifacts = append(h.artifacts, a)
	l.mu.Unlock()

	q, length := queue.New(core), int64(len(a.content))
	request := &queue.PostArtifactRequest{StorageType: "object", ContentType: "text/plain", ContentLength: &length, Expires: timestamp.Now().Add(lifetime / 2)}
	if uploads[kind] == "s3" {
		request.StorageType = "s3"
	}
	var made *queue.PostArtifactResponse
	if err := l.call(ctx, func() (err error) { made, err = q.CreateArtifact(ctx, id, run, a.name, request); return err }); err != nil {
		return fmt.Errorf("creating it: %w", err)
	}
	if request.StorageType == "s3" {
		if err := l.call(ctx, func() error { return put(ctx, made.PutURL, map[string]string{"Content-Type": "text/plain"}, a.content) }); err != nil {
			return fmt.Errorf("storing it: %w", err)
		}
		l.finish(a)
		return nil
	}
	if err := l.uploadObject(ctx, core.WithCredentials(cred.Credentials(*made.Credentials), nil), made, kind, a.content); err != nil {
		return err
	}
	if err := l.call(ctx, func() error {
		return q.FinishArtifact(ctx, id, run, a.name, &queue.FinishArtifactRequest{UploadID: made.UploadID})
	}); err != nil {
		return fmt.Errorf("finishing it: %w", err)
	}
	l.finish(a)
	return nil
}

func (l *load) finish(a *artifact) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.finished = true
}

func (l *load) uploadObject(ctx context.Context, core *client.Client, made *queue.PostArtifactResponse, kind int, content []byte) error {
	o := object.New(core)
	request := &object.CreateUploadRequest{ProjectID: made.ProjectID, UploadID: made.UploadID, Expires: made.Expires}
	if uploads[kind] == "inline" {
		request.ProposedUploadMethods.DataInline = &object.UploadMethodDataInlineRequest{ContentType: "text/plain", ObjectData: base64.StdEncoding.EncodeToString(content)}
	} else {
		request.ProposedUploadMethods.PutURL = &object.UploadMethodPutURLRequest{ContentType: "text/plain", ContentLength: int64(len(content))}
	}
	var begun *object.CreateUploadResponse
	if err := l.call(ctx, func() (err error) { begun, err = o.CreateUpload(ctx, made.Name, request); return err }); err != nil {
		return fmt.Errorf("beginning its upload: %w", err)
	}
	if to := begun.UploadMethod.PutURL; to != nil {
		if err := l.call(ctx, func() error { return put(ctx, to.URL, to.Headers, content) }); err != nil {
			return fmt.Errorf("storing it: %w", err)
		}
	}
	if err := l.call(ctx, func() error {
		return o.FinishUpload(ctx, made.Name, &object.FinishUploadRequest{ProjectID: made.ProjectID, UploadID: made.UploadID})
	}); err != nil {
		return fmt.Errorf("finishing its upload: %w", err)
	}
	return nil
}

// put stores bytes in S3.
func put(ctx context.Context, url string, headers map[string]string, content []byte) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(content))
	if err != nil {
		return err
	}
	for k, v := range headers {
		if k != "Content-Length" { // which is set from the content
			r.Header.Set(k, v)
		}
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("PUT to S3: %s: %.300s", resp.Status, text)
	}
	return err
}

// checkArtifact downloads an artifact. One that was finished is there; of one that was not, the platform may say so. But
// where it tells where the bytes are, there they are.
func (l *load) checkArtifact(ctx context.Context, q *queue.Client, id string, a *artifact) {
	where, err := q.GetArtifact(ctx, id, a.run, a.name)
	switch {
	case client.IsNotFound(err) && !a.finished:
		return
	case err != nil:
		l.complain("artifact %s of task %s, finished %t: %v", a.name, id, a.finished, err)
		return
	case !a.finished && a.name == "public/s3":
		return // it is there from its creation on, and nobody promised bytes
	}
	resp, err := http.Get(where.URL)
	if err != nil {
		l.complain("the bytes of artifact %s of task %s: %v", a.name, id, err)
		return
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(content, a.content) {
		l.complain("artifact %s of task %s, finished %t: %s, %v: %.200q", a.name, id, a.finished, resp.Status, err, content)
	}
}
