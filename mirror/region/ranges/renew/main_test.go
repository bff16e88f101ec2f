package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/mirror/region/ranges"
)

func TestRenew(t *testing.T) {
	t.Chdir(t.TempDir())
	published := ranges.Bundled().Created.Add(24 * time.Hour)
	document := func(at time.Time, networks []ranges.Network) string {
		var four, six []string
		for _, n := range networks {
			if n.Region == "" {
				n.Region = "GLOBAL"
			}
			if n.Prefix.Addr().Is4() {
				four = append(four, fmt.Sprintf(`{"ip_prefix": %q, "region": %q, "service": "EC2"}`, n.Prefix, n.Region))
			} else {
				six = append(six, fmt.Sprintf(`{"ipv6_prefix": %q, "region": %q, "service": "EC2"}`, n.Prefix, n.Region))
			}
		}
		return fmt.Sprintf(`{"syncToken": "%d", "prefixes": [%s], "ipv6_prefixes": [%s]}`, at.Unix(), strings.Join(four, ","), strings.Join(six, ","))
	}
	all := ranges.Bundled().Networks
	for _, c := range []struct{ document, say string }{
		{document(published.Add(-48*time.Hour), all), "does not follow"},
		{document(published, all[:100]), "does not follow"},
		{"{}", "syncToken"},
	} {
		if err := os.WriteFile("in.json", []byte(c.document), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := renew("in.json"); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%v, want %q", err, c.say)
		}
		if _, err := os.Stat(file); err == nil {
			t.Fatalf("%s was written", file)
		}
	}
	if err := os.WriteFile("in.json", []byte(document(published, all)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := renew("in.json"); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	l, err := ranges.Unpack(in)
	if err != nil || !l.Created.Equal(published) || len(l.Networks) != len(all) {
		t.Fatalf("wrote %v, %v", l, err)
	}
}
