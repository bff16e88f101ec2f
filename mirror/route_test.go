package mirror

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestPatterns(t *testing.T) {
	for _, x := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"", "anything", true}, {"*", "", true}, {"*", "a/b", true},
		{"a", "a", true}, {"a", "ab", false}, {"a*", "ab/c", true}, {"*c", "ab/c", true}, {"*b", "ab/c", false},
		{"public/*/x", "public/a/b/x", true}, {"public/*/x", "public/x", false},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"a*b*c", "aXbYc", true}, {"a*b*c", "aXcYb", false},
		{"*ab", "aab", true}, {"a*bb", "abbb", true}, {"**", "x", true}, {"a?c", "abc", false},
	} {
		if got := matches(x.pattern, x.text); got != x.want {
			t.Errorf("%q on %q: %v", x.pattern, x.text, got)
		}
	}
}

func TestTheFirstRouteThatFitsCounts(t *testing.T) {
	g := guide{names: []string{"eu", "ap"}, regions: map[string]bool{"eu": true, "ap": true}}
	for _, r := range []Route{
		{Name: "huge", Artifact: "*", MinSize: 1 << 40, Policy: Off},
		{Name: "builds", TaskQueue: "proj/build-*", Artifact: "public/*", MaxSize: 1000, Regions: []string{"ap"}},
		{Name: "site", URL: "https://archive.test/*", Policy: Redirect},
		{Name: "logs", Artifact: "*.log", MaxWait: time.Second},
	} {
		g.routes = append(g.routes, r.withDefaults())
	}
	object, site := Origin{Bucket: "b", Key: "k"}, Origin{URL: "https://archive.test/x"}
	build := &Artifact{TaskQueueID: "proj/build-linux", Name: "public/x"}
	for _, x := range []struct {
		o    Origin
		a    *Artifact
		size int64
		want string
	}{
		{object, build, 10, "builds"}, {object, build, 1000, "builds"}, {object, build, 1001, "default"}, {object, build, 1 << 40, "huge"},
		{object, build, -1, "huge"}, // of which nothing is known that speaks against it
		{object, &Artifact{TaskQueueID: "proj/test", Name: "public/x"}, 10, "default"},
		{object, &Artifact{TaskQueueID: "proj/test", Name: "public/live.log"}, 10, "logs"},
		{site, nil, -1, "site"}, {Origin{URL: "http://archive.test/x"}, nil, -1, "default"},
	} {
		if r := g.route(x.o, x.a, x.size); r.Name != x.want {
			t.Errorf("%v of %d bytes is on %s, want %s", x.a, x.size, r.Name, x.want)
		}
	}
	if r := g.route(object, build, 10); r.Policy != Wait || r.MaxWait != defaultMaxWait || r.reaches("eu") || !r.reaches("ap") {
		t.Errorf("%+v", r)
	}
	if got := g.reached(g.routes[1], nil); !slices.Equal(got, []string{"ap"}) {
		t.Error(got)
	}
	if got := g.reached(g.routes[3], []string{"eu", "elsewhere"}); !slices.Equal(got, []string{"eu"}) {
		t.Error(got)
	}
	if got := g.reached(g.routes[0], nil); len(got) != 0 {
		t.Error(got)
	}
}

func TestMistakesInRoutesAreFound(t *testing.T) {
	for _, x := range []struct {
		field string
		r     Route
	}{
		{"Name", Route{}}, {"Name", Route{Name: "default"}}, {"Name", Route{Name: "good"}},
		{"URL", Route{Name: "r", URL: "x", Artifact: "y"}}, {"URL", Route{Name: "r", URL: "x", TaskQueue: "y"}},
		{"MinSize", Route{Name: "r", MinSize: -1}}, {"MaxSize", Route{Name: "r", MaxSize: -1}}, {"MaxSize", Route{Name: "r", MinSize: 5, MaxSize: 4}},
		{"Regions", Route{Name: "r", Regions: []string{"eu", "us"}}}, {"Policy", Route{Name: "r", Policy: "perhaps"}},
		{"MaxWait", Route{Name: "r", MaxWait: -1}}, {"MaxWait", Route{Name: "r", MaxWait: time.Hour}}, {"MaxWait", Route{Name: "r", Policy: Stream, MaxWait: 1}},
		{"Ahead", Route{Name: "r", URL: "x", Ahead: true}}, {"Ahead", Route{Name: "r", Policy: Off, Prefetch: true}},
	} {
		err := CheckRoutes([]Route{{Name: "good", Policy: Off}, x.r}, []string{"eu"})
		var e *RouteError
		if !errors.As(err, &e) || e.Index != 1 || e.Field != x.field || e.Message == "" {
			t.Errorf("%+v: %v", x.r, err)
		}
	}
	if err := CheckRoutes([]Route{{Name: "a", Artifact: "x*", Ahead: true, Prefetch: true, MaxWait: time.Second}, {Name: "b", URL: "*", Policy: Stream}}, []string{"eu"}); err != nil {
		t.Error(err)
	}
}
