package mirror

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// metadata is where machines of AWS get their credentials, and nobody else.
const metadata = "http://169.254.169.254"

// What nobody should send is refused, by the right status, in words that say what to do about it.
func TestWhatIsSentWrongIsRefusedAndExplained(t *testing.T) {
	t.Parallel()
	storetest.EachURL(t, func(t *testing.T, database string) {
		t.Parallel()
		var told atomic.Int64
		inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told.Add(1) }))
		t.Cleanup(inside.Close)
		s := newSite(t, settings{database: database, mirror: routes, allow: []string{metadata + "/"}})
		s.origin.Metadata = inside.URL + "/latest/meta-data/"
		s.origin.Put("/pub/trap", faulty.Object{Always: []faulty.Fault{faulty.RedirectToMetadata}})
		s.origin.Put("/pub/hop", faulty.Object{Redirect: metadata + "/latest/meta-data/"})
		s.origin.Put("/pub/loop", faulty.Object{Always: []faulty.Fault{faulty.RedirectLoop}})
		private := &artifact{name: "private/key", content: noise(100)}
		s.build(private)
		s.hostileURLs(private)
		s.hostileRequests()
		s.strangeKeys()
		if n := told.Load(); n > 0 {
			t.Errorf("%d requests came to where a redirect led to inside", n)
		}
		if log := string(s.replicas[0].Log()); strings.Contains(log, "panic") || strings.Contains(log, "incidentId") {
			t.Error("something was answered with an internal error")
		}
	})
}

func (s *site) hostileURLs(private *artifact) {
	t := s.t
	web, bucket := s.web.URL, s.buckets[home].Name()
	in := func(region, url string) string { return "redirect/s3/" + region + "/" + url }
	escaped := func(text string) string { return in(europe, url.QueryEscape(text)) }
	copyURL := s.doors[europe].url + "/" + s.buckets[europe].Name() + "/copies~/x"
	for _, c := range []struct {
		path   string // behind /v1/
		status int
		words  []string
	}{
		{in(europe, web+"/pub/x"), 400, []string{"URL Must be URL Encoded!", "encodeURIComponent"}},
		{in(europe, "http:%2F%2F127.0.0.1/pub/x"), 400, []string{"URL Must be URL Encoded!"}},
		{in(europe, "//x"), 400, []string{"URL Must be URL Encoded!"}},
		{in("mars", url.QueryEscape(web+"/pub/x")), 404, []string{"Region mars is not configured for s3", home, europe, asia}},
		{"redirect/ftp/" + europe + "/" + url.QueryEscape(web+"/pub/x"), 404, []string{"Service ftp is not known", "s3"}},
		{escaped("nonsense"), 400, []string{"http"}},
		{escaped("ftp://example.com/x"), 400, []string{"only http and https"}},
		{escaped("http://"), 400, []string{"no host"}},
		{escaped("http://user:password@127.0.0.1/pub/x"), 400, []string{"user name or password"}},
		{escaped(web + "/pub/x#y"), 400, []string{"fragment", "%23"}},
		{escaped(web + "/pub/%zz"), 400, []string{"%25"}},
		{escaped(web + "/pub/../secret"), 400, []string{`".."`}},
		{escaped(web + "/pub/%2e%2e/secret"), 400, []string{`segment`}},
		{escaped(web + "/pub/..%2fsecret/"), 400, []string{`".."`}},
		{escaped(`http:\\127.0.0.1\pub\x`), 400, []string{"backslash"}},
		{escaped("http://2130706433/pub/x"), 400, []string{"four decimal numbers"}},
		{escaped(web + "/pub/" + strings.Repeat("x", 9000)), 400, []string{"may have"}},
		{escaped("https://example.com/x"), 403, []string{"InvalidUrl", "allowed"}},
		{escaped(web + "/elsewhere/x"), 403, []string{"InvalidUrl", "allowed"}},
		{escaped(web + ".example.com/pub/x"), 400, nil},
		{escaped("http://127.0.0.1.example.com/pub/x"), 403, []string{"InvalidUrl"}},
		{escaped(metadata + "/latest/meta-data/iam/"), 403, []string{"InvalidUrl", "address"}},
		{escaped(web + "/pub/trap"), 403, []string{"InvalidUrl"}},
		{escaped(web + "/pub/hop"), 403, []string{"InvalidUrl", "address"}},
		{escaped(web + "/pub/loop"), 403, []string{"InvalidUrl", "redirects"}},
		{escaped(web + "/pub/none"), 404, []string{"BadHTTPStatus", "404"}},
		{escaped(copyURL), 403, []string{"InvalidUrl", "bucket of the mirror's own"}},
		{escaped("s3://other/a/0/public/x"), 400, []string{"s3://" + bucket + "/"}},
		{escaped("s3://" + bucket + "/x"), 404, []string{"<taskId>/<runId>/<name>"}},
		{escaped("s3://" + bucket + "/" + slugid.New() + "/0/public/x"), 404, nil},
		{escaped(s.doors[home].url + "/" + bucket + "/../" + bucket + "/x"), 400, []string{`".."`}},
		{escaped(s.objectURL(private)), 403, []string{"getArtifact"}},
		{escaped(s.replicas[0].RootURL + "/api/queue/v1/task/x"), 400, []string{"/runs/<runId>/artifacts/"}},
	} {
		for _, base := range []string{"/v1/", "/api/mirror/v1/"} {
			status, text := s.raw("GET " + base + c.path + " HTTP/1.1\r\nHost: x\r\n\r\n")
			shown := c.path[:min(len(c.path), 200)]
			if status != c.status {
				t.Errorf("%s%s: %d instead of %d: %.500s", base, shown, status, c.status, text)
			}
			var answer struct{ Message, Msg, Err string }
			if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Message == "" {
				t.Errorf("%s%s: %v: %.500s", base, shown, err, text)
			}
			for _, word := range c.words {
				if !strings.Contains(answer.Message+answer.Msg+" "+answer.Err, word) {
					t.Errorf("%s%s: %q is not in %.800s", base, shown, word, text)
				}
			}
		}
	}
}

// hostileRequests are wrong in another way than by a URL.
func (s *site) hostileRequests() {
	t := s.t
	for _, path := range []string{"%zz", "%00", "%FF", "%2"} { // which are no text
		if status, text := s.raw("GET /v1/redirect/s3/" + europe + "/" + path + " HTTP/1.1\r\nHost: x\r\n\r\n"); status != 400 && status != 404 {
			t.Errorf("%s: %d %.300s", path, status, text)
		}
	}
	large := strings.Repeat("X-Padding: "+strings.Repeat("x", 1000)+"\r\n", 80)
	for _, target := range []string{"/v1/redirect/s3/eu-central-1/x", "/api/mirror/v1/status"} {
		if status, text := s.raw("GET " + target + " HTTP/1.1\r\nHost: x\r\n" + large + "\r\n"); status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s with 80 KB of headers: %d %.300s", target, status, text)
		}
	}
	tooMany := make([]any, 1001)
	for i := range tooMany {
		tooMany[i] = map[string]string{"url": s.web.URL + "/pub/x"}
	}
	one := func(item map[string]any) []any { return []any{item} }
	for _, c := range []struct {
		order map[string]any
		word  string
	}{
		{map[string]any{"region": home, "copies": one(map[string]any{"url": "x"})}, "Nothing is copied to " + home},
		{map[string]any{"region": "mars", "copies": one(map[string]any{"url": "x"})}, "mars"},
		{map[string]any{"region": europe, "copies": tooMany}, "1,000"},
		{map[string]any{"region": europe, "copies": one(map[string]any{"url": "x", "sha256": "0"})}, "sha256"},
		{map[string]any{"region": europe, "copies": one(map[string]any{"url": strings.Repeat("x", 9000)})}, "url"},
		{map[string]any{"region": europe}, "copies"},
	} {
		err := s.mirror(s.operator(), "POST", "/copies", nil, c.order, nil)
		if err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%.200s: %v; it should speak of %s", fmt.Sprint(c.order), err, c.word)
		}
	}
	// One that cannot be copied does not keep the others from it.
	var out struct {
		Copies []struct{ State, Error string }
	}
	s.origin.Put("/pub/good", faulty.Object{Size: 10})
	order := map[string]any{"region": europe, "copies": []any{map[string]string{"url": "nonsense"}, map[string]string{"url": s.web.URL + "/pub/good"}}}
	if err := s.mirror(s.operator(), "POST", "/copies", nil, order, &out); err != nil || len(out.Copies) != 2 || out.Copies[0].State != "refused" || out.Copies[0].Error == "" || out.Copies[1].State == "refused" {
		t.Errorf("%+v, %v", out, err)
	}
}

// strangeKeys are those of artifacts that are to be copied like all others.
func (s *site) strangeKeys() {
	fill := func(prefix, with string) *artifact {
		const most = 1024 // bytes of a key in a bucket
		a := &artifact{taskID: slugid.New(), name: "public/" + prefix}
		for {
			longer := *a
			longer.name += with
			if name, err := blob.Spell(longer.key()); err != nil || len(name) > most {
				a.content = noise(len(a.name))
				return a
			}
			a.name = longer.name
		}
	}
	list := []*artifact{
		fill("", "x"), fill("日本 ", "日"), fill("%", "%"),
		{name: "public/naïve/日本/\u202e.txt", content: noise(11)}, {name: "public/../../x", content: noise(12)}, {name: "public//a//", content: noise(13)},
		{name: "public/a?b#c&d=e+f%2F%zz", content: noise(14)}, {name: "public/. /.", content: noise(15)},
	}
	s.build(list...)
	for _, region := range away {
		s.expect(s.t, s.near(region), region, list...)
	}
	for _, a := range list {
		for _, base := range []string{"/v1/redirect/s3/", "/api/mirror/v1/redirect/s3/"} {
			s.expectURL(s.objectURL(a), base, europe, a.content)
		}
		s.expectURL(s.originOf(a).String(), "/v1/redirect/s3/", asia, a.content)
	}
	s.onceEach(list)
}

// raw sends a request byte by byte, which no client has put in order.
func (s *site) raw(request string) (status int, text string) {
	s.t.Helper()
	c, err := net.Dial("tcp", s.replicas[0].options.Listen)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	go io.WriteString(c, request) // what is too long may not be taken to its end
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, fmt.Sprint(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, fmt.Sprint(err)
	}
	return resp.StatusCode, string(body)
}
