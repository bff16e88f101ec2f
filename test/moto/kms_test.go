package moto

import (
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/taskfleet/taskfleet/seal"
	sealkms "github.com/taskfleet/taskfleet/seal/kms"
)

// The keys that secrets are sealed with, under a KMS key: made, read again by the next server, and told from what was
// encrypted under another key or was changed.
func TestSealKeysUnderKMS(t *testing.T) {
	url := os.Getenv("TASKFLEET_TEST_MOTO")
	if url == "" {
		t.Fatal("TASKFLEET_TEST_MOTO is not set: run `make test`, which installs moto, starts it and says where it is")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	identity := credentials.NewStaticCredentialsProvider("test", "test", "")
	service := kms.New(kms.Options{Region: home, BaseEndpoint: aws.String(url), Credentials: identity})
	var arns []string
	for range 2 {
		made, err := service.CreateKey(t.Context(), &kms.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		arns = append(arns, *made.KeyMetadata.Arn)
	}
	c, err := sealkms.Open(t.Context(), sealkms.Config{Region: home, Endpoint: url, Credentials: identity})
	if err != nil {
		t.Fatal(err)
	}
	line, err := c.NewKey(t.Context(), arns[0])
	if err != nil {
		t.Fatal(err)
	}
	first, err := seal.ParseKeysWith(line, c.ParseKey(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	next, err := seal.ParseKeysWith(line, c.ParseKey(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := next.Open(first.Seal([]byte("hunter2"), "place"), "place"); err != nil || string(secret) != "hunter2" {
		t.Errorf("the next server opens %q, %v", secret, err)
	}
	for what, bad := range map[string]string{
		"another KMS key": strings.Replace(line, arns[0], arns[1], 1),
		"a changed line":  line[:len(line)-8] + "AAAAAAAA",
	} {
		if _, err := seal.ParseKeysWith(bad, c.ParseKey(t.Context())); err == nil {
			t.Errorf("%s: it was decrypted", what)
		}
	}
}
