//go:build !agent

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// databaseState asks the command for the state of each migration, by "service name".
func databaseState(t *testing.T, config string, code int) map[string]string {
	t.Helper()
	out, errOut, got := command(t, "database", "status", "--config", config, "--json")
	var answer struct{ Migrations []databaseMigration }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || got != code {
		t.Fatalf("status ended with %d, want %d: %v\n%s%s", got, code, err, out, errOut)
	}
	states := map[string]string{}
	for _, m := range answer.Migrations {
		states[m.Service+" "+m.Name] = m.State
	}
	return states
}

// TestDatabaseIsMigratedAsAServerDoes compares what the command leaves in a database with what a start leaves that has every
// service turned on: a service that package taskfleet does not know by its name would be missing in one of the two.
func TestDatabaseIsMigratedAsAServerDoes(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		config := writeFile(t, "taskfleet.yml", fmt.Sprintf("data: %s\nlisten: 127.0.0.1:0\ndatabase: %q\nmirror: {home: here, regions: [{name: there}]}\n", filepath.Join(t.TempDir(), "data"), url))
		for m, state := range databaseState(t, config, exitPending) {
			if state != migrationPending {
				t.Errorf("%s is %s in an empty database", m, state)
			}
		}
		out, errOut, code := command(t, "database", "migrate", "--config", config)
		if code != exitOK || !strings.Contains(out, "applied  store 0001_lease.sql\n") || !strings.Contains(out, "applied  queue 0001_") {
			t.Fatalf("migrate ended with %d:\n%s%s", code, out, errOut)
		}
		expect(t, exitOK, "nothing to do", "database", "migrate", "--config", config)
		states := databaseState(t, config, exitOK)

		c := defaultConfig()
		if err := errors.Join(c.read(config), c.check()); err != nil {
			t.Fatal(err)
		}
		p, err := startPlatform(t.Context(), c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("a server does not start on what was migrated: %v", err)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := databaseState(t, config, exitOK)
		for m := range after {
			if states[m] == "" {
				t.Errorf("a start has applied %s, which database migrate does not know under this name", m)
			}
		}

		// Somebody newer was here.
		db := storetest.Open(t, url)
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`INSERT INTO migration (service, name) VALUES ('queue', '9999_later.sql')`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got := databaseState(t, config, exitNewer)["queue 9999_later.sql"]; got != migrationNewer {
			t.Errorf("a migration that this program does not have is %q", got)
		}
		expect(t, exitFailed, "holds 9999_later.sql of queue.*run the newer one", "database", "migrate", "--config", config)
	})
}

func TestDatabaseOfARunningServerInAFileIsLeftAlone(t *testing.T) {
	p := startReal(t)
	expect(t, exitFailed, "another taskfleet is running on the data directory", "database", "migrate", "--data", p.Data)
	expect(t, exitPending, "mirror +0001.*pending", "database", "status", "--data", p.Data)
}

func TestEveryServiceHasMigrationsUnderItsName(t *testing.T) {
	list, err := compareMigrations(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"acme", "auth", "credentials", "credentials-audit", "event", "keys", "purge-cache", "queue", "sentry", "store"} {
		if !slices.ContainsFunc(list, func(m databaseMigration) bool { return m.Service == service }) {
			t.Errorf("no migration of %s is known", service)
		}
	}
}
