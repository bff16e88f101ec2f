package moto

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscredentials "github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/taskfleet/taskfleet/credentials"
	kinds "github.com/taskfleet/taskfleet/credentials/aws"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/ownbody"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// Credentials of AWS are rotated twice, from minting to retiring, and published into a
// secret of Secrets Manager.
func TestCredentialsRotate(t *testing.T) {
	url := os.Getenv("TASKFLEET_TEST_MOTO")
	if url == "" {
		t.Fatal("TASKFLEET_TEST_MOTO is not set: run `make test`, which installs moto, starts it and says where it is")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	identity := awscredentials.NewStaticCredentialsProvider("test", "test", "")
	transport := &http.Transport{DisableKeepAlives: true} // nothing stays that the bubble would wait for
	config := aws.Config{Region: home, BaseEndpoint: &url, Credentials: identity, HTTPClient: ownbody.Client(&http.Client{Transport: transport})}
	name := fmt.Sprintf("rotated-%d", time.Now().UnixNano())
	users := iam.NewFromConfig(config)
	if _, err := users.CreateUser(t.Context(), &iam.CreateUserInput{UserName: &name}); err != nil {
		t.Fatal(err)
	}
	if _, err := users.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: aws.String(`{"Version": "2012-10-17", "Statement": []}`)}); err != nil {
		t.Fatal(err)
	}
	cloud := &kinds.Cloud{Endpoint: url, Transport: transport, Identity: identity}
	now := time.Now()
	const policy = `"policy": {"Version": "2012-10-17", "Statement": []}`
	for _, c := range []struct {
		name, settings string
		kind           credentials.Kind
	}{
		{"key", fmt.Sprintf(`{"user": %q}`, name), kinds.Keys{Cloud: cloud}},
		{"role", fmt.Sprintf(`{"role": "arn:aws:iam::%s:role/%s", "revoke": true, "tag": true, "duration": "12h", %s}`, account, name, policy), kinds.Sessions{Cloud: cloud}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(now)) // as moto's time is the real one
				vault := secretsmanager.NewFromConfig(config)
				made, err := vault.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String(name + c.name), SecretString: aws.String("{}")})
				if err != nil {
					t.Fatal(err)
				}
				published := func() string {
					t.Helper()
					out, err := vault.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: made.ARN})
					if err != nil {
						t.Fatal(err)
					}
					return *out.SecretString
				}
				e := engine(t, cloud, c.kind, c.settings, *made.ARN)
				before := ""
				for range 3 {
					rotate(t, e)
					now := published()
					if now == before || now == "{}" {
						t.Error("nothing was published, or what was before")
					}
					before = now
					if wrong, err := e.Verify(t.Context(), "it"); err != nil || wrong != "" {
						t.Errorf("what was published does not work: %q, %v", wrong, err)
					}
				}
				if c.name == "key" {
					left, err := users.ListAccessKeys(t.Context(), &iam.ListAccessKeysInput{UserName: &name})
					var s struct{ AccessKeyID string }
					if err := json.Unmarshal([]byte(before), &s); err != nil {
						t.Fatal(err)
					}
					if err != nil || len(left.AccessKeyMetadata) != 1 || *left.AccessKeyMetadata[0].AccessKeyId != s.AccessKeyID {
						t.Errorf("the keys are %+v, %v", left, err)
					}
				}
				if c.name == "role" {
					if _, err := users.GetRolePolicy(t.Context(), &iam.GetRolePolicyInput{RoleName: &name, PolicyName: aws.String("taskfleet-revoked-it")}); err != nil {
						t.Errorf("nothing was revoked: %v", err)
					}
				}
			})
		})
	}
}

// moto makes federated users, and takes what they sign for another's: what is theirs
// cannot be proved there.
func TestFederatedUsers(t *testing.T) {
	url := os.Getenv("TASKFLEET_TEST_MOTO")
	if url == "" {
		t.Fatal("TASKFLEET_TEST_MOTO is not set: run `make test`, which installs moto, starts it and says where it is")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	k := kinds.Sessions{Cloud: &kinds.Cloud{Endpoint: url, Identity: awscredentials.NewStaticCredentialsProvider("test", "test", "")}}
	settings := json.RawMessage(`{"duration": "12h", "tag": true, "policy": {"Version": "2012-10-17", "Statement": []}}`)
	m, err := k.Mint(t.Context(), credentials.Order{Credential: "it", ID: "fN1SbArXTPSVFNUvaOlinQ", Settings: settings})
	var public struct{ ARN, Name string }
	if json.Unmarshal(m.Public, &public); err != nil || public.Name != "taskfleet.fN1SbArXTPSVFNUvaOlinQ" || !strings.HasSuffix(public.ARN, "/"+public.Name) && !strings.HasSuffix(public.ARN, ":"+public.Name) {
		t.Errorf("minting: %s, %v", m.Public, err)
	}
	err = k.Prove(t.Context(), credentials.Version{ID: "fN1SbArXTPSVFNUvaOlinQ", Settings: settings, Public: m.Public, Secret: m.Secret})
	if err == nil || !strings.Contains(err.Error(), "takes the holder") {
		t.Errorf("moto knows federated users by now: rotate them as the others. Proving: %v", err)
	}
}

// engine is one that has a single credential.
func engine(t *testing.T, cloud *kinds.Cloud, kind credentials.Kind, settings, secret string) *credentials.Credentials {
	t.Helper()
	db := storetest.Open(t, storetest.URL(t, "sqlite"))
	bus, err := event.New(t.Context(), db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	c, err := credentials.New(t.Context(), credentials.Config{
		DB: db, Events: bus, Keys: keys, Log: slog.New(slog.DiscardHandler), Replica: "moto", Kinds: map[string]credentials.Kind{"kind": kind},
		Secrets: kinds.Secrets{Cloud: cloud},
		Definitions: []credentials.Definition{{
			Name: "it", Kind: "kind", Settings: json.RawMessage(settings), Overlap: 5 * time.Minute, Quiet: time.Minute, Grace: time.Minute,
			Consumers: []credentials.Use{{Name: "app", Secret: secret}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rotate has the credential be rotated, the first time for the first time.
func rotate(t *testing.T, c *credentials.Credentials) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 24*time.Hour)
	defer stop()
	if err := c.Rotate(ctx, "it", "tester"); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		for _, l := range c.Loops() {
			if l.Name == "credentials.rotate" {
				if _, err := l.Pass(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Minute)
	}
}
