//go:build !agent

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/store"
)

// Exit codes of taskfleet database status.
const (
	exitPending = 3
	exitNewer   = 4
)

func newDatabaseCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "database", Short: "Migrate the platform's database, and tell how far it is",
		Long: `A server migrates its database when it starts. These commands do that, and tell how far it is, without starting anything:
before a new version is rolled out, and in a job that runs once.`,
	}, newDatabaseStatusCommand(), newDatabaseMigrateCommand())
}

// States of a migration.
const (
	migrationApplied = "applied"
	migrationPending = "pending"
	migrationNewer   = "newer" // the database has it, this program does not
)

// A databaseMigration is a migration as it stands.
type databaseMigration struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	State   string `json:"state"`
}

func newDatabaseStatusCommand() *cobra.Command {
	var flags configFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show which migrations are applied, pending, or newer than this program",
		Long: `Shows which migrations the configured database has, which this program would apply, and which it does not know because a
newer one has applied them. Nothing is changed.

Exit codes: 0 nothing is pending; 3 some are, and the next start or taskfleet database migrate applies them; 4 the database
is newer, and this program does not start on it; 1 it could not be found out; 2 the command line is wrong.`,
		Example: "  taskfleet database status --config taskfleet.yml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.loadDatabase()
			if err != nil {
				return err
			}
			list, err := c.migrationStatus(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), map[string]any{"migrations": list})
			} else {
				t := &table{head: []string{"SERVICE", "MIGRATION", "STATE"}}
				for _, m := range list {
					t.add(m.Service, m.Name, m.State)
				}
				err = t.print(cmd.OutOrStdout())
			}
			pending, newer := migrationsThatAre(list, migrationPending), migrationsThatAre(list, migrationNewer)
			switch {
			case err != nil:
				return err
			case len(newer) > 0:
				return &codedError{newerError(newer), exitNewer}
			case len(pending) > 0:
				return &codedError{fmt.Errorf("%s pending: the next start applies them, or taskfleet database migrate", plural(len(pending), "migration")), exitPending}
			}
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	flags.add(cmd.Flags())
	return cmd
}

func newDatabaseMigrateCommand() *cobra.Command {
	var flags configFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "migrate", Short: "Bring the database to what this program expects, and end",
		Long: `Applies the migrations that the configured database does not have, each service's in one transaction, one process at a
time, as a server does when it starts. There is no way back but a backup. Replicas of the version before go on meanwhile; where that is a
problem docs/operations.md says so, by version.

A database in a file is that of one server: stop it first, and be its user, whom the file belongs to. Services that the configuration
has not turned on get their tables, too. What another process applies at the same moment is told as applied, as well.`,
		Example: "  taskfleet database migrate --config taskfleet.yml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.loadDatabase()
			if err != nil {
				return err
			}
			var done []databaseMigration
			err = c.migrateDatabase(cmd.Context(), func(m databaseMigration) {
				done = append(done, m)
				if !asJSON {
					fmt.Fprintf(cmd.OutOrStdout(), "applied  %s %s\n", m.Service, m.Name)
				}
			})
			if asJSON {
				if done == nil {
					done = []databaseMigration{}
				}
				return errors.Join(err, printJSON(cmd.OutOrStdout(), map[string]any{"applied": done}))
			}
			if err == nil && len(done) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to do: the database has all migrations of this program")
			}
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	flags.add(cmd.Flags())
	return cmd
}

// loadDatabase reads the configuration, and where the database is.
func (f *configFlags) loadDatabase() (Config, error) {
	c, err := f.load()
	if err != nil {
		return c, err
	}
	err = newReload().readDatabaseFile(&c)
	return c, err
}

func migrationsThatAre(list []databaseMigration, state string) (some []databaseMigration) {
	for _, m := range list {
		if m.State == state {
			some = append(some, m)
		}
	}
	return some
}

func newerError(newer []databaseMigration) error {
	return fmt.Errorf("the database was migrated by a newer taskfleet: it holds %s of %s, which this one does not know; run the newer one, or restore the backup from before",
		plain.Line(newer[0].Name), plain.Line(newer[0].Service))
}

// migrationStatus compares the database with what this program has.
func (c *Config) migrationStatus(ctx context.Context) ([]databaseMigration, error) {
	if file, ok := c.databaseInFile(); ok {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) { // to open it would make it
			return compareMigrations(nil)
		}
	}
	db, err := store.Open(ctx, c.Database)
	if err != nil {
		return nil, err
	}
	applied, err := c.appliedMigrations(ctx, db)
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	return compareMigrations(applied)
}

// databaseInFile is the path of a database of SQLite.
func (c *Config) databaseInFile() (path string, ok bool) {
	path, ok = strings.CutPrefix(c.Database, "sqlite:")
	path, _, _ = strings.Cut(path, "?")
	return path, ok
}

// appliedMigrations are those that the database has.
func (c *Config) appliedMigrations(ctx context.Context, db *store.DB) (list []databaseMigration, err error) {
	// The first of all migrations makes the table, and a look must not. Each database has its own list of tables.
	there := `SELECT count(*) FROM pg_tables WHERE tablename = 'migration' AND schemaname = current_schema()`
	if _, file := c.databaseInFile(); file {
		there = `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'migration'`
	}
	err = db.View(ctx, func(tx *store.Tx) error {
		list = nil
		tables := 0
		if err := tx.QueryRow(there).Scan(&tables); err != nil || tables == 0 {
			return err
		}
		rows, err := tx.Query(`SELECT service, name FROM migration`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var m databaseMigration
			if err := rows.Scan(&m.Service, &m.Name); err != nil {
				return err
			}
			list = append(list, m)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read which migrations the database has: %w", err)
	}
	return list, nil
}

// compareMigrations says how each migration stands, of the database and of this program, by service and name.
func compareMigrations(applied []databaseMigration) ([]databaseMigration, error) {
	all, err := taskfleet.Migrations()
	if err != nil {
		return nil, err
	}
	type key struct{ service, name string }
	state := map[key]string{}
	for _, m := range applied {
		state[key{m.Service, m.Name}] = migrationNewer
	}
	for service, files := range all {
		names, err := fs.Glob(files, "*.sql")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			k := key{service, name}
			if state[k] == "" {
				state[k] = migrationPending
			} else {
				state[k] = migrationApplied
			}
		}
	}
	var list []databaseMigration
	for k, s := range state {
		list = append(list, databaseMigration{k.service, k.name, s})
	}
	slices.SortFunc(list, func(a, b databaseMigration) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Name, b.Name))
	})
	return list, nil
}

// migrateDatabase applies what is pending, and tells of each migration after it was committed.
func (c *Config) migrateDatabase(ctx context.Context, done func(databaseMigration)) (err error) {
	if _, file := c.databaseInFile(); file {
		if err := os.MkdirAll(c.Data, 0o700); err != nil {
			return fmt.Errorf("creating the data directory: %w", err)
		}
		unlock, err := lockData(c.Data)
		if err != nil {
			return err
		}
		defer unlock()
	}
	list, err := c.migrationStatus(ctx)
	if err != nil {
		return err
	}
	if newer := migrationsThatAre(list, migrationNewer); len(newer) > 0 {
		return newerError(newer) // before anything is done: services are migrated one by one
	}
	all, err := taskfleet.Migrations()
	if err != nil {
		return err
	}
	pending := map[string][]databaseMigration{}
	for _, m := range migrationsThatAre(list, migrationPending) {
		m.State = migrationApplied
		pending[m.Service] = append(pending[m.Service], m)
	}
	if len(pending) == 0 {
		return nil
	}
	db, err := store.Open(ctx, c.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, service := range slices.Sorted(maps.Keys(pending)) {
		as := service
		if as == "store" { // its migrations come with those of any other
			as = "event"
		}
		if err := db.Migrate(ctx, as, all[as]); err != nil {
			return err
		}
		for _, m := range pending[service] {
			done(m)
		}
	}
	return nil
}
