package source

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// What an error of this package is, for errors.Is. One that is none of them and
// no [BadStatus] is a broken connection or an origin that does not speak HTTP.
var (
	// ErrInvalidURL: the URL itself is wrong. The caller's fault.
	ErrInvalidURL = errors.New("invalid URL")
	// ErrNotAllowed: the URL, or one that it redirects to, is not on the list.
	ErrNotAllowed = errors.New("not allowed")
	// ErrForbiddenAddress: the host is at an address that is not public.
	ErrForbiddenAddress = errors.New("forbidden address")
	// ErrTooManyRedirects: there may be no end to them.
	ErrTooManyRedirects = errors.New("too many redirects")
	// ErrTooLarge: the object is larger than is fetched.
	ErrTooLarge = errors.New("too large")
	// ErrChanged: the object is not any more what it was when it was looked at.
	// What was fetched of it before must not be put together with this.
	ErrChanged = errors.New("the object has changed")
	// ErrNoRanges: the origin gives the object whole or not at all.
	ErrNoRanges = errors.New("the origin serves no ranges")
	// ErrTemporary: the same request may succeed later.
	ErrTemporary = errors.New("temporary")
)

// An Error is a request that failed.
type Error struct {
	Method string
	URL    string // where it failed, redirects followed, without the query
	Err    error

	temporary bool
}

// Error does without the name of the package: who asked for the URL is shown it.
func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Method, e.URL, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Temporary says whether the same request may succeed later.
func (e *Error) Temporary() bool { return e.temporary }

// Is makes temporary errors [ErrTemporary].
func (e *Error) Is(target error) bool { return target == ErrTemporary && e.temporary }

// A BadStatus is an answer with a status that has no object. It is found in an
// error by errors.As.
type BadStatus struct {
	Code int
	URL  string // without the query
	// RetryAfter is how long the origin asked to be left alone, if it did, and
	// no longer than ten minutes.
	RetryAfter time.Duration
}

func (b *BadStatus) Error() string {
	return fmt.Sprintf("the origin answered %d %s", b.Code, http.StatusText(b.Code))
}

// RetryAfter is how long the origin has asked to be left alone; 0 if it has
// not.
func RetryAfter(err error) time.Duration {
	var b *BadStatus
	if errors.As(err, &b) {
		return b.RetryAfter
	}
	return 0
}

const maxRetryAfter = 10 * time.Minute

func badStatus(r *http.Response, u URL) *BadStatus {
	b := &BadStatus{Code: r.StatusCode, URL: u.Redacted()}
	after := r.Header.Get("Retry-After")
	if at, err := http.ParseTime(after); err == nil {
		b.RetryAfter = time.Until(at)
	} else if s, err := strconv.Atoi(after); err == nil {
		b.RetryAfter = time.Duration(min(s, int(maxRetryAfter/time.Second))) * time.Second
	}
	b.RetryAfter = min(max(b.RetryAfter, 0), maxRetryAfter)
	return b
}

// passes says whether what failed may work later. Unless it is known not to, it
// may.
func passes(err error) bool {
	var status *BadStatus
	if errors.As(err, &status) {
		switch status.Code {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return true
		case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
			return false
		}
		return status.Code >= 500
	}
	for _, permanent := range []error{
		ErrInvalidURL, ErrNotAllowed, ErrForbiddenAddress, ErrTooManyRedirects, ErrTooLarge, ErrChanged, ErrNoRanges,
		errUnusable, http.ErrSchemeMismatch,
	} {
		if errors.Is(err, permanent) {
			return false
		}
	}
	var name *net.DNSError
	if errors.As(err, &name) {
		return !name.IsNotFound
	}
	var certificate *tls.CertificateVerificationError
	return !errors.As(err, &certificate)
}

var (
	// errUnusable is an answer that the same origin will give again.
	errUnusable = errors.New("the answer cannot be used")
	// errGarbled is one that does not fit the question or itself. What is between
	// here and there may be at fault, so another try is worth it.
	errGarbled = errors.New("the answer makes no sense")
	errSilent  = errors.New("the origin is silent")
	errSlow    = errors.New("the origin is too slow")
)

// invalidURL does not repeat the URL, which may hold a secret in a place that
// was not understood.
type invalidURL struct{ why error }

func (e *invalidURL) Error() string        { return "the URL is invalid: " + e.why.Error() }
func (e *invalidURL) Is(target error) bool { return target == ErrInvalidURL }

type notAllowed struct{ url, closest, rule string }

func (e *notAllowed) Error() string {
	if e.url == "" {
		return "an empty URL is not allowed"
	}
	return fmt.Sprintf("%s is not an allowed origin: %s. To allow it, add a rule such as %q to the mirror's allowed origins", e.url, e.closest, e.rule)
}
func (e *notAllowed) Is(target error) bool { return target == ErrNotAllowed }
