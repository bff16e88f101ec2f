package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

var tables = fstest.MapFS{"0001_tables.sql": {Data: []byte(`
	CREATE TABLE item (
	  name   TEXT /*bytewise*/ NOT NULL PRIMARY KEY,
	  count  BIGINT NOT NULL DEFAULT 0,
	  done   BOOLEAN NOT NULL DEFAULT FALSE,
	  weight DOUBLE PRECISION,
	  body   TEXT
	);
	CREATE TABLE part (
	  item TEXT NOT NULL REFERENCES item (name),
	  name TEXT NOT NULL,
	  UNIQUE (item, name)
	);
`)}}

func migrate(t testing.TB, db *store.DB) {
	t.Helper()
	if err := db.Migrate(t.Context(), "test", tables); err != nil {
		t.Fatal(err)
	}
}

func exec(statement string, args ...any) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	}
}

func do(t testing.TB, db *store.DB, statement string, args ...any) {
	t.Helper()
	if err := db.Do(t.Context(), exec(statement, args...)); err != nil {
		t.Fatal(err)
	}
}

// names are the items there are.
func names(t testing.TB, db *store.DB) (all []string) {
	t.Helper()
	err := db.View(t.Context(), func(tx *store.Tx) (err error) {
		all, err = column(tx, `SELECT name FROM item ORDER BY name`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func column(tx *store.Tx, statement string, args ...any) ([]string, error) {
	rows, err := tx.Query(statement, args...)
	if err != nil {
		return nil, err
	}
	var all []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, url := range []string{"", "mysql://root:hunter2@localhost/db", "/var/lib/taskfleet.db", "sqlite", "sqlite:"} {
		_, err := store.Open(t.Context(), url)
		if err == nil || !strings.Contains(err.Error(), "sqlite:") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q): %v", url, err)
		}
	}
}

func TestCommitsUnlessTheFunctionFails(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		mine := errors.New("mine")
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			if err := exec(`INSERT INTO item (name) VALUES ('undone')`)(tx); err != nil {
				return err
			}
			return mine
		}); err != mine {
			t.Errorf("the function's error came back as %v", err)
		}
		do(t, db, `INSERT INTO item (name) VALUES ('done')`)
		equal(t, "items", names(t, db), []string{"done"})
	})
}

func TestPanicUndoesTheTransaction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		func() {
			defer func() { equal(t, "panic", recover(), "boom") }()
			db.Do(t.Context(), func(tx *store.Tx) error {
				exec(`INSERT INTO item (name) VALUES ('undone')`)(tx)
				panic("boom")
			})
		}()
		do(t, db, `INSERT INTO item (name) VALUES ('next')`)
		equal(t, "items", names(t, db), []string{"next"})
	})
}

func TestConflict(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		do(t, db, `INSERT INTO item (name) VALUES ('a')`)
		do(t, db, `INSERT INTO part (item, name) VALUES ('a', 'x')`)
		for _, statement := range []string{
			`INSERT INTO item (name) VALUES ('a')`,
			`INSERT INTO part (item, name) VALUES ('a', 'x')`,
			`UPDATE item SET name = 'a' WHERE name = 'b'`,
		} {
			err := db.Do(t.Context(), func(tx *store.Tx) error {
				if err := exec(`INSERT INTO item (name) VALUES ('b')`)(tx); err != nil {
					return err
				}
				return exec(statement)(tx)
			})
			if !errors.Is(err, store.ErrConflict) {
				t.Errorf("%s: %v", statement, err)
			}
		}
		err := db.Do(t.Context(), exec(`INSERT INTO part (item, name) VALUES ('none', 'x')`))
		if err == nil || errors.Is(err, store.ErrConflict) {
			t.Errorf("a part of no item: %v", err)
		}
		equal(t, "items", names(t, db), []string{"a"})
	})
}

func TestFirstFailureDecides(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		do(t, db, `INSERT INTO item (name) VALUES ('a')`)
		err := db.Do(t.Context(), func(tx *store.Tx) error {
			exec(`INSERT INTO item (name) VALUES ('b')`)(tx)
			exec(`INSERT INTO item (name) VALUES ('a')`)(tx)
			if err := exec(`INSERT INTO item (name) VALUES ('c')`)(tx); !errors.Is(err, store.ErrConflict) {
				t.Errorf("a statement after the failed one: %v", err)
			}
			return nil
		})
		if !errors.Is(err, store.ErrConflict) {
			t.Errorf("the failure that the function hid: %v", err)
		}
		equal(t, "items", names(t, db), []string{"a"})
	})
}

func TestNotFound(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		err := db.Do(t.Context(), func(tx *store.Tx) error {
			var n int
			if err := tx.QueryRow(`SELECT count FROM item WHERE name = 'a'`).Scan(&n); err != store.ErrNotFound {
				t.Errorf("got %v, want ErrNotFound", err)
			}
			return exec(`INSERT INTO item (name) VALUES ('goes on')`)(tx)
		})
		if err != nil {
			t.Error(err)
		}
		equal(t, "items", names(t, db), []string{"goes on"})
	})
}

func TestViewCannotWrite(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		if err := db.View(t.Context(), exec(`INSERT INTO item (name) VALUES ('a')`)); err == nil {
			t.Error("a View wrote")
		}
		if err := db.View(t.Context(), func(tx *store.Tx) error { tx.Wake("a", 1); return nil }); err == nil {
			t.Error("a View woke somebody")
		}
	})
}

func TestViewSeesOneMoment(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		err := db.View(t.Context(), func(tx *store.Tx) error {
			before, err := column(tx, `SELECT name FROM item`)
			if err != nil {
				return err
			}
			do(t, db, `INSERT INTO item (name) VALUES ('meanwhile')`)
			after, err := column(tx, `SELECT name FROM item`)
			equal(t, "items at the end of the view", after, before)
			return err
		})
		if err != nil {
			t.Error(err)
		}
		equal(t, "items in the next view", names(t, db), []string{"meanwhile"})
	})
}

func TestOpenRowsRefuseTheNextStatement(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		do(t, db, `INSERT INTO item (name) VALUES ('a'), ('b'), ('c')`)
		err := db.Do(t.Context(), func(tx *store.Tx) error {
			rows, err := tx.Query(`SELECT name FROM item`)
			if err != nil {
				return err
			}
			rows.Next()
			return exec(`DELETE FROM item`)(tx)
		})
		if err == nil || !strings.Contains(err.Error(), "still open") {
			t.Errorf("a statement among open rows: %v", err)
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			rows, err := tx.Query(`SELECT name FROM item`)
			if err != nil {
				return err
			}
			rows.Next()
			rows.Close()
			rows.Close()
			if rows.Next() {
				t.Error("closed rows go on")
			}
			if err := exec(`DELETE FROM item WHERE name = 'a'`)(tx); err != nil {
				return err
			}
			_, err = tx.Query(`SELECT name FROM item`) // left open
			return err
		}); err != nil {
			t.Error(err)
		}
		equal(t, "items", names(t, db), []string{"b", "c"})
	})
}

func TestTxEndsWithItsFunction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		var kept *store.Tx
		db.Do(t.Context(), func(tx *store.Tx) error { kept = tx; return nil })
		if err := exec(`INSERT INTO item (name) VALUES ('late')`)(kept); err == nil {
			t.Error("a Tx worked after its transaction")
		}
		equal(t, "items", len(names(t, db)), 0)
	})
}

func TestEndOfContextUndoes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		ctx, cancel := context.WithCancel(t.Context())
		err := db.Do(ctx, func(tx *store.Tx) error {
			err := exec(`INSERT INTO item (name) VALUES ('a')`)(tx)
			cancel()
			return err
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("commit: %v", err)
		}
		if err := db.Do(ctx, exec(`INSERT INTO item (name) VALUES ('b')`)); !errors.Is(err, context.Canceled) {
			t.Errorf("begin: %v", err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		if err := db.Do(ctx, func(tx *store.Tx) error {
			cancel()
			return exec(`INSERT INTO item (name) VALUES ('c')`)(tx)
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("statement: %v", err)
		}
		equal(t, "items", len(names(t, db)), 0)
	})
}

func TestContextEndsALongStatement(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := db.View(ctx, func(tx *store.Tx) error {
			var n int
			return tx.QueryRow(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2000000000) SELECT count(*) FROM n`).Scan(&n)
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if err := db.View(t.Context(), exec(`SELECT 1`)); err != nil {
			t.Errorf("the next transaction: %v", err)
		}
	})
}

func TestErrorsNameTheStatementAndNoValue(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		do(t, db, `INSERT INTO item (name) VALUES ('hunter2')`)
		err := db.Do(t.Context(), exec("INSERT INTO item\n\t(name) VALUES ($1)", "hunter2"))
		if err == nil || !strings.Contains(err.Error(), "INSERT INTO item (name)") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
	})
}

func TestConcurrentTransactionsLoseNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		do(t, db, `INSERT INTO item (name) VALUES ('counter')`)
		const goroutines, each = 16, 25
		var wg sync.WaitGroup
		for range goroutines {
			wg.Go(func() {
				for range each {
					if err := db.Do(t.Context(), func(tx *store.Tx) error {
						var n int
						if err := tx.QueryRow(`SELECT count FROM item WHERE name = 'counter' /*for update*/`).Scan(&n); err != nil {
							return err
						}
						return exec(`UPDATE item SET count = $1 WHERE name = 'counter'`, n+1)(tx)
					}); err != nil {
						t.Error(err)
					}
					if err := db.View(t.Context(), exec(`SELECT 1`)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		var n int
		db.View(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(`SELECT count FROM item`).Scan(&n) })
		equal(t, "count", n, goroutines*each)
	})
}

func TestSkipLockedHandsEachRowToOne(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		const rows = 200
		for i := range rows {
			do(t, db, `INSERT INTO item (name) VALUES ($1)`, fmt.Sprint(i))
		}
		var mu sync.Mutex
		var taken []string
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					var name string
					err := db.Do(t.Context(), func(tx *store.Tx) error {
						return tx.QueryRow(`
							UPDATE item SET done = TRUE
							 WHERE name = (SELECT name FROM item WHERE NOT done ORDER BY name LIMIT 1 /*skip locked*/)
							RETURNING name`).Scan(&name)
					})
					if err == store.ErrNotFound {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					taken = append(taken, name)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		slices.Sort(taken)
		equal(t, "taken", len(taken), rows)
		equal(t, "taken once", len(slices.Compact(taken)), rows)
	})
}

func TestClose(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		inside, proceed := make(chan struct{}), make(chan struct{})
		result := make(chan error)
		go func() {
			result <- db.Do(t.Context(), func(tx *store.Tx) error {
				close(inside)
				<-proceed
				return exec(`INSERT INTO item (name) VALUES ('a')`)(tx)
			})
		}()
		<-inside
		closed := make(chan error)
		go func() { closed <- db.Close() }()
		synctest.Wait()
		if err := db.Do(t.Context(), exec(`SELECT 1`)); err != store.ErrClosed {
			t.Errorf("a transaction after Close: %v", err)
		}
		close(proceed)
		if err := <-result; err != nil {
			t.Errorf("the transaction under way: %v", err)
		}
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

func TestATransactionCanAskToBeRunAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		tries := 0
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			tries++
			if err := exec(`INSERT INTO item (name, count) VALUES ('a', $1)`, tries)(tx); err != nil {
				return err
			}
			if tries < 3 {
				return fmt.Errorf("not yet: %w", store.ErrAgain)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		equal(t, "tries and items", fmt.Sprint(tries, names(t, db)), "3 [a]")
	})
}
