package source

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestOneObjectHasOneSpelling(t *testing.T) {
	for _, c := range []struct{ raw, want string }{
		{"https://archive.example.com/pub/file", "https://archive.example.com/pub/file"},
		{"HTTPS://Archive.Example.COM/Pub/File", "https://archive.example.com/Pub/File"},
		{"https://archive.example.com:443/a", "https://archive.example.com/a"},
		{"https://archive.example.com:0443/a", "https://archive.example.com/a"},
		{"https://archive.example.com:/a", "https://archive.example.com/a"},
		{"http://archive.example.com:80/a", "http://archive.example.com/a"},
		{"http://archive.example.com:443/a", "http://archive.example.com:443/a"},
		{"https://archive.example.com", "https://archive.example.com/"},
		{"https://archive.example.com?", "https://archive.example.com/"},
		{"https://archive.example.com?a=b", "https://archive.example.com/?a=b"},
		{"https://archive.example.com./a", "https://archive.example.com/a"},
		{"https://bücher.example/a", "https://xn--bcher-kva.example/a"},
		{"https://XN--BCHER-KVA.example/a", "https://xn--bcher-kva.example/a"},
		{"https://ａrchive。example.com/a", "https://archive.example.com/a"},
		{"https://my_bucket.s3.amazonaws.com/a", "https://my_bucket.s3.amazonaws.com/a"},
		{"https://192.0.2.1/a", "https://192.0.2.1/a"},
		{"https://１９２.0.2.1/a", "https://192.0.2.1/a"},
		{"https://[2001:DB8:0:0::1]:8443/a", "https://[2001:db8::1]:8443/a"},
		{"https://[::ffff:192.0.2.1]/a", "https://192.0.2.1/a"},
		{"https://h.example/%7Euser/%61%2fb%2F", "https://h.example/~user/a%2Fb%2F"},
		{"https://h.example/a b/ü/[x]|%", ""},
		{"https://h.example/a b/ü/[x]|", "https://h.example/a%20b/%C3%BC/%5Bx%5D%7C"},
		{"https://h.example/a b%2Fc", "https://h.example/a%20b%2Fc"},
		{"https://h.example/a+b%2Bc", "https://h.example/a+b%2Bc"},
		{"https://h.example//a//b/", "https://h.example//a//b/"},
		{"https://h.example/a...b/...", "https://h.example/a...b/..."},
		{"https://h.example/%C3%BC%00%0a", "https://h.example/%C3%BC%00%0A"},
		{"https://h.example/a?X-Amz=%7e%2f+ b&A=ü&&", "https://h.example/a?X-Amz=~%2F+%20b&A=%C3%BC&&"},
		{"https://h.example/a?b=../..", "https://h.example/a?b=../.."},
		{"https://h.example/" + strings.Repeat("%c3%bc", 1000), "https://h.example/" + strings.Repeat("%C3%BC", 1000)},
	} {
		u, err := Canonical(c.raw)
		if c.want == "" {
			if !errors.Is(err, ErrInvalidURL) {
				t.Errorf("%q: %q, %v", c.raw, u, err)
			}
			continue
		}
		if err != nil || u.String() != c.want {
			t.Errorf("%q is %q, %v; want %q", c.raw, u, err, c.want)
		}
	}
}

func TestWhatCanBeReadTwiceIsRefused(t *testing.T) {
	for raw, why := range map[string]string{
		"":                                                        "empty",
		"archive.example.com/a":                                   "scheme",
		"//archive.example.com/a":                                 "scheme",
		"ftp://archive.example.com/a":                             "only http",
		"file:///etc/passwd":                                      "only http",
		"https:archive.example.com":                               "no host",
		"https:///a":                                              "no host",
		"https://:443/a":                                          "valid name",
		"https://user:hunter2@h.example/a":                        "user name",
		"https://@h.example/a":                                    "user name",
		"https://h.example/a#b":                                   "%23",
		"https://h.example/a#":                                    "%23",
		`https://h.example\@evil.example/`:                        "backslash",
		"https://h.example/a\nb":                                  "control",
		"https://h.example/\xff":                                  "UTF-8",
		"https://h.example/100%":                                  "%25",
		"https://h.example/a?b=%zz":                               "%25",
		"https://h.example/pub/../etc":                            `".."`,
		"https://h.example/pub/./etc":                             `"."`,
		"https://h.example/pub/..":                                `".."`,
		"https://h.example/pub/%2e%2E/etc":                        `".."`,
		"https://h.example/pub/.%2e/etc":                          `".."`,
		"https://h.example/pub/x%2f..%2fy":                        `".."`,
		"https://h.example/pub/..%5cetc":                          `".."`,
		"https://h.example/pub/%252e%252e":                        `".."`,
		"https://h.example/pub/..;a=b/etc":                        `"..;a=b"`,
		"https://h.example:0/a":                                   "between",
		"https://h.example:65536/a":                               "between",
		"https://h.example:http/a":                                "parsed",
		"https://h..example/a":                                    "valid name",
		"https://h example/a":                                     "parsed",
		"https://h.example%00/a":                                  "%25",
		"https://h%e4.example/a":                                  "percent sign",
		"https://[fe80::1%25eth0]/a":                              "percent sign",
		"https://[192.0.2.1]/a":                                   "parsed",
		"https://2130706433/a":                                    "number",
		"https://0x7f.1/a":                                        "number",
		"https://127.1/a":                                         "number",
		"https://0x7f000001/a":                                    "number",
		"https://0177.0.0.1/a":                                    "number",
		"https://h.example/" + strings.Repeat("ü", maxURL/3):      "percent-encoded",
		"https://h.example/" + strings.Repeat("a", maxURL):        "bytes",
		"https://" + strings.Repeat("a", 64) + ".example/":        "valid name",
		"https://" + strings.Repeat("abcdefgh.", 29) + "example/": "253",
	} {
		u, err := Canonical(raw)
		if !errors.Is(err, ErrInvalidURL) || u != (URL{}) {
			t.Errorf("%q is %q, %v", raw, u, err)
			continue
		}
		if !strings.Contains(err.Error(), why) {
			t.Errorf("%q: the error does not say %q: %v", raw, why, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error has the password: %v", err)
		}
	}
}

func TestSignaturesAreNotShown(t *testing.T) {
	u, err := Canonical("https://h.example/a?X-Amz-Signature=hunter2")
	if err != nil {
		t.Fatal(err)
	}
	if r := u.Redacted(); r != "https://h.example/a?..." {
		t.Error(r)
	}
	if v := u.LogValue().String(); strings.Contains(v, "hunter2") {
		t.Error(v)
	}
}

func TestRedirectsAreResolved(t *testing.T) {
	from, err := Canonical("https://h.example/a/b?c=d")
	if err != nil {
		t.Fatal(err)
	}
	for location, want := range map[string]string{
		"e":                       "https://h.example/a/e",
		"/e?f":                    "https://h.example/e?f",
		"../../../e":              "https://h.example/e",
		"//other.example/e":       "https://other.example/e",
		"http://other.example:80": "http://other.example/",
		"/e#place":                "https://h.example/e",
		"/ü e":                    "https://h.example/%C3%BC%20e",
		"/%2e%2e/e":               "",
		"https://u:p@h.example/":  "",
		"ftp://h.example/":        "",
		"https://%zz/":            "",
		"/a\rb":                   "",
	} {
		u, err := from.follow(location)
		if want == "" {
			if !errors.Is(err, ErrInvalidURL) {
				t.Errorf("%q leads to %q, %v", location, u, err)
			}
		} else if u.String() != want || err != nil {
			t.Errorf("%q leads to %q, %v; want %q", location, u, err, want)
		}
	}
}

// FuzzCanonical holds that a spelling is the spelling of itself; that it is
// allowed or not whichever way it is written; and that what is checked is what
// is dialled and sent.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{
		"https://archive.example.com/pub/file?a=b", "http://127.1/", "https://user@h/", "https://[::ffff:1.2.3.4]:80/%2e%2e/",
		"https://bücher.example./%252e//a;b/%2F", "HTTP://H:080/ü?ü", `http://a\@b/`, "https://h/#", "http://h/[ ]?[ ]", "https://。/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := Canonical(raw)
		if err != nil {
			if !errors.Is(err, ErrInvalidURL) {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		again, err := Canonical(u.String())
		if err != nil || again != u {
			t.Fatalf("%q is %q, which is %q, %v", raw, u, again, err)
		}
		// Go's own parser, which everybody else uses, agrees.
		p, err := url.Parse(u.String())
		if err != nil || p.Hostname() != u.host || p.EscapedPath() != u.path || p.RawQuery != u.query || p.String() != u.String() {
			t.Fatalf("%q: %+v, %v", u, p, err)
		}
		if q := u.Parsed(); q.String() != u.String() || q.Path != p.Path {
			t.Fatalf("%q is sent as %q", u, q)
		}
		for segment := range strings.SplitSeq(p.Path, "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("%q has a segment %q", u, segment)
			}
		}
		allow, err := ParseAllow([]string{u.site() + "/", "https://*.example.com/pub/"})
		if err != nil {
			t.Fatalf("%q: %v", u, err)
		}
		if err := allow.Check(u); err != nil {
			t.Fatalf("%q is not allowed by its own site: %v", u, err)
		}
		dialled := ""
		c, err := New(Config{
			Allow: allow.Rules(),
			Dial: func(_ context.Context, _, address string) (net.Conn, error) {
				dialled = address
				here, there := net.Pipe()
				go func() {
					defer there.Close()
					if u.scheme == "http" {
						answerWithRequest(there)
					}
				}()
				return here, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		body, _, err := c.Get(t.Context(), u, 0, -1, Unknown)
		port := u.port
		if port == "" {
			port = defaultPort(u.scheme)
		}
		if dialled != net.JoinHostPort(u.host, port) {
			t.Fatalf("%q was checked, and %q dialled", u, dialled)
		}
		if u.scheme == "http" {
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			sent, err := io.ReadAll(body)
			if want := u.path + questioned(u.query) + " " + u.authority(); err != nil || string(sent) != want {
				t.Fatalf("%q was checked, and %q sent: %v", want, sent, err)
			}
		}
	})
}

// answerWithRequest tells what was asked for.
func answerWithRequest(c net.Conn) {
	data := make([]byte, 0, 32<<10)
	for !strings.Contains(string(data), "\r\n\r\n") {
		n, err := c.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err != nil {
			return
		}
	}
	line, rest, _ := strings.Cut(string(data), "\r\n")
	fields := strings.Fields(line)
	host := ""
	for h := range strings.SplitSeq(rest, "\r\n") {
		if v, ok := strings.CutPrefix(h, "Host: "); ok {
			host = v
		}
	}
	text := fields[1] + " " + host
	r := http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text)), Close: true}
	r.Write(c)
}

// FuzzAllow holds that a wildcard is never more than one label, and that a
// prefix is one of segments.
func FuzzAllow(f *testing.F) {
	for _, s := range []string{
		"https://a.example.com/pub/x", "https://example.com/pub/", "https://a.b.example.com/pub/", "https://a.example.com/pub/%2e%2e/x",
		"https://evil-example.com/pub/", "https://a.example.com.evil.net/pub/x", "https://a.example.com/public/x", "https://a.example.com//pub/x",
	} {
		f.Add(s)
	}
	allow, err := ParseAllow([]string{"https://*.example.com/pub/"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := Canonical(raw)
		if err != nil {
			return
		}
		label, ok := strings.CutSuffix(u.host, ".example.com")
		want := ok && !strings.Contains(label, ".") && u.scheme == "https" && u.port == "" && strings.HasPrefix(u.path, "/pub/")
		if got := allow.Check(u) == nil; got != want {
			t.Fatalf("%q: allowed is %v", u, got)
		}
		if _, err := netip.ParseAddr(u.host); err == nil && want {
			t.Fatalf("%q is an address", u)
		}
	})
}
