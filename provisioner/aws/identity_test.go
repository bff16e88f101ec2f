package aws_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"testing"
	"time"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/aws/identity"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

func (w *world) proof(r fleet.Ref, pkcs7 bool) json.RawMessage {
	w.t.Helper()
	id, err := w.cloud.Identity(r.WorkerID)
	if err != nil {
		w.t.Fatal(err)
	}
	m := map[string]string{"document": string(id.Document), "signature": id.Signature}
	if pkcs7 {
		m = map[string]string{"pkcs7": id.RSA2048}
	}
	text, err := json.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

func TestAWorkerProvesWhichInstanceItIs(t *testing.T) {
	each(t, func(t *testing.T, action, config string) {
		w := newWorld(t, awsfake.Config{Boot: awsfake.Boot{Median: 40 * time.Second}, Consistency: awsfake.Consistency{Delay: 5 * time.Second}}, nil)
		trust := func(c *provider.Config) {
			x, err := w.cloud.Certificate(home)
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = identity.Certificates{home: {x}, "us-west-2": []*x509.Certificate{x}}
		}
		w.restart(trust)
		w.define(config)
		w.look()
		w.start(6)
		refs := w.refs()
		w.pass(45 * time.Second) // no sweep in between
		before := w.calls("DescribeInstances")
		for i, r := range refs[:4] {
			row := w.rows[r]
			if err := w.p.Identify(t.Context(), w.now(), row, w.proof(r, i%2 == 0)); err != nil {
				t.Fatalf("number %d: %v", i, err)
			}
			var f provider.Facts
			if err := json.Unmarshal(row.Facts, &f); err != nil || f.PrivateIP == "" || f.Image == "" || f.Zone == "" || f.Account != account {
				t.Errorf("facts are %s", row.Facts)
			}
		}
		if n := w.calls("DescribeInstances") - before; n > 1 || action == "RunInstances" && n > 0 {
			t.Errorf("%d calls to find out what is known", n)
		}
		// Another's document, no document, a changed one, one that EC2 did not sign.
		for what, proof := range map[string]json.RawMessage{
			"another's": w.proof(refs[0], false), "nothing": json.RawMessage(`{}`), "no JSON": json.RawMessage(`1`), "a token": json.RawMessage(`{"token": "x"}`),
		} {
			if err := w.p.Identify(t.Context(), w.now(), w.rows[refs[5]], proof); !errors.Is(err, fleet.ErrNotMe) {
				t.Errorf("%s: %v", what, err)
			}
		}
		row := *w.rows[refs[5]]
		row.Facts = nil
		stranger := row
		stranger.WorkerID = "i-0123456789abcdef0"
		if err := w.p.Identify(t.Context(), w.now(), &stranger, w.proof(refs[5], false)); !errors.Is(err, fleet.ErrNotMe) {
			t.Errorf("of a worker that was not launched: %v", err)
		}
		w.restart(nil) // trusts what AWS publishes
		if err := w.p.Identify(t.Context(), w.now(), w.rows[refs[5]], w.proof(refs[5], false)); !errors.Is(err, fleet.ErrNotMe) {
			t.Errorf("signed by another: %v", err)
		}
		w.restart(trust)
		w.look()
		if err := w.p.Identify(t.Context(), w.now(), w.rows[refs[5]], w.proof(refs[5], true)); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	})
}
