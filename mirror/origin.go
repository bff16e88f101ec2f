package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// An Origin is what copies are made of: an object of a bucket of ours, or what
// is at a URL.
type Origin struct {
	Bucket, Key string
	URL         string // as source.Canonical has it; "" if it is an object
}

// The kinds of origins.
const (
	kindS3   = "s3"
	kindHTTP = "http"
)

func (o Origin) kind() string {
	if o.URL != "" {
		return kindHTTP
	}
	return kindS3
}

// String is the origin's canonical text, "s3://bucket/key" with the key escaped
// as in a URL, or the URL.
func (o Origin) String() string {
	if o.URL != "" {
		return o.URL
	}
	return "s3://" + o.Bucket + "/" + url.PathEscape(o.Key)
}

// ID is short, and of the same length for all origins: the SHA-256 of its text.
func (o Origin) ID() string {
	sum := sha256.Sum256([]byte(o.String()))
	return hex.EncodeToString(sum[:])
}

// ParseOrigin reads what String has written.
func ParseOrigin(text string) (Origin, error) {
	rest, object := strings.CutPrefix(text, "s3://")
	if !object {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return Origin{}, fmt.Errorf("mirror: %q is no origin: s3://BUCKET/KEY or an http(s) URL is", text)
		}
		return Origin{URL: text}, nil
	}
	bucket, escaped, ok := strings.Cut(rest, "/")
	key, err := url.PathUnescape(escaped)
	if err == nil && (!ok || bucket == "" || key == "") {
		err = errors.New("it lacks a bucket or a key")
	}
	if err != nil {
		return Origin{}, fmt.Errorf("mirror: %q is no origin: %w", text, err)
	}
	return Origin{Bucket: bucket, Key: key}, nil
}
