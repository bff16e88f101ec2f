//go:build moto

package aws_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// The wire format has a second opinion: the same calls on moto, an imitation of
// AWS that is not ours. It needs `pip install 'moto[server]'`:
//
//	go test -tags moto -run TestOnMoto ./provisioner/aws
//
// moto launches MinCount instances, forgets client tokens and has neither
// quotas nor identity documents that are signed, so this is one worker's story
// and not the whole suite.
func TestOnMoto(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	server := exec.CommandContext(t.Context(), "moto_server", "-H", "127.0.0.1", "-p", port)
	if err := server.Start(); err != nil {
		t.Fatalf("moto cannot be started (%v); install it by pip install 'moto[server]'", err)
	}
	t.Cleanup(func() { server.Wait() })
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			break
		} else if time.Since(began) > time.Minute {
			t.Fatal(err)
		}
	}
	clients, err := provider.SDK(t.Context(), "http://127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	open := func() *provider.Provider {
		p, err := provider.New(provider.Config{
			Cluster: "moto", RootURL: rootURL, Accounts: []provider.Account{{ID: account}}, Regions: []string{home},
			Clients: func(a provider.Account, region string) provider.Clients {
				c := clients(a, region)
				c.Quotas = nil
				return c
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const image = "ami-03cf127a" // one of those that moto has
	one := func(config string) json.RawMessage {
		return json.RawMessage(strings.NewReplacer("$x86_64", image, `"KeyName": "default"`, `"EbsOptimized": true`).Replace(config))
	}
	var pools []*fleet.Pool
	for name, config := range forms {
		pools = append(pools, &fleet.Pool{ID: fmt.Sprintf("moto/%s", name), ProviderID: "aws", Owner: "who@example.com", Config: one(config)})
	}
	story(t, open, pools...)
}
