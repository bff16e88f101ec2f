package source

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// dialer connects to addresses that are allowed. Each is judged after the name
// was resolved, right before it is connected to.
func dialer(permitted []netip.Prefix, resolver *net.Resolver) *net.Dialer {
	return &net.Dialer{
		Timeout:   connectLimit,
		KeepAlive: 30 * time.Second,
		Resolver:  resolver,
		Control: func(network, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil || network != "tcp4" && network != "tcp6" {
				return &forbidden{address, "no address of TCP"}
			}
			return judge(to.Addr(), permitted)
		},
	}
}

// parseAddresses reads the ranges in which origins may be although they are not
// public.
func parseAddresses(ranges []string) ([]netip.Prefix, error) {
	var ps []netip.Prefix
	var errs []error
	for i, r := range ranges {
		p, err := netip.ParsePrefix(r)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("source: address range %d, %q: write it like 10.20.0.0/16 or fd12:3456::/32", i+1, r))
		case p.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("source: address range %d, %q: write it as a range of IPv4", i+1, r))
		}
		ps = append(ps, p.Masked())
	}
	return ps, errors.Join(errs...)
}

// judge is nil if an origin may be at the address, and an error that is
// [ErrForbiddenAddress] otherwise.
func judge(a netip.Addr, permitted []netip.Prefix) error {
	shown := a.String()
	a = a.Unmap().WithZone("")
	if slices.Contains(metadata, a) {
		return &forbidden{shown, neverAllowed}
	}
	within := func(p netip.Prefix) bool { return p.Contains(a) }
	if slices.ContainsFunc(permitted, within) {
		return nil
	}
	if nat64.Contains(a) {
		// What there is behind the gateway of a network without IPv4.
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
		if slices.Contains(metadata, a) || slices.ContainsFunc(special4, within) {
			return &forbidden{shown, fmt.Sprintf("it leads to %s, which is not public", a)}
		}
		return nil
	}
	special := special4
	if a.Is6() {
		special = special6
		if !global6.Contains(a) {
			return &forbidden{shown, "it is not public"}
		}
	}
	if slices.ContainsFunc(special, within) {
		return &forbidden{shown, "it is not public"}
	}
	return nil
}

// neverAllowed is why addresses are refused that no configuration allows.
const neverAllowed = "it hands out credentials of the machine that asks, and is never allowed"

type forbidden struct{ address, why string }

func (e *forbidden) Error() string {
	if e.why == neverAllowed {
		return fmt.Sprintf("origins may not be at %s: %s", e.address, e.why)
	}
	return fmt.Sprintf("origins may not be at %s: %s. If this one is on your own network, add its range to the mirror's allowAddresses", e.address, e.why)
}
func (e *forbidden) Is(target error) bool { return target == ErrForbiddenAddress }

var (
	// metadata are the addresses at which clouds give machines credentials.
	metadata = []netip.Addr{
		netip.MustParseAddr("169.254.169.254"), // AWS, Google, Azure and others
		netip.MustParseAddr("fd00:ec2::254"),   // AWS
		netip.MustParseAddr("169.254.170.2"),   // AWS: containers
		netip.MustParseAddr("169.254.170.23"),  // AWS: pods
		netip.MustParseAddr("fd00:ec2::23"),    // AWS: pods
		netip.MustParseAddr("fd20:ce::254"),    // Google
		netip.MustParseAddr("168.63.129.16"),   // Azure
		netip.MustParseAddr("100.100.100.200"), // Alibaba
		netip.MustParseAddr("192.0.0.192"),     // Oracle
	}
	// special4 are the ranges of IANA's registry of special addresses, and
	// multicast.
	special4 = prefixes(
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
		"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	)
	// Of IPv6 only global unicast can be public; this leaves out all that is
	// local, multicast or holds an address of IPv4.
	global6 = netip.MustParsePrefix("2000::/3")
	// special6 are exceptions from it: tunnels (Teredo, 6to4), which hold
	// addresses of IPv4 too, and what is for protocols and documentation.
	special6 = prefixes("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
	nat64    = netip.MustParsePrefix("64:ff9b::/96")
)

func prefixes(texts ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		ps[i] = netip.MustParsePrefix(t)
	}
	return ps
}
