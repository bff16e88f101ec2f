package packages

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A setting is a line of a unit.
type setting struct{ name, value string }

func unit(t *testing.T, path string) (all []setting, first map[string]string) {
	t.Helper()
	first = map[string]string{}
	for line := range strings.Lines(read(t, path)) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "[") {
			continue
		}
		if !ok {
			t.Errorf("%s: %q is no setting", path, line)
		}
		all = append(all, setting{name, value})
		if _, there := first[name]; !there {
			first[name] = value
		}
	}
	return all, first
}

func TestUnits(t *testing.T) {
	for path, want := range map[string]struct{ command, user string }{
		"packaging/systemd/taskfleet.service":        {"serve", "taskfleet"},
		"packaging/systemd/taskfleet-worker.service": {"worker", "taskfleet-worker"},
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			_, is := unit(t, path)
			words := strings.Fields(is["ExecStart"])
			if words[0] != "/usr/local/bin/taskfleet" || words[1] != want.command {
				t.Fatalf("it starts %q", words)
			}
			checkCommandLine(t, words[1:])
			for i, w := range words {
				if w == "--data" && words[i+1] != "/var/lib/"+is["StateDirectory"] {
					t.Errorf("the data is in %s, and what may be written is /var/lib/%s", words[i+1], is["StateDirectory"])
				}
			}
			if is["User"] != want.user || !regexp.MustCompile(`(?m)^u `+want.user+` `).MatchString(read(t, "packaging/systemd/taskfleet.sysusers.conf")) {
				t.Errorf("it runs as %q, whom nobody makes", is["User"])
			}
			for name, value := range map[string]string{
				"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "CapabilityBoundingSet": "", "LimitNOFILE": "65536", "Restart": "always",
			} {
				if got, there := is[name]; !there || got != value {
					t.Errorf("%s is %q, not %q", name, got, value)
				}
			}
		})
	}
}

// What is added to a unit changes what is in it, or is about what is in the program.
func TestDropIns(t *testing.T) {
	_, server := unit(t, "packaging/systemd/taskfleet.service")
	all, _ := unit(t, "packaging/systemd/taskfleet.service.d/local-workers.conf")
	for _, s := range all {
		if was, there := server[s.name]; !there || was == s.value {
			t.Errorf("%s=%s changes nothing", s.name, s.value)
		}
	}
	_, is := unit(t, "packaging/systemd/taskfleet.service.d/credentials.conf")
	name, path, _ := strings.Cut(is["Environment"], "=")
	if !strings.Contains(help(t, "serve")+help(t, "config"), name) {
		t.Errorf("the program does not know %s", name)
	}
	if id, from, _ := strings.Cut(is["LoadCredential"], ":"); path != "%d/"+id || !filepath.IsAbs(from) {
		t.Errorf("secrets go by %s to %s", is["LoadCredential"], path)
	}
}
