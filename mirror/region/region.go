// Package region tells in which region a caller is.
//
// What the caller says itself comes first (the header X-Taskfleet-Region), then
// the worker group in its client id, then its address: by the networks that the
// operator has named, and then by the list that AWS publishes (package ranges).
// The first that names a configured region decides. All of it is advice: who
// lies gets its bytes from farther away, and no more than that.
//
// The list is in memory, immutable, behind one atomic pointer: first the one that
// is part of the program, then, where there is a network, what AWS has today
// (refresh.go).
package region

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/mirror/region/ranges"
)

// Header is the request header by which callers say in which region they are.
const Header = "X-Taskfleet-Region"

// Config is what a Finder needs.
type Config struct {
	// Regions are the names of those that callers may be found in.
	Regions []string

	// Networks are the operator's own, with the region of each. They win over
	// those of AWS; among them the longest prefix wins.
	Networks map[netip.Prefix]string

	// TrustedProxies are where those are that say in X-Forwarded-For, or else in
	// Forwarded, on whose behalf they ask.
	TrustedProxies []netip.Prefix

	// Source is the URL of AWS's list, usually ranges.URL, or "" to do with what
	// is bundled.
	Source string

	// Transport is for that; nil means one like http.DefaultTransport.
	Transport http.RoundTripper

	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none
}

// A Finder finds out in which region callers are.
type Finder struct {
	names    []string // of regions, the longest first
	networks bart.Table[string]
	trusted  bart.Lite
	current  atomic.Pointer[table]
	refresh  *refresh
	metrics  *metrics
}

// A table is a list made ready for being asked. A network in no region has "".
type table struct {
	bart.Table[string]
	list *ranges.List
}

// By what a Finding was made.
const (
	ByHeader  = "header"
	ByGroup   = "worker group"
	ByNetwork = "custom network"
	ByAddress = "AWS address"
)

// A Finding is the region that a caller is in, "" if that is none of ours, and
// why.
type Finding struct {
	Region string `json:"region"`
	By     string `json:"by"` // ByHeader and so on; "" without a region
	Detail string `json:"detail"`
}

// New makes a Finder that knows the bundled list.
func New(c Config) (*Finder, error) {
	f := &Finder{names: slices.Clone(c.Regions)}
	slices.SortFunc(f.names, func(a, b string) int { return len(b) - len(a) })
	for prefix, region := range c.Networks {
		switch {
		case !slices.Contains(f.names, region):
			return nil, fmt.Errorf("region: the network %s is said to be in %q, which is none of the configured regions (%s)", prefix, region, strings.Join(c.Regions, ", "))
		case !plainPrefix(prefix):
			return nil, fmt.Errorf("region: the network %s of %s is not written as one: put down where it begins, as in 10.1.0.0/16 or 2001:db8::/32", prefix, region)
		}
		f.networks.Insert(prefix, region)
	}
	for _, prefix := range c.TrustedProxies {
		if !plainPrefix(prefix) {
			return nil, fmt.Errorf("region: the network of trusted proxies %s is not written as one: put down where it begins, as in 10.1.0.0/16 or 2001:db8::/32", prefix)
		}
		f.trusted.Insert(prefix)
	}
	f.current.Store(newTable(ranges.Bundled()))
	if c.Source != "" {
		u, err := url.Parse(c.Source)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return nil, fmt.Errorf("region: the source of AWS's networks is not an HTTP(S) URL; the usual one is %s, and an empty one means to do with what is bundled", ranges.URL)
		}
		f.refresh = newRefresh(u, c.Transport, c.Log)
	}
	f.metrics = newMetrics(f, c.Metrics)
	return f, nil
}

func plainPrefix(p netip.Prefix) bool {
	return p.IsValid() && p == p.Masked() && !p.Addr().Is4In6()
}

func newTable(l *ranges.List) *table {
	t := &table{list: l}
	for _, n := range l.Networks {
		t.Insert(n.Prefix, n.Region)
	}
	return t
}

// Address is the region that an address is in, which may be one of AWS's that is
// not configured.
func (f *Finder) Address(a netip.Addr) (region string, ok bool) {
	a = plain(a)
	if region, ok = f.networks.Lookup(a); ok {
		return region, true
	}
	region, _ = f.current.Load().Lookup(a)
	return region, region != ""
}

// Find is the region of whoever makes the request. The client id is the one that
// was authenticated, "" if nobody was.
func (f *Finder) Find(r *http.Request, clientID string) Finding {
	found := f.find(r, clientID)
	f.metrics.found(found.By)
	return found
}

func (f *Finder) find(r *http.Request, clientID string) Finding {
	var vain []string // what was tried in vain
	if name := r.Header.Get(Header); name != "" {
		if slices.Contains(f.names, name) {
			return Finding{name, ByHeader, "the header " + Header + " says so"}
		}
		vain = append(vain, fmt.Sprintf("the header %s says %.80q, which is none of the configured regions", Header, name))
	}
	if group := workerGroup(clientID); group != "" {
		if name, ok := f.Group(group); ok {
			return Finding{name, ByGroup, "the caller's worker group is " + group}
		}
		vain = append(vain, fmt.Sprintf("the worker group %.80q is in none of the configured regions", group))
	}
	found := f.at(f.Client(r.RemoteAddr, r.Header))
	if found.Region == "" {
		found.Detail = strings.Join(append(vain, found.Detail), "; ")
	}
	return found
}

// at is the finding by an address alone.
func (f *Finder) at(a netip.Addr) Finding {
	if !a.IsValid() {
		return Finding{Detail: "the caller has no IP address"}
	}
	one := netip.PrefixFrom(a, a.BitLen())
	if network, name, ok := f.networks.LookupPrefixLPM(one); ok {
		return Finding{name, ByNetwork, a.String() + " is in the configured network " + network.String()}
	}
	switch network, name, _ := f.current.Load().LookupPrefixLPM(one); {
	case name == "":
		return Finding{Detail: a.String() + " is in no network whose region is known"}
	case !slices.Contains(f.names, name):
		return Finding{Detail: a.String() + " is in " + name + ", by AWS's network " + network.String() + ", which is none of the configured regions"}
	default:
		return Finding{name, ByAddress, a.String() + " is in AWS's network " + network.String()}
	}
}

// workerGroup is the one in the client id of a task's run,
// task-client/<taskId>/<runId>/on/<workerGroup>/<workerId>/until/<time>, or of a
// worker, worker/<providerId>/<provisionerId>/<workerType>/<workerGroup>/<workerId>.
func workerGroup(clientID string) string {
	parts := strings.SplitN(clientID, "/", 7)
	switch {
	case len(parts) >= 6 && parts[0] == "task-client" && parts[3] == "on":
		return parts[4]
	case len(parts) == 6 && parts[0] == "worker":
		return parts[4]
	}
	return ""
}

// zone is what follows a region's name in those of its zones: us-east-1a,
// us-central1-a, us-west-2-lax-1a, us-east-1-wl1-bos-wlz-1.
var zone = regexp.MustCompile(`^(-?[a-z]|(-[a-z0-9]+)+-[0-9]+[a-z]?)$`)

// Group is the configured region that a worker group is called by: the region
// itself, or one of its zones.
func (f *Finder) Group(group string) (name string, ok bool) {
	for _, name := range f.names {
		if rest, ok := strings.CutPrefix(group, name); ok && (rest == "" || zone.MatchString(rest)) {
			return name, true
		}
	}
	return "", false
}

// Status says what a Finder goes by, and how old that is.
type Status struct {
	Source    string    `json:"source"`             // "bundled", or the URL that it came from
	Prefixes  int       `json:"prefixes"`           // of AWS
	Networks  int       `json:"networks"`           // the operator's own
	Created   time.Time `json:"created"`            // when AWS published the list
	Fetched   time.Time `json:"fetched,omitzero"`   // when the URL last had this list
	Attempted time.Time `json:"attempted,omitzero"` // when the URL was last asked
	Error     string    `json:"error,omitempty"`    // why that was in vain
}

// Status is the present one.
func (f *Finder) Status() Status {
	t := f.current.Load()
	s := Status{Source: "bundled", Prefixes: t.Size(), Networks: f.networks.Size(), Created: t.list.Created}
	if f.refresh != nil {
		f.refresh.describe(&s)
	}
	return s
}
