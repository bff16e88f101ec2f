package blob_test

import (
	"net/url"
	"slices"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
)

func TestURLForms(t *testing.T) {
	for _, c := range []struct {
		name   string
		config blob.Config
		want   []string
	}{
		{"AWS", blob.Config{Region: "eu-central-1"}, []string{
			"https://bucket.s3.eu-central-1.amazonaws.com/", "https://s3.eu-central-1.amazonaws.com/bucket/",
			"https://bucket.s3.dualstack.eu-central-1.amazonaws.com/", "https://s3.dualstack.eu-central-1.amazonaws.com/bucket/",
			"https://bucket.s3.amazonaws.com/",
			"https://bucket.s3-eu-central-1.amazonaws.com/", "https://s3-eu-central-1.amazonaws.com/bucket/",
		}},
		{"AWS's first region", blob.Config{Region: "us-east-1"}, []string{
			"https://bucket.s3.us-east-1.amazonaws.com/", "https://s3.us-east-1.amazonaws.com/bucket/",
			"https://bucket.s3.dualstack.us-east-1.amazonaws.com/", "https://s3.dualstack.us-east-1.amazonaws.com/bucket/",
			"https://bucket.s3-fips.us-east-1.amazonaws.com/", "https://s3-fips.us-east-1.amazonaws.com/bucket/",
			"https://bucket.s3-fips.dualstack.us-east-1.amazonaws.com/", "https://s3-fips.dualstack.us-east-1.amazonaws.com/bucket/",
			"https://bucket.s3.amazonaws.com/", "https://s3.amazonaws.com/bucket/",
			"https://bucket.s3-us-east-1.amazonaws.com/", "https://s3-us-east-1.amazonaws.com/bucket/",
			"https://bucket.s3-external-1.amazonaws.com/", "https://s3-external-1.amazonaws.com/bucket/",
		}},
		{"China", blob.Config{Region: "cn-north-1"}, []string{
			"https://bucket.s3.cn-north-1.amazonaws.com.cn/", "https://s3.cn-north-1.amazonaws.com.cn/bucket/",
			"https://bucket.s3.dualstack.cn-north-1.amazonaws.com.cn/", "https://s3.dualstack.cn-north-1.amazonaws.com.cn/bucket/",
		}},
		{"a gateway", blob.Config{Region: "us-east-1", Endpoint: "http://127.0.0.1:9000", PathStyle: true}, []string{"http://127.0.0.1:9000/bucket/"}},
		{"an endpoint with a path", blob.Config{Region: "us-east-1", Endpoint: "https://S3.example.com:443/dir/", PathStyle: true}, []string{"https://s3.example.com/dir/bucket/"}},
		{"an endpoint with hosts", blob.Config{Region: "us-east-1", Endpoint: "https://s3.example.com"}, []string{
			"https://bucket.s3.example.com/", "https://s3.example.com/bucket/",
		}},
	} {
		c.config.AccessKeyID, c.config.SecretAccessKey = "id", "secret"
		b := store(t, c.config).Bucket("bucket")
		forms := b.URLForms()
		if !slices.Equal(forms, c.want) {
			t.Errorf("%s: %q, want %q", c.name, forms, c.want)
		}
		for _, f := range forms { // which is what the mirror tries at its start
			u, err := url.Parse(f + "dir~/key%20~7e?X-Amz-Signature=abc")
			if err != nil {
				t.Fatal(err)
			}
			if key, ok := b.ParseURL(u); !ok || key != "dir/key ~" {
				t.Errorf("%s: %s is of %q, %v", c.name, u, key, ok)
			}
		}
	}
}

func TestParseURL(t *testing.T) {
	aws := store(t, blob.Config{Region: "us-west-2", AccessKeyID: "id", SecretAccessKey: "secret"})
	gateway := store(t, blob.Config{Region: "us-east-1", Endpoint: "http://[::1]:9000", PathStyle: true, AccessKeyID: "id", SecretAccessKey: "secret"})
	for _, c := range []struct {
		bucket    *blob.Bucket
		url, want string // "": of no object of it
	}{
		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com/task~/0~/public~/a.txt", "task/0/public/a.txt"},
		{aws.Bucket("b"), "http://b.s3.us-west-2.amazonaws.com/a", "a"},
		{aws.Bucket("b"), "http://b.s3.us-west-2.amazonaws.com:80/a", "a"},
		{aws.Bucket("b"), "HTTPS://B.S3.US-west-2.amazonaws.com:443/a?x=1#y", "a"},
		{aws.Bucket("b"), "https://s3-us-west-2.amazonaws.com/b/a~%2Fb", "a/b"},
		{aws.Bucket("b"), "https://s3.us-west-2.amazonaws.com/%62/a", "a"},
		{aws.Bucket("b"), "https://b.s3.amazonaws.com/%C3%BC+%25", "ü+%"},
		{aws.Bucket("b.dotted"), "https://b.dotted.s3.us-west-2.amazonaws.com/a", "a"},

		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com/", ""},
		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com", ""},
		{aws.Bucket("b"), "https://s3.us-west-2.amazonaws.com/b", ""},
		{aws.Bucket("b"), "https://s3.us-west-2.amazonaws.com/bb/a", ""},
		{aws.Bucket("b"), "https://s3.us-west-2.amazonaws.com/b%2Fa", ""},
		{aws.Bucket("b"), "https://s3.us-west-2.amazonaws.com//b/a", ""},
		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com.evil.example/a", ""},
		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com@evil.example/a", ""},
		{aws.Bucket("b"), "https://evil.example/b.s3.us-west-2.amazonaws.com/a", ""},
		{aws.Bucket("b"), "https://user:password@b.s3.us-west-2.amazonaws.com/a", ""},
		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com:8443/a", ""},
		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com./a", ""},
		{aws.Bucket("b"), "https://c.b.s3.us-west-2.amazonaws.com/a", ""},
		{aws.Bucket("b"), "https://b.s3.us-east-1.amazonaws.com/a", ""},
		{aws.Bucket("b"), "https://s3.amazonaws.com/b/a", ""}, // which is us-east-1
		{aws.Bucket("b"), "ftp://b.s3.us-west-2.amazonaws.com/a", ""},
		{aws.Bucket("b"), "//b.s3.us-west-2.amazonaws.com/a", ""},
		{aws.Bucket("b"), "/a", ""},
		{aws.Bucket("b"), "https:b.s3.us-west-2.amazonaws.com/a", ""},
		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com/a/../b", ""}, // no name that Spell makes
		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com/a/b", ""},
		{aws.Bucket("b"), "https://b.s3.us-west-2.amazonaws.com/%2e%2e", ""},

		{gateway.Bucket("b"), "http://[::1]:9000/b/a", "a"},
		{gateway.Bucket("b"), "https://[::1]:9000/b/a", ""},
		{gateway.Bucket("b"), "http://[::1]/b/a", ""},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		if key, ok := c.bucket.ParseURL(u); key != c.want || ok != (c.want != "") {
			t.Errorf("%s is of %q, %v; want %q", c.url, key, ok, c.want)
		}
	}
	if _, ok := aws.Bucket("b").ParseURL(nil); ok {
		t.Error("no URL is one")
	}
}
