// Package statetest lends tests a bucket for terraform's states, locks included, without AWS: the project's own S3
// gateway, which answers a PUT with If-None-Match as S3 does. It also finds the terraform that tests run.
package statetest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/taskfleet/taskfleet/blob/blobtest"
)

// Terraform is the terraform, or tofu, that tests run: the one that TASKFLEET_TEST_TERRAFORM names, or the one on PATH.
func Terraform(t testing.TB) (path string) {
	t.Helper()
	if path := os.Getenv("TASKFLEET_TEST_TERRAFORM"); path != "" {
		return path
	}
	for _, name := range []string{"terraform", "tofu"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("terraform or tofu must be on PATH, or named by TASKFLEET_TEST_TERRAFORM; make test installs one")
	return ""
}

// A Backend is a bucket, and how to reach it.
type Backend struct {
	Endpoint        string // http://127.0.0.1:PORT
	Region          string
	AccessKeyID     string
	SecretAccessKey string
	Bucket          string

	client *s3.Client // not package blob, which spells keys in its own way
}

// Start serves a bucket until the end of the test.
func Start(t *testing.T) *Backend {
	t.Helper()
	c := blobtest.Start(t, t.TempDir(), "127.0.0.1:0").Blob()
	b := &Backend{
		Endpoint: c.Endpoint, Region: c.Region, AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey,
		Bucket: "states-" + strings.ToLower(rand.Text()),
		client: s3.New(s3.Options{
			BaseEndpoint: &c.Endpoint, Region: c.Region, UsePathStyle: true,
			Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, ""),
		}),
	}
	if _, err := b.client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &b.Bucket}); err != nil {
		t.Fatal(err)
	}
	return b
}

// Keys are those of all objects: of states, and of locks, which are those of their states with .tflock behind.
func (b *Backend) Keys(t *testing.T) []string {
	t.Helper()
	out, err := b.client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &b.Bucket})
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{}
	for _, o := range out.Contents {
		keys = append(keys, *o.Key)
	}
	return keys
}

// Get is the content of an object, such as a state.
func (b *Backend) Get(t *testing.T, key string) []byte {
	t.Helper()
	out, err := b.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.Bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	content, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Put makes or replaces an object.
func (b *Backend) Put(t *testing.T, key string, content []byte) {
	t.Helper()
	if _, err := b.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.Bucket, Key: &key, Body: bytes.NewReader(content)}); err != nil {
		t.Fatal(err)
	}
}

// Lock holds the lock of the state under a key, as if somebody else did. It can be broken with the id.
func (b *Backend) Lock(t *testing.T, key, id, who string) {
	t.Helper()
	lock, err := json.Marshal(map[string]any{
		"ID": id, "Operation": "OperationTypeApply", "Who": who, "Version": "1.11.4",
		"Created": time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), "Path": b.Bucket + "/" + key,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Put(t, key+".tflock", lock)
}

// Config is the content of a file *.tf with the backend, with native locks, for the state under a key. Credentials are
// not in it; see Env.
func (b *Backend) Config(key string) string {
	return fmt.Sprintf(`terraform {
  backend "s3" {
    bucket       = %q
    key          = %q
    region       = %q
    use_lockfile = true

    endpoints                   = { s3 = %q }
    use_path_style              = true
    skip_credentials_validation = true
    skip_requesting_account_id  = true
    skip_metadata_api_check     = true
    skip_region_validation      = true
  }
}
`, b.Bucket, key, b.Region, b.Endpoint)
}

// Env are the variables with the credentials, NAME=VALUE.
func (b *Backend) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + b.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + b.SecretAccessKey, "AWS_REGION=" + b.Region,
		// What the machine has configured otherwise is not asked.
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
	}
}
