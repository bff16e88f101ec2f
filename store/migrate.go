package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

//go:embed migrations/*.sql
var ownMigrations embed.FS

// Migrate brings the tables of a service to what this binary expects. It
// applies those files NNNN_name.sql of migrations, wherever in it they are,
// that were not applied before: in the order of their names, all in one
// transaction, one process at a time.
//
// A database that holds a migration which this binary does not have was
// migrated by a newer one, and is refused.
func (db *DB) Migrate(ctx context.Context, service string, migrations fs.FS) error {
	own, err := readMigrations(ownMigrations)
	if err != nil {
		return fmt.Errorf("store: migrate store: %w", err)
	}
	files, err := readMigrations(migrations)
	if err != nil {
		return fmt.Errorf("store: migrate %s: %w", service, err)
	}
	return db.Do(ctx, func(tx *Tx) error {
		if err := db.engine.lockMigrations(tx); err != nil {
			return fmt.Errorf("store: migrate %s: wait for other processes: %w", service, err)
		}
		if _, err := tx.Exec(`CREATE TABLE IF NOT EXISTS migration (service TEXT NOT NULL, name TEXT /*bytewise*/ NOT NULL, PRIMARY KEY (service, name))`); err != nil {
			return fmt.Errorf("store: migrate %s: %w", service, err)
		}
		if err := migrate(tx, "store", own); err != nil {
			return fmt.Errorf("store: migrate store: %w", err)
		}
		if err := migrate(tx, service, files); err != nil {
			return fmt.Errorf("store: migrate %s: %w", service, err)
		}
		return nil
	})
}

type migration struct{ name, text string }

func migrate(tx *Tx, service string, files []migration) error {
	var applied []string
	rows, err := tx.Query(`SELECT name FROM migration WHERE service = $1 ORDER BY name`, service)
	if err != nil {
		return err
	}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		applied = append(applied, name)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for i, name := range applied {
		switch {
		case !slices.ContainsFunc(files, func(m migration) bool { return m.name == name }):
			return fmt.Errorf("the database was migrated by a newer taskfleet: it holds %s, which this one does not know; run the newer one", name)
		case files[i].name != name:
			return fmt.Errorf("%s is new, but sorts before %s, which was applied already; give it a higher number", files[i].name, name)
		}
	}
	for _, m := range files[len(applied):] {
		for statement := range statements(m.text) {
			if _, err := tx.Exec(statement); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
		}
		if _, err := tx.Exec(`INSERT INTO migration (service, name) VALUES ($1, $2)`, service, m.name); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

var migrationName = regexp.MustCompile(`^[0-9]{4}_[a-z0-9_]+\.sql$`)

// readMigrations returns the migrations in order.
func readMigrations(fsys fs.FS) ([]migration, error) {
	var files []migration
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		name := path.Base(p)
		switch {
		case err != nil:
			return err
		case d.IsDir() || path.Ext(name) != ".sql":
			return nil
		case !migrationName.MatchString(name):
			return fmt.Errorf("%s: a migration is named NNNN_name.sql, in lower case", p)
		}
		text, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		files = append(files, migration{name, string(text)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no NNNN_name.sql among its migrations")
	}
	slices.SortFunc(files, func(a, b migration) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(files); i++ {
		if files[i].name[:4] == files[i-1].name[:4] {
			return nil, fmt.Errorf("%s and %s have the same number", files[i-1].name, files[i].name)
		}
	}
	return files, nil
}

// statements yields the statements of a script one by one, since a driver
// takes one at a time. A semicolon ends a statement except in quotes and
// comments. Bodies of triggers and functions, which no two databases write
// alike, are not provided for.
func statements(script string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, empty := 0, true
		for i := 0; i < len(script); {
			rest := script[i:]
			switch c := rest[0]; {
			case strings.HasPrefix(rest, "--"):
				i += until(rest, "\n")
			case strings.HasPrefix(rest, "/*"):
				i += until(rest, "*/")
			case c == '\'' || c == '"':
				i += 1 + until(rest[1:], string(c)) // a doubled quote is two strings side by side
				empty = false
			case c == ';':
				if !empty && !yield(strings.TrimSpace(script[start:i])) {
					return
				}
				i++
				start, empty = i, true
			default:
				if c > ' ' {
					empty = false
				}
				i++
			}
		}
		if !empty {
			yield(strings.TrimSpace(script[start:]))
		}
	}
}

// until is the length of s up to and including the first end.
func until(s, end string) int {
	if i := strings.Index(s, end); i >= 0 {
		return i + len(end)
	}
	return len(s)
}
