package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/region"
	"github.com/taskfleet/taskfleet/mirror/source"
)

// A guide is what can be told about requests by the configuration alone: which
// origin a URL means, on which route it is, and which regions there are.
type guide struct {
	home      string
	names     []string        // of the other regions, in their order
	regions   map[string]bool // the same
	bucket    *blob.Bucket    // of artifacts
	artifacts string          // its name
	copies    []*blob.Bucket  // of the other regions
	routes    []Route
	http      *source.Client // nil: no URLs
	finder    *region.Finder
	lifespan  time.Duration
}

// Reserved tells that no region can be called that, as it means something else in
// the place of one.
func Reserved(name string) bool { return name == everywhere || name == ofCaller }

// SameBucket tells that two buckets are one, however they are written: that an
// object of the one can be at a URL of the other. Whether it is asked for by http or
// https makes no difference.
func SameBucket(a, b *blob.Bucket) bool {
	places := map[string]bool{}
	for _, form := range a.URLForms() {
		_, place, _ := strings.Cut(form, "://")
		places[place] = true
	}
	return slices.ContainsFunc(b.URLForms(), func(form string) bool {
		_, place, _ := strings.Cut(form, "://")
		return places[place]
	})
}

// newGuide checks the configuration, also by trying out whether the URLs of all
// buckets are understood.
func newGuide(ctx context.Context, c Config) (*guide, error) {
	g := &guide{
		home: c.Home, regions: map[string]bool{}, bucket: c.Artifacts, artifacts: c.Artifacts.Name(),
		http: c.HTTP, finder: c.Finder, lifespan: cmp.Or(c.Lifespan, 24*time.Hour),
	}
	for _, r := range c.Regions {
		switch {
		case r.Name == "" || r.Bucket == nil:
			return nil, fmt.Errorf("mirror: region %q: a region has a name and a bucket", r.Name)
		case r.Name == c.Home:
			return nil, fmt.Errorf("mirror: region %s is where the artifacts are: it has no bucket for copies", r.Name)
		case Reserved(r.Name):
			return nil, fmt.Errorf("mirror: a region cannot be called %s, which means something else to purge and explain", r.Name)
		case g.regions[r.Name]:
			return nil, fmt.Errorf("mirror: there are two regions called %s", r.Name)
		}
		g.names, g.copies, g.regions[r.Name] = append(g.names, r.Name), append(g.copies, r.Bucket), true
	}
	if err := CheckRoutes(c.Routes, g.names); err != nil {
		return nil, fmt.Errorf("mirror: routes: %w", err)
	}
	for _, r := range c.Routes {
		g.routes = append(g.routes, r.withDefaults())
	}
	return g, g.selfTest(ctx)
}

// route is the one that an origin is on.
func (g *guide) route(o Origin, a *Artifact, size int64) Route {
	for i := range g.routes {
		if r := &g.routes[i]; r.fits(o, a, size) {
			return *r
		}
	}
	return defaultRoute
}

// mayBeOff tells that an artifact of that name may be on a route that makes no
// copies, as may depend on what else is known of it.
func (g *guide) mayBeOff(name string) bool {
	return slices.ContainsFunc(g.routes, func(r Route) bool { return r.Policy == Off && r.URL == "" && matches(r.Artifact, name) })
}

// stored is the origin of an artifact.
func (g *guide) stored(a *Artifact) Origin { return Origin{Bucket: g.artifacts, Key: a.Key} }

// What origin refuses. A URL that is not allowed is a source.ErrNotAllowed, one
// that makes no sense a source.ErrInvalidURL.
var (
	errIsCopy = errors.New("the URL is in a bucket of the mirror's own: ask for what that is a copy of")
	errNoHTTP = errors.New("this deployment copies artifacts only, and the URL is not in the artifact bucket: allow URLs in the mirror's configuration")
)

// origin tells what a URL means: an object of the artifact bucket, whichever way
// it is written and signed or not, or something that is allowed.
func (g *guide) origin(text string) (Origin, error) {
	if u, err := url.Parse(text); err == nil {
		if key, ok := g.bucket.ParseURL(u); ok {
			return Origin{Bucket: g.artifacts, Key: key}, nil
		}
		for _, b := range g.copies {
			if _, ok := b.ParseURL(u); ok {
				return Origin{}, errIsCopy
			}
		}
	}
	u, err := source.Canonical(text)
	switch {
	case err != nil:
		return Origin{}, err
	case g.http == nil:
		return Origin{}, errNoHTTP
	}
	if err := g.http.Allow().Check(u); err != nil {
		return Origin{}, err
	}
	return Origin{URL: u.String()}, nil
}

// probes are keys of the kinds that have been a mistake somewhere.
var probes = []string{
	"fN1SbArXTPSVFNUvaOlinQ/0/public/build/target.tar.gz", "a b+c%2Fd&e=f?g#h", "../..//x", "naïve/日本", strings.Repeat("k", 200),
}

// selfTest finds out at the start whether the URLs that buckets have, and those
// that are signed for them, are taken for what they are. A new version of S3's
// library that writes them in another way is found here, not by callers. So is a
// rule that allows nothing.
func (g *guide) selfTest(ctx context.Context) error {
	var wrong []error
	all := append([]*blob.Bucket{g.bucket}, g.copies...)
	for i, b := range all {
		for j, other := range all[:i] {
			if SameBucket(b, other) {
				wrong = append(wrong, fmt.Errorf("the bucket %s of %s is the one of %s, too", b.Name(), g.names[i-1], append([]string{g.home}, g.names...)[j]))
			}
		}
		for _, key := range probes {
			name, err := blob.Spell(key)
			if err != nil {
				return fmt.Errorf("mirror: self-test: %w", err)
			}
			signed, err := b.PresignGet(ctx, key, time.Minute, blob.Headers{})
			if err != nil {
				return fmt.Errorf("mirror: self-test: signing a URL in the bucket %s: %w", b.Name(), err)
			}
			bare, _, _ := strings.Cut(signed, "?")
			texts := []string{signed, bare}
			for _, form := range b.URLForms() {
				texts = append(texts, form+(&url.URL{Path: name}).EscapedPath())
			}
			for _, text := range texts {
				o, err := g.origin(text)
				if i == 0 && (err != nil || o != Origin{Bucket: g.artifacts, Key: key}) || i > 0 && !errors.Is(err, errIsCopy) {
					shown, _, _ := strings.Cut(text, "?")
					wrong = append(wrong, fmt.Errorf("%s is not understood as the URL of the object %q in the bucket %s", shown, key, b.Name()))
				}
			}
		}
	}
	if g.http != nil {
		for _, rule := range g.http.Allow().Rules() {
			if err := g.http.Allow().SelfTest([]string{exampleOf(rule)}); err != nil {
				wrong = append(wrong, fmt.Errorf("the rule %q allows nothing: %w", rule, err))
			}
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("mirror: self-test of the configuration: %w. Check the endpoints and buckets of s3 and mirror.regions, which must not be the same", errors.Join(wrong...))
	}
	return nil
}

// exampleOf is a URL that a rule is meant for.
func exampleOf(rule string) string {
	segments := strings.Split(rule, "/")
	for i, s := range segments {
		switch {
		case s == "*" || s == "**":
			segments[i] = "x"
		case i == 2: // the host
			segments[i] = strings.Replace(s, "*.", "x.", 1)
		}
	}
	return strings.Join(segments, "/")
}

// reached are the regions that a route has copies made in, of those given; nil
// means all.
func (g *guide) reached(r Route, of []string) (list []string) {
	for _, name := range g.names {
		if r.reaches(name) && (of == nil || slices.Contains(of, name)) {
			list = append(list, name)
		}
	}
	return list
}
