package mount

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/taskfleet/taskfleet/worker/payload"
	"github.com/taskfleet/taskfleet/worker/transfer"
)

// A Fetcher downloads content, again and again if it has to.
type Fetcher struct {
	// Locate says where an artifact can be downloaded now. Its errors are final.
	Locate func(ctx context.Context, taskID, artifact string) (string, error)
	Client *http.Client

	For   time.Duration // how long to keep trying
	Stall time.Duration // how long a download may stand still
}

// Fetch writes content of at most limit bytes to an empty file and its hash. A
// response with Content-Encoding gzip is decoded: that is how the content was
// transported, not what it is.
func (f *Fetcher) Fetch(ctx context.Context, c *payload.Content, to *os.File, digest hash.Hash, limit int64) (int64, error) {
	begin := time.Now()
	var pause transfer.Pause
	for refusals := 0; ; {
		n, err := f.attempt(ctx, c, io.MultiWriter(to, digest), limit)
		if err == nil {
			return n, nil
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		var again *retry
		if !errors.As(err, &again) {
			return 0, err
		}
		if again.refused {
			refusals++ // a URL that has just expired is refused too, and a new one is not
		}
		if spent := time.Since(begin); spent > f.For || refusals >= 3 {
			return 0, &Failure{Unavailable: true, Message: fmt.Sprintf("%v (gave up after %v)", again.err, spent.Round(time.Second))}
		}
		if err := pause.Wait(ctx); err != nil {
			return 0, err
		}
		digest.Reset()
		if err := to.Truncate(0); err != nil {
			return 0, err
		}
		if _, err := to.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
	}
}

// retry is an error that another attempt may mend.
type retry struct {
	err     error
	refused bool
}

func (r *retry) Error() string { return r.err.Error() }

func (f *Fetcher) attempt(ctx context.Context, c *payload.Content, to io.Writer, limit int64) (int64, error) {
	from := c.URL
	if c.Artifact != "" {
		var err error
		if from, err = f.Locate(ctx, c.TaskID, c.Artifact); err != nil {
			return 0, &Failure{Unavailable: true, Message: err.Error()}
		}
	}
	ctx, progress, stop := transfer.Watch(ctx, f.Stall)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return 0, &Failure{Message: "the URL is not valid"}
	}
	resp, err := f.Client.Do(req)
	if err != nil {
		return 0, &retry{err: fmt.Errorf("cannot download %s: %w", transfer.Bare(from), transfer.Cause(ctx, err))}
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code != http.StatusOK:
		return 0, &retry{fmt.Errorf("cannot download %s: the answer is %s", transfer.Bare(from), resp.Status),
			code < 500 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout}
	case resp.Header.Get("Content-Encoding") != "" && resp.Header.Get("Content-Encoding") != "identity":
		return 0, &Failure{Message: fmt.Sprintf("%s comes with the Content-Encoding %q; only gzip is known", transfer.Bare(from), resp.Header.Get("Content-Encoding"))}
	case resp.ContentLength > limit:
		return 0, tooLong(from, limit)
	}
	source := &counter{r: resp.Body, progress: progress}
	n, err := io.Copy(to, io.LimitReader(source, limit+1))
	switch {
	case source.err != nil:
		return 0, &retry{err: fmt.Errorf("the download of %s broke off after %d bytes: %w", transfer.Bare(from), n, transfer.Cause(ctx, source.err))}
	case err != nil:
		return 0, err // of the file's
	case n > limit:
		return 0, tooLong(from, limit)
	}
	return n, nil
}

func tooLong(from string, limit int64) error {
	return &Failure{Message: fmt.Sprintf("%s is longer than %d bytes, which is the limit on this worker", transfer.Bare(from), limit)}
}

// counter tells errors of the source from those of the destination, and that
// there is progress.
type counter struct {
	r        io.Reader
	progress func()
	err      error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.progress()
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
