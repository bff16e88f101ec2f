package mirror

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Policy says what becomes of a request for a copy that is not there yet.
type Policy string

// The policies.
const (
	// Wait has the caller wait for the copy, up to the route's MaxWait, and sends
	// it to the origin after that.
	Wait Policy = "wait"

	// Redirect sends the caller to the origin at once. The copy is made behind.
	Redirect Policy = "redirect"

	// Stream gives the caller the bytes while they are stored.
	Stream Policy = "stream"

	// Off makes no copies.
	Off Policy = "off"
)

// A Route says how some origins are copied. In its patterns a * stands for any
// text, slashes included, and an empty one fits everything.
type Route struct {
	Name string

	TaskQueue string // of the task that made the artifact, "proj/build-*"
	Artifact  string // its name, "public/build/*"
	URL       string // of an origin that is no artifact; a route has this or the two above
	MinSize   int64  // of what is copied, where that is known
	MaxSize   int64  // 0: any

	Regions []string // where copies are made; none: in all
	Policy  Policy   // "" is Wait
	MaxWait time.Duration

	// Ahead has artifacts copied to Regions as soon as they are there.
	Ahead bool

	// Prefetch has artifacts of a task copied to where the workers of the tasks
	// that depend on it are, as soon as these are pending.
	Prefetch bool
}

// defaultMaxWait is what clients of the platform of 2016 were used to: less than
// the half minute after which balancers give up.
const defaultMaxWait = 28 * time.Second

// longestWait is the longest that a route may have callers wait: connections
// that say nothing for longer are broken on the way.
const longestWait = time.Minute

// defaultRoute is what origins are on that no other route fits.
var defaultRoute = Route{Name: "default", Policy: Wait, MaxWait: defaultMaxWait}

// withDefaults fills in what a route leaves out.
func (r Route) withDefaults() Route {
	if r.Policy == "" {
		r.Policy = Wait
	}
	if r.MaxWait == 0 {
		r.MaxWait = defaultMaxWait
	}
	return r
}

// fits reports whether an origin is on the route. The artifact is nil if it is
// none; a size that is not known fits.
func (r *Route) fits(o Origin, a *Artifact, size int64) bool {
	if a == nil && (r.TaskQueue != "" || r.Artifact != "" || !matches(r.URL, o.URL)) {
		return false
	}
	if a != nil && (r.URL != "" || !matches(r.TaskQueue, a.TaskQueueID) || !matches(r.Artifact, a.Name)) {
		return false
	}
	return size < 0 || size >= r.MinSize && (r.MaxSize == 0 || size <= r.MaxSize)
}

// reaches reports whether the route has copies made in a region.
func (r *Route) reaches(region string) bool {
	return r.Policy != Off && (len(r.Regions) == 0 || slices.Contains(r.Regions, region))
}

// matches reports whether a text fits a pattern.
func matches(pattern, text string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if pattern == "" || !star {
		return pattern == "" || pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	if !ok {
		return false
	}
	pieces := strings.Split(rest, "*")
	last := pieces[len(pieces)-1]
	for _, piece := range pieces[:len(pieces)-1] {
		_, after, ok := strings.Cut(text, piece)
		if !ok {
			return false
		}
		text = after
	}
	return strings.HasSuffix(text, last)
}

// A RouteError is a mistake in a list of routes.
type RouteError struct {
	Index   int    // of the route
	Field   string // as Route has it, "MaxWait"
	Message string
}

// Error has no prefix: where the routes are from knows who reads it.
func (e *RouteError) Error() string { return e.Message }

// CheckRoutes says what is wrong with a list of routes, in a deployment with
// certain regions beside home. Each mistake is a *RouteError.
func CheckRoutes(list []Route, regions []string) error {
	var wrong []error
	names := map[string]bool{defaultRoute.Name: true}
	for i, r := range list {
		bad := func(field, format string, args ...any) {
			wrong = append(wrong, &RouteError{i, field, fmt.Sprintf(format, args...)})
		}
		switch {
		case r.Name == "":
			bad("Name", "a route needs a name, by which mirror explain speaks of it")
		case r.Name == defaultRoute.Name:
			bad("Name", "%q is the route of all that no other fits; give this one another name", r.Name)
		case names[r.Name]:
			bad("Name", "two routes have the name %q", r.Name)
		}
		names[r.Name] = true
		if r.URL != "" && (r.TaskQueue != "" || r.Artifact != "") {
			bad("URL", "a route is for artifacts, by task queue and name, or for URLs, not for both; make it two")
		}
		switch {
		case r.MinSize < 0:
			bad("MinSize", "the least size is %d bytes; it must be 0 or more", r.MinSize)
		case r.MaxSize < 0:
			bad("MaxSize", "the greatest size is %d bytes; it must be more than 0, or left out for any", r.MaxSize)
		case r.MaxSize > 0 && r.MaxSize < r.MinSize:
			bad("MaxSize", "nothing has a size of %d bytes or more and %d or less", r.MinSize, r.MaxSize)
		}
		for _, name := range r.Regions {
			if !slices.Contains(regions, name) {
				bad("Regions", "there is no region %q for copies; there are %s", name, listed(regions))
			}
		}
		switch r.Policy {
		case "", Wait, Redirect, Stream, Off:
		default:
			bad("Policy", "the policy is %q; it must be wait, redirect, stream or off", r.Policy)
		}
		switch {
		case r.MaxWait < 0 || r.MaxWait > longestWait:
			bad("MaxWait", "the longest wait is %s; it must be more than 0 and at most %s", r.MaxWait, longestWait)
		case r.MaxWait > 0 && r.Policy != Wait && r.Policy != "":
			bad("MaxWait", "nobody waits where the policy is %s", r.Policy)
		}
		ahead := r.Ahead || r.Prefetch
		switch {
		case ahead && r.URL != "":
			bad("Ahead", "only artifacts are copied ahead of time, and this route is for URLs; mirror sync copies those")
		case ahead && r.Policy == Off:
			bad("Ahead", "a route with the policy off makes no copies ahead of time either")
		}
	}
	return errors.Join(wrong...)
}

// listed is a list for a message.
func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
