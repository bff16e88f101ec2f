package region

import (
	"net/http"
	"net/netip"
	"strings"
)

// hops is how many entries of forwarding headers are looked at: far more than
// there are proxies in a row.
const hops = 32

// Client is the address of the caller: of the peer, or where that is a trusted
// proxy, the one on whose behalf it asks. Every proxy appends to what it was
// sent, so only the right end is to be believed: this goes to the left from
// there, over addresses of trusted proxies, to the first that is none. What is no
// address ends the walk at the proxy that wrote it.
//
// X-Forwarded-For is what proxies have in common; Forwarded counts where there is
// none. A proxy that writes the latter has to remove the former.
//
// The zero address means that the peer has none, as with Unix sockets.
func (f *Finder) Client(remoteAddr string, h http.Header) netip.Addr {
	at := parseAddress(remoteAddr)
	lines, element := h["X-Forwarded-For"], lastListed
	if len(lines) == 0 {
		lines, element = h["Forwarded"], lastForwarded
	}
	line := len(lines) - 1
	if line < 0 {
		return at
	}
	rest := lines[line]
	for range hops {
		if !at.IsValid() || !f.trusted.Contains(at) {
			break
		}
		text, before, more := element(rest)
		next := parseAddress(text)
		if !next.IsValid() {
			break
		}
		at = next
		switch {
		case more:
			rest = before
		case line > 0:
			line--
			rest = lines[line]
		default:
			return at
		}
	}
	return at
}

// lastListed is the last element of X-Forwarded-For, and what is before it.
func lastListed(list string) (text, before string, more bool) {
	i := strings.LastIndexByte(list, ',')
	return strings.Trim(list[i+1:], " \t"), list[:max(i, 0)], i >= 0
}

// lastForwarded is what the last element of Forwarded has as its for, say
//
//	proto=https;for="[2001:db8::1]:4711"
//
// "" if it has none, and what is before that element.
func lastForwarded(list string) (text, before string, more bool) {
	i := lastUnquoted(list, ',')
	element, before, more := list[i+1:], list[:max(i, 0)], i >= 0
	if strings.Contains(element, `\`) {
		return "", before, more
	}
	for {
		i = lastUnquoted(element, ';')
		key, value, _ := strings.Cut(strings.Trim(element[i+1:], " \t"), "=")
		switch {
		case strings.EqualFold(key, "for"):
			if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
				value = value[1 : n-1]
			}
			return value, before, more
		case i < 0:
			return "", before, more
		}
		element = element[:i]
	}
}

// lastUnquoted is the place of the last separator that is not in a quoted string,
// -1 if there is none. It looks from the right, where what is written can be
// believed: a quotation mark that the caller has left open swallows nothing of
// that. An escape makes this ambiguous and is not looked beyond; no address needs
// one.
func lastUnquoted(text string, separator byte) int {
	quoted := false
	for i := len(text) - 1; i >= 0; i-- {
		switch c := text[i]; {
		case c == '\\':
			return -1
		case c == '"':
			quoted = !quoted
		case c == separator && !quoted:
			return i
		}
	}
	return -1
}

// parseAddress reads an address with or without a port, a zone, brackets. The zero
// address is none.
func parseAddress(text string) netip.Addr {
	if len(text) > 100 {
		return netip.Addr{}
	}
	colon, bracketed := strings.IndexByte(text, ':'), strings.HasPrefix(text, "[")
	switch {
	case bracketed && strings.HasSuffix(text, "]"):
		if a, err := netip.ParseAddr(text[1 : len(text)-1]); err == nil && a.Is6() {
			return plain(a)
		}
	case bracketed || colon >= 0 && colon == strings.LastIndexByte(text, ':'):
		if p, err := netip.ParseAddrPort(text); err == nil {
			return plain(p.Addr())
		}
	default:
		if a, err := netip.ParseAddr(text); err == nil {
			return plain(a)
		}
	}
	return netip.Addr{}
}

// plain is an address without zone, and IPv4 where it is that.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
