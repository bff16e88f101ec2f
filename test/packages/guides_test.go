package packages

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/test/postgres"
	"github.com/taskfleet/taskfleet/test/server"
)

var testBlock = regexp.MustCompile("(?s)<!-- test: ([a-z-]+) -->\n```sh\n(.*?)```\n")

// guide returns the commands of a guide by the names in its comments.
func guide(t *testing.T, path string) map[string]string {
	t.Helper()
	blocks := map[string]string{}
	for _, b := range testBlock.FindAllStringSubmatch(read(t, path), -1) {
		blocks[b[1]] = b[2]
	}
	return blocks
}

// A machine runs the commands of guides, and a server where they say systemctl.
type machine struct {
	t        *testing.T
	folder   string
	env      map[string]string
	database string // of the server; empty for SQLite
	blocks   map[string]string
	ran      map[string]bool
	server   *server.Server
}

func newMachine(t *testing.T, guidePath, database string) *machine {
	m := &machine{t: t, folder: t.TempDir(), database: database, blocks: guide(t, guidePath), ran: map[string]bool{}}
	bin := filepath.Join(m.folder, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"systemctl": self, "taskfleet": binary} {
		if err := os.Symlink(to, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(m.folder, "unit")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go m.serveUnit(listener)
	t.Cleanup(func() {
		listener.Close()
		m.stop()
	})
	m.env = map[string]string{
		"PATH":    bin + ":" + postgres.Find(t.Context()) + ":" + os.Getenv("PATH"),
		"HOME":    m.folder,
		"UNIT":    socket,
		"CONFIG":  filepath.Join(m.folder, "taskfleet.yml"),
		"BACKUP":  filepath.Join(m.folder, "backup"),
		"KEYS":    filepath.Join(m.folder, "keys"),
		"OWNER":   fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()),
		"PROGRAM": filepath.Join(bin, "taskfleet"),
	}
	m.setData(filepath.Join(m.folder, "data"))
	return m
}

// setData says where the data is, and writes the configuration.
func (m *machine) setData(directory string) {
	m.t.Helper()
	m.env["DATA"] = directory
	text := "data: " + directory + "\n"
	if m.database != "" {
		text += "database: " + m.database + "\n"
		u, err := url.Parse(m.database)
		if err != nil {
			m.t.Fatal(err)
		}
		maps.Copy(m.env, libpq(u))
	}
	if err := os.WriteFile(m.env["CONFIG"], []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// serveUnit does what systemctl is asked for, one call after the other.
func (m *machine) serveUnit(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		var args []string
		if err = json.NewDecoder(c).Decode(&args); err == nil {
			switch strings.Join(args, " ") {
			case "start taskfleet":
				err = m.start()
			case "stop taskfleet":
				err = m.stop()
			default:
				err = fmt.Errorf("this systemctl does not know %q", args)
			}
		}
		if err != nil {
			fmt.Fprintln(c, err)
		}
		c.Close()
	}
}

func (m *machine) start() (err error) {
	m.server, err = server.Start(context.Background(), server.Options{Binary: m.env["PROGRAM"], Data: m.env["DATA"], Database: m.database})
	return err
}

func (m *machine) stop() error {
	if m.server == nil {
		return nil
	}
	s := m.server
	m.server = nil
	return s.Stop()
}

// askUnit is systemctl, for the commands that are run.
func askUnit(args []string) int {
	c, err := net.Dial("unix", os.Getenv("UNIT"))
	if err == nil {
		err = json.NewEncoder(c).Encode(args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var said bytes.Buffer
	if _, err := said.ReadFrom(c); err != nil || said.Len() > 0 {
		fmt.Fprintln(os.Stderr, said.String(), err)
		return 1
	}
	return 0
}

// run runs a script, with what the guide says is exported.
func (m *machine) run(script string) (string, error) {
	cmd := exec.CommandContext(m.t.Context(), "sh", "-euc", script)
	cmd.Dir = m.folder
	for name, value := range m.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is run for what has to succeed.
func (m *machine) must(script string) string {
	m.t.Helper()
	out, err := m.run(script)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// follow runs blocks of the guide.
func (m *machine) follow(names ...string) string {
	m.t.Helper()
	out := ""
	for _, name := range names {
		if m.blocks[name] == "" {
			m.t.Fatalf("the guide has no block %q", name)
		}
		m.ran[name] = true
		out += m.must(m.blocks[name])
	}
	return out
}

// taskfleet calls the running server.
func (m *machine) taskfleet(args string) string {
	m.t.Helper()
	return m.must("export TASKFLEET_DATA=\"$DATA\"\ntaskfleet " + args)
}

const work = `
roles:
  project:nightly:builds: {description: What builds may do., scopes: ["queue:create-task:low:proj-nightly/build"]}
workerPools:
  local/build:
    providerId: local
    owner: nobody@example.com
    config: {maxCapacity: 1, workerConfig: {idleTimeoutSecs: 1, env: {PATH: "/usr/local/bin:/usr/bin:/bin"}}}
secrets:
  project/nightly/key: {value: {password: kept-through-it-all}, expires: "2099-01-01"}
`

// state is all that has to be the same afterwards.
func (m *machine) state(task string) map[string]string {
	m.t.Helper()
	is := map[string]string{
		"resources": m.taskfleet("resources export --secrets-to secrets.yml"),
		"secrets":   m.must("cat secrets.yml; rm secrets.yml"),
		"task":      m.taskfleet("task status --json " + task),
		"artifacts": m.taskfleet("task artifacts " + task),
		"artifact":  m.taskfleet("task download " + task + " public/word -o -"),
		"log":       m.taskfleet("task log " + task),
	}
	for what := range is {
		is[what] = strings.ReplaceAll(is[what], m.server.RootURL, "where it is")
	}
	return is
}

func TestBackupAndRestore(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { backupAndRestore(t, "sqlite", "", "") })
	t.Run("postgresql", func(t *testing.T) {
		one, two := databases(t)
		backupAndRestore(t, "postgresql", one, two)
	})
}

// databases are two new ones on the tests' server, of which the second is not there yet.
func databases(t *testing.T) (one, two string) {
	t.Helper()
	u, err := url.Parse(os.Getenv("TASKFLEET_TEST_POSTGRES"))
	if err != nil || u.Host == "" {
		t.Fatal("TASKFLEET_TEST_POSTGRES must be the URL of a PostgreSQL for tests; make postgres runs one and prints it")
	}
	admin := func(program string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(postgres.Find(context.Background()), program), args...)
		for name, value := range libpq(u) {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", cmd, err, out)
		}
	}
	names := [2]string{}
	for i := range names {
		name := fmt.Sprintf("guide_%d_%d", time.Now().UnixNano(), i)
		copied := *u
		copied.Path = "/" + name
		names[i] = copied.String()
		t.Cleanup(func() { admin("dropdb", "--force", "--if-exists", name) })
		if i == 0 {
			admin("createdb", name)
		}
	}
	return names[0], names[1]
}

// libpq is the environment that PostgreSQL's programs read for what is in a URL.
func libpq(u *url.URL) map[string]string {
	password, _ := u.User.Password()
	return map[string]string{"PGHOST": u.Hostname(), "PGPORT": u.Port(), "PGUSER": u.User.Username(), "PGPASSWORD": password, "PGDATABASE": u.Path[1:]}
}

func backupAndRestore(t *testing.T, kind, before, after string) {
	m := newMachine(t, "docs/backup.md", before)
	m.must("systemctl start taskfleet")
	if err := os.WriteFile(filepath.Join(m.folder, "work.yml"), []byte(work), 0o600); err != nil {
		t.Fatal(err)
	}
	m.taskfleet("resources apply --yes work.yml")
	const task = "AAAAAAAAQAeAAAAAAAAAAA"
	m.taskfleet("task create --id " + task + " --queue local/build --artifact public/word=word --follow -- sh -c 'echo said in the log; echo kept > word'")
	want := m.state(task)
	for what, part := range map[string]string{"secrets": "kept-through-it-all", "artifact": "kept", "log": "said in the log", "task": `"completed"`, "resources": "project:nightly:builds"} {
		if !strings.Contains(want[what], part) {
			t.Fatalf("%s has no %q:\n%s", what, part, want[what])
		}
	}

	m.follow("backup-"+kind, "backup-artifacts", "backup-secrets")
	// What comes after the backup is not in it.
	m.taskfleet("task create --id BBBBBBBBQAeAAAAAAAAAAA --queue local/none -- true")

	// The machine burns; another one gets the backup.
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(m.env["DATA"]); err != nil {
		t.Fatal(err)
	}
	m.database = after
	m.setData(filepath.Join(m.folder, "elsewhere"))
	m.follow("restore-stop", "restore-"+kind, "restore-artifacts", "restore-start", "restore-look")
	got := m.state(task)
	for what := range want {
		if got[what] != want[what] {
			t.Errorf("%s was\n%s\nand is\n%s", what, want[what], got[what])
		}
	}
	if out, err := m.run(`TASKFLEET_DATA="$DATA" taskfleet task status BBBBBBBBQAeAAAAAAAAAAA`); err == nil {
		t.Errorf("a task from after the backup is there:\n%s", out)
	}
	// The platform goes on.
	m.taskfleet("task create --queue local/build --follow -- true")
	other := map[string]string{"sqlite": "postgresql", "postgresql": "sqlite"}[kind]
	for name := range m.blocks {
		if !m.ran[name] && !strings.HasSuffix(name, other) {
			t.Errorf("the guide's block %s is not tested", name)
		}
	}
}

// An older version of the platform left the database: only the first migration of each service.
func TestUpgrade(t *testing.T) {
	m := newMachine(t, "docs/upgrade.md", "")
	data := m.env["DATA"]
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(data, "taskfleet.db")
	all, err := taskfleet.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), "sqlite:"+file)
	if err != nil {
		t.Fatal(err)
	}
	for service, files := range all {
		if service == "store" {
			continue
		}
		if err := db.Migrate(t.Context(), service, onlyFirst{files}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	m.env["NEW"] = filepath.Join(m.folder, "new")
	m.must(`cp "$PROGRAM" "$NEW"; rm "$PROGRAM"; printf '#!/bin/sh\nexit 9\n' > "$PROGRAM"; chmod 755 "$PROGRAM"`) // the old one
	out := m.follow("upgrade-look")
	if !strings.Contains(out, "pending") || !strings.Contains(out, "The configuration is good") {
		t.Errorf("before the upgrade:\n%s", out)
	}
	out = m.follow("upgrade")
	if n := strings.Count(out, "applied  "); n < 10 {
		t.Errorf("%d migrations were applied:\n%s", n, out)
	}
	m.taskfleet("creds show")
	if len(m.ran) != len(m.blocks) {
		t.Errorf("of the blocks %v only %v are tested", slices.Sorted(maps.Keys(m.blocks)), slices.Sorted(maps.Keys(m.ran)))
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}

	// A newer version was here.
	m.must(`sqlite3 "$DATA/taskfleet.db" "INSERT INTO migration (service, name) VALUES ('queue', '9999_of_the_future.sql')"`)
	said := read(t, "docs/upgrade.md")
	const refusal = "the database was migrated by a newer taskfleet: it holds"
	if !strings.Contains(said, refusal) {
		t.Fatalf("the guide does not say %q", refusal)
	}
	if out, err := m.run("taskfleet database status --config $CONFIG"); exitCode(err) != 4 || !strings.Contains(out, refusal) || !strings.Contains(out, "9999_of_the_future.sql") {
		t.Errorf("status: %v\n%s", err, out)
	}
	if out, err := m.run("timeout 180 taskfleet serve --config $CONFIG --listen 127.0.0.1:0"); exitCode(err) != 1 || !strings.Contains(out, refusal) {
		t.Errorf("serve: %v\n%s", err, out)
	}
	m.must(`sqlite3 "$DATA/taskfleet.db" "DELETE FROM migration WHERE name = '9999_of_the_future.sql'"`)
	m.must("systemctl start taskfleet") // nothing was lost by having tried
	m.taskfleet("loops")
}

func exitCode(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return 0
}

// onlyFirst has a service's first migration alone.
type onlyFirst struct{ fs.FS }

func (f onlyFirst) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.FS, name)
	return entries[:min(1, len(entries))], err
}
