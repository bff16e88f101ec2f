package aws

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/taskfleet/taskfleet/timestamp"
)

type platform map[string]string

func (p platform) Set(_ context.Context, name string, value json.RawMessage, _ timestamp.Time) error {
	p[name] = string(value)
	return nil
}

func TestASecretIsPublishedWhereItsNameSays(t *testing.T) {
	const there = "arn:aws:secretsmanager:eu-central-1:" + account + ":secret:builds/database-AbCdEf"
	synctest.Test(t, func(t *testing.T) {
		f, own := newFake(t, "aws-secrets-manager.json"), platform{}
		s := Secrets{f.cloud(), own}
		set := func(name string) error {
			return s.Set(t.Context(), name, json.RawMessage(`{"password":"hunter2"}`), timestamp.Now())
		}
		if err := set(there); err == nil || !strings.Contains(err.Error(), "can't find") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a secret that is not there: %v", err)
		}
		f.secrets[there] = ""
		f.once("secretsmanager:PutSecretValue", true, unavailable)
		if err := set(there); err != nil || f.secrets[there] != `{"password":"hunter2"}` || len(own) > 0 {
			t.Errorf("%v, %q, %v", err, f.secrets, own)
		}
		if err := set("project/a"); err != nil || own["project/a"] == "" || f.calls["secretsmanager:PutSecretValue"] != 3 {
			t.Errorf("%v, %v, %v", err, own, f.calls)
		}
		for name, says := range map[string]string{
			"arn:aws:secretsmanager:eu-central-1:" + account + ":secret:another-AbCdEf": "AccessDenied", "arn:aws:s3:::bucket": "neither", "arn:aws": "neither",
		} {
			if err := set(name); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", name, err)
			}
		}
		f.used()
	})
}
