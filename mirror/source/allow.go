package source

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// An Allow is the list of what may be fetched. The zero Allow allows nothing.
type Allow struct{ rules []rule }

// A rule allows the URLs of one scheme, host and port whose path is like its
// own.
type rule struct {
	text     string // as it was written
	URL             // its path is a pattern
	wildcard bool   // any one label before the host
	pattern  []string
}

// ParseAllow reads rules. A rule is written like a URL:
//
//	https://archive.example.com/pub/          all below /pub/
//	https://archive.example.com/pub/file.tar  that alone
//	https://archive.example.com/*/release/**  * is one segment, ** are one or more
//	https://*.cdn.example.com:8443/           one label in place of the *
//	http://[2001:db8::1]/                     all of an address
//
// Scheme, host and port have to be the same as the URL's, but that a rule for
// http with its own port is good for https with its own too. Paths are compared
// segment by segment in their canonical spelling, in which an encoded slash
// separates nothing, and are case-sensitive. Queries are not compared.
func ParseAllow(rules []string) (*Allow, error) {
	var a Allow
	var errs []error
	for i, text := range rules {
		r, err := parseRule(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("source: allowed origin %d, %q: %w", i+1, shown(text), err))
		}
		a.rules = append(a.rules, r)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &a, nil
}

func parseRule(text string) (rule, error) {
	r := rule{text: text}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return r, errors.New("write it like a URL, such as https://archive.example.com/pub/")
	}
	if !strings.Contains(rest, "/") {
		return r, fmt.Errorf("it has no path: write %s/ for all of the host", text)
	}
	rest, r.wildcard = strings.CutPrefix(rest, "*.")
	u, err := canonical(scheme + "://" + rest)
	if err != nil {
		return r, err
	}
	r.URL = u
	switch {
	case u.query != "" || strings.Contains(text, "?"):
		return r, errors.New("it has a query, and queries are not compared: leave it out")
	case r.wildcard && (strings.Contains(u.host, ":") || numeric(u.host[strings.LastIndex(u.host, ".")+1:])):
		return r, errors.New("it has a * before an address: give the address whole")
	case r.wildcard && !strings.Contains(u.host, "."):
		return r, errors.New("it would allow all of a top-level domain: give two labels or more after the *")
	}
	r.pattern = segments(u.path)
	for _, s := range r.pattern {
		if strings.Contains(s, "*") && s != "*" && s != "**" {
			return r, fmt.Errorf("the segment %q has a * among other characters: * stands for a whole segment and ** for several; write %%2A for the character", s)
		}
	}
	if last := len(r.pattern) - 1; r.pattern[last] == "" {
		r.pattern[last] = "**"
	}
	return r, nil
}

func segments(path string) []string { return strings.Split(path[1:], "/") }

// Check is nil if a rule allows u, and otherwise an error that is
// [ErrNotAllowed] and says which rule came closest, and how to allow u.
func (a *Allow) Check(u URL) error {
	near, closest := 0, ""
	for _, r := range a.rules {
		n, why := r.distance(u)
		if n == allowed {
			return nil
		}
		if n > near {
			near, closest = n, fmt.Sprintf("%q %s", r.text, why)
		}
	}
	switch {
	case u == URL{}:
		closest = "there is no URL"
	case closest == "" && len(a.rules) == 0:
		closest = "no origins are allowed at all"
	case closest == "":
		closest = "no rule is for its host"
	}
	return &notAllowed{url: u.Redacted(), closest: closest, rule: suggestion(u)}
}

const allowed = 4

// distance says how much of the rule is right for u, and what is wrong.
func (r rule) distance(u URL) (near int, why string) {
	host := u.host
	if r.wildcard {
		// The rest without its first label, so that * is never more than one;
		// an address never equals a name.
		_, host, _ = strings.Cut(host, ".")
	}
	if host != r.host {
		return 0, ""
	}
	upgrade := r.scheme == "http" && u.scheme == "https" && r.port == "" && u.port == ""
	switch {
	case r.port != u.port && !upgrade:
		return 1, "is for another port"
	case r.scheme != u.scheme && !upgrade:
		return 2, "is for " + r.scheme
	case !like(r.pattern, segments(u.path)):
		return 3, "is for other paths"
	}
	return allowed, ""
}

// like compares a pattern with the segments of a path.
func like(pattern, path []string) bool {
	// After a mismatch the last ** takes one segment more; those before it
	// never have to.
	back, taken := -1, 0
	p, s := 0, 0
	for s < len(path) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			back, taken = p, s+1
			p, s = p+1, s+1
		case p < len(pattern) && (pattern[p] == path[s] || pattern[p] == "*" && single(path[s])):
			p, s = p+1, s+1
		case back >= 0:
			taken++
			p, s = back+1, taken
		default:
			return false
		}
	}
	return p == len(pattern)
}

// single says whether a segment is one to every server. To some, an encoded
// slash is a slash.
func single(segment string) bool {
	return segment != "" && !strings.Contains(segment, "%2F") && !strings.Contains(segment, "%5C")
}

// suggestion is a rule for what is beside u.
func suggestion(u URL) string {
	if u == (URL{}) {
		return ""
	}
	return u.site() + u.path[:strings.LastIndex(u.path, "/")+1]
}

// CheckAddresses tells which rules are for an address that nothing is fetched from,
// given the ranges of [Config.Addresses]. What names lead to is only known when they
// are connected to.
func (a *Allow) CheckAddresses(ranges []string) error {
	permitted, err := parseAddresses(ranges)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range a.rules {
		host := r.host
		if host == "localhost" || strings.HasSuffix(host, ".localhost") {
			host = "127.0.0.1"
		}
		if address, err := netip.ParseAddr(host); err == nil {
			if err := judge(address, permitted); err != nil {
				errs = append(errs, fmt.Errorf("source: the rule %q: %w", shown(r.text), err))
			}
		}
	}
	return errors.Join(errs...)
}

// SelfTest tells which of the URLs are not allowed. One that ends with a slash
// stands for everything below it.
func (a *Allow) SelfTest(urls []string) error {
	var errs []error
	for _, text := range urls {
		probes := []string{text}
		if strings.HasSuffix(text, "/") {
			probes = []string{text + "a", text + "a/b/c/d"}
		}
		for _, p := range probes {
			u, err := Canonical(p)
			if err == nil {
				err = a.Check(u)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("source: self-test of %q: %w", shown(text), err))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// shown is what of a configured text is no secret, whether it can be parsed or
// not.
func shown(text string) string {
	text, _, _ = strings.Cut(text, "?")
	if at := strings.LastIndex(text, "@"); at >= 0 {
		text = "..." + text[at:]
	}
	return text
}

// Rules are the rules as they were written.
func (a *Allow) Rules() []string {
	texts := make([]string, len(a.rules))
	for i, r := range a.rules {
		texts[i] = r.text
	}
	return texts
}
