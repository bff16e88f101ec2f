package region

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestClient(t *testing.T) {
	f := newFinder(t, Config{TrustedProxies: prefixes("10.0.0.0/8", "fd99::/16")})
	long := strings.Repeat("10.0.0.1, ", 40)
	for _, c := range []struct {
		name, remote string
		xff, fwd     []string
		want         string
	}{
		{name: "nothing forwarded", remote: "192.0.2.1:80", want: "192.0.2.1"},
		{name: "a peer that is no proxy is not believed", remote: "192.0.2.1:80", xff: []string{"192.0.2.9"}, want: "192.0.2.1"},
		{name: "a proxy", remote: "10.0.0.1:80", xff: []string{"192.0.2.9"}, want: "192.0.2.9"},
		{name: "a proxy with nothing to say", remote: "10.0.0.1:80", want: "10.0.0.1"},
		{name: "what the caller has put before", remote: "10.0.0.1:80", xff: []string{"6.6.6.6, 192.0.2.9"}, want: "192.0.2.9"},
		{name: "two proxies", remote: "10.0.0.1:80", xff: []string{"6.6.6.6, 192.0.2.9,10.0.0.2"}, want: "192.0.2.9"},
		{name: "lines are one list", remote: "10.0.0.1:80", xff: []string{"6.6.6.6", "192.0.2.9, 10.0.0.3", "10.0.0.2"}, want: "192.0.2.9"},
		{name: "nothing but proxies", remote: "10.0.0.1:80", xff: []string{"10.0.0.3, 10.0.0.2"}, want: "10.0.0.3"},
		{name: "garbage ends it", remote: "10.0.0.1:80", xff: []string{"192.0.2.9, unknown, 10.0.0.2"}, want: "10.0.0.2"},
		{name: "an empty entry ends it", remote: "10.0.0.1:80", xff: []string{"192.0.2.9, , 10.0.0.2"}, want: "10.0.0.2"},
		{name: "an empty header", remote: "10.0.0.1:80", xff: []string{""}, want: "10.0.0.1"},
		{name: "with a port", remote: "10.0.0.1:80", xff: []string{"192.0.2.9:4711"}, want: "192.0.2.9"},
		{name: "IPv6", remote: "[fd99::1]:80", xff: []string{"2001:db8::1"}, want: "2001:db8::1"},
		{name: "IPv6 in brackets", remote: "[fd99::1%eth0]:80", xff: []string{"[2001:db8::1]"}, want: "2001:db8::1"},
		{name: "IPv6 with a port", remote: "[fd99::1]:80", xff: []string{"[2001:db8::1]:443"}, want: "2001:db8::1"},
		{name: "IPv6 with a zone", remote: "[fd99::1]:80", xff: []string{"[fe80::1%eth0]:443"}, want: "fe80::1"},
		{name: "IPv4 in IPv6", remote: "[::ffff:10.0.0.1]:80", xff: []string{"::ffff:192.0.2.9"}, want: "192.0.2.9"},
		{name: "IPv4 in brackets is garbage", remote: "10.0.0.1:80", xff: []string{"[192.0.2.9]"}, want: "10.0.0.1"},
		{name: "as a number is garbage", remote: "10.0.0.1:80", xff: []string{"3232235521"}, want: "10.0.0.1"},
		{name: "with leading zeros is garbage", remote: "10.0.0.1:80", xff: []string{"192.0.02.9"}, want: "10.0.0.1"},
		{name: "a long list has an end", remote: "10.0.0.1:80", xff: []string{"192.0.2.9, " + long + "10.0.0.2"}, want: "10.0.0.1"},
		{name: "a long entry", remote: "10.0.0.1:80", xff: []string{"fe80::1%" + strings.Repeat("a", 1000)}, want: "10.0.0.1"},
		{name: "no port of the peer", remote: "10.0.0.1", xff: []string{"192.0.2.9"}, want: "192.0.2.9"},
		{name: "a peer without address", remote: "@", xff: []string{"192.0.2.9"}, want: "invalid IP"},

		{name: "Forwarded", remote: "10.0.0.1:80", fwd: []string{"for=192.0.2.9"}, want: "192.0.2.9"},
		{name: "Forwarded by a peer that is no proxy", remote: "192.0.2.1:80", fwd: []string{"for=192.0.2.9"}, want: "192.0.2.1"},
		{name: "Forwarded with all there is", remote: "10.0.0.1:80", fwd: []string{`for=6.6.6.6, For="[2001:db8::1]:4711";proto=https;by=10.0.0.2;host="a.example:80", by=10.0.0.1; for="10.0.0.7:1"`}, want: "2001:db8::1"},
		{name: "Forwarded, a hidden node", remote: "10.0.0.1:80", fwd: []string{`for=192.0.2.9, for=_hidden, for=10.0.0.2`}, want: "10.0.0.2"},
		{name: "Forwarded without for", remote: "10.0.0.1:80", fwd: []string{`for=192.0.2.9, proto=https`}, want: "10.0.0.1"},
		{name: "Forwarded, a quotation mark left open", remote: "10.0.0.1:80", fwd: []string{`for="6.6.6.6, for=192.0.2.9`}, want: "192.0.2.9"},
		{name: "Forwarded, a host made up to mislead", remote: "10.0.0.1:80", fwd: []string{`for=192.0.2.9;host="a;for=6.6.6.6, for=6.6.6.6"`}, want: "192.0.2.9"},
		{name: "Forwarded, with an escape", remote: "10.0.0.1:80", fwd: []string{`for=192.0.2.9;host="a\", for=6.6.6.6;x=\"", for=10.0.0.2`}, want: "10.0.0.2"},
		{name: "Forwarded in lines", remote: "10.0.0.1:80", fwd: []string{`for=192.0.2.9`, `for=10.0.0.2`}, want: "192.0.2.9"},
		{name: "Forwarded does not count beside the other", remote: "10.0.0.1:80", xff: []string{"192.0.2.9"}, fwd: []string{`for=6.6.6.6`}, want: "192.0.2.9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := http.Header{}
			for _, line := range c.xff {
				h.Add("X-Forwarded-For", line)
			}
			for _, line := range c.fwd {
				h.Add("Forwarded", line)
			}
			if got := f.Client(c.remote, h).String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// Whatever the headers say, what a trusted proxy has not vouched for is not
// believed, and both headers are read alike.
func FuzzClient(f *testing.F) {
	f.Add("10.0.0.1:80", "6.6.6.6, 192.0.2.9", "10.0.0.2")
	f.Add("[fd99::1]:80", "[2001:db8::1]:443", "")
	f.Add("192.0.2.1:80", ",,,", `"`)
	f.Add("10.0.0.1", "fe80::1%eth0,::ffff:10.1.1.1", "10.0.0.9,")
	finder := newFinder(f, Config{TrustedProxies: prefixes("10.0.0.0/8", "fd99::/16")})
	f.Fuzz(func(t *testing.T, remote, first, second string) {
		got := finder.Client(remote, http.Header{"X-Forwarded-For": {first, second}})
		want := parseAddress(remote)
		entries := strings.Split(first+","+second, ",")
		for i := range min(hops, len(entries)) {
			next := parseAddress(strings.Trim(entries[len(entries)-1-i], " \t"))
			if !finder.trusted.Contains(want) || !next.IsValid() {
				break
			}
			want = next
		}
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got.Zone() != "" || got.Is4In6() {
			t.Errorf("%s is not plain", got)
		}

		// As the last element of Forwarded stands what the proxy wrote, whatever is before.
		peer, client := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.0.2.9")
		for _, h := range []http.Header{
			{"Forwarded": {first + ", for=192.0.2.9"}},
			{"Forwarded": {first, second + `,proto=https;for="192.0.2.9:80"`}},
			{"Forwarded": {first, second, "for=192.0.2.9;by=10.0.0.1"}},
		} {
			if got := finder.Client(peer.String()+":1", h); got != client {
				t.Errorf("%q: got %s, want %s", h["Forwarded"], got, client)
			}
		}
		finder.Client(peer.String()+":1", http.Header{"Forwarded": {first, second}}) // and no panic
	})
}
