package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source"
)

// A fault is what an attempt to copy failed of.
type fault struct {
	err     error
	bucket  bool          // the region's bucket failed, not the origin
	final   bool          // another attempt will fail as well
	changed bool          // the origin is not what it was: what was copied of it is worth nothing
	after   time.Duration // the origin asked for that much time
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// A bucketError is of a region's bucket.
type bucketError struct{ err error }

func (e *bucketError) Error() string { return e.err.Error() }
func (e *bucketError) Unwrap() error { return e.err }

// errInterrupted ends attempts that this replica does not go on with: others do.
var errInterrupted = errors.New("the copier was stopped")

// refused is a fault of the origin that stays.
func refused(format string, args ...any) error {
	return &fault{err: fmt.Errorf(format, args...), final: true}
}

// damaged is a fault of the origin, or of the way to here, that may pass.
func damaged(format string, args ...any) error { return &fault{err: fmt.Errorf(format, args...)} }

// changed says that the origin is not what it was.
func changed(format string, args ...any) error {
	return &fault{err: fmt.Errorf(format, args...), changed: true}
}

// fromOrigin makes a fault of an error of reading the origin.
func fromOrigin(err error) error {
	var known *fault
	if err == nil || errors.As(err, &known) {
		return err
	}
	f := &fault{err: err, after: source.RetryAfter(err)}
	var e *source.Error
	switch {
	case errors.Is(err, blob.ErrChanged), errors.Is(err, source.ErrChanged), errors.Is(err, blob.ErrRange):
		f.changed = true
	case errors.Is(err, blob.ErrNotFound), errors.Is(err, blob.ErrKey):
		f.final = true
	case errors.As(err, &e):
		f.final = !e.Temporary()
	case errors.Is(err, source.ErrInvalidURL), errors.Is(err, source.ErrNotAllowed):
		f.final = true
	}
	return f
}

// toBucket makes a fault of an error of writing to the region's bucket.
func toBucket(err error) error {
	var known *fault
	if err == nil || errors.As(err, &known) {
		return err
	}
	f := &fault{err: &bucketError{err}, bucket: true}
	// An upload that somebody has aborted, or written other parts to, is begun anew.
	f.changed = errors.Is(err, blob.ErrNoUpload) || errors.Is(err, blob.ErrPart)
	return f
}

// fromBoth is for what the store copies by itself, where the source's part of a
// failure has a code of its own.
func fromBoth(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, blob.ErrChanged), errors.Is(err, blob.ErrNotFound), errors.Is(err, blob.ErrRange):
		return fromOrigin(err)
	}
	return toBucket(err)
}

const (
	maxAttempts  = 8
	firstBackoff = time.Second
	maxBackoff   = 5 * time.Minute
	failedFor    = 10 * time.Minute // until a copy that failed may be asked for again
	maxErrorText = 500
)

// backoff grows twofold, with a jitter that keeps those apart that failed
// together.
func backoff(failures int, longest time.Duration) time.Duration {
	d := min(firstBackoff<<min(max(failures-1, 0), 20), longest)
	return d*3/4 + rand.N(d/2)
}

// errorText is an error as it is shown.
func errorText(err error) string {
	text := strings.ToValidUTF8(strings.ReplaceAll(blame(err)+err.Error(), "\x00", ""), "?")
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "..."
	}
	return text
}

// interrupted tells that an attempt ended since it was told to.
func interrupted(err error) bool {
	return errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
