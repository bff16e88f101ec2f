package source

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// A URL is the canonical spelling of an HTTP or HTTPS URL. Only [Canonical]
// makes them. Two are equal (==) if they name the same object.
//
// The query may hold a signature, which is a secret: String is for fetching and
// for identity, Redacted for people and logs.
type URL struct {
	scheme string // "http" or "https"
	host   string // lower-case ASCII, or an address; IPv6 without brackets
	port   string // "" where it is the scheme's own
	path   string // percent-encoded; begins with "/"
	query  string // percent-encoded
}

// maxURL leaves room for a key of 1,024 bytes, all of them percent-encoded, and
// a signature.
const maxURL = 8 << 10

// Canonical reads a URL. Spellings that RFC 3986 holds to be equal become one:
// scheme and host are in lower case, hosts in ASCII and without the last dot,
// the scheme's own port is left out, characters that need no percent-encoding
// have none and all others do. Nothing that might change which object is meant
// is changed: the order of a query, empty segments ("//"), an encoded slash.
//
// What servers and clients are known to read in different ways is refused,
// with an error that is [ErrInvalidURL] and says what to write instead:
// segments "." and ".." in any encoding, backslashes, user names, fragments,
// control characters, numbers that some take for an IPv4 address.
func Canonical(raw string) (URL, error) {
	u, err := canonical(raw)
	if err != nil {
		return URL{}, &invalidURL{err}
	}
	return u, nil
}

func canonical(raw string) (URL, error) {
	switch {
	case raw == "":
		return URL{}, errors.New("it is empty: give one such as https://archive.example.com/pub/file")
	case len(raw) > maxURL:
		return URL{}, fmt.Errorf("it has %d bytes, and may have %d", len(raw), maxURL)
	case !utf8.ValidString(raw):
		return URL{}, errors.New("it is no UTF-8: percent-encode it")
	case strings.ContainsFunc(raw, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return URL{}, errors.New("it has a control character: percent-encode it")
	case strings.Contains(raw, `\`):
		return URL{}, errors.New("it has a backslash, which some clients read as a slash: write / between segments, and %5C for a backslash in a name")
	}
	// The errors of url.Parse quote what they could not read, be it a password.
	u, err := url.Parse(raw)
	if err != nil {
		var escape url.EscapeError
		if errors.As(err, &escape) {
			return URL{}, fmt.Errorf("%v: write %%25 for a percent sign", escape)
		}
		return URL{}, errors.New("it cannot be parsed as scheme://host:port/path: is it percent-encoded?")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https": // url.Parse has lowered it
		return URL{}, fmt.Errorf("its scheme is %q: only http and https are fetched", u.Scheme)
	case u.Opaque != "" || u.Host == "":
		return URL{}, fmt.Errorf("it names no host: write %s://host/path", u.Scheme)
	case u.User != nil:
		return URL{}, errors.New("it has a user name or password (before an @): origins are fetched without")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return URL{}, errors.New("it has a fragment (after a #), which is never sent: leave it out, or write %23 for a # in a name")
	}
	// In u it is decoded already.
	_, authority, _ := strings.Cut(raw, "//")
	if i := strings.IndexAny(authority, "/?%"); i >= 0 && authority[i] == '%' {
		return URL{}, errors.New("its host has a percent sign: write the name as it is, and an IPv6 address without a zone")
	}
	c := URL{scheme: u.Scheme}
	if c.host, err = canonicalHost(u); err != nil {
		return URL{}, err
	}
	if c.port, err = canonicalPort(u); err != nil {
		return URL{}, err
	}
	// EscapedPath decodes "%2F" where another character of the path ought to
	// have been encoded; what was written is in RawPath then.
	path := u.RawPath
	if path == "" {
		path = u.EscapedPath()
	}
	if c.path, err = canonicalEscapes(path, "/"); err != nil {
		return URL{}, err
	}
	if c.path == "" {
		c.path = "/"
	}
	if s := dotSegment(c.path); s != "" {
		return URL{}, fmt.Errorf("its path has a segment %q, which servers resolve in different ways: write the path without it", s)
	}
	if c.query, err = canonicalEscapes(u.RawQuery, "/?"); err != nil {
		return URL{}, err
	}
	if n := len(c.String()); n > maxURL {
		return URL{}, fmt.Errorf("it has %d bytes when percent-encoded, and may have %d", n, maxURL)
	}
	return c, nil
}

func canonicalHost(u *url.URL) (string, error) {
	host := u.Hostname()
	if strings.HasPrefix(u.Host, "[") {
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "", fmt.Errorf("its host [%s] is no IPv6 address", host)
		}
		return a.Unmap().String(), nil
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r >= utf8.RuneSelf }) || strings.Contains(strings.ToLower(host), "xn--") {
		ascii, err := idna.Lookup.ToASCII(host)
		if err != nil {
			return "", fmt.Errorf("its host %q is no valid international name", host)
		}
		host = ascii
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() {
		return a.String(), nil
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		// An underscore is in no name of a machine, but in names of buckets.
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", fmt.Errorf("its host %q is no valid name", host)
		}
	}
	if len(host) > 253 {
		return "", fmt.Errorf("its host has %d bytes: no name has more than 253", len(host))
	}
	if last := labels[len(labels)-1]; numeric(last) {
		return "", fmt.Errorf("its host %q is a number that some read as an address: write the address as four decimal numbers", host)
	}
	return host, nil
}

// numeric says whether a host with this last label is an address to inet_aton.
func numeric(label string) bool {
	return strings.Trim(label, "0123456789") == "" || strings.HasPrefix(label, "0x")
}

func canonicalPort(u *url.URL) (string, error) {
	if u.Port() == "" {
		return "", nil
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("its port %s is not between 1 and 65535", u.Port())
	}
	if port := strconv.FormatUint(n, 10); port != defaultPort(u.Scheme) {
		return port, nil
	}
	return "", nil
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

const (
	unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	// reserved mean one thing as they are and may mean another when encoded,
	// so they stay as they were written.
	reserved = "!$&'()*+,;=:@"
)

// canonicalEscapes writes s in the one way in which it is percent-encoded no
// more than it has to be. The characters of also stay as they are.
func canonicalEscapes(s, also string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			d, ok := unhex(s[i:])
			if !ok {
				return "", fmt.Errorf("%q is no percent-encoding: write %%25 for a percent sign", s[i:min(i+3, len(s))])
			}
			if i += 2; strings.IndexByte(unreserved, d) < 0 {
				fmt.Fprintf(&out, "%%%02X", d)
				continue
			}
			out.WriteByte(d)
			continue
		}
		if strings.IndexByte(unreserved, c) >= 0 || strings.IndexByte(reserved, c) >= 0 || strings.IndexByte(also, c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String(), nil
}

// unhex decodes the percent-encoding that s begins with.
func unhex(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[1:3], 16, 8)
	return byte(n), err == nil
}

// dotSegment finds a segment of the path that some server would resolve: "."
// or "..", also where slashes are encoded or backslashes, where there are
// parameters ("..;x"), and where it is decoded again by a server behind.
func dotSegment(path string) string {
	for range 3 {
		for segment := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == '\\' }) {
			if s, _, _ := strings.Cut(segment, ";"); s == "." || s == ".." {
				return segment
			}
		}
		again := decode(path)
		if again == path {
			break
		}
		path = again
	}
	return ""
}

// decode leaves alone what is no percent-encoding.
func decode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if d, ok := unhex(s[i:]); ok {
			out.WriteByte(d)
			i += 2
		} else {
			out.WriteByte(s[i])
		}
	}
	return out.String()
}

// String is the URL: what is fetched, and what an origin is known by.
func (u URL) String() string {
	if u == (URL{}) {
		return ""
	}
	return u.site() + u.path + questioned(u.query)
}

// Redacted is the URL without what is in its query.
func (u URL) Redacted() string {
	if u == (URL{}) {
		return ""
	}
	if u.query == "" {
		return u.String()
	}
	return u.site() + u.path + "?..."
}

// LogValue keeps signatures out of logs.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.Redacted()) }

// Parsed is the URL in parts, for whoever looks for one of them.
func (u URL) Parsed() *url.URL {
	return &url.URL{Scheme: u.scheme, Host: u.authority(), Path: decode(u.path), RawPath: u.path, RawQuery: u.query}
}

func questioned(query string) string {
	if query == "" {
		return ""
	}
	return "?" + query
}

func (u URL) site() string { return u.scheme + "://" + u.authority() }

func (u URL) authority() string {
	host := u.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if u.port != "" {
		host += ":" + u.port
	}
	return host
}

// follow is where a redirect from u leads.
func (u URL) follow(location string) (URL, error) {
	l, err := u.Parsed().Parse(location)
	if err != nil {
		return URL{}, &invalidURL{errors.New("it cannot be parsed")}
	}
	// For a browser, which looks for the place in what it has fetched.
	l.Fragment, l.RawFragment = "", ""
	return Canonical(l.String())
}
