//go:build !agent

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror"
)

// loadText reads a configuration as the commands do.
func loadText(t *testing.T, text string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "taskfleet.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f := configFlags{}
	f.add(pflag.NewFlagSet("", pflag.ContinueOnError))
	f.file = file
	c, err := f.load()
	return c, err
}

func TestMistakesInTheMirrorsConfigurationAreToldWithTheirLine(t *testing.T) {
	const real = "s3: {region: us-west-2, bucket: artifacts}\nmirror:\n"
	const here = "mirror:\n  regions:\n  - name: eu-central-1\n"
	for text, want := range map[string]string{
		"mirror: {home: here}":                                                        ":1: mirror.regions must have a region",
		"mirror: {regions: [{name: 'eu central'}]}":                                   ":1: mirror.regions: the name",
		"mirror:\n  home: eu-1\n  regions:\n  - name: eu-1":                           ":4: mirror.regions: eu-1 is where the artifacts are",
		here + "  - name: eu-central-1":                                               ":4: mirror.regions: eu-central-1 is there twice",
		here + "    pathStyle: true":                                                  ":3: mirror.regions: eu-central-1 has settings of a bucket",
		here + "    maxBytes: lots":                                                   `:4: mirror.regions: eu-central-1: maxBytes is "lots"`,
		here + "    maxBytes: 3 XiB":                                                  `:4: mirror.regions: eu-central-1: maxBytes is "3 XiB"`,
		here + "    transfers: 1000":                                                  ":4: mirror.regions: eu-central-1: transfers is 1000",
		here + "    bucket: b\n    endpoint: here":                                    ":5: mirror.regions: eu-central-1: endpoint must",
		here + "    bucket: b\n    accessKeyId: hunter":                               ":3: mirror.regions: eu-central-1 needs accessKeyId and",
		real + "  regions:\n  - name: eu-1\n":                                         ":4: mirror.regions: eu-1 needs the bucket",
		real + "  regions:\n  - {name: eu-1, bucket: artifacts}\n":                    ":4: mirror.regions: eu-1 has the bucket of s3",
		real + "  regions:\n  - {name: eu-1, bucket: artifacts, region: us-west-2}\n": ":4: mirror.regions: eu-1 has the bucket of s3, artifacts",
		real + "  regions:\n  - {name: a, bucket: b, endpoint: 'http://s3.test'}\n  - {name: c, bucket: b, endpoint: 'http://S3.test:80/'}\n":                                  ":5: mirror.regions: c has the bucket of a, b",
		"s3: {endpoint: 'http://s3.test/', region: us-1, bucket: b, pathStyle: true}\nmirror: {regions: [{name: eu, bucket: b, endpoint: 'http://s3.test', pathStyle: true}]}": ":2: mirror.regions: eu has the bucket of s3, b",
		"s3: {bucket: mirror-eu-central-1}\n" + here:                                   ":4: mirror.regions: eu-central-1 has the bucket of s3, mirror-eu-central-1",
		"mirror:\n  regions:\n  - name: all":                                           ":3: mirror.regions: no region can be called all",
		"mirror:\n  regions:\n  - name: caller":                                        ":3: mirror.regions: no region can be called caller",
		"mirror:\n  home: caller\n  regions:\n  - name: eu":                            ":2: mirror.home is caller",
		here + "    maxBytes: 10":                                                      `:4: mirror.regions: eu-central-1: maxBytes is "10", which is 10 bytes; give it a unit, such as 10 GiB`,
		here + "    maxBytes: 0":                                                       `:4: mirror.regions: eu-central-1: maxBytes is "0"; leave it out`,
		here + "  trustedProxies: [0.0.0.0/0]":                                         ":4: mirror.trustedProxies: with 0.0.0.0/0 anybody could say",
		here + "  trustedProxies: ['::/0']":                                            ":4: mirror.trustedProxies: with ::/0 anybody could say",
		here + "  allow: ['https://a.test/']\n  allowAddresses: [0.0.0.0/0]":           ":5: mirror.allowAddresses: with 0.0.0.0/0",
		"s3: {endpoint: 'http://s3.test'}\nmirror: {regions: [{name: eu, bucket: b}]}": ":2: mirror.home must name",
		here + "  networks:\n    10.0.0.0/8: eu-1":                                     `:5: mirror.networks: 10.0.0.0/8 is said to be in "eu-1"`,
		here + "  networks:\n    10.0.0.1/8: home":                                     `:5: mirror.networks: "10.0.0.1/8" is an address`,
		here + "  trustedProxies:\n  - 10.0.0.1\n  - proxy":                            `:6: mirror.trustedProxies: "proxy" is no network`,
		here + "  ipRanges: some":                                                      ":4: mirror.ipRanges must be",
		here + "  allow:\n  - https://a.test/\n  - a.test/b":                           `:6: mirror.allow: "a.test/b": write it like a URL`,
		here + "  allow: ['https://u:hunter@a.test/']":                                 ":4: mirror.allow: a rule has a user name",
		here + "  allow: ['https://a.test/']\n  allowAddresses: [10.20.0.0/33]":        ":5: mirror.allowAddresses: ",
		here + "  allowAddresses: [10.20.0.0/16]":                                      ":4: mirror.allowAddresses is of no use",
		here + "  lifespan: forever":                                                   ":4: mirror.lifespan is",
		here + "  routes:\n  - name: r\n    maxSize: big":                              `:6: mirror.routes: r: maxSize is "big"`,
		here + "  routes:\n  - name: r\n    maxWait: 10":                               ":6: mirror.routes[0].maxWait is",
		here + "  routes:\n  - name: r\n    maxWait: 10m":                              ":6: mirror.routes: r: the longest wait is 10m0s",
		here + "  routes:\n  - name: r\n    regions: [us-1]":                           `:6: mirror.routes: r: there is no region "us-1"`,
		here + "  routes:\n  - name: r\n    policy: maybe":                             `:6: mirror.routes: r: the policy is "maybe"`,
		here + "  routes:\n  - artifact: x":                                            ":5: mirror.routes: a route needs a name",
		here + "  routes:\n  - name: r\n    url: x\n    artifact: x":                   ":6: mirror.routes: r: a route is for artifacts",
		here + "  routes:\n  - name: r\n    pollicy: wait":                             `[6:5] unknown field "pollicy"`,
	} {
		_, err := loadText(t, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\tgot  %v\n\twant %s", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: a secret leaks: %v", text, err)
		}
	}
}

func TestTheMirrorsConfigurationIsRead(t *testing.T) {
	c, err := loadText(t, `
s3: {region: us-west-2, bucket: artifacts, accessKeyId: id, secretAccessKey: secret}
mirror:
  regions:
  - {name: eu-central-1, bucket: copies-eu, maxBytes: 500 GiB, transfers: 4}
  - {name: ap-south-1, bucket: copies-ap, endpoint: "https://s3.test", accessKeyId: other, secretAccessKey: x, maxBytes: 1000000}
  networks: {10.1.0.0/16: eu-central-1, "2001:db8::/32": us-west-2}
  trustedProxies: [10.0.0.0/24]
  ipRanges: none
  allow: ["https://archive.example.com/pub/", "https://registry.example.com/@scope/"]
  lifespan: 12h
  routes:
  - {name: large, artifact: "public/*", minSize: 1.5 GB, policy: stream}
  - {name: rest, taskQueue: "proj/*", regions: [ap-south-1], maxWait: 10s, ahead: true, prefetch: true}
`)
	if err != nil {
		t.Fatal(err)
	}
	p := c.readMirror(func(_, format string, args ...any) { t.Errorf(format, args...) })
	if p.home != "us-west-2" || p.regions[0].maxBytes != 500<<30 || p.regions[1].maxBytes != 1_000_000 || len(p.networks) != 2 || p.ranges != "" || p.lifespan != 12*time.Hour {
		t.Errorf("%+v", p)
	}
	if r := p.routes[0]; r.MinSize != 1_500_000_000 || r.Policy != mirror.Stream {
		t.Errorf("%+v", r)
	}
	if r := p.routes[1]; r.MaxWait != 10*time.Second || !r.Ahead || !r.Prefetch {
		t.Errorf("%+v", r)
	}
	var to mirror.Config
	if err := p.fill(t.Context(), c, blob.Config{}, &to); err != nil {
		t.Fatal(err)
	}
	if len(to.Regions) != 2 || to.Regions[0].Transfers != 4 || to.HTTP == nil || to.Finder == nil {
		t.Errorf("%+v", to)
	}
}

// What does no harm is a warning.
func TestRulesThatAllowNothingAreWarnedOf(t *testing.T) {
	for rule, want := range map[string]string{
		"http://169.254.169.254/": "origins may not be at 169.254.169.254: it hands out credentials", "http://localhost/x/": "origins may not be at 127.0.0.1", "http://10.1.2.3/": "allowAddresses",
		"http://10.2.2.3/": "", "https://a.test/": "",
	} {
		file := writeFile(t, "taskfleet.yml", "mirror:\n  regions: [{name: eu}]\n  allow: ['"+rule+"']\n  allowAddresses: [10.2.0.0/16]\n")
		out := expect(t, exitOK, "The configuration is good.", "config", "check", "--config", file)
		if strings.Contains(out, "Warning: ") != (want != "") || !strings.Contains(out, want) {
			t.Errorf("%s: %s", rule, out)
		}
	}
}
