// Package ranges has the list of networks that AWS publishes, with the region of
// each: as AWS has it (Parse), and as it is part of the program (Bundled).
//
// Of the list's services two tell where a caller is. EC2 is where instances, NAT
// gateways, containers and functions call from. AMAZON is everything that AWS
// has; a caller with such an address that is not EC2's (one of AWS's own
// services, an address that is new) is near that region all the same, and a
// wrong guess costs time, nothing else. So a List has both, and where both list
// one network, EC2's region holds. Otherwise the longest prefix wins, whosever it
// is: in the lists looked at no network of AMAZON's has another region than the one of
// EC2's that it is in. The other services are subsets of AMAZON.
package ranges

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// URL is where AWS publishes the list.
const URL = "https://ip-ranges.amazonaws.com/ip-ranges.json"

// A List is a state of the list.
type List struct {
	// Created is when it was published, which is also its token: of two lists
	// the later one is right.
	Created time.Time

	// Networks are in the order of their prefixes, each of which is there once.
	// Those that say no more than the network around them are left out.
	Networks []Network
}

// A Network is in a region, or in none: an exception from the network around it.
type Network struct {
	Prefix netip.Prefix
	Region string
}

// global is what AWS calls the region of networks that are everywhere.
const global = "GLOBAL"

var regionName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]{0,62}$`)

// document is as much as we need of the list as AWS has it.
type document struct {
	SyncToken string `json:"syncToken"`
	Prefixes  []struct {
		Prefix string `json:"ip_prefix"`
		place
	} `json:"prefixes"`
	IPv6Prefixes []struct {
		Prefix string `json:"ipv6_prefix"`
		place
	} `json:"ipv6_prefixes"`
}

type place struct {
	Region  string `json:"region"`
	Service string `json:"service"`
}

// Parse reads the list as AWS has it, all of it or nothing.
func Parse(data []byte) (*List, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("this is not a list of networks as AWS has it: %w", err)
	}
	token, err := strconv.ParseUint(d.SyncToken, 10, 40)
	if err != nil || token == 0 {
		return nil, fmt.Errorf("syncToken is %.40q; a list of networks as AWS has it has the Unix time of its publication there", d.SyncToken)
	}
	found := map[netip.Prefix]place{}
	for i, p := range d.Prefixes {
		if err := collect(found, p.Prefix, p.place, true); err != nil {
			return nil, fmt.Errorf("prefixes[%d]: %w", i, err)
		}
	}
	for i, p := range d.IPv6Prefixes {
		if err := collect(found, p.Prefix, p.place, false); err != nil {
			return nil, fmt.Errorf("ipv6_prefixes[%d]: %w", i, err)
		}
	}
	l := &List{Created: time.Unix(int64(token), 0).UTC(), Networks: make([]Network, 0, len(found))}
	for prefix, p := range found {
		l.Networks = append(l.Networks, Network{prefix, p.Region})
	}
	l.reduce()
	return l, nil
}

// collect adds a network if it is one of those that tell where a caller is.
func collect(found map[netip.Prefix]place, text string, p place, v4 bool) error {
	if p.Service != "EC2" && p.Service != "AMAZON" {
		return nil
	}
	prefix, err := network(text, v4)
	if err != nil {
		return err
	}
	if !regionName.MatchString(p.Region) {
		return fmt.Errorf("the region of %s is %.80q, which is not a region's name", prefix, p.Region)
	}
	if p.Region == global {
		p.Region = ""
	}
	if before, ok := found[prefix]; ok && before.Service == "EC2" {
		return nil
	}
	found[prefix] = p
	return nil
}

// network parses a prefix. None of AWS's is nearly as wide as the widest that
// is believed: one that claimed half of the Internet would be a mistake.
func network(text string, v4 bool) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	widest, kind := 8, "IPv4"
	if !v4 {
		widest, kind = 20, "IPv6"
	}
	switch {
	case err != nil || prefix.Addr().Is4() != v4 || prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("%.80q is not an %s network", text, kind)
	case prefix.Bits() < widest:
		return netip.Prefix{}, fmt.Errorf("the network %s is wider than any of AWS's", prefix)
	}
	return prefix, nil
}

// reduce sorts the networks and leaves those out that are in the same region as
// the network around them.
func (l *List) reduce() {
	slices.SortFunc(l.Networks, func(a, b Network) int { return compare(a.Prefix, b.Prefix) })
	var around []Network // of the one looked at, widest first
	l.Networks = slices.DeleteFunc(l.Networks, func(n Network) bool {
		for len(around) > 0 && !around[len(around)-1].Prefix.Contains(n.Prefix.Addr()) {
			around = around[:len(around)-1]
		}
		region := ""
		if len(around) > 0 {
			region = around[len(around)-1].Region
		}
		if n.Region == region {
			return true
		}
		around = append(around, n)
		return false
	})
}

// compare has a network before those in it.
func compare(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Follows says why l cannot take the place of an older list, if it cannot.
func (l *List) Follows(old *List) error {
	switch {
	case l.Created.Before(old.Created):
		return fmt.Errorf("it was published at %s, before the one that we have (%s)", l.Created.Format(time.RFC3339), old.Created.Format(time.RFC3339))
	case len(l.Networks) < len(old.Networks)/2:
		return fmt.Errorf("it has %d networks, less than half of the %d that we have: it is not whole", len(l.Networks), len(old.Networks))
	}
	return nil
}
