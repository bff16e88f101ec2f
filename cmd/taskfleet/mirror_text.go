package main

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/client/mirror"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// shownOrigin is an origin as people write it. An artifact's has its task first.
func shownOrigin(origin string) string {
	rest, object := strings.CutPrefix(origin, "s3://")
	if !object {
		return withoutQuery(origin)
	}
	_, escaped, _ := strings.Cut(rest, "/")
	key, err := url.PathUnescape(escaped)
	parts := strings.SplitN(key, "/", 3)
	if err != nil || len(parts) < 3 || !slugid.Valid(parts[0]) {
		return origin
	}
	return key
}

// withoutQuery is a URL as it may be shown: what follows the question mark may
// be a signature.
func withoutQuery(s string) string {
	bare, _, query := strings.Cut(s, "?")
	if scheme, rest, ok := strings.Cut(bare, "://"); ok {
		host, path, slash := strings.Cut(rest, "/")
		if slash {
			path = "/" + path
		}
		bare = scheme + "://" + host[strings.LastIndexByte(host, '@')+1:] + path
	}
	if query {
		bare += "?…"
	}
	return bare
}

// clipMiddle shortens s to n characters, and keeps both ends: of artifacts it is
// the end that tells them apart.
func clipMiddle(s string, n int) string {
	if utf8.RuneCountInString(s) <= n || n < 3 {
		return clip(s, n)
	}
	r := []rune(s)
	head := n / 3
	return string(r[:head]) + "…" + string(r[len(r)-(n-head-1):])
}

// volume words an amount of bytes of which there may be a lot.
func volume(n int64) string {
	if n < 1<<40 {
		return bytesOf(n)
	}
	return fmt.Sprintf("%.1f TiB", float64(n)/(1<<40))
}

// sizeOr words a size that may not be known.
func sizeOr(n *int64) string {
	if n == nil {
		return "-"
	}
	return volume(*n)
}

// lastRead is when somebody was last sent to a copy; zero if nobody was since it
// is there. Its record begins with when it was asked for.
func lastRead(c *mirror.Copy) timestamp.Time {
	if c.Read <= c.Requested {
		return 0
	}
	return c.Read
}

// noise is what libraries put around the cause of an error, and which bucket's
// object it is about where that is said anyway.
var noise = []struct {
	text *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`\bfailed to get rate limit token, .*`), ""},
	{regexp.MustCompile(`\boperation error S3: \w+, `), ""},
	{regexp.MustCompile(`\bexceeded maximum number of attempts, \d+, `), ""},
	{regexp.MustCompile(`\bhttps response error StatusCode: 0, RequestID: \S*, HostID: \S*, `), ""},
	{regexp.MustCompile(`\bhttps response error StatusCode: (\d+), RequestID: \S*, HostID: \S*, `), "$1 "},
	{regexp.MustCompile(`\brequest send failed, \w+ "[^"]*": `), ""},
	{regexp.MustCompile(`"copies/[^"]*"`), "an object"},
}

// reason is an error of the server in so many words as tell the cause, the same
// for all copies that fail for it.
func reason(text string) string {
	for _, n := range noise {
		text = n.text.ReplaceAllString(text, n.as)
	}
	return strings.Trim(strings.Join(strings.Fields(text), " "), " ,:")
}

// routeFor words what a route is for.
func routeFor(r *mirror.Route) string {
	var words []string
	if r.Artifact != "" {
		words = append(words, r.Artifact)
	}
	if r.TaskQueue != "" {
		words = append(words, "of "+r.TaskQueue)
	}
	if r.URL != "" {
		words = append(words, r.URL)
	}
	switch {
	case r.MinSize != nil && r.MaxSize != nil:
		words = append(words, volume(*r.MinSize)+" to "+volume(*r.MaxSize))
	case r.MinSize != nil:
		words = append(words, volume(*r.MinSize)+" or more")
	case r.MaxSize != nil:
		words = append(words, "up to "+volume(*r.MaxSize))
	}
	return cmp.Or(strings.Join(words, ", "), "everything else")
}

// whyNot says why an origin is not on a route; "" if it is.
func whyNot(r *mirror.Route, x *mirror.Explanation) string {
	size := int64(-1)
	switch {
	case x.Artifact == nil && (r.Artifact != "" || r.TaskQueue != ""):
		return "it is for artifacts, and this is a URL"
	case x.Artifact != nil && r.URL != "":
		return "it is for URLs, and this is an artifact"
	case x.Artifact == nil && r.URL != "" && !fitsPattern(r.URL, x.Origin):
		return "the URL is not like " + r.URL
	case x.Artifact != nil && r.Artifact != "" && !fitsPattern(r.Artifact, x.Artifact.Name):
		return "the name is not like " + r.Artifact
	case x.Artifact != nil && r.TaskQueue != "" && !fitsPattern(r.TaskQueue, x.Artifact.TaskQueueID):
		return fmt.Sprintf("the task queue %s is not like %s", x.Artifact.TaskQueueID, r.TaskQueue)
	case x.Artifact != nil && x.Artifact.Size != nil:
		size = *x.Artifact.Size
	}
	switch {
	case r.MinSize != nil && size >= 0 && size < *r.MinSize:
		return fmt.Sprintf("its %s are less than %s", volume(size), volume(*r.MinSize))
	case r.MaxSize != nil && size > *r.MaxSize:
		return fmt.Sprintf("its %s are more than %s", volume(size), volume(*r.MaxSize))
	}
	return ""
}

// within reports whether a region is one of those of a route.
func within(r *mirror.Route, region string) bool { return slices.Contains(r.Regions, region) }
