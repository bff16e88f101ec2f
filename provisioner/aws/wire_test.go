package aws_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// Workers of several accounts, each by its role; one that may not be assumed is
// said to be so, and does not keep the others from working.
func TestAccountsByTheirRoles(t *testing.T) {
	const other, shut = "210987654321", "333333333333"
	id, secret := awsfake.Key(account)
	t.Setenv("AWS_ACCESS_KEY_ID", id)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	w := newWorld(t, awsfake.Config{Accounts: []string{account, other, shut}}, nil)
	w.clock = time.Now() // the SDK looks when credentials expire
	w.cloud.Deny(shut, awsfake.Denial{Action: "sts:AssumeRole"})
	s := httptest.NewServer(w.cloud.Handler())
	t.Cleanup(s.Close)
	clients, err := provider.SDK(t.Context(), s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.restart(func(c *provider.Config) {
		c.Clients = clients
		c.Regions = []string{home}
		for _, a := range []string{other, shut} {
			c.Accounts = append(c.Accounts, provider.Account{ID: a, Role: "arn:aws:iam::" + a + ":role/provisioner", ExternalID: "secret handshake"})
		}
	})
	config := strings.Replace(plain, `"region"`, `"account": "`+other+`", "region"`, 1)
	w.define(strings.Replace(config, "$x86_64", w.cloud.Surroundings(other, home).Images["x86_64"], 1))
	w.look()
	started, faults := w.start(2)
	if len(started) != 2 || len(faults) != 0 || !strings.Contains(string(started[0].Facts), other) {
		t.Fatalf("%+v %+v", started, faults)
	}
	w.pass(time.Minute)
	if got := w.states(); got != "2 alive" {
		t.Error(got)
	}
	w.define(strings.Replace(plain, `"region"`, `"account": "`+shut+`", "region"`, 1))
	plan := w.plan(w.need(2))
	if len(plan.Intents) != 0 || len(plan.Complaints) != 1 || plan.Complaints[0].Kind != fleet.KindAuth || !strings.Contains(plan.Complaints[0].Description, "sts:AssumeRole") {
		t.Errorf("a role that may not be assumed: %+v", plan)
	}
	findings, err := w.p.Validate(t.Context(), w.pool.Config)
	if err != nil || len(findings) != 1 || !strings.Contains(findings[0], "sts:AssumeRole") {
		t.Errorf("its validation: %v %v", findings, err)
	}
	// After a restart the account of a worker is found out.
	for i := range w.rows {
		w.rows[i].Facts = nil
	}
	w.restart(func(c *provider.Config) {
		c.Clients = clients
		c.Regions = []string{home}
		c.Accounts = append(c.Accounts, provider.Account{ID: other, Role: "arn:aws:iam::" + other + ":role/provisioner"})
	})
	for range 10 {
		w.look()
		w.stop(fleet.Now, false, w.refs()...)
		w.pass(time.Minute)
	}
	if n := w.cloud.Alive(); n != 0 || len(w.rows) != 0 {
		t.Errorf("%d are alive, %d workers", n, len(w.rows))
	}
}

// A code that is new is a refusal if EC2 says so by the status, and else may have
// been acted on: the SDK does not tell whose fault it was.
func TestNewCodesAreToldByTheStatus(t *testing.T) {
	id, secret := awsfake.Key(account)
	t.Setenv("AWS_ACCESS_KEY_ID", id)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	for status, again := range map[int]bool{400: false, 500: true} {
		w := newWorld(t, awsfake.Config{}, nil)
		s := httptest.NewServer(w.cloud.Handler())
		t.Cleanup(s.Close)
		clients, err := provider.SDK(t.Context(), s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.restart(func(c *provider.Config) { c.Clients = clients })
		w.define(plain)
		w.look()
		i := w.plan(w.need(1)).Intents[0]
		w.once("RunInstances", false, &awsfake.Error{Code: "ThisIsNew", Message: "Said the cloud", Status: status})
		if a := w.launch(i); a.Again != again || !again && (len(a.Faults) != 1 || a.Faults[0].Class != fleet.Broken) {
			t.Errorf("with the status %d: %+v", status, a)
		}
	}
}
