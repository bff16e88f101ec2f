package artifact

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/timestamp"
	"github.com/taskfleet/taskfleet/worker/transfer"
)

// sayEncodingFrom is the length from which the queue is told how the bytes are
// encoded. It needs that for an upload in parts only, and queues that know
// nothing of parts do not know the property.
const sayEncodingFrom = 16 << 20

// An Item is how an artifact is to be recorded.
type Item struct {
	Name        string
	Expires     time.Time
	ContentType string // empty: by the name
	Encoding    string // identity or gzip; empty: by the content type
}

// changedError says that a file was not the same from beginning to end.
type changedError struct{ how string }

func (e *changedError) Error() string { return "changed while it was being uploaded: " + e.how }

// A body is what is sent: a file, cut into parts.
type body struct {
	file   *os.File
	size   int64
	digest string // of the content, however it is encoded
	plain  int64  // its length
	stable bool   // nobody but us can write to it
	info   fs.FileInfo
}

// Put uploads a regular file.
func (u *Uploader) Put(ctx context.Context, it Item, file *os.File, info fs.FileInfo) error {
	it.ContentType = cmp.Or(it.ContentType, typeOf(it.Name))
	if it.Encoding == "" && compressible(it.ContentType) {
		it.Encoding = "gzip"
	}
	begin := time.Now()
	b := &body{file: file, size: info.Size(), plain: info.Size(), info: info}
	if it.Encoding == "gzip" {
		var err error
		if b, err = u.compress(file, info); err != nil {
			return err
		}
		defer os.Remove(b.file.Name())
		defer b.file.Close()
	}
	if err := u.send(ctx, it, b); err != nil {
		return err
	}
	how := ""
	if it.Encoding == "gzip" {
		how = fmt.Sprintf(", compressed to %d", b.size)
	}
	u.Log.Note("Uploaded %s: %d bytes%s, SHA-256 %s, in %v", it.Name, b.plain, how, b.digest, time.Since(begin).Round(time.Millisecond))
	return nil
}

// compress makes a compressed copy, whose length has to be known before it is
// sent.
func (u *Uploader) compress(file *os.File, info fs.FileInfo) (*body, error) {
	to, err := os.CreateTemp(u.Scratch, "upload-")
	if err != nil {
		return nil, err
	}
	b := &body{file: to, plain: info.Size(), stable: true}
	digest := sha256.New()
	zip := gzip.NewWriter(to)
	n, err := io.Copy(zip, io.TeeReader(io.NewSectionReader(file, 0, info.Size()), digest))
	if err == nil {
		err = zip.Close()
	}
	if err == nil {
		err = unchanged(file, info, n)
	}
	if err == nil {
		b.size, err = to.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		to.Close()
		os.Remove(to.Name())
		return nil, err
	}
	b.digest = hex.EncodeToString(digest.Sum(nil))
	return b, nil
}

func unchanged(file *os.File, before fs.FileInfo, read int64) error {
	after, err := file.Stat()
	switch {
	case err != nil:
		return err
	case after.Size() != before.Size() || read != before.Size():
		return &changedError{fmt.Sprintf("it had %d bytes and then %d", before.Size(), min(after.Size(), max(read, after.Size())))}
	case !after.ModTime().Equal(before.ModTime()):
		return &changedError{"it was written to"}
	}
	return nil
}

// A part of a body, with what it hashed to when it was first read.
type part struct {
	url          string
	offset, size int64
	digest       string // empty where nobody else can write
}

// send records the artifact and sends its bytes. It begins anew where the URLs
// have expired.
func (u *Uploader) send(ctx context.Context, it Item, b *body) error {
	u.once.Do(func() { u.slots = make(chan struct{}, Parallel) })
	begin := time.Now()
	for try := 1; ; try++ {
		request := &queue.PostArtifactRequest{
			StorageType: "s3", Expires: timestamp.Of(it.Expires), ContentType: it.ContentType, ContentLength: &b.size,
		}
		if it.Encoding == "gzip" && b.size >= sayEncodingFrom {
			request.ContentEncoding = it.Encoding
		}
		slot, err := u.Run.CreateArtifact(ctx, it.Name, request)
		if err != nil {
			return err
		}
		parts, header, err := layout(it, b, slot)
		if err != nil {
			return err
		}
		if err := b.read(parts); err != nil {
			return err
		}
		tags, err := u.sendParts(ctx, b, parts, header)
		if err == nil && slot.Multipart != nil {
			err = u.Run.FinishArtifact(ctx, it.Name, &queue.FinishArtifactRequest{UploadID: slot.Multipart.UploadID, Parts: tags})
			if err != nil && client.IsRefusal(err) && !client.IsConflict(err) {
				err = &refusedError{err} // such as an upload that was given up meanwhile
			}
		}
		if err == nil {
			if !b.stable {
				return unchanged(b.file, b.info, b.size)
			}
			return nil
		}
		var refused *refusedError
		if !errors.As(err, &refused) || try >= 5 || time.Since(begin) > 6*u.For {
			return err
		}
		u.Log.Note("Beginning the upload of %s again: %v", it.Name, refused)
	}
}

// layout cuts the body as the queue says.
func layout(it Item, b *body, slot *queue.PostArtifactResponse) (parts []part, header http.Header, err error) {
	header = http.Header{}
	if slot.Multipart == nil {
		if slot.PutURL == "" {
			return nil, nil, fmt.Errorf("the queue gave no URL to upload %s to (its storage type is %q)", it.Name, slot.StorageType)
		}
		header.Set("Content-Type", cmp.Or(slot.ContentType, it.ContentType))
		if it.Encoding == "gzip" {
			header.Set("Content-Encoding", "gzip")
		}
		return []part{{url: slot.PutURL, size: b.size}}, header, nil
	}
	size := slot.Multipart.PartSize
	for i, to := range slot.Multipart.URLs {
		offset := int64(i) * size
		parts = append(parts, part{url: to, offset: offset, size: min(size, b.size-offset)})
	}
	if n := int64(len(parts)); size <= 0 || n == 0 || n*size < b.size || (n-1)*size >= b.size {
		return nil, nil, fmt.Errorf("the queue gave %d URLs for parts of %d bytes, which does not fit the %d bytes of %s", n, size, b.size, it.Name)
	}
	return parts, header, nil
}

// read computes the digests of the body and of its parts.
func (b *body) read(parts []part) error {
	if b.stable {
		return nil
	}
	whole := sha256.New()
	for i := range parts {
		own := sha256.New()
		var both io.Writer = io.MultiWriter(whole, own)
		if len(parts) == 1 {
			whole, both = own, own
		}
		n, err := io.Copy(both, io.NewSectionReader(b.file, parts[i].offset, parts[i].size))
		if err != nil {
			return err
		}
		if n != parts[i].size {
			return unchanged(b.file, b.info, parts[i].offset+n)
		}
		parts[i].digest = hex.EncodeToString(own.Sum(nil))
	}
	b.digest = hex.EncodeToString(whole.Sum(nil))
	return nil
}

// sendParts returns the parts' ETags.
func (u *Uploader) sendParts(ctx context.Context, b *body, parts []part, header http.Header) ([]string, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	tags := make([]string, len(parts))
	var sending sync.WaitGroup
	for i := range parts {
		select {
		case u.slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		sending.Go(func() {
			defer func() { <-u.slots }()
			var err error
			if tags[i], err = u.sendPart(ctx, b, parts[i], header); err != nil {
				stop(err)
			}
		})
	}
	sending.Wait()
	return tags, context.Cause(ctx)
}

// refusedError is an answer that the same request will get again, but perhaps
// not one with a new URL.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

func (u *Uploader) sendPart(ctx context.Context, b *body, p part, header http.Header) (tag string, err error) {
	begin := time.Now()
	for pause := (transfer.Pause{}); ; {
		again := false
		if tag, again, err = u.attempt(ctx, b, p, header); err == nil || !again {
			return tag, err
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if spent := time.Since(begin); spent > u.For {
			return "", fmt.Errorf("%w (gave up after %v)", err, spent.Round(time.Second))
		}
		if err := pause.Wait(ctx); err != nil {
			return "", err
		}
	}
}

func (u *Uploader) attempt(ctx context.Context, b *body, p part, header http.Header) (tag string, again bool, err error) {
	ctx, progress, stop := transfer.Watch(ctx, u.Stall)
	defer stop()
	sent := &sentBody{r: io.NewSectionReader(b.file, p.offset, p.size), digest: sha256.New(), progress: progress}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, p.url, io.NopCloser(sent))
	if err != nil {
		return "", false, errors.New("the queue gave a URL that is not valid")
	}
	req.Header = header.Clone()
	req.ContentLength = p.size
	if p.size == 0 {
		req.Body = http.NoBody
	}
	resp, err := u.Client.Do(req)
	if err != nil {
		if short := b.shorter(p); short != nil {
			return "", false, short
		}
		return "", true, fmt.Errorf("cannot send to %s: %w", transfer.Bare(p.url), transfer.Cause(ctx, err))
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // an error in XML
	switch code := resp.StatusCode; {
	case code/100 == 2:
		if p.digest != "" && p.digest != sent.sum() {
			return "", false, &changedError{"the bytes that were sent are not those that had been read"}
		}
		return resp.Header.Get("ETag"), false, nil
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return "", true, fmt.Errorf("%s answers %s%s", transfer.Bare(p.url), resp.Status, s3Code(answer))
	default:
		return "", false, &refusedError{fmt.Errorf("%s answers %s%s", transfer.Bare(p.url), resp.Status, s3Code(answer))}
	}
}

// shorter tells a file that has become too short from a connection that broke.
func (b *body) shorter(p part) error {
	if info, err := b.file.Stat(); err == nil && info.Size() < p.offset+p.size {
		return &changedError{fmt.Sprintf("it had %d bytes and then %d", b.size, info.Size())}
	}
	return nil
}

type sentBody struct {
	r        io.Reader
	progress func()

	mu     sync.Mutex // the transport may still read when the answer is there
	digest hash.Hash
}

func (s *sentBody) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.progress()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digest.Write(p[:n])
	return n, err
}

func (s *sentBody) sum() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return hex.EncodeToString(s.digest.Sum(nil))
}

// s3Code is what an S3 error document is about; the rest may repeat signatures.
func s3Code(document []byte) string {
	_, rest, found := strings.Cut(string(document), "<Code>")
	code, _, end := strings.Cut(rest, "</Code>")
	if !found || !end || len(code) > 100 {
		return ""
	}
	return " (" + code + ")"
}

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
