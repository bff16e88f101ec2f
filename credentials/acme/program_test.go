package acme

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// asProgram has the test binary be the program that sets records.
const asProgram = "act-as-the-program-that-sets-records"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == asProgram {
		os.Exit(act(os.Args[2]))
	}
	os.Exit(m.Run())
}

// act keeps records in a directory: a file for each, with a line for each value.
func act(dir string) int {
	var r request
	if in, err := io.ReadAll(os.Stdin); err != nil || json.Unmarshal(in, &r) != nil || r.Version != 1 || string(r.Settings) != `{"zone":"z-secret"}` {
		fmt.Fprintln(os.Stderr, "this is not the contract")
		return exitRefused
	}
	if _, err := os.Stat(filepath.Join(dir, "slow-"+r.Action)); err == nil {
		os.Remove(filepath.Join(dir, "slow-"+r.Action))
		fmt.Fprintln(os.Stderr, "not everybody sees it yet, says z-secret")
		return 75
	}
	name := filepath.Join(dir, r.Name)
	text, _ := os.ReadFile(name)
	lines := slices.DeleteFunc(strings.Fields(string(text)), func(s string) bool { return s == r.Value })
	if r.Action == "present" {
		lines = append(lines, r.Value)
	}
	if len(lines) == 0 {
		os.Remove(name)
	} else if os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o600) != nil {
		return 1
	}
	return 0
}

// A wildcard and its domain have two values of one record, which a program of the
// operator sets and takes back; it may ask to be called again.
func TestAProgramSetsRecords(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		p, dir := newPlace(t, db), t.TempDir()
		dns := map[string]any{"command": []string{self, asProgram, dir}, "timeout": "100s", "settings": map[string]string{"zone": "z-secret"}}
		p.ca.answers = func(name, kind, token string) (string, error) {
			text, err := os.ReadFile(filepath.Join(dir, "_acme-challenge."+name))
			if kind != byDNS || err != nil {
				return "", err
			}
			for _, line := range strings.Fields(string(text)) {
				if n, _ := p.has(token, line); n {
					return line, nil
				}
			}
			return "", errors.New("there is no such record")
		}
		for _, slow := range []string{"present", "cleanup"} {
			if err := os.WriteFile(filepath.Join(dir, "slow-"+slow), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o := p.order("challenge", "dns-01", "dns", dns, "names", []string{"example.test", "*.example.test"}, "revoke", "leaked")
		if _, err := p.Mint(t.Context(), o); err == nil || final(err) || !strings.Contains(err.Error(), "not everybody sees it") || strings.Contains(err.Error(), "z-secret") {
			t.Fatalf("while it is not seen: %v", err)
		}
		m, err := p.Mint(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		v := versionOf(o, m)
		if err := p.Prove(t.Context(), v); err != nil {
			t.Error(err)
		}
		if got := p.count("acme_challenge"); got != "1" || !strings.Contains(p.log.String(), "could not be taken back") {
			t.Errorf("%s answers are to be taken back", got)
		}
		if err := p.Retire(t.Context(), v); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 || p.count("acme_challenge") != "0" {
			t.Errorf("%v is left", left)
		}
	})
}
