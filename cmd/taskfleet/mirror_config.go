//go:build !agent

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/mirror/region/ranges"
	"github.com/taskfleet/taskfleet/mirror/source"
)

// MirrorConfig is where copies of artifacts are kept, near the workers that read
// them. Without it there are none.
type MirrorConfig struct {
	Home    string               `yaml:"home"` // the region of s3.bucket
	Regions []MirrorRegionConfig `yaml:"regions"`

	Networks       map[string]string `yaml:"networks"`       // CIDR: region
	TrustedProxies []string          `yaml:"trustedProxies"` // CIDR of those whose X-Forwarded-For is believed
	IPRanges       string            `yaml:"ipRanges"`       // URL of AWS's networks, or none

	Allow          []string `yaml:"allow"`          // URLs that are copied beside artifacts
	AllowAddresses []string `yaml:"allowAddresses"` // CIDR where they may be though it is not public
	Lifespan       string   `yaml:"lifespan"`       // of their copies

	Routes []MirrorRouteConfig `yaml:"routes"`
}

// MirrorRegionConfig is a region and the bucket of its copies.
type MirrorRegionConfig struct {
	Name            string `yaml:"name"`
	Region          string `yaml:"region"` // of S3; "" is the name
	Bucket          string `yaml:"bucket"`
	Endpoint        string `yaml:"endpoint"`
	PathStyle       bool   `yaml:"pathStyle"`
	AccessKeyID     string `yaml:"accessKeyId"`
	SecretAccessKey string `yaml:"secretAccessKey"`
	MaxBytes        string `yaml:"maxBytes"`
	Transfers       int    `yaml:"transfers"`
}

// MirrorRouteConfig says how some origins are copied.
type MirrorRouteConfig struct {
	Name      string   `yaml:"name"`
	TaskQueue string   `yaml:"taskQueue"`
	Artifact  string   `yaml:"artifact"`
	URL       string   `yaml:"url"`
	MinSize   string   `yaml:"minSize"`
	MaxSize   string   `yaml:"maxSize"`
	Regions   []string `yaml:"regions"`
	Policy    string   `yaml:"policy"`
	MaxWait   string   `yaml:"maxWait"`
	Ahead     bool     `yaml:"ahead"`
	Prefetch  bool     `yaml:"prefetch"`
}

// A mirrorPlan is the configuration of the mirror, read.
type mirrorPlan struct {
	home     string
	regions  []mirrorRegion
	networks map[netip.Prefix]string
	proxies  []netip.Prefix
	ranges   string // URL, or ""
	allow    []string
	private  []string
	lifespan time.Duration
	routes   []mirror.Route
	warnings []error // about what is of no use, but does no harm
}

type mirrorRegion struct {
	MirrorRegionConfig
	maxBytes int64
	here     bool // its bucket is on the gateway inside the process
}

// embeddedHome is the region of the gateway's artifact bucket, if it has no name.
const embeddedHome = "home"

// Names of regions stand in scopes, keys of messages, labels and names of buckets.
var regionName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

const maxRegionName, maxTransfers = 40, 256

// readMirror reads the section mirror and says what is wrong with it; nil without
// one.
func (c *Config) readMirror(bad func(path, format string, args ...any)) *mirrorPlan {
	in := c.Mirror
	if in == nil {
		return nil
	}
	p := &mirrorPlan{home: cmp.Or(in.Home, c.S3.Region), networks: map[netip.Prefix]string{}, allow: in.Allow, private: in.AllowAddresses}
	if p.home == "" && c.S3.embedded() {
		p.home = embeddedHome
	}
	if p.home == "" {
		bad("mirror", "mirror.home must name the region of the bucket %s, as s3.region does not", c.S3.Bucket)
	} else if !goodRegion(p.home) {
		bad("mirror.home", "mirror.home is %q; the name of a region is lower-case letters, digits and hyphens between, up to %d", p.home, maxRegionName)
	} else if mirror.Reserved(p.home) {
		bad("mirror.home", "mirror.home is %s, which means something else where a region is named; call it otherwise", p.home)
	}
	if len(in.Regions) == 0 {
		bad("mirror", "mirror.regions must have a region that copies are kept in, beside %s, where the artifacts are; leave mirror out to keep none", p.home)
	}
	p.readRegions(c, bad)
	p.readNetworks(in, bad)
	p.readSources(in, bad)
	p.readRoutes(in, bad)
	return p
}

func goodRegion(name string) bool { return len(name) <= maxRegionName && regionName.MatchString(name) }

// names are those of the regions with copies.
func (p *mirrorPlan) names() (list []string) {
	for _, r := range p.regions {
		list = append(list, r.Name)
	}
	return list
}

func (p *mirrorPlan) readRegions(c *Config, bad func(path, format string, args ...any)) {
	taken := []regionBucket{{"s3", c.S3.embedded(), c.S3.Bucket, bucketAt(c.S3.Endpoint, cmp.Or(c.S3.Region, p.home), c.S3.Bucket, c.S3.PathStyle)}}
	for i, r := range c.Mirror.Regions {
		path := fmt.Sprintf("mirror.regions[%d]", i)
		is := fmt.Sprintf("mirror.regions: %s", r.Name)
		x := mirrorRegion{MirrorRegionConfig: r, here: c.S3.embedded() && r.Endpoint == "" && r.Bucket == ""}
		switch {
		case !goodRegion(r.Name):
			bad(path, "mirror.regions: the name %q is none for a region; it is lower-case letters, digits and hyphens between, up to %d", r.Name, maxRegionName)
		case mirror.Reserved(r.Name):
			bad(path+".name", "mirror.regions: no region can be called %s, which means something else where a region is named", r.Name)
		case r.Name == p.home:
			bad(path+".name", "%s is where the artifacts are; it has no copies, and is left out here", is)
		case slices.Contains(p.names(), r.Name):
			bad(path+".name", "%s is there twice", is)
		}
		switch {
		case x.here && (r.Region != "" || r.AccessKeyID != "" || r.SecretAccessKey != "" || r.PathStyle):
			bad(path, "%s has settings of a bucket on S3, but no bucket; name it, or leave them out to have one on the gateway inside the process", is)
		case x.here:
			x.Bucket = "mirror-" + r.Name
		case r.Bucket == "":
			bad(path, "%s needs the bucket that copies are kept in", is)
		}
		if r.Endpoint != "" && (!goodURL(r.Endpoint) || strings.Contains(r.Endpoint, "?")) {
			bad(path+".endpoint", "%s: endpoint must be a URL such as https://s3.example.com, without a user", is)
		}
		if (r.AccessKeyID == "") != (r.SecretAccessKey == "") {
			bad(path, "%s needs accessKeyId and secretAccessKey, or neither", is)
		}
		at := regionBucket{r.Name, x.here, x.Bucket, bucketAt(r.Endpoint, cmp.Or(r.Region, r.Name), x.Bucket, r.PathStyle)}
		if i := slices.IndexFunc(taken, at.is); i >= 0 {
			bad(path, "%s has the bucket of %s, %s; each needs its own", is, taken[i].of, x.Bucket)
		}
		taken = append(taken, at)
		var err error
		x.maxBytes, err = parseBytes(r.MaxBytes)
		switch {
		case err != nil:
			bad(path+".maxBytes", "%s: maxBytes is %q; %v", is, r.MaxBytes, err)
		case r.MaxBytes != "" && x.maxBytes == 0:
			bad(path+".maxBytes", "%s: maxBytes is %q; leave it out for no limit", is, r.MaxBytes)
		case r.MaxBytes != "" && x.maxBytes < leastBytes:
			bad(path+".maxBytes", "%s: maxBytes is %q, which is %d bytes; give it a unit, such as %s GiB", is, r.MaxBytes, x.maxBytes, strings.TrimRight(r.MaxBytes, "BKMGTPik "))
		}
		if r.Transfers < 0 || r.Transfers > maxTransfers {
			bad(path+".transfers", "%s: transfers is %d; it must be from 1 to %d, or left out for 16", is, r.Transfers, maxTransfers)
		}
		p.regions = append(p.regions, x)
	}
}

// leastBytes is less than anybody can mean for a budget.
const leastBytes = 1e6

// A regionBucket is one of those that the configuration names.
type regionBucket struct {
	of   string
	here bool // on the gateway inside the process
	name string
	at   *blob.Bucket // elsewhere; nil where that cannot be told, which is told otherwise
}

func (b regionBucket) is(other regionBucket) bool {
	if b.here || other.here {
		return b.here && other.here && b.name == other.name
	}
	return b.at != nil && other.at != nil && mirror.SameBucket(b.at, other.at)
}

// bucketAt is a bucket to be compared with others. It cannot be used, as it has no
// credentials to speak of.
func bucketAt(endpoint, region, name string, pathStyle bool) *blob.Bucket {
	if name == "" || region == "" {
		return nil
	}
	s, err := blob.Open(context.Background(), blob.Config{Endpoint: endpoint, Region: region, PathStyle: pathStyle, AccessKeyID: "none", SecretAccessKey: "none"})
	if err != nil {
		return nil
	}
	return s.Bucket(name)
}

// goodURL tells that a text is an HTTP(S) URL without secrets.
func goodURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil
}

func (p *mirrorPlan) readNetworks(in *MirrorConfig, bad func(path, format string, args ...any)) {
	known := append(p.names(), p.home)
	for _, text := range slices.Sorted(maps.Keys(in.Networks)) {
		path := "mirror.networks.'" + text + "'"
		network, err := parseNetwork(text)
		if err != nil {
			bad(path, "mirror.networks: %v", err)
			continue
		}
		if name := in.Networks[text]; !slices.Contains(known, name) {
			bad(path, "mirror.networks: %s is said to be in %q, which is no region here; there are %s", text, name, strings.Join(known, ", "))
		}
		p.networks[network] = in.Networks[text]
	}
	for i, text := range in.TrustedProxies {
		network, err := parseNetwork(text)
		if err != nil {
			bad(fmt.Sprintf("mirror.trustedProxies[%d]", i), "mirror.trustedProxies: %v", err)
		} else if tooWide(network) {
			bad(fmt.Sprintf("mirror.trustedProxies[%d]", i), "mirror.trustedProxies: with %s anybody could say in X-Forwarded-For where he is; name the networks of the balancers, such as 10.0.0.0/24", text)
		}
		p.proxies = append(p.proxies, network)
	}
	switch {
	case in.IPRanges == "":
		p.ranges = ranges.URL
	case in.IPRanges == "none":
	case !goodURL(in.IPRanges):
		bad("mirror.ipRanges", "mirror.ipRanges must be the URL of a list of networks as AWS has it, none to do with the list that is part of the program, or left out for AWS's own")
	default:
		p.ranges = in.IPRanges
	}
}

// tooWide tells that a network is more than somebody's own: those have 10.0.0.0/8
// and fc00::/7 at most.
func tooWide(n netip.Prefix) bool {
	return n.Addr().Is4() && n.Bits() < 8 || n.Addr().Is6() && n.Bits() < 7
}

// parseNetwork reads a CIDR, or an address for the network of it alone.
func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, fmt.Errorf("%q is no network; write it as 10.1.0.0/16 or 2001:db8::/32", text)
	case p != p.Masked():
		return p, fmt.Errorf("%q is an address in a network; the network is %s", text, p.Masked())
	}
	return p, nil
}

func (p *mirrorPlan) readSources(in *MirrorConfig, bad func(path, format string, args ...any)) {
	for i, rule := range in.Allow {
		path := fmt.Sprintf("mirror.allow[%d]", i)
		_, rest, _ := strings.Cut(rule, "://")
		if host, _, _ := strings.Cut(rest, "/"); strings.Contains(host, "@") { // not shown, as it may hold a password
			bad(path, "mirror.allow: a rule has a user name or password before an @; URLs are fetched without")
		} else if a, err := source.ParseAllow([]string{rule}); err != nil {
			bad(path, "mirror.allow: %v", plainSource(err))
		} else if err := a.CheckAddresses(in.AllowAddresses); errors.Is(err, source.ErrForbiddenAddress) { // other errors are those of allowAddresses
			p.warnings = append(p.warnings, fmt.Errorf("mirror.allow: nothing will be fetched by it: %v", plainSource(err)))
		}
	}
	for i, text := range in.AllowAddresses {
		if _, err := source.New(source.Config{Addresses: []string{text}}); err != nil {
			bad(fmt.Sprintf("mirror.allowAddresses[%d]", i), "mirror.allowAddresses: %v", plainSource(err))
		} else if n, err := netip.ParsePrefix(text); err == nil && tooWide(n) {
			bad(fmt.Sprintf("mirror.allowAddresses[%d]", i), "mirror.allowAddresses: with %s whoever a name of mirror.allow leads to is fetched from, all of your networks included; name the ranges where the origins are, such as 10.20.0.0/16", text)
		}
	}
	if len(in.Allow) == 0 && len(in.AllowAddresses) > 0 {
		bad("mirror.allowAddresses", "mirror.allowAddresses is of no use without mirror.allow")
	}
	p.lifespan = parseDuration(in.Lifespan, "mirror.lifespan", "24h", bad)
}

// plainSource leaves out which package says it, and the place in a list of one.
func plainSource(err error) string {
	text := strings.TrimPrefix(err.Error(), "source: ")
	return strings.TrimPrefix(text, "allowed origin 1, ")
}

func (p *mirrorPlan) readRoutes(in *MirrorConfig, bad func(path, format string, args ...any)) {
	for i, r := range in.Routes {
		path := fmt.Sprintf("mirror.routes[%d]", i)
		x := mirror.Route{
			Name: r.Name, TaskQueue: r.TaskQueue, Artifact: r.Artifact, URL: r.URL, Regions: r.Regions,
			Policy: mirror.Policy(r.Policy), Ahead: r.Ahead, Prefetch: r.Prefetch,
		}
		for _, size := range []struct {
			name, text string
			to         *int64
		}{{"minSize", r.MinSize, &x.MinSize}, {"maxSize", r.MaxSize, &x.MaxSize}} {
			n, err := parseBytes(size.text)
			if err != nil {
				bad(path+"."+size.name, "mirror.routes: %s: %s is %q; %v", r.Name, size.name, size.text, err)
			}
			*size.to = n
		}
		x.MaxWait = parseDuration(r.MaxWait, path+".maxWait", "28s", bad)
		p.routes = append(p.routes, x)
	}
	for _, err := range joined(mirror.CheckRoutes(p.routes, p.names())) {
		path, shown := "mirror.routes", ""
		if e, ok := errors.AsType[*mirror.RouteError](err); ok {
			r := in.Routes[e.Index]
			path, shown = fmt.Sprintf("mirror.routes[%d]", e.Index), r.Name
			if field, given := routeEntry(r, e.Field); given { // and so has a line of its own
				path += "." + field
			}
		}
		if shown != "" {
			shown += ": "
		}
		bad(path, "mirror.routes: %s%v", shown, err)
	}
}

// routeEntry is what a field of a route is called in the file, and whether it is
// there.
func routeEntry(r MirrorRouteConfig, field string) (name string, given bool) {
	f, ok := reflect.TypeFor[MirrorRouteConfig]().FieldByName(field)
	return f.Tag.Get("yaml"), ok && !reflect.ValueOf(r).FieldByIndex(f.Index).IsZero()
}

// joined are the errors that errors.Join has put together.
func joined(err error) []error {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return all.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

func parseDuration(text, path, example string, bad func(path, format string, args ...any)) time.Duration {
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		bad(path, "%s is %q; it must be a time such as %s", path, text, example)
	}
	return d
}

// units of bytes, by what is written behind a number.
var units = map[string]int64{
	"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50,
	"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15,
}

// parseBytes reads a size such as "500 GiB"; "" is 0.
func parseBytes(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	number := strings.TrimRight(text, "BKMGTPik ")
	unit, ok := units[strings.TrimSpace(text[len(number):])]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !ok || !(n >= 0) || n*float64(unit) >= 1<<62 {
		return 0, errors.New("it must be a number of bytes, such as 500 GiB or 1.5 TB")
	}
	return int64(n * float64(unit)), nil
}
