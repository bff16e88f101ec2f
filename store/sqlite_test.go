package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestMain(m *testing.M) {
	if url := os.Getenv("TASKFLEET_TEST_WRITE"); url != "" {
		writeUntilKilled(url)
	}
	os.Exit(m.Run())
}

// writeUntilKilled is the child of TestKilledProcessLosesNoCommit. Each of its
// transactions writes two rows; it prints what was committed.
func writeUntilKilled(url string) {
	db, err := store.Open(context.Background(), url)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var out sync.Mutex
	for g := range 4 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d-%d-%d", os.Getpid(), g, i)
				err := db.Do(context.Background(), func(tx *store.Tx) error {
					if _, err := tx.Exec(`INSERT INTO item (name) VALUES ($1)`, name); err != nil {
						return err
					}
					_, err := tx.Exec(`INSERT INTO part (item, name) VALUES ($1, 'part')`, name)
					return err
				})
				out.Lock()
				if err != nil {
					fmt.Println("error", err)
				} else {
					fmt.Println(name)
				}
				out.Unlock()
			}
		}()
	}
	select {}
}

func TestKilledProcessLosesNoCommit(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "taskfleet.db")
	db := storetest.Open(t, url)
	migrate(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]bool{}
	for round := range 5 {
		cmd := osexec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TASKFLEET_TEST_WRITE="+url)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		for n := 0; lines.Scan(); n++ {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Errorf("round %d: %s", round, lines.Text())
			}
			acknowledged[lines.Text()] = true
			if n == 20+31*round {
				cmd.Process.Signal(syscall.SIGKILL)
			}
		}
		cmd.Wait()

		db, err := store.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		there := map[string]bool{}
		for _, n := range names(t, db) {
			there[n] = true
		}
		for n := range acknowledged {
			if !there[n] {
				t.Errorf("round %d: %s was committed and is gone", round, n)
			}
		}
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			halves, err := column(tx, `SELECT name FROM item WHERE NOT EXISTS (SELECT 1 FROM part WHERE part.item = item.name)`)
			equal(t, "half transactions", len(halves), 0)
			if err != nil {
				return err
			}
			state, err := column(tx, `PRAGMA integrity_check`)
			equal(t, "integrity", state, []string{"ok"})
			return err
		}); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(acknowledged) < 100 {
		t.Errorf("only %d transactions were committed", len(acknowledged))
	}
}

// A transaction that fails undoes what it did itself, and nothing of those
// that share its commit.
func TestFailuresAmongSharedCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, storetest.URL(t, "sqlite"))
		migrate(t, db)
		mine := errors.New("mine")
		var wg sync.WaitGroup
		var mu sync.Mutex
		var want []string
		for g := range 24 {
			wg.Go(func() {
				for i := range 50 {
					name := fmt.Sprintf("%02d-%02d", g, i)
					ctx, cancel := context.WithCancel(t.Context())
					err := db.Do(ctx, func(tx *store.Tx) error {
						if _, err := tx.Exec(`INSERT INTO item (name) VALUES ($1)`, name); err != nil {
							return err
						}
						switch (g + i) % 6 {
						case 1:
							return mine
						case 2:
							tx.Exec(`INSERT INTO item (name) VALUES ($1)`, name)
						case 3:
							cancel()
						case 4:
							cancel()
							tx.Exec(`INSERT INTO part (item, name) VALUES ($1, 'part')`, name)
						}
						return nil
					})
					cancel()
					switch k := (g + i) % 6; {
					case k == 1 && err == mine, k == 2 && errors.Is(err, store.ErrConflict), (k == 3 || k == 4) && errors.Is(err, context.Canceled):
					case err == nil && (k == 0 || k == 5):
						mu.Lock()
						want = append(want, name)
						mu.Unlock()
					default:
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		}
		wg.Wait()
		got := names(t, db)
		equal(t, "items", len(got), len(want))
		there := map[string]bool{}
		for _, n := range got {
			there[n] = true
		}
		for _, n := range want {
			if !there[n] {
				t.Errorf("%s was committed and is gone", n)
			}
		}
	})
}

// Whoever fails of what another has written hears so when that is there for all to
// see; if it comes to nothing, he is run again.
func TestFailuresOfWhatSharesACommit(t *testing.T) {
	for _, c := range []struct {
		what        string
		last        func(*store.Tx) error
		first, lost bool // what the first has written is there, and for a while it was not
	}{
		{"nothing", func(*store.Tx) error { return nil }, true, false},
		{"a statement", func(tx *store.Tx) error {
			tx.Exec(`ROLLBACK`) // as SQLite does by itself when the disk is full
			return errors.New("full")
		}, true, true},
		{"the commit", func(tx *store.Tx) error {
			return errors.Join(exec(`PRAGMA defer_foreign_keys = ON`)(tx), exec(`INSERT INTO part (item, name) VALUES ('none', 'x')`)(tx))
		}, false, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			db := storetest.Open(t, storetest.URL(t, "sqlite"))
			migrate(t, db)
			var wg sync.WaitGroup
			inLine := func(f func(*store.Tx) error, after func(error)) {
				wg.Go(func() { after(db.Do(t.Context(), f)) })
				synctest.Wait()
			}
			inLine(func(tx *store.Tx) error { time.Sleep(time.Second); return nil }, func(error) {}) // the others wait
			inLine(exec(`INSERT INTO item (name) VALUES ('it')`), func(err error) {
				if (err == nil) != c.first {
					t.Errorf("%s fails: the first hears %v", c.what, err)
				}
			})
			exists, runs := errors.New("it exists"), 0
			inLine(func(tx *store.Tx) error {
				runs++
				if list, err := tx.Column(`SELECT name FROM item`); err != nil || len(list) == 0 {
					return err
				}
				return exists
			}, func(err error) {
				if got := names(t, db); err == exists && len(got) != 1 || err != exists && err != nil {
					t.Errorf("%s fails: who fails hears %v while all see %q", c.what, err, got)
				}
			})
			inLine(func(tx *store.Tx) error { time.Sleep(time.Second); return c.last(tx) }, func(error) {})
			wg.Wait()
			if (runs > 1) != c.lost {
				t.Errorf("%s fails: who failed was run %d times", c.what, runs)
			}
			if got := names(t, db); (len(got) == 1) != c.first {
				t.Errorf("%s fails: there are %q", c.what, got)
			}
		})
	}
}

// A full disk fails those that need the room, and not those that happened to
// share a commit with them.
func TestFullDiskAmongSharedCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, storetest.URL(t, "sqlite"))
		migrate(t, db)
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			var pages int
			return tx.QueryRow(`PRAGMA max_page_count = 300`).Scan(&pages)
		}); err != nil {
			t.Fatal(err)
		}
		large := strings.Repeat("large", 1<<20)
		var wg sync.WaitGroup
		for g := range 12 {
			wg.Go(func() {
				for i := range 20 {
					body := "small"
					if (g+i)%4 == 0 {
						body = large
					}
					err := db.Do(t.Context(), func(tx *store.Tx) error {
						_, err := tx.Exec(`INSERT INTO item (name, body) VALUES ($1, $2)`, fmt.Sprint(g, "-", i), body)
						return err
					})
					if full := err != nil && strings.Contains(err.Error(), "full"); full != (body == large) {
						t.Errorf("%d-%d, %d bytes: %v", g, i, len(body), err)
					}
				}
			})
		}
		wg.Wait()
		equal(t, "items", len(names(t, db)), 12*20*3/4)
	})
}

// Whoever gives up waiting for the turn leaves nobody stuck who relied on it
// to commit.
func TestGivingUpTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, storetest.URL(t, "sqlite"))
		migrate(t, db)
		for round := range 200 {
			var wg sync.WaitGroup
			for g := range 6 {
				wg.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if g%2 == 1 {
						go cancel()
					}
					err := db.Do(ctx, func(tx *store.Tx) error {
						_, err := tx.Exec(`INSERT INTO item (name) VALUES ($1)`, fmt.Sprint(round, "-", g))
						return err
					})
					if err != nil && !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		if n := len(names(t, db)); n < 600 {
			t.Errorf("%d items, want at least the 600 of those that did not give up", n)
		}
	})
}

// Another process may write to the file for longer than SQLite itself waits.
func TestBusyFileIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		url := storetest.URL(t, "sqlite")
		db, other := storetest.Open(t, url), storetest.Open(t, url)
		migrate(t, db)
		locked := make(chan struct{})
		done := make(chan error)
		go func() {
			done <- other.Do(t.Context(), func(tx *store.Tx) error {
				close(locked)
				time.Sleep(25 * time.Second)
				return nil
			})
		}()
		<-locked
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := db.Do(ctx, func(*store.Tx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a context that ends: %v", err)
		}
		do(t, db, `INSERT INTO item (name) VALUES ('a')`)
		if err := <-done; err != nil {
			t.Error(err)
		}
		equal(t, "items", names(t, db), []string{"a"})
	})
}

func TestSQLiteFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b%20c#d&e=f")
	path := filepath.Join(dir, "task fleet.db")
	if _, err := store.Open(t.Context(), "sqlite:"+path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("in a folder that is not there: %v", err)
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	db := storetest.Open(t, "sqlite:"+path)
	migrate(t, db)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("others can use the file %s: %v", suffix, info.Mode())
		}
	}
	again := storetest.Open(t, "sqlite:"+path) // must not take the first one's locks away
	do(t, again, `INSERT INTO item (name) VALUES ('a')`)
	do(t, db, `INSERT INTO item (name) VALUES ('b')`)
	equal(t, "items", names(t, again), []string{"a", "b"})
	if _, err := store.Open(t.Context(), "sqlite:"+path+"?mode=ro"); err == nil || !strings.Contains(err.Error(), "synchronous") {
		t.Errorf("an unknown parameter: %v", err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), "sqlite:"+text); err == nil || !strings.Contains(err.Error(), "not a database") {
		t.Errorf("a file of something else: %v", err)
	}
}
