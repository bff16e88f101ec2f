// Package storetest runs a test on every database the platform supports.
//
// Which ones is in TASKFLEET_TEST_DATABASES, "sqlite,postgres" if it is not
// set. PostgreSQL is the server at the URL in TASKFLEET_TEST_POSTGRES, where
// each test gets a schema of its own. A database that is asked for and not
// there fails the test: nothing is skipped silently.
//
// The database a test gets is empty: it migrates what it needs.
package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/taskfleet/taskfleet/store"
)

// Each runs f on every database, each time in a bubble of testing/synctest, so
// that time passes only when everybody waits. Waiting for the database is not
// waiting in that sense; but a goroutine that sleeps in a transaction, while
// another one wants a lock it holds, stands still for ever on PostgreSQL.
func Each(t *testing.T, f func(t *testing.T, db *store.DB)) {
	t.Helper()
	EachURL(t, func(t *testing.T, url string) {
		synctest.Test(t, func(t *testing.T) { f(t, Open(t, frugal(url))) })
	})
}

// frugal has PostgreSQL serve a test by few connections, which stay. In a bubble
// minutes pass in no time, after which connections that were not needed are closed:
// a test of days would spend its time making them anew whenever loops are due.
func frugal(url string) string {
	if strings.HasPrefix(url, "postgres") {
		url += "&pool_max_conns=4&pool_max_conn_idle_time=1000000h"
	}
	return url
}

// EachReal is Each in real time: for tests with HTTP servers, processes or
// DB.Listen.
func EachReal(t *testing.T, f func(t *testing.T, db *store.DB)) {
	t.Helper()
	EachURL(t, func(t *testing.T, url string) { f(t, Open(t, url)) })
}

// EachURL runs f with the URL of an empty database of every kind: for tests
// that open it several times, as replicas or restarted processes do.
func EachURL(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	for _, kind := range kinds(t) {
		t.Run(kind, func(t *testing.T) { f(t, URL(t, kind)) })
	}
}

// Open opens the database at url for the time of the test.
func Open(t testing.TB, url string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close the database: %v", err)
		}
	})
	return db
}

// URL makes an empty database, "sqlite" or "postgres", for the time of the test.
func URL(t testing.TB, kind string) string {
	t.Helper()
	switch kind {
	case "sqlite":
		// No test outlives a power failure, so none waits for the disk.
		return "sqlite:" + filepath.Join(t.TempDir(), "taskfleet.db") + "?synchronous=off"
	case "postgres":
		return schema(t)
	}
	t.Fatalf("there is no database %q to test on: sqlite and postgres are known", kind)
	return ""
}

func kinds(t *testing.T) []string {
	t.Helper()
	list := os.Getenv("TASKFLEET_TEST_DATABASES")
	if list == "" {
		list = "sqlite,postgres"
	}
	kinds := strings.Split(list, ",")
	for _, kind := range kinds {
		if !slices.Contains([]string{"sqlite", "postgres"}, kind) {
			t.Fatalf("TASKFLEET_TEST_DATABASES=%s: it is a list of sqlite and postgres with a comma between them", list)
		}
	}
	return kinds
}

// server is the PostgreSQL server of all tests in this process.
var server = sync.OnceValues(func() (*store.DB, error) {
	u := os.Getenv("TASKFLEET_TEST_POSTGRES")
	if u == "" {
		return nil, fmt.Errorf("TASKFLEET_TEST_POSTGRES is not set: run `make test`, which starts a PostgreSQL server for the tests, or set TASKFLEET_TEST_DATABASES=sqlite to do without")
	}
	return store.Open(context.Background(), u)
})

// schema makes a schema and returns the URL that leads to it.
func schema(t testing.TB) string {
	t.Helper()
	db, err := server()
	if err != nil {
		t.Fatal(err)
	}
	name := "test_" + strings.ToLower(rand.Text()[:16])
	do := func(statement string) error {
		return db.Do(context.Background(), func(tx *store.Tx) error {
			_, err := tx.Exec(statement)
			return err
		})
	}
	if err := do("CREATE SCHEMA " + name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := do("DROP SCHEMA " + name + " CASCADE"); err != nil {
			t.Errorf("drop the test's schema: %v", err)
		}
	})
	u, err := url.Parse(os.Getenv("TASKFLEET_TEST_POSTGRES"))
	if err != nil {
		t.Fatal("TASKFLEET_TEST_POSTGRES is not a URL") // the error would show its password
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String()
}
