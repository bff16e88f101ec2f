// Package blobtest tells whether an S3 endpoint does what package blob needs,
// and lends tests of other packages a bucket.
package blobtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"os"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/gateway"
)

// Gateway is a store on a gateway of the test's own, with its data in a
// directory that goes with the test.
func Gateway(t *testing.T) *blob.Store {
	t.Helper()
	return store(t, Start(t, t.TempDir(), "127.0.0.1:0").Blob())
}

// Start runs a gateway until the end of the test. What it keeps is not
// synchronised with the disk, for speed.
func Start(t testing.TB, directory, listen string) *gateway.Gateway {
	t.Helper()
	g, err := gateway.Start(t.Context(), gateway.Config{
		Directory: directory, Listen: listen, AccessKeyID: "test", SecretAccessKey: rand.Text(), NoSync: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// Endpoint is a store on the S3 endpoint that the environment names:
//
//	TASKFLEET_TEST_S3_ENDPOINT           its URL
//	TASKFLEET_TEST_S3_REGION             us-east-1 if not set
//	TASKFLEET_TEST_S3_ACCESS_KEY_ID      neither: what the AWS SDK finds
//	TASKFLEET_TEST_S3_SECRET_ACCESS_KEY
//	TASKFLEET_TEST_S3_VIRTUAL_HOST       not empty: the bucket goes into the host name
//	TASKFLEET_TEST_S3_IMITATION          not empty: it is one, such as moto (see RunFormat)
//
// named is false if the first is not set.
func Endpoint() (open func(t *testing.T) *blob.Store, imitation, named bool) {
	c := blob.Config{
		Endpoint:        os.Getenv("TASKFLEET_TEST_S3_ENDPOINT"),
		Region:          cmp.Or(os.Getenv("TASKFLEET_TEST_S3_REGION"), "us-east-1"),
		AccessKeyID:     os.Getenv("TASKFLEET_TEST_S3_ACCESS_KEY_ID"),
		SecretAccessKey: os.Getenv("TASKFLEET_TEST_S3_SECRET_ACCESS_KEY"),
		PathStyle:       os.Getenv("TASKFLEET_TEST_S3_VIRTUAL_HOST") == "",
	}
	open = func(t *testing.T) *blob.Store {
		t.Helper()
		return store(t, c)
	}
	return open, os.Getenv("TASKFLEET_TEST_S3_IMITATION") != "", c.Endpoint != ""
}

func store(t *testing.T, c blob.Config) *blob.Store {
	t.Helper()
	s, err := blob.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Bucket is a bucket of the test's own. With its contents it goes with the test.
func Bucket(t *testing.T, s *blob.Store) *blob.Bucket {
	t.Helper()
	b := s.Bucket("test-" + strings.ToLower(rand.Text()))
	if err := b.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { empty(t, b) })
	return b
}

func empty(t *testing.T, b *blob.Bucket) {
	ctx := context.WithoutCancel(t.Context()) // which has ended, in a cleanup
	var keys []string
	for o, err := range b.List(ctx, "") {
		if err != nil {
			t.Error(err)
			return
		}
		keys = append(keys, o.Key)
	}
	if err := b.Delete(ctx, keys...); err != nil {
		t.Error(err)
	}
	for u, err := range b.Uploads(ctx, "") {
		if err != nil {
			t.Error(err)
			return
		}
		if err := b.AbortMultipart(ctx, u.Key, u.ID); err != nil {
			t.Error(err)
		}
	}
	if err := b.Remove(ctx); err != nil {
		t.Error(err)
	}
}
