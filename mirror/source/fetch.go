package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Info is what an origin says of an object.
type Info struct {
	URL  URL   // where it was in the end, redirects followed
	Size int64 // of the whole object; -1 if the origin does not say
	// ETag is the strong validator, without quotes; "" if there is none.
	ETag     string
	Modified time.Time
	// ContentType is application/octet-stream if the origin gives none.
	ContentType        string
	ContentEncoding    string
	ContentDisposition string
	// Ranges says that parts can be fetched.
	Ranges bool
}

// Unknown is the Info of an object that nobody has looked at.
var Unknown = Info{Size: -1}

// Parts says whether the object can be fetched in parts: the origin serves
// ranges, and there is something to tell by that they are all of one version.
func (i Info) Parts() bool { return i.Ranges && i.ETag != "" && i.Size >= 0 }

// Stat looks at an object. Origins that do not answer HEAD, and URLs that are
// signed for GET alone, are asked for the first byte.
func (c *Client) Stat(ctx context.Context, u URL) (Info, error) {
	a, err := c.ask(ctx, http.MethodHead, u, nil)
	if err != nil {
		return Info{}, err
	}
	defer a.close()
	switch a.StatusCode {
	case http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return c.statByGet(ctx, u)
	case http.StatusOK:
		i, err := c.info(a, a.ContentLength)
		return i, a.fail(err)
	}
	return Info{}, a.fail(badStatus(a.Response, a.url))
}

func (c *Client) statByGet(ctx context.Context, u URL) (Info, error) {
	a, err := c.ask(ctx, http.MethodGet, u, http.Header{"Range": {"bytes=0-0"}})
	if err != nil {
		return Info{}, err
	}
	defer a.close()
	size := a.ContentLength
	switch a.StatusCode {
	case http.StatusOK:
	case http.StatusPartialContent:
		r, err := parseContentRange(a.Header.Get("Content-Range"))
		if err != nil {
			return Info{}, a.fail(err)
		}
		size = r.size
	case http.StatusRequestedRangeNotSatisfiable:
		// Of an empty object there is no first byte.
		if a.Header.Get("Content-Range") != "bytes */0" {
			return Info{}, a.fail(badStatus(a.Response, a.url))
		}
		size = 0
	default:
		return Info{}, a.fail(badStatus(a.Response, a.url))
	}
	i, err := c.info(a, size)
	i.Ranges = a.StatusCode == http.StatusPartialContent
	return i, a.fail(err)
}

// Get fetches length bytes from offset on, or all that follow if length is
// negative. The object has to be the one that want tells of, which is what Stat
// said, or [Unknown]; if it is not, the error is [ErrChanged].
//
// A part (offset is not 0, or length not negative) is only fetched if want has
// an ETag. The error of an origin that answers with the whole is [ErrNoRanges].
//
// The body must be closed. It ends with io.EOF after the last byte and never
// before. The Info is of the whole object.
func (c *Client) Get(ctx context.Context, u URL, offset, length int64, want Info) (io.ReadCloser, Info, error) {
	header := http.Header{}
	if want.ETag != "" {
		header.Set("If-Match", `"`+want.ETag+`"`)
	}
	part := offset != 0 || length >= 0
	if part {
		if err := impossible(offset, length, want); err != nil {
			return nil, Info{}, &Error{Method: http.MethodGet, URL: u.Redacted(), Err: err}
		}
		last := ""
		if length > 0 {
			last = strconv.FormatInt(offset+length-1, 10)
		}
		header.Set("Range", fmt.Sprintf("bytes=%d-%s", offset, last))
	}
	a, err := c.ask(ctx, http.MethodGet, u, header)
	if err != nil {
		return nil, Info{}, err
	}
	b, i, err := c.open(a, part, offset, length, want)
	if err != nil {
		err = a.fail(err)
		a.close()
		return nil, Info{}, err
	}
	return b, i, nil
}

func impossible(offset, length int64, want Info) error {
	switch {
	case want.ETag == "":
		return fmt.Errorf("%w: it gave no strong ETag, so its parts may be of different versions: fetch it whole", ErrNoRanges)
	case offset < 0 || length == 0 || length > 0 && offset > math.MaxInt64-length:
		return fmt.Errorf("%w: there are no %d bytes at %d", errUnusable, length, offset)
	case want.Size >= 0 && offset > want.Size-max(length, 1):
		return fmt.Errorf("%w: there are no %d bytes at %d, of %d", errUnusable, length, offset, want.Size)
	}
	return nil
}

// open makes a body of an answer, or says what is wrong with it.
func (c *Client) open(a *answer, part bool, offset, length int64, want Info) (*body, Info, error) {
	size, bytes := a.ContentLength, a.ContentLength
	switch {
	case a.StatusCode == http.StatusPreconditionFailed && want.ETag != "":
		return nil, Info{}, fmt.Errorf("%w: its ETag was %q and is another", ErrChanged, want.ETag)
	case a.StatusCode == http.StatusRequestedRangeNotSatisfiable && part:
		return nil, Info{}, fmt.Errorf("%w: there are no bytes at %d any more", ErrChanged, offset)
	case a.StatusCode == http.StatusOK && part:
		return nil, Info{}, fmt.Errorf("%w: asked for bytes from %d on, it answered with the whole", ErrNoRanges, offset)
	case a.StatusCode == http.StatusPartialContent && !part:
		return nil, Info{}, fmt.Errorf("%w: asked for the whole, the origin answered with a part", errGarbled)
	case a.StatusCode == http.StatusPartialContent:
		r, err := parseContentRange(a.Header.Get("Content-Range"))
		if err != nil {
			return nil, Info{}, err
		}
		size, bytes = r.size, r.last-r.first+1
		switch {
		case want.Size >= 0 && size >= 0 && size != want.Size, length > 0 && bytes < length && size == r.last+1:
			return nil, Info{}, fmt.Errorf("%w: it has %d bytes now", ErrChanged, size)
		case r.first != offset, length > 0 && bytes != length, length < 0 && r.last+1 != max(size, want.Size),
			a.ContentLength >= 0 && a.ContentLength != bytes:
			return nil, Info{}, fmt.Errorf("%w: asked for %d bytes at %d, the origin answered with the content range %q and a length of %d",
				errGarbled, length, offset, a.Header.Get("Content-Range"), a.ContentLength)
		}
	case a.StatusCode != http.StatusOK:
		return nil, Info{}, badStatus(a.Response, a.url)
	case want.Size >= 0 && size >= 0 && size != want.Size:
		return nil, Info{}, fmt.Errorf("%w: it had %d bytes and has %d", ErrChanged, want.Size, size)
	}
	if bytes < 0 {
		bytes = want.Size
	}
	if bytes < 0 && a.ProtoMajor == 1 && len(a.TransferEncoding) == 0 {
		return nil, Info{}, fmt.Errorf("%w: it does not say how long it is, so its end could not be told from a broken connection", errUnusable)
	}
	i, err := c.info(a, size)
	switch {
	case err != nil:
		return nil, Info{}, err
	case want.ETag != "" && i.ETag != want.ETag:
		return nil, Info{}, fmt.Errorf("%w: its ETag was %q and is %q", ErrChanged, want.ETag, i.ETag)
	case want.ETag == "" && !want.Modified.IsZero() && !i.Modified.Equal(want.Modified):
		return nil, Info{}, fmt.Errorf("%w: it was of %v and is of %v", ErrChanged, want.Modified, i.Modified)
	}
	return newBody(c, a, bytes), i, nil
}

// info reads the headers of an answer.
func (c *Client) info(a *answer, size int64) (Info, error) {
	if size > c.maxSize {
		return Info{}, fmt.Errorf("%w: it has %d bytes, and %d may be fetched", ErrTooLarge, size, c.maxSize)
	}
	h := a.Header
	i := Info{
		URL:                a.url,
		Size:               max(size, -1),
		ETag:               strong(h.Get("ETag")),
		ContentType:        h.Get("Content-Type"),
		ContentEncoding:    h.Get("Content-Encoding"),
		ContentDisposition: h.Get("Content-Disposition"),
		Ranges:             a.StatusCode == http.StatusPartialContent || strings.EqualFold(h.Get("Accept-Ranges"), "bytes"),
	}
	i.Modified, _ = http.ParseTime(h.Get("Last-Modified"))
	// A file's name is worth less than the file; but without its encoding it
	// would be read wrongly.
	if !plain(i.ContentType) || i.ContentType == "" {
		i.ContentType = "application/octet-stream"
	}
	if !plain(i.ContentDisposition) {
		i.ContentDisposition = ""
	}
	if !plain(i.ContentEncoding) {
		return Info{}, fmt.Errorf("%w: its Content-Encoding is none", errUnusable)
	}
	return i, nil
}

// plain says whether a header can be kept in S3, which signs it.
func plain(value string) bool {
	return len(value) <= 1024 && !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' })
}

// strong is a strong ETag without its quotes. What is weak, or not quoted, does
// not tell that bytes are the same.
func strong(etag string) string {
	inner, ok := strings.CutPrefix(etag, `"`)
	if inner, ok2 := strings.CutSuffix(inner, `"`); ok && ok2 && plain(inner) && !strings.Contains(inner, `"`) {
		return inner
	}
	return ""
}

type contentRange struct{ first, last, size int64 }

// parseContentRange reads "bytes 0-4/10"; the size is -1 for a "*".
func parseContentRange(text string) (contentRange, error) {
	var r contentRange
	wrong := fmt.Errorf("%w: its content range is %q", errGarbled, text)
	rest, ok := strings.CutPrefix(text, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return r, wrong
	}
	var errs [3]error
	r.first, errs[0] = parseDigits(first)
	r.last, errs[1] = parseDigits(last)
	if r.size = -1; size != "*" {
		r.size, errs[2] = parseDigits(size)
	}
	if errors.Join(errs[:]...) != nil || r.last < r.first || r.size >= 0 && r.last >= r.size {
		return r, wrong
	}
	return r, nil
}

func parseDigits(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}
