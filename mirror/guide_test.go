package mirror

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source"
)

// onAWS is a bucket of S3, which nobody asks.
func onAWS(t *testing.T, region, name string) *blob.Bucket {
	t.Helper()
	s, err := blob.Open(t.Context(), blob.Config{Region: region, AccessKeyID: "id", SecretAccessKey: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	return s.Bucket(name)
}

func TestEveryURLOfABucketIsItsOwn(t *testing.T) {
	site, err := source.New(source.Config{Allow: []string{"https://*.example.com/pub/", "https://archive.test/*/release/**", "http://[2001:db8::1]/x"}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGuide(t.Context(), Config{
		Home: "us-west-2", Artifacts: onAWS(t, "us-west-2", "artifacts"), HTTP: site,
		Regions: []Region{{Name: "us-east-1", Bucket: onAWS(t, "us-east-1", "copies-us")}, {Name: "cn-north-1", Bucket: onAWS(t, "cn-north-1", "copies-cn")}, {Name: "lab", Bucket: deskBucket(t, "copies-lab")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	const key = "fN1SbArXTPSVFNUvaOlinQ/0/public/a b"
	path := (&url.URL{Path: mustSpell(t, key)}).EscapedPath()
	for _, text := range []string{
		"https://artifacts.s3.us-west-2.amazonaws.com/" + path, "https://artifacts.s3-us-west-2.amazonaws.com/" + path,
		"https://s3.us-west-2.amazonaws.com/artifacts/" + path, "https://artifacts.s3.amazonaws.com/" + path + "?X-Amz-Signature=x",
		"http://artifacts.s3.us-west-2.amazonaws.com:80/" + path,
	} {
		if o, err := g.origin(text); err != nil || o != (Origin{Bucket: "artifacts", Key: key}) {
			t.Errorf("%s: %v, %v", text, o, err)
		}
	}
	for text, want := range map[string]error{
		"https://copies-us.s3.amazonaws.com/copies~/x":                   errIsCopy,
		"http://s3.test/copies-lab/copies~/x":                            errIsCopy,
		"https://artifacts.s3.us-west-2.amazonaws.com.evil.test/" + path: source.ErrNotAllowed,
		"https://example.com/pub/x":                                      source.ErrNotAllowed,
		"https://archive.test/pub/../secret":                             source.ErrInvalidURL,
		"http://169.254.169.254/latest/meta-data/":                       source.ErrNotAllowed,
		"": source.ErrInvalidURL,
	} {
		if o, err := g.origin(text); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v; want %v", text, o, err, want)
		}
	}
	if o, err := g.origin("HTTPS://Cdn.Example.com/pub/%7Ex"); err != nil || o.URL != "https://cdn.example.com/pub/~x" {
		t.Error(o, err)
	}
	g.http = nil
	if _, err := g.origin("https://cdn.example.com/pub/x"); !errors.Is(err, errNoHTTP) {
		t.Error(err)
	}
}

func TestAConfigurationThatCannotWorkIsFoundAtTheStart(t *testing.T) {
	artifacts := onAWS(t, "us-west-2", "artifacts")
	for want, regions := range map[string][]Region{
		"has a name and a bucket":                    {{Name: "", Bucket: artifacts}},
		"is where the artifacts are":                 {{Name: "us-west-2", Bucket: artifacts}},
		"two regions called eu":                      {{Name: "eu", Bucket: onAWS(t, "eu-west-1", "a")}, {Name: "eu", Bucket: onAWS(t, "eu-west-1", "b")}},
		"is not understood as the URL of the object": {{Name: "eu", Bucket: onAWS(t, "us-west-2", "artifacts")}},
	} {
		_, err := newGuide(t.Context(), Config{Home: "us-west-2", Artifacts: artifacts, Regions: regions})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
		if err != nil && strings.Contains(err.Error(), "Signature") {
			t.Errorf("a signature leaks: %v", err)
		}
	}
}
