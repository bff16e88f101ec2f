package mirror

import (
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
)

// Two regions with one bucket would delete each other's copies, however the bucket
// is written.
func TestBucketsAreComparedByWhatTheyAre(t *testing.T) {
	at := func(endpoint, region string, pathStyle bool, name string) *blob.Bucket {
		t.Helper()
		s, err := blob.Open(t.Context(), blob.Config{Endpoint: endpoint, Region: region, PathStyle: pathStyle, AccessKeyID: "id", SecretAccessKey: "secret"})
		if err != nil {
			t.Fatal(err)
		}
		return s.Bucket(name)
	}
	artifacts := at("", "us-west-2", false, "artifacts")
	for _, c := range []struct {
		one, other *blob.Bucket
		same       bool
	}{
		{at("http://s3.test", "a", true, "x"), at("http://s3.test/", "b", true, "x"), true},
		{at("http://s3.test", "a", true, "x"), at("http://S3.test:80", "a", true, "x"), true},
		{at("http://s3.test", "a", true, "x"), at("https://s3.test", "a", true, "x"), true},
		{at("http://s3.test", "a", true, "x"), at("http://s3.test", "a", false, "x"), true},
		{at("http://s3.test", "a", true, "x"), at("http://s3.test", "a", true, "y"), false},
		{at("http://s3.test", "a", true, "x"), at("http://s3.test:9000", "a", true, "x"), false},
		{at("http://s3.test/one", "a", true, "x"), at("http://s3.test/two", "a", true, "x"), false},
		{at("", "us-east-1", false, "x"), at("", "eu-west-1", false, "x"), true}, // AWS has one of each name
		{at("", "us-east-1", false, "x"), at("", "cn-north-1", false, "x"), false},
		{at("", "us-east-1", false, "x"), at("https://s3.us-east-1.amazonaws.com", "us-east-1", false, "x"), true},
	} {
		if SameBucket(c.one, c.other) != c.same || SameBucket(c.other, c.one) != c.same {
			t.Errorf("%s and %s: want %v", c.one.URLForms()[0], c.other.URLForms()[0], c.same)
		}
		_, err := newGuide(t.Context(), Config{Home: "us-west-2", Artifacts: artifacts, Regions: []Region{{Name: "one", Bucket: c.one}, {Name: "other", Bucket: c.other}}})
		if (err != nil) != c.same || err != nil && !strings.Contains(err.Error(), "of other is the one of one, too") {
			t.Errorf("%s and %s as regions: %v", c.one.URLForms()[0], c.other.URLForms()[0], err)
		}
	}
	_, err := newGuide(t.Context(), Config{Home: "us-west-2", Artifacts: artifacts, Regions: []Region{{Name: "eu", Bucket: at("", "eu-west-1", false, "artifacts")}}})
	if err == nil || !strings.Contains(err.Error(), "of eu is the one of us-west-2, too") {
		t.Errorf("with the bucket of artifacts: %v", err)
	}
	for _, name := range []string{everywhere, ofCaller} {
		if !Reserved(name) {
			t.Errorf("a region can be called %s", name)
		}
	}
}
