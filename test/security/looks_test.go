package security

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/test/server"
)

// lookAtProcesses looks at those that the server has started.
func (b *burglar) lookAtProcesses() {
	children := descendants(b.t, b.PID())
	if len(children) == 0 {
		b.t.Error("the server has no worker")
	}
	for _, pid := range children {
		for _, file := range []string{"cmdline", "environ"} {
			text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
			if err == nil { // else it has ended
				b.find("the "+file+" of a worker", text)
			}
		}
	}
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(b.PID()), "cmdline"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.find("the command line of the server", text)
}

// lookAtMessages reads all of the log of messages, to one that comes last.
func (b *burglar) lookAtMessages() {
	r := b.want(200, b.root(), "GET", "/references/manifest.json", nil)
	var manifest struct{ References []string }
	if err := json.Unmarshal([]byte(r.text), &manifest); err != nil {
		b.t.Fatal(err)
	}
	var exchanges []string
	for _, path := range manifest.References {
		if strings.HasSuffix(path, "/exchanges.json") {
			var reference struct {
				ExchangePrefix string
				Entries        []struct{ Exchange string }
			}
			b.fetch(strings.TrimPrefix(path, b.RootURL), &reference)
			for _, e := range reference.Entries {
				exchanges = append(exchanges, reference.ExchangePrefix+e.Exchange)
			}
		}
	}
	mark := slugid.New()
	b.want(200, b.root(), "POST", "/api/notify/v1/pulse", object{"routingKey": "security", "message": object{"mark": mark}})
	n := 0
	err := b.Messages(b.t.Context(), func(m server.Message) bool {
		n++
		b.find("a message of "+m.Exchange, m.Payload)
		return !strings.Contains(string(m.Payload), mark)
	}, exchanges...)
	if err != nil {
		b.t.Error(err)
	}
	if n < 15 {
		b.t.Errorf("there were %d messages only", n)
	}
}

// lookAtDatabase reads every row of every table.
func (b *burglar) lookAtDatabase(database string) {
	tables := `SELECT tablename FROM pg_tables WHERE schemaname = current_schema()`
	row := func(*store.Tx, string) (string, error) { return `row_to_json(t)::text`, nil }
	if !strings.HasPrefix(database, "postgres:") {
		database = "sqlite:" + filepath.Join(b.data, "taskfleet.db")
		tables = `SELECT name FROM sqlite_master WHERE type = 'table'`
		row = func(tx *store.Tx, table string) (string, error) {
			columns, err := texts(tx, `SELECT 'quote("' || name || '")' FROM pragma_table_info('`+table+`')`)
			return strings.Join(columns, " || ' ' || "), err
		}
	}
	db := storetest.Open(b.t, database)
	rows := 0
	err := db.View(b.t.Context(), func(tx *store.Tx) error {
		tables, err := texts(tx, tables)
		if err != nil {
			return err
		}
		for _, table := range tables {
			row, err := row(tx, table)
			if err != nil {
				return err
			}
			list, err := texts(tx, fmt.Sprintf(`SELECT %s FROM "%s" AS t`, row, table))
			if err != nil {
				return err
			}
			rows += len(list)
			// Payloads are kept until their tasks are created.
			but := []string{"a hook's payload"}
			if table == "mirror_copy" { // a copy may have to be made again
				but = append(but, originQuery)
			}
			b.find("the table "+table, []byte(strings.Join(list, "\n")), but...)
		}
		return nil
	})
	if err != nil || rows < 50 {
		b.t.Errorf("reading the database: %v, %d rows", err, rows)
	}
}

func texts(tx *store.Tx, statement string) (list []string, err error) {
	rows, err := tx.Query(statement)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, rows.Err()
}

// lookAtFiles reads all that the platform keeps on the disk, but for the files
// that are there for secrets.
func (b *burglar) lookAtFiles() {
	files := 0
	err := filepath.WalkDir(b.data, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 && info.Mode()&fs.ModeSymlink == 0 && file != b.data {
			b.t.Errorf("%s has the mode %o; others can get at it", file, info.Mode().Perm())
		}
		name, err := filepath.Rel(b.data, file)
		if err != nil {
			return err
		}
		if slices.Contains([]string{"secrets.json", "credentials.json", "config.yml"}, name) || !info.Mode().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		files++
		var but []string
		switch top, _, _ := strings.Cut(name, string(filepath.Separator)); {
		case top == "s3": // where data is kept
			but = []string{"an object's data", originQuery} // which copies have with them
		case strings.HasPrefix(top, "taskfleet.db"):
			// Payloads are kept until their tasks are created, and what is
			// deleted is written over when there is need of the room.
			but = []string{"a hook's payload", originQuery}
		}
		b.find("the file "+name, text, but...)
		return nil
	})
	if err != nil || files < 5 {
		b.t.Errorf("reading the data directory: %v, %d files", err, files)
	}
}

func (b *burglar) download(from string) ([]byte, error) {
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	reply := b.send(r)
	if reply.status != 200 {
		return nil, fmt.Errorf("GET %s: %d", r.URL.Path, reply.status)
	}
	return []byte(reply.text), nil
}
