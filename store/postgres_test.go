package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// onPostgres runs f if PostgreSQL is among the databases to test on.
func onPostgres(t *testing.T, f func(t *testing.T, url string)) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		if strings.HasPrefix(url, "postgres:") {
			f(t, url)
		}
	})
}

// with returns the URL with one more parameter.
func with(t *testing.T, raw, name, value string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

func pid(tx *store.Tx) (pid int, err error) {
	err = tx.QueryRow(`SELECT pg_backend_pid()`).Scan(&pid)
	return pid, err
}

func TestConnectionLostInATransactionIsTriedAgain(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		db, admin := storetest.Open(t, url), storetest.Open(t, url)
		migrate(t, db)
		for name, run := range map[string]func(context.Context, func(*store.Tx) error) error{"Do": db.Do, "View": db.View} {
			tries := 0
			err := run(t.Context(), func(tx *store.Tx) error {
				tries++
				p, err := pid(tx)
				if err != nil {
					return err
				}
				if tries <= 2 {
					do(t, admin, `SELECT pg_terminate_backend($1, 120000)`, p)
				}
				if name == "View" {
					return exec(`SELECT 1`)(tx)
				}
				return exec(`INSERT INTO item (name) VALUES ($1)`, fmt.Sprint("try ", tries))(tx)
			})
			if err != nil || tries != 3 {
				t.Errorf("%s: %v after %d tries", name, err, tries)
			}
		}
		equal(t, "items", names(t, db), []string{"try 3"})
	})
}

// The server restarts between transactions: every idle connection is dead.
func TestDeadIdleConnections(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		db, admin := storetest.Open(t, with(t, url, "application_name", "doomed "+t.Name())), storetest.Open(t, url)
		var wg sync.WaitGroup
		var inside sync.WaitGroup
		inside.Add(8)
		for range 8 {
			wg.Go(func() {
				db.View(t.Context(), func(tx *store.Tx) error {
					inside.Done()
					inside.Wait() // all at once, each on its connection
					return nil
				})
			})
		}
		wg.Wait()
		do(t, admin, `SELECT pg_terminate_backend(pid, 120000) FROM pg_stat_activity WHERE application_name = left($1, 63)`, "doomed "+t.Name())
		for range 8 {
			if err := db.View(t.Context(), exec(`SELECT 1`)); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestDeadlockIsTriedAgain(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		migrate(t, db)
		do(t, db, `INSERT INTO item (name) VALUES ('a'), ('b')`)
		var wg, both sync.WaitGroup
		both.Add(2)
		var tries atomic.Int32
		for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
			wg.Go(func() {
				first := true
				if err := db.Do(t.Context(), func(tx *store.Tx) error {
					tries.Add(1)
					if err := exec(`UPDATE item SET count = count + 1 WHERE name = $1`, order[0])(tx); err != nil {
						return err
					}
					if first {
						first = false
						both.Done()
						both.Wait()
					}
					return exec(`UPDATE item SET count = count + 1 WHERE name = $1`, order[1])(tx)
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := tries.Load(); n < 3 {
			t.Errorf("%d tries, want at least one again", n)
		}
		var sum int
		db.View(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(`SELECT SUM(count) FROM item`).Scan(&sum) })
		equal(t, "updates", sum, 4)
	})
}

func TestSerializationFailureIsTriedAgainAndThenGivenUp(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		synctest.Test(t, func(t *testing.T) { // for the back-off
			db := storetest.Open(t, url)
			tries := 0
			failing := func(ctx context.Context, failures int) error {
				tries = 0
				return db.Do(ctx, func(tx *store.Tx) error {
					if tries++; tries > failures {
						return nil
					}
					exec(`DO $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END $$`)(tx)
					return errors.New("what the function makes of it does not matter")
				})
			}
			if err := failing(t.Context(), 3); err != nil || tries != 4 {
				t.Errorf("%v after %d tries", err, tries)
			}
			err := failing(t.Context(), 1000)
			if err == nil || !strings.Contains(err.Error(), "gave up after 12 tries") || !strings.Contains(err.Error(), "not now") || tries != 12 {
				t.Errorf("%v after %d tries", err, tries)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := failing(ctx, 1000); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not now") {
				t.Errorf("when the context ends between tries: %v", err)
			}
		})
	})
}

func TestCommitOfUnknownOutcome(t *testing.T) {
	onPostgres(t, func(t *testing.T, direct string) {
		migrate(t, storetest.Open(t, direct))
		p := newProxy(t, direct)
		db, witness := storetest.Open(t, p.url), storetest.Open(t, direct)
		for _, delivered := range []bool{false, true} {
			name := fmt.Sprint("delivered ", delivered)
			tries, followed := 0, false
			w := db.Waits().Wait("topic")
			err := db.Do(t.Context(), func(tx *store.Tx) error {
				tries++
				tx.Wake("topic", 1)
				tx.AfterCommit(func() { followed = true })
				p.cutAtCommit(delivered)
				return exec(`INSERT INTO item (name) VALUES ($1)`, name)(tx)
			})
			if !errors.Is(err, store.ErrUnknownOutcome) || tries != 1 || followed {
				t.Errorf("%s: %v after %d tries, AfterCommit ran: %v", name, err, tries, followed)
			}
			select {
			case <-w.C:
			default:
				t.Errorf("%s: nobody was woken to look what happened", name)
			}
			w.Close()
			if err := db.View(t.Context(), exec(`SELECT 1`)); err != nil {
				t.Errorf("the next transaction: %v", err)
			}
		}
		eventually(t, "the delivered commit happened, the other did not", func() bool {
			return fmt.Sprint(names(t, witness)) == "[delivered true]"
		})
	})
}

// Nothing is unknown about a transaction that could not change anything.
func TestViewIsTriedAgainWhenItsEndIsLost(t *testing.T) {
	onPostgres(t, func(t *testing.T, direct string) {
		p := newProxy(t, direct)
		db := storetest.Open(t, p.url)
		tries := 0
		err := db.View(t.Context(), func(tx *store.Tx) error {
			if tries++; tries == 1 {
				p.cutAtCommit(true)
			}
			return exec(`SELECT 1`)(tx)
		})
		if err != nil || tries != 2 {
			t.Errorf("%v after %d tries", err, tries)
		}
	})
}

// A proxy stands between a DB and the server, to cut the line.
type proxy struct {
	url    string
	mode   atomic.Int32 // what to do at COMMIT
	refuse atomic.Int32 // how many connections not to let in
}

const (
	pass = iota
	cutBefore
	cutAfter
)

func (p *proxy) cutAtCommit(deliver bool) {
	p.mode.Store(cutBefore)
	if deliver {
		p.mode.Store(cutAfter)
	}
}

func newProxy(t *testing.T, direct string) *proxy {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.Host = l.Addr().String()
	p := &proxy{url: u.String()}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			if p.refuse.Add(-1) >= 0 {
				client.Close()
				continue
			}
			wg.Go(func() { p.serve(client, server) })
		}
	})
	return p
}

func (p *proxy) serve(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	var answers sync.WaitGroup
	answers.Go(func() {
		io.Copy(client, server)
		client.Close()
	})
	defer answers.Wait()
	defer server.Close()
	buf := make([]byte, 64*1024)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("COMMIT\x00")) {
			switch p.mode.Swap(pass) {
			case cutBefore:
				return
			case cutAfter:
				client.Close() // the answer does not arrive
				server.Write(buf[:n])
				server.(*net.TCPConn).CloseWrite()
				answers.Wait()
				return
			}
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// eventually waits in real time for what other processes bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Errorf("did not come about in two minutes: %s", what)
			return
		}
	}
}

func TestWaitingForAConnectionEndsWithTheContext(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		db := storetest.Open(t, with(t, url, "pool_max_conns", "1"))
		inside, proceed := make(chan struct{}), make(chan struct{})
		done := make(chan error)
		go func() {
			done <- db.View(t.Context(), func(*store.Tx) error { close(inside); <-proceed; return nil })
		}()
		<-inside
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := db.View(ctx, exec(`SELECT 1`)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(proceed)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPostgresURLMistakes(t *testing.T) {
	onPostgres(t, func(t *testing.T, good string) {
		u, err := url.Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(u.User.Username(), "hunter2")
		good = u.String()
		for name, bad := range map[string]string{
			"no such schema":  with(t, good, "search_path", "none"),
			"no connections":  with(t, good, "pool_max_conns", "0"),
			"idle for ever":   with(t, good, "pool_max_conn_idle_time", "-1s"),
			"nobody listens":  strings.Replace(good, u.Host, "127.0.0.1:1", 1),
			"no such setting": with(t, good, "no_such_setting", "1"),
			"no URL":          "postgres://user:hunter2@host:port/",
			"a raw /":         "postgres://user:a/hunter2@127.0.0.1:1/db",
			"a raw #":         "postgres://user:a#hunter2@127.0.0.1:1/db",
			"a raw ?":         "postgres://user:5?hunter2@127.0.0.1:1/db",
		} {
			synctest.Test(t, func(t *testing.T) { // for the back-off
				_, err := store.Open(t.Context(), bad)
				if err == nil || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	})
}

func TestOpenWaitsForAServerThatStarts(t *testing.T) {
	onPostgres(t, func(t *testing.T, direct string) {
		p := newProxy(t, direct)
		p.refuse.Store(3)
		storetest.Open(t, p.url)
	})
}
