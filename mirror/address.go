package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/slugid"
)

// The only one of the services of 2016: copies are kept on S3.
const onS3 = "s3"

// An address is what callers name an origin by in a URL of ours, with the region
// that they want it in.
type address struct {
	Service string `path:"service"`
	Region  string `path:"region"`
	URL     string `path:"url"`
}

// check refuses an address that was put into the URL wrongly, and services that
// there are not.
func (a address) check(r *http.Request) error {
	if err := checkEncoded(r, 7); err != nil {
		return err
	}
	if a.Service != onS3 {
		return api.Errorf(api.ResourceNotFound, "Service %s is not known: the only one is %s.", a.Service, onS3)
	}
	return nil
}

// checkEncoded refuses a URL in our own path, before which there are so many
// slashes, that is more than one segment, or has left its query to ours: it was not
// percent-encoded.
func checkEncoded(r *http.Request, slashes int) error {
	parts := strings.SplitN(r.URL.EscapedPath(), "/", slashes+1)
	query, err := url.ParseQuery(r.URL.RawQuery)
	query.Del("bewit") // which is the caller's, and not part of the URL
	if !strings.Contains(parts[len(parts)-1], "/") && err == nil && len(query) == 0 {
		return nil
	}
	return api.Errorf(api.InputError, "URL Must be URL Encoded! It is one segment of the path: percent-encode all of it, as in https%%3A%%2F%%2Fexample.com%%2Ffile, which is what encodeURIComponent makes. If you did, a proxy in front of the server has decoded it and must be told not to.")
}

// checkRegion refuses a region that there are no copies in.
func (m *Mirror) checkRegion(name string) error {
	switch {
	case m.guide.regions[name]:
		return nil
	case name == m.guide.home:
		return api.Errorf(api.InputError, "Nothing is copied to %s, which is where the artifacts are. Copies are in these regions: %s.", name, listed(m.guide.names))
	}
	return unknownRegion(name, m.guide.names)
}

func unknownRegion(name string, names []string) error {
	return api.Errorf(api.ResourceNotFound, "Region %s is not configured for %s. Those that are: %s.", name, onS3, listed(names))
}

// origin finds what callers mean by a URL. Beside what guide.origin knows they
// write s3://BUCKET/KEY, and the URL of the queue's getArtifact with a run.
func (m *Mirror) origin(text string) (Origin, error) {
	switch {
	case len(text) > maxAddress:
		return Origin{}, &badURL{fmt.Errorf("it has %d bytes, and may have %d", len(text), maxAddress)}
	case encodedTwice(text):
		return Origin{}, &badURL{errors.New("it is percent-encoded twice: in the path of a request encode it once, and elsewhere not at all")}
	}
	o, err := m.meant(text)
	if err == nil && (!utf8.ValidString(o.Key) || strings.Contains(o.Key, "\x00")) {
		return Origin{}, &badURL{errors.New("its key has a NUL, or bytes that are no UTF-8: there is no artifact of such a name")}
	}
	return o, err
}

// encodedTwice tells that a text is a URL only once it has been decoded.
func encodedTwice(text string) bool {
	for range 3 {
		if strings.Contains(text, "://") {
			return false
		}
		plain, err := url.PathUnescape(text)
		if err != nil || plain == text {
			return false
		}
		for _, scheme := range []string{"https://", "http://", "s3://"} {
			if len(plain) >= len(scheme) && strings.EqualFold(plain[:len(scheme)], scheme) {
				return true
			}
		}
		text = plain
	}
	return false
}

func (m *Mirror) meant(text string) (Origin, error) {
	if strings.HasPrefix(text, "s3://") {
		o, err := ParseOrigin(text)
		if err != nil {
			return Origin{}, &badURL{errors.New("write s3://BUCKET/KEY, with the key percent-encoded as in a URL, %25 for a percent sign")}
		}
		if o.Bucket != m.guide.artifacts {
			return Origin{}, &badURL{errors.New("it is not in the artifact bucket, s3://" + m.guide.artifacts + "/")}
		}
		return o, nil
	}
	if rest, ok := strings.CutPrefix(text, m.rootURL+"/api/queue/v1/task/"); ok {
		key, err := keyOfArtifact(rest)
		return Origin{Bucket: m.guide.artifacts, Key: key}, err
	}
	return m.guide.origin(text)
}

// maxAddress leaves room for a key of 1,024 bytes, all of them percent-encoded,
// and a signature.
const maxAddress = 8 << 10

// keyOfArtifact is the key of the artifact that getArtifact has under
// <taskId>/runs/<runId>/artifacts/<name>.
func keyOfArtifact(path string) (string, error) {
	path, _, _ = strings.Cut(path, "?") // a bewit
	parts := strings.SplitN(path, "/", 5)
	if len(parts) != 5 || parts[1] != "runs" || parts[3] != "artifacts" {
		return "", &badURL{errors.New("of the queue's URLs only those of artifacts are copied that name the run: /api/queue/v1/task/<taskId>/runs/<runId>/artifacts/<name>")}
	}
	name, err := url.PathUnescape(parts[4])
	if err == nil && name == "" {
		err = errors.New("it ends before the artifact's name")
	}
	if err != nil {
		return "", &badURL{err}
	}
	return parts[0] + "/" + parts[2] + "/" + name, nil
}

// artifactName is the name of the artifact that a key of the artifact bucket is of.
// Others keep things in the bucket too.
func artifactName(key string) (name string, ok bool) {
	parts := strings.SplitN(key, "/", 3)
	if len(parts) < 3 || parts[2] == "" || !slugid.Valid(parts[0]) {
		return "", false
	}
	run, err := strconv.Atoi(parts[1])
	return parts[2], err == nil && run >= 0 && strconv.Itoa(run) == parts[1]
}

// A badURL is a URL that makes no sense, beside those that package source
// refuses. It is a source.ErrInvalidURL.
type badURL struct{ why error }

func (e *badURL) Error() string        { return "the URL is invalid: " + e.why.Error() }
func (e *badURL) Is(target error) bool { return target == source.ErrInvalidURL }

// forbidden tells that a URL makes sense, but is none to copy.
func forbidden(err error) bool {
	return errors.Is(err, source.ErrNotAllowed) || errors.Is(err, source.ErrForbiddenAddress) || errors.Is(err, errIsCopy) || errors.Is(err, errNoHTTP)
}

// refuse is the error of a method that was given a URL which origin refused.
func refuse(err error) error {
	if forbidden(err) || errors.Is(err, source.ErrInvalidURL) {
		return api.Errorf(api.InputError, "%s", sentence(err.Error()))
	}
	return err
}

// sentence begins in upper case, unless with a URL, and ends in a full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	if word, _, _ := strings.Cut(s, " "); !strings.Contains(word, "://") {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// artifact is what the queue knows of an origin, nil if it is no artifact.
func (m *Mirror) artifact(ctx context.Context, o Origin) (*Artifact, error) {
	if o.URL != "" {
		return nil, nil
	}
	a, err := m.catalog.ArtifactAt(ctx, o.Key)
	if err != nil {
		return nil, err
	}
	return &a, nil
}
