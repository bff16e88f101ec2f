//go:build !agent

package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// What docs/provisioner.md shows is right: the pool can be applied, and the
// policy allows what the provider does, and nothing else.
func TestWhatTheOperatorsGuideShows(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "provisioner.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := func(kind string) (list [][]byte) {
		for _, m := range regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllSubmatch(text, -1) {
			list = append(list, m[1])
		}
		return list
	}
	pool, err := graph.ParsePool("docs/provisioner.md", blocks("yaml")[0], graph.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{RootURL: "https://tasks.example.com"}
	p, err := c.openAWS(ProviderConfig{
		Type: "aws", Cluster: "production", Regions: []string{"us-east-1", "us-west-2"}, Accounts: []AccountConfig{{ID: cloudAccount}},
	}, func(aws.Account, string) aws.Clients { return aws.Clients{} }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.ParseSettings(pool.Definition.Config); err != nil {
		t.Error(err)
	}
	if list, err := p.Parse(pool.Definition.Config); err != nil || len(list) != 2 {
		t.Errorf("the pool has %d launch configurations, %v", len(list), err)
	}

	type statement struct{ Action json.RawMessage }
	var all []statement
	for _, b := range blocks("json") {
		var policy struct {
			statement
			Statement []statement
		}
		if err := json.Unmarshal(b, &policy); err != nil {
			t.Fatal(err)
		}
		all = append(all, append(policy.Statement, policy.statement)...)
	}
	allowed := []string{"sts:AssumeRole"} // in words
	for _, s := range all {
		var one string
		var many []string
		if json.Unmarshal(s.Action, &many) != nil && json.Unmarshal(s.Action, &one) == nil {
			many = []string{one}
		}
		allowed = append(allowed, many...)
	}
	slices.Sort(allowed)
	need := slices.Sorted(slices.Values(aws.Actions))
	if allowed = slices.Compact(allowed); !slices.Equal(allowed, need) {
		t.Errorf("the policies allow\n%q\nand the provider needs\n%q", allowed, need)
	}
}
