// Package replicas runs the platform the way that a large deployment does, as several processes on one database and one
// S3 behind a balancer, and breaks what it stands on while it is at work: the processes themselves, PostgreSQL, the
// connections to it, S3, the disk, the clock. In the end it looks whether anything was lost or done twice.
//
// The tests tell stories of three kinds. cluster_test.go has what replicas owe each other while nothing is broken.
// faults_test.go breaks one thing after the other. everything_test.go breaks all of it at once, for long. All of them
// lean on load (load_test.go), which has tasks created and worked on by clients and workers that do what ours do, writes
// down all that was acknowledged to them, and compares it with what the platform says in the end.
//
// The servers do not check here what they answer, which would take them half of their time: other tests see to that.
//
// There is nothing to set up: a PostgreSQL and an S3 are started here. TASKFLEET_TEST_DATABASES says which databases to
// test on, as it does elsewhere.
package replicas

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/test/daemon"
	"github.com/taskfleet/taskfleet/test/postgres"
	"github.com/taskfleet/taskfleet/test/server"
)

// common is what all tests of this package share.
var common struct {
	binary   string
	database *postgres.Server // nil without PostgreSQL
}

func TestMain(m *testing.M) {
	code, err := func() (code int, err error) {
		ctx := context.Background()
		directory, err := os.MkdirTemp("", "taskfleet-replicas-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(directory)
		if common.binary, err = server.Build(ctx, directory); err != nil {
			return 1, err
		}
		if slices.Contains(kinds(), "postgres") {
			programs := postgres.Find(ctx)
			if programs == "" {
				return 1, fmt.Errorf("there is no PostgreSQL %d or newer here: run `make test`, which installs one, or set TASKFLEET_TEST_DATABASES=sqlite to do without", postgres.Oldest)
			}
			if common.database, err = postgres.Start(ctx, programs, postgres.NoSync...); err != nil {
				return 1, err
			}
			defer common.database.Stop()
		}
		return m.Run(), nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// kinds are the databases to test on.
func kinds() []string {
	list := os.Getenv("TASKFLEET_TEST_DATABASES")
	if list == "" {
		list = "sqlite,postgres"
	}
	return strings.Split(list, ",")
}

// onPostgres runs a test of what takes several replicas.
func onPostgres(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if !slices.Contains(kinds(), "postgres") {
		t.Log("TASKFLEET_TEST_DATABASES asks for no PostgreSQL: one process on SQLite has no replicas")
		return
	}
	t.Run("postgres", f)
}

// each runs a test on one process with SQLite and on three replicas with PostgreSQL.
func each(t *testing.T, f func(t *testing.T, p *platform)) {
	t.Helper()
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			n := 1
			if kind == "postgres" {
				n = 3
			}
			f(t, start(t, settings{replicas: n, postgres: kind == "postgres"}))
		})
	}
}

// settings say what a platform is made of.
type settings struct {
	replicas int
	postgres bool
	data     string // directory for what the replicas keep; "" for one of the test's own
	config   string // of more
}

// A platform is replicas behind a balancer.
type platform struct {
	balancer *balancer
	storage  *storage
	database string    // URL; "" for SQLite
	admin    *store.DB // its administrator's connections, which are not cut with the others; nil for SQLite
	replicas []*replica
	root     cred.Credentials
	turning  sync.Mutex // held while a clock is wrong
}

// A replica is one process, or none while it is down.
type replica struct {
	options server.Options
	*server.Server
	taken *clock     // of its process or an earlier one, once we have taken it over
	mu    sync.Mutex // held by who stops or starts it, or turns its clock
}

func start(t *testing.T, s settings) *platform {
	t.Helper()
	p := &platform{balancer: newBalancer(t), storage: newStorage(t)}
	directory := s.data
	if directory == "" {
		directory = t.TempDir()
	}
	if s.postgres {
		p.database = newDatabase(t)
		var err error
		if p.admin, err = store.Open(t.Context(), p.database+"&application_name=administrator"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.admin.Close() })
	}
	secrets := filepath.Join(t.TempDir(), "secrets.json")
	text, err := exec.CommandContext(t.Context(), common.binary, "config", "secrets").Output()
	if err == nil {
		err = os.WriteFile(secrets, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("rootUrl: %s\nsecretsFile: %s\ns3: {endpoint: %q, region: us-east-1, bucket: artifacts, accessKeyId: test, secretAccessKey: %s, pathStyle: true}\n",
		p.balancer.url(), secrets, p.storage.url, p.storage.secret) + s.config
	for i := range s.replicas {
		p.replicas = append(p.replicas, &replica{options: server.Options{
			Binary: common.binary, Data: filepath.Join(directory, fmt.Sprint("replica-", i)), Database: p.database,
			Listen: freeAddress(t), Config: config,
		}})
	}
	for _, r := range p.replicas {
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				log := r.Log()
				t.Logf("the log of %s:\n%s", r.options.Data, log[max(0, len(log)-4000):])
			}
			if err := r.Kill(); err != nil {
				t.Error(err)
			}
		})
		p.balancer.add(r.options.Listen)
	}
	r := p.replicas[0]
	p.root = cred.Credentials{ClientID: r.ClientID, AccessToken: r.AccessToken}
	return p
}

// newDatabase makes an empty database on the PostgreSQL of the package.
func newDatabase(t *testing.T) string {
	t.Helper()
	name := "replicas_" + fmt.Sprintf("%x", time.Now().UnixNano())
	run := exec.Command(filepath.Join(postgres.Find(t.Context()), "psql"), "-X", "-q", "-d", common.database.URL, "-c", "CREATE DATABASE "+name)
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("making a database: %v\n%s", err, out)
	}
	return strings.Replace(common.database.URL, "/postgres?", "/"+name+"?", 1)
}

// freeAddress is one on which nothing listens; the same from now on, so that clients find a replica again.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := daemon.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func (r *replica) start() error {
	s, err := server.Start(context.Background(), r.options)
	if err == nil {
		r.Server = s
	}
	return err
}

// kill ends a replica with no chance to do anything more, and starts it again.
func (r *replica) kill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Kill(); err != nil {
		return err
	}
	return r.restart()
}

// roll stops a replica in good order, and starts it again, as at a new release. It may end with an error, of what else is
// broken, or of calls that took longer to end than it waits for them, as on a machine that stood still; but it ends.
func (r *replica) roll() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Stop(); err != nil {
		if ended, is := errors.AsType[*exec.ExitError](err); !is || ended.ExitCode() != 1 { // a panic ends with 2, a signal with -1
			return err
		}
	}
	return r.restart()
}

// restart starts a replica while PostgreSQL is up. One that does not start, since S3 does not answer, is started again, as
// a service manager does.
func (r *replica) restart() (err error) {
	restarting.RLock()
	defer restarting.RUnlock()
	for range 10 {
		if err = r.start(); err == nil {
			return nil
		}
	}
	return err
}

// patience is for machines that are slow beyond reason: it fails nothing that works.
const patience = 5 * time.Minute

// patient keeps trying for as long as any fault here lasts.
var patient = client.Retry{For: patience, MaxWait: time.Second}

// never leaves it to the caller.
var never = client.Retry{For: -1}

// client is one of the balancer's, with the credentials of the operator.
func (p *platform) client(retry client.Retry) *client.Client {
	return p.clientOf(p.balancer.url(), p.root, retry)
}

// clientOfReplica talks to one replica.
func (p *platform) clientOfReplica(r *replica, as cred.Credentials) *client.Client {
	return p.clientOf("http://"+r.options.Listen, as, never)
}

func (p *platform) clientOf(url string, as cred.Credentials, retry client.Retry) *client.Client {
	c, err := client.New(client.Options{RootURL: url, Credentials: as, Retry: retry, Log: quiet})
	if err != nil {
		panic(err) // the URL is one of ours
	}
	return c
}

// cut ends connections to PostgreSQL: those that listen for notifications, or all.
func (p *platform) cut(ctx context.Context, which string) error {
	return p.admin.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name <> 'administrator' AND query LIKE $1`, which)
		return err
	})
}

const (
	listening   = "LISTEN%"
	connections = "%"
)

// eventually waits until a condition holds. It looks the more seldom the longer it waits: looking, too, takes a machine's
// time.
func eventually(t *testing.T, what string, holds func() error) (took time.Duration) {
	t.Helper()
	begun := time.Now()
	for {
		err := holds()
		took = time.Since(begun)
		if err == nil {
			return took
		}
		if took > patience {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(min(20*time.Millisecond+took/20, time.Second))
	}
}

func newName(kind string) string { return "test-" + kind + "-" + strings.Trim(slugid.New(), "-_") }
