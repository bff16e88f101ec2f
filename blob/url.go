package blob

import (
	"context"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// URLForms is every URL that the bucket's objects can be found under, ending in
// "/". The object's name is what follows, percent-encoded. On AWS the bucket can
// be in the host name or in the path, of a host that there are several of, and
// what of that is in use nobody can know.
func (b *Bucket) URLForms() []string {
	var forms []string
	for _, f := range b.forms() {
		forms = append(forms, f.String())
	}
	return forms
}

// ParseURL finds the key in an object's URL in any of [Bucket.URLForms], signed
// or not. It is false for a URL of anything else, and of an object that was not
// put there under a key (see [Spell]). On AWS http is as good as https.
func (b *Bucket) ParseURL(u *url.URL) (key string, ok bool) {
	if u == nil || u.User != nil || u.Opaque != "" {
		return "", false
	}
	at := place(u)
	for _, form := range b.forms() {
		if at.Host != form.Host || at.Scheme != form.Scheme && !(at.Scheme == "http" && b.store.isAWS()) {
			continue
		}
		// The path of a form is whole segments.
		want, have := strings.Split(form.EscapedPath(), "/"), strings.Split(u.EscapedPath(), "/")
		last := len(want) - 1
		if len(have) < len(want) || !slices.EqualFunc(want[:last], have[:last], sameSegment) {
			continue
		}
		name, err := url.PathUnescape(strings.Join(have[last:], "/"))
		if err != nil {
			continue
		}
		if key, ok := Unspell(name); ok {
			return key, true
		}
	}
	return "", false
}

func sameSegment(a, b string) bool {
	a, e := url.PathUnescape(a)
	b, f := url.PathUnescape(b)
	return e == nil && f == nil && a == b
}

// place is u without the parts that say nothing about which place it is.
func place(u *url.URL) *url.URL {
	p := &url.URL{Scheme: strings.ToLower(u.Scheme), Host: strings.ToLower(u.Host), Path: u.Path, RawPath: u.RawPath}
	if host, port, err := net.SplitHostPort(p.Host); err == nil && (port == "" || port == "80" && p.Scheme == "http" || port == "443" && p.Scheme == "https") {
		p.Host = host
		if strings.Contains(host, ":") {
			p.Host = "[" + host + "]"
		}
	}
	return p
}

// findForms takes longer than all else that is done with a URL.
func (b *Bucket) findForms() []url.URL {
	var forms []url.URL
	add := func(base url.URL, virtual bool) {
		if base = *place(&base); virtual {
			base.Host = b.name + "." + base.Host
		}
		base = *base.JoinPath("/")
		if !virtual {
			base = *base.JoinPath(b.name + "/")
		}
		if !slices.ContainsFunc(forms, func(f url.URL) bool { return f.String() == base.String() }) {
			forms = append(forms, base)
		}
	}
	s := b.store
	if s.endpoint != nil {
		if !s.path && net.ParseIP(s.endpoint.Hostname()) == nil {
			add(*s.endpoint, true)
		}
		add(*s.endpoint, false)
	}
	if s.isAWS() {
		for _, host := range hosts(s.region) {
			for _, virtual := range []bool{true, false} {
				if global := host == "s3.amazonaws.com"; !global || virtual || s.region == "us-east-1" {
					add(url.URL{Scheme: "https", Host: host}, virtual)
				}
			}
		}
	}
	return forms
}

// isAWS is true for AWS's own endpoint, by its name too.
func (s *Store) isAWS() bool {
	if s.endpoint == nil {
		return true
	}
	host := strings.ToLower(s.endpoint.Hostname())
	return strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn")
}

// hosts are those of S3 in a region: what the SDK knows, and those of former
// times, which stay.
func hosts(region string) []string {
	var all []string
	for _, stack := range []struct{ dual, fips bool }{{}, {dual: true}, {fips: true}, {true, true}} {
		if stack.fips && !strings.HasPrefix(region, "us-") && !strings.HasPrefix(region, "ca-") {
			continue
		}
		found, err := s3.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), s3.EndpointParameters{
			Region: &region, UseDualStack: &stack.dual, UseFIPS: &stack.fips, UseGlobalEndpoint: aws.Bool(false),
		})
		if err == nil {
			all = append(all, found.URI.Host)
		}
	}
	if partition(region) == "aws" {
		all = append(all, "s3.amazonaws.com", "s3-"+region+".amazonaws.com")
	}
	if region == "us-east-1" {
		all = append(all, "s3-external-1.amazonaws.com")
	}
	return all
}

// partition is which of AWS's separate worlds a region is in.
func partition(region string) string {
	for _, p := range []struct{ prefix, name string }{
		{"cn-", "aws-cn"}, {"us-gov-", "aws-us-gov"}, {"us-iso-", "aws-iso"}, {"us-isob-", "aws-iso-b"},
		{"eu-isoe-", "aws-iso-e"}, {"us-isof-", "aws-iso-f"}, {"eusc-", "aws-eusc"},
	} {
		if strings.HasPrefix(region, p.prefix) {
			return p.name
		}
	}
	return "aws"
}
