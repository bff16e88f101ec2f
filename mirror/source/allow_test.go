package source

import (
	"errors"
	"strings"
	"testing"
)

func TestRules(t *testing.T) {
	for _, c := range []struct{ rule, yes, no string }{
		{
			"https://archive.example.com/pub/",
			"https://archive.example.com/pub/ https://archive.example.com/pub/a/b https://archive.example.com:443/pub//a?b=c https://ARCHIVE.example.com./pub/%2F",
			"https://archive.example.com/pub https://archive.example.com/public https://archive.example.com/Pub/a http://archive.example.com/pub/a https://archive.example.com:8443/pub/a https://archive.example.com//pub/a https://archive.example.com/pub%2Fa https://archive.example.com.evil.example/pub/ https://evil-archive.example.com/pub/ https://x.archive.example.com/pub/",
		},
		{"https://h.example/a/b.tar", "https://h.example/a/b.tar https://h.example/a/%62.tar", "https://h.example/a/b.tar/ https://h.example/a/b.tar.gz https://h.example/a%2Fb.tar"},
		{"https://h.example/", "https://h.example https://h.example/ https://h.example//", "http://h.example/"},
		{"https://h.example/a/*/c", "https://h.example/a/b/c https://h.example/a/%2A/c", "https://h.example/a//c https://h.example/a/c https://h.example/a/b/b/c https://h.example/a/b%2fb/c https://h.example/a/b%5cb/c"},
		{"https://h.example/a/**/c", "https://h.example/a/b/c https://h.example/a/b/c/c https://h.example/a//c https://h.example/a/b/d/c", "https://h.example/a/c https://h.example/a/b/c/ https://h.example/a/b/cc"},
		{"https://h.example/**/x/**/z/*", "https://h.example/a/x/y/z/z https://h.example/x/x/x/z/z/z", "https://h.example/x/y/z/a https://h.example/a/x/z/a https://h.example/a/x/y/z"},
		{"https://*.cdn.example.com/", "https://a.cdn.example.com/x", "https://cdn.example.com/x https://a.b.cdn.example.com/x https://a.cdn.example.com:8443/ https://acdn.example.com/"},
		{"http://h.example/", "http://h.example/a https://h.example/a", "http://h.example:8080/a https://h.example:80/a"},
		{"http://h.example:8080/", "http://h.example:8080/a", "https://h.example:8080/a https://h.example/a http://h.example/a"},
		{"http://192.0.2.1/", "http://192.0.2.1/ http://[::ffff:192.0.2.1]/", "http://192.0.2.10/"},
		{"https://[2001:DB8::1]:8443/", "https://[2001:db8:0::1]:8443/a", "https://[2001:db8::1]/a"},
		{"HTTPS://Bücher.example:443/%7eA/", "https://xn--bcher-kva.example/~A/x", "https://bucher.example/~A/x"},
	} {
		a, err := ParseAllow([]string{c.rule})
		if err != nil {
			t.Errorf("%s: %v", c.rule, err)
			continue
		}
		for i, urls := range []string{c.yes, c.no} {
			for raw := range strings.FieldsSeq(urls) {
				u, err := Canonical(raw)
				if err != nil {
					t.Fatal(err)
				}
				if err := a.Check(u); (err == nil) != (i == 0) {
					t.Errorf("by %s, %s: %v", c.rule, raw, err)
				} else if err != nil && !errors.Is(err, ErrNotAllowed) {
					t.Errorf("%v is not ErrNotAllowed", err)
				}
			}
		}
	}
}

func TestWrongRules(t *testing.T) {
	for rule, why := range map[string]string{
		"archive.example.com/pub/":        "write it like a URL",
		"https://archive.example.com":     "https://archive.example.com/ for all",
		"https://h.example/?a":            "query",
		"https://h.example/a#b":           "fragment",
		"https://u:hunter2@h.example/":    "user name",
		"https://*.com/":                  "top-level",
		"https://*/":                      "valid name",
		"https://a.*.example.com/":        "valid name",
		"https://*.*.example.com/":        "valid name",
		"https://*.192.0.2.1/":            "address",
		"https://*.[2001:db8::1]/":        "address",
		"https://h.example/a*/":           "whole segment",
		"https://h.example/***/":          "whole segment",
		"https://h.example/a/../b/":       `".."`,
		"^https://archive.example.com/.*": "parsed",
		"ftp://h.example/":                "only http",
	} {
		_, err := ParseAllow([]string{"https://right.example/", rule})
		if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "allowed origin 2") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", rule, err)
		}
	}
}

func TestARefusalSaysHowToAllow(t *testing.T) {
	a, err := ParseAllow([]string{"https://archive.example.com/pub/", "https://archive.example.com:8443/", "http://plain.example:81/"})
	if err != nil {
		t.Fatal(err)
	}
	for raw, parts := range map[string][]string{
		"https://archive.example.com/priv/a?sig=hunter2": {`"https://archive.example.com/pub/" is for other paths`, `"https://archive.example.com/priv/"`, "/priv/a?... is not"},
		"https://archive.example.com:444/pub/a":          {"is for another port", `"https://archive.example.com:444/pub/"`},
		"https://plain.example:81/a":                     {`"http://plain.example:81/" is for http.`},
		"https://unknown.example/a":                      {"no rule is for its host", `"https://unknown.example/"`},
	} {
		u, err := Canonical(raw)
		if err != nil {
			t.Fatal(err)
		}
		err = a.Check(u)
		for _, p := range parts {
			if err == nil || !strings.Contains(err.Error(), p) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: the error lacks %q or has a secret: %v", raw, p, err)
			}
		}
	}
	if err := new(Allow).Check(URL{}); !errors.Is(err, ErrNotAllowed) {
		t.Error(err)
	}
}

// The change of one character in the URLs of an SDK once closed the trees.
func TestSelfTest(t *testing.T) {
	a, err := ParseAllow([]string{"https://bucket.s3-us-west-2.amazonaws.com/", "https://h.example/one", "https://h.example/*/"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SelfTest([]string{"https://bucket.s3-us-west-2.amazonaws.com/", "https://bucket.s3-us-west-2.amazonaws.com/key?X-Amz-Signature=x", "https://h.example/one"}); err != nil {
		t.Error(err)
	}
	for _, form := range []string{"https://bucket.s3.us-west-2.amazonaws.com/", "https://h.example/", "not a URL"} {
		err := a.SelfTest([]string{"https://h.example/one", form})
		if err == nil || !strings.Contains(err.Error(), form) || strings.Contains(err.Error(), `of "https://h.example/one"`) {
			t.Errorf("%s: %v", form, err)
		}
	}
}
