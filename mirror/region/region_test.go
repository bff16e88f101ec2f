package region

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/mirror/region/ranges"
)

const (
	frankfurt = "3.120.0.1" // by the bundled list, as the others
	virginia  = "18.204.1.1"
	sydney    = "13.54.0.1"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func newFinder(t testing.TB, c Config) *Finder {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var ours = Config{
	Regions: []string{"us-east-1", "eu-central-1", "office"},
	Networks: map[netip.Prefix]string{
		netip.MustParsePrefix("127.0.0.0/8"):    "office",
		netip.MustParsePrefix("127.1.0.0/16"):   "eu-central-1",
		netip.MustParsePrefix("3.120.128.0/17"): "office", // rented from AWS, reached by a line of our own
		netip.MustParsePrefix("fd00::/8"):       "office",
	},
	TrustedProxies: prefixes("127.9.0.0/16", "fd99::/16"),
}

func TestFind(t *testing.T) {
	registry := prometheus.NewRegistry()
	c := ours
	c.Metrics = registry
	f := newFinder(t, c)
	for _, c := range []struct {
		name, remote, header, forwarded, client string
		region, by, detail                      string
	}{
		{name: "the header", remote: frankfurt + ":1", header: "us-east-1", client: "task-client/t/0/on/eu-central-1/i/until/1", region: "us-east-1", by: "header", detail: "the header X-Taskfleet-Region says so"},
		{name: "a header that names none of ours", remote: frankfurt + ":1", header: "mars", region: "eu-central-1", by: "AWS address", detail: frankfurt + " is in AWS's network 3.120.0.0/14"},
		{name: "a header that names a zone", remote: "8.8.8.8:1", header: "us-east-1a", detail: `the header X-Taskfleet-Region says "us-east-1a", which is none of the configured regions; 8.8.8.8 is in no network`},
		{name: "a task's group", remote: frankfurt + ":1", client: "task-client/t/0/on/us-east-1/i-1/until/1", region: "us-east-1", by: "worker group", detail: "the caller's worker group is us-east-1"},
		{name: "a worker's group", remote: frankfurt + ":1", client: "worker/aws/p/t/us-east-1/i-1", region: "us-east-1", by: "worker group"},
		{name: "a zone", remote: frankfurt + ":1", client: "worker/aws/p/t/us-east-1c/i-1", region: "us-east-1", by: "worker group", detail: "us-east-1c"},
		{name: "a group of none of ours", remote: frankfurt + ":1", client: "worker/static/p/t/rack-1/m", region: "eu-central-1", by: "AWS address"},
		{name: "none of it", remote: "8.8.8.8:1", header: "mars", client: "worker/static/p/t/rack-1/m", detail: `"mars", which is none of the configured regions; the worker group "rack-1" is in none of the configured regions; 8.8.8.8 is in no network whose region is known`},
		{name: "a client that is no worker", remote: frankfurt + ":1", client: "project/us-east-1/a/b/us-east-1/c", region: "eu-central-1", by: "AWS address"},
		{name: "IPv6", remote: "[2a05:d014::1]:1", region: "eu-central-1", by: "AWS address", detail: "2a05:d014::1 is in AWS's network 2a05:d014::/3"},
		{name: "IPv4 in IPv6", remote: "[::ffff:" + frankfurt + "]:1", region: "eu-central-1", by: "AWS address", detail: frankfurt + " is in"},
		{name: "a network of ours", remote: "127.0.0.1:1", region: "office", by: "custom network", detail: "127.0.0.1 is in the configured network 127.0.0.0/8"},
		{name: "the longer of two", remote: "127.1.0.1:1", region: "eu-central-1", by: "custom network", detail: "127.1.0.0/16"},
		{name: "ours before AWS's", remote: "3.120.128.1:1", region: "office", by: "custom network", detail: "3.120.128.0/17"},
		{name: "ours, IPv6 with a zone", remote: "[fd00::1%eth0]:1", region: "office", by: "custom network"},
		{name: "AWS's, but not configured", remote: sydney + ":1", detail: sydney + " is in ap-southeast-2, by AWS's network 13.54.0.0/15, which is none of the configured regions"},
		{name: "behind a proxy", remote: "127.9.0.1:1", forwarded: virginia, region: "us-east-1", by: "AWS address"},
		{name: "behind a proxy of somebody else", remote: frankfurt + ":1", forwarded: virginia, region: "eu-central-1", by: "AWS address"},
		{name: "a Unix socket", remote: "@", detail: "the caller has no IP address"},
		{name: "from inside", remote: "inside", client: "task-client/t/0/on/us-east-1/i/until/1", region: "us-east-1", by: "worker group"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = c.remote
			if c.header != "" {
				r.Header.Set("x-taskfleet-region", c.header)
			}
			if c.forwarded != "" {
				r.Header.Set("X-Forwarded-For", c.forwarded)
			}
			got := f.Find(r, c.client)
			if got.Region != c.region || got.By != c.by || !strings.Contains(got.Detail, c.detail) {
				t.Errorf("\n got %+v\nwant %+v", got, Finding{c.region, c.by, c.detail})
			}
		})
	}
	got := counted(t, registry)
	for by, want := range map[string]float64{ByHeader: 1, ByGroup: 4, ByNetwork: 4, ByAddress: 7, "none": 4} {
		if got := got["taskfleet_mirror_callers_total "+by]; got != want {
			t.Errorf("%v callers were counted as found by %q, want %v", got, by, want)
		}
	}
	if got["taskfleet_mirror_networks "] < 5000 || len(got) != 5+3+2 {
		t.Errorf("metrics %v", got)
	}
}

// counted are the values of metrics by their names and labels' values.
func counted(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			label := ""
			for _, l := range m.Label {
				label += l.GetValue()
			}
			values[family.GetName()+" "+label] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

func TestZones(t *testing.T) {
	f := newFinder(t, Config{Regions: []string{"us-east-1", "us-west-2", "us-central1", "eu-west", "eu-west-1", "ap-southeast-1"}})
	for group, want := range map[string]string{
		"us-east-1": "us-east-1", "us-east-1a": "us-east-1", "us-east-1-bos-1a": "us-east-1", "us-east-1-wl1-bos-wlz-1": "us-east-1",
		"us-west-2-lax-1b": "us-west-2", "us-central1-f": "us-central1", "eu-west-1b": "eu-west-1", "eu-west": "eu-west",
		"us-east-10": "", "us-east-2": "", "us-east-1ab": "", "us-east-1_a": "", "us-east": "", "US-EAST-1": "", "eu-west-2": "", "eu-west-3a": "",
		"us-east-1-": "", "us-east-1-tests": "", "ap-southeast-10": "",
	} {
		if got, ok := f.Group(group); got != want || ok != (want != "") {
			t.Errorf("the group %s is in %q, want %q", group, got, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		say    string
	}{
		{"a network in no region of ours", Config{Regions: []string{"a"}, Networks: map[netip.Prefix]string{netip.MustParsePrefix("10.0.0.0/8"): "b"}}, `10.0.0.0/8 is said to be in "b"`},
		{"bits beyond the prefix", Config{Regions: []string{"a"}, Networks: map[netip.Prefix]string{netip.MustParsePrefix("10.0.0.1/8"): "a"}}, "10.0.0.1/8 of a is not written as one"},
		{"no network", Config{Regions: []string{"a"}, Networks: map[netip.Prefix]string{{}: "a"}}, "not written as one"},
		{"IPv4 in IPv6", Config{TrustedProxies: prefixes("::ffff:10.0.0.0/104")}, "trusted proxies ::ffff:10.0.0.0/104"},
		{"a file as source", Config{Source: "ip-ranges.json"}, "not an HTTP(S) URL"},
		{"a source that is no URL", Config{Source: "https://user:hush@%zz"}, "not an HTTP(S) URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := New(c.config); err == nil || !strings.Contains(err.Error(), c.say) || strings.Contains(err.Error(), "hush") {
				t.Errorf("%v, want %q", err, c.say)
			}
		})
	}
}

// Addresses at the edges of networks are where a look at all networks one by one
// says.
func TestAddressLikeLinearScan(t *testing.T) {
	f := newFinder(t, ours)
	networks := ranges.Bundled().Networks
	scan := func(a netip.Addr) string {
		bits, region := -1, ""
		for p, name := range ours.Networks {
			if p.Contains(a) && p.Bits() > bits {
				bits, region = p.Bits(), name
			}
		}
		if bits >= 0 {
			return region
		}
		for _, n := range networks {
			if n.Prefix.Contains(a) && n.Prefix.Bits() > bits {
				bits, region = n.Prefix.Bits(), n.Region
			}
		}
		return region
	}
	check := func(a netip.Addr) {
		if got, ok := f.Address(a); got != scan(a) || ok != (got != "") {
			t.Errorf("%s is in %q (%v), want %q", a, got, ok, scan(a))
		}
	}
	for i, n := range networks {
		if i%37 == 0 {
			first, last := n.Prefix.Addr(), lastOf(n.Prefix)
			check(first)
			check(last)
			check(first.Prev())
			check(last.Next())
		}
	}
	for p := range ours.Networks {
		check(p.Addr())
		check(lastOf(p))
		check(p.Addr().Prev())
		check(lastOf(p).Next())
	}
	check(netip.Addr{})
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func TestLookingUpAllocatesNothing(t *testing.T) {
	f := newFinder(t, ours)
	h := http.Header{"X-Forwarded-For": {"192.0.2.1, " + frankfurt + ":99, 127.9.0.2"}}
	if n := testing.AllocsPerRun(100, func() { f.Address(f.Client("127.9.0.1:1234", h)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAddress(b *testing.B) {
	f := newFinder(b, ours)
	for _, c := range []struct{ name, address string }{
		{"IPv4", frankfurt}, {"IPv6", "2a05:d014::1"}, {"custom", "127.0.0.1"}, {"nowhere", "192.0.2.1"},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := netip.MustParseAddr(c.address)
			b.ReportAllocs()
			for b.Loop() {
				f.Address(a)
			}
		})
	}
	b.Run("all of AWS", func(b *testing.B) { // addresses of every network in turn: no help by caches
		var all []netip.Addr
		for _, n := range ranges.Bundled().Networks {
			all = append(all, lastOf(n.Prefix))
		}
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			f.Address(all[i*7919%len(all)])
			i++
		}
	})
}

func BenchmarkFind(b *testing.B) {
	f := newFinder(b, ours)
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "127.9.0.1:1234"
	r.Header.Set("X-Forwarded-For", frankfurt)
	for _, c := range []struct{ name, client string }{{"address behind a proxy", ""}, {"worker group", "task-client/fN1SbArXTPSVFNUvaOlinQ/0/on/us-east-1a/i-0123456789/until/1700000000"}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f.Find(r, c.client)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		newFinder(b, ours)
	}
}
