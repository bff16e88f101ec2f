package ranges

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func document4(rows ...string) string {
	return fmt.Sprintf(`{"syncToken": "1700000000", "createDate": "2023-11-14-22-13-20", "prefixes": [%s], "ipv6_prefixes": []}`, strings.Join(rows, ","))
}

func row(prefix, region, service string) string {
	return fmt.Sprintf(`{"ip_prefix": %q, "region": %q, "service": %q, "network_border_group": %q}`, prefix, region, service, region)
}

func TestParse(t *testing.T) {
	l, err := Parse([]byte(`{
		"syncToken": "1700000000", "createDate": "2023-11-14-22-13-20",
		"prefixes": [
			{"ip_prefix": "10.0.0.0/9", "region": "a-1", "service": "AMAZON", "network_border_group": "a-1"},
			{"ip_prefix": "10.0.0.0/16", "region": "a-1", "service": "EC2", "network_border_group": "a-1"},
			{"ip_prefix": "10.1.0.0/16", "region": "b-1", "service": "EC2", "network_border_group": "b-1"},
			{"ip_prefix": "10.1.0.0/16", "region": "c-1", "service": "AMAZON", "network_border_group": "c-1"},
			{"ip_prefix": "10.1.1.0/24", "region": "a-1", "service": "AMAZON", "network_border_group": "a-1"},
			{"ip_prefix": "10.2.0.0/16", "region": "GLOBAL", "service": "AMAZON", "network_border_group": "GLOBAL"},
			{"ip_prefix": "10.3.0.0/16", "region": "d-1", "service": "S3", "network_border_group": "d-1"},
			{"ip_prefix": "12.0.0.0/16", "region": "GLOBAL", "service": "EC2", "network_border_group": "GLOBAL"}
		],
		"ipv6_prefixes": [{"ipv6_prefix": "2001:db8::/32", "region": "e-1", "service": "EC2", "network_border_group": "e-1"}]
	}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Unix(1700000000, 0); !l.Created.Equal(want) {
		t.Errorf("created %v, want %v", l.Created, want)
	}
	const want = "[{10.0.0.0/9 a-1} {10.1.0.0/16 b-1} {10.1.1.0/24 a-1} {10.2.0.0/16 } {2001:db8::/32 e-1}]"
	if got := fmt.Sprint(l.Networks); got != want {
		t.Errorf("networks\n got %s\nwant %s", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, document, say string }{
		{"nothing", ``, "not a list"},
		{"a page", `<html>Sign in</html>`, "not a list"},
		{"another document", `[1]`, "not a list"},
		{"no token", `{"prefixes": []}`, `syncToken is ""`},
		{"a date as the token", `{"syncToken": "2023-11-14"}`, `syncToken is "2023-11-14"`},
		{"a far future", `{"syncToken": "17000000000000"}`, "syncToken"},
		{"cut", document4(row("10.0.0.0/9", "a", "EC2"))[:120], "not a list"},
		{"two documents", document4() + document4(), "not a list"},
		{"no network", document4(row("10.0.0.0/16", "a", "EC2"), row("ten", "a", "EC2")), `prefixes[1]: "ten" is not an IPv4 network`},
		{"an address", document4(row("10.0.0.1", "a", "EC2")), "prefixes[0]"},
		{"bits beyond the prefix", document4(row("10.0.0.1/8", "a", "EC2")), "not an IPv4 network"},
		{"IPv6 among IPv4", document4(row("2001:db8::/32", "a", "EC2")), "not an IPv4 network"},
		{"IPv4 as IPv6", document4(row("::ffff:10.0.0.0/104", "a", "EC2")), "not an IPv4 network"},
		{"everything", document4(row("0.0.0.0/0", "a", "EC2")), "wider than any"},
		{"no region", document4(row("10.0.0.0/16", "", "EC2")), `the region of 10.0.0.0/16 is ""`},
		{"no name", document4(row("10.0.0.0/16", "a b", "EC2")), "not a region's name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if l, err := Parse([]byte(c.document)); err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v, %v; want an error that says %q", l, err, c.say)
			}
		})
	}
}

// A list answers as all of its rows do, looked at one by one.
func TestParseKeepsAnswers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	regions := []string{"a-1", "b-1", "c-1", global}
	for range 300 {
		var rows []string
		type line struct {
			Network
			service string
		}
		var lines []line
		seen := map[string]bool{} // AWS has a network once for each service
		for range 40 {
			a := netip.AddrFrom4([4]byte{10, byte(random.IntN(4)), byte(random.IntN(4)), 0})
			p := netip.PrefixFrom(a, 12+random.IntN(14)).Masked()
			l := line{Network{p, regions[random.IntN(4)]}, []string{"EC2", "AMAZON"}[random.IntN(2)]}
			if key := p.String() + l.service; !seen[key] {
				seen[key] = true
				lines = append(lines, l)
				rows = append(rows, row(p.String(), l.Region, l.service))
			}
		}
		l, err := Parse([]byte(document4(rows...)))
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			a := netip.AddrFrom4([4]byte{10, byte(random.IntN(5)), byte(random.IntN(5)), byte(random.IntN(256))})
			best := line{Network: Network{Region: global}}
			for _, l := range lines {
				if l.Prefix.Contains(a) && (!best.Prefix.IsValid() || l.Prefix.Bits() > best.Prefix.Bits() || l.Prefix == best.Prefix && l.service == "EC2") {
					best = l
				}
			}
			want := best.Region
			if want == global {
				want = ""
			}
			got := ""
			for _, n := range l.Networks { // wider ones first
				if n.Prefix.Contains(a) {
					got = n.Region
				}
			}
			if got != want {
				t.Fatalf("%s is in %q, want %q, by %v", a, got, want, lines)
			}
		}
	}
}

func TestPack(t *testing.T) {
	l := Bundled()
	var a, b bytes.Buffer
	if err := l.Pack(&a); err != nil {
		t.Fatal(err)
	}
	if err := l.Pack(&b); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Fatalf("two packs of one list differ (%v)", err)
	}
	back, err := Unpack(&a)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(l, back) {
		t.Error("what was unpacked is not what was packed")
	}
	for _, n := range []int{0, 5, 100, b.Len() - 1} {
		if _, err := Unpack(bytes.NewReader(b.Bytes()[:n])); err == nil {
			t.Errorf("the first %d bytes are taken for a list", n)
		}
	}
}

func TestBundled(t *testing.T) {
	l := Bundled()
	if len(l.Networks) < 5000 || l.Created.Year() < 2026 {
		t.Errorf("the bundled list has %d networks as of %s", len(l.Networks), l.Created)
	}
	if len(packed) > 100<<10 {
		t.Errorf("the bundled list has %d bytes", len(packed))
	}
	for address, want := range map[string]string{
		"3.120.0.1": "eu-central-1", "52.94.76.1": "us-west-2", "18.204.1.1": "us-east-1", "13.54.0.1": "ap-southeast-2",
		"2a05:d014::1": "eu-central-1", "2600:1f18::1": "us-east-1", "192.0.2.1": "", "10.0.0.1": "", "8.8.8.8": "",
	} {
		got, a := "", netip.MustParseAddr(address)
		for _, n := range l.Networks {
			if n.Prefix.Contains(a) {
				got = n.Region
			}
		}
		if got != want {
			t.Errorf("%s is in %q, want %q", address, got, want)
		}
	}
}

func TestFollows(t *testing.T) {
	old := &List{Created: time.Unix(1000, 0), Networks: make([]Network, 100)}
	for _, c := range []struct {
		created int64
		n       int
		say     string
	}{
		{1000, 100, ""}, {2000, 50, ""}, {999, 100, "published at"}, {2000, 49, "not whole"},
	} {
		err := (&List{Created: time.Unix(c.created, 0), Networks: make([]Network, c.n)}).Follows(old)
		if (err == nil) != (c.say == "") || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("%d networks as of %d: %v, want %q", c.n, c.created, err, c.say)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(document4(row("10.0.0.0/9", "a-1", "EC2"), row("10.0.0.0/16", "GLOBAL", "AMAZON"), row("10.0.1.0/24", "b-1", "EC2"))))
	f.Add([]byte(`{"syncToken": "1", "ipv6_prefixes": [{"ipv6_prefix": "2001:db8::/32", "region": "e-1", "service": "EC2"}]}`))
	f.Add([]byte(`{"syncToken": 1, "prefixes": {}}`))
	f.Add([]byte(`{"syncToken": "1", "prefixes": [null, {}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		for i, n := range l.Networks {
			if n.Prefix != n.Prefix.Masked() || n.Region == global || i > 0 && compare(l.Networks[i-1].Prefix, n.Prefix) >= 0 {
				t.Errorf("network %d of %v", i, l.Networks)
			}
		}
		var b bytes.Buffer
		if err := l.Pack(&b); err != nil {
			t.Fatal(err)
		}
		back, err := Unpack(&b)
		if err != nil || !back.Created.Equal(l.Created) || !slices.Equal(back.Networks, l.Networks) {
			t.Errorf("packed and unpacked: %v, %v; want %v", back, err, l)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	var d document
	d.SyncToken = "1700000000"
	for _, n := range Bundled().Networks {
		if n.Prefix.Addr().Is4() {
			d.Prefixes = append(d.Prefixes, struct {
				Prefix string `json:"ip_prefix"`
				place
			}{n.Prefix.String(), place{n.Region, "EC2"}})
		}
	}
	data, err := json.Marshal(d)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		Parse(data)
	}
}
