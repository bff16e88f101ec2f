// Package store opens the platform's database and runs transactions on it.
//
// # One text, two databases
//
// The database is a SQLite file, for a platform that is one process, or
// PostgreSQL, for one of several replicas. A service writes each statement
// once. What remains different is hidden here, or marked by a comment that
// PostgreSQL gets replaced and SQLite reads over:
//
//	/*identity*/        after INTEGER: a number that the database hands out, growing
//	/*bytewise*/        COLLATE "C": order and compare text by its bytes
//	/*skip locked*/     FOR UPDATE SKIP LOCKED
//	/*for update*/      FOR UPDATE
//	/*for share*/       FOR SHARE
//	/*for key share*/   FOR KEY SHARE: against FOR UPDATE and DELETE, not against UPDATE
//	/*json*/            ::json, after text whose members ->> reads
//
// Parameters are $1, $2, …; they may repeat. Column types that mean the same
// on both are TEXT, BIGINT, DOUBLE PRECISION and BOOLEAN. Three conventions
// stand in for the rest:
//
//   - A time is a BIGINT of Unix milliseconds that Go took from its clock, so
//     that tests own the time. A time.Time as an argument is refused.
//   - There are no binary columns, whose name and literals differ. Bytes are
//     TEXT: JSON as it is, anything else in base64, as package seal does. A
//     []byte argument is sent as text, and text holds neither a NUL nor
//     invalid UTF-8 (ErrInvalidText on both, as PostgreSQL has it).
//   - A []string is a TEXT column holding a JSON array, in and out. As a
//     parameter it is also the way to ask for many keys in one statement of
//     constant text: WHERE task_id IN (SELECT value FROM json_each($1)).
//
// And where the databases differ by themselves, write what they agree on: say
// NULLS FIRST or LAST where a column that is ordered by can be NULL, ESCAPE
// where a LIKE needs it (LIKE heeds case on both), and no deferred constraints.
//
// # Transactions
//
// Everything happens in DB.Do, which may write, or DB.View, which may not. Do
// is READ COMMITTED on PostgreSQL: a transaction that decides by what it reads
// locks the row (/*for update*/), or decides in the statement that writes. On
// SQLite writers follow one another, first come first served, beside any
// number of readers. A View sees one moment on both.
//
// Both run their function again when the database undid the transaction through
// no fault of the function: serialization failure, deadlock, lock timeout, lost
// connection. A connection lost while COMMIT was under way, or what goes with it
// (Tx.Later), is ErrUnknownOutcome and not tried again, since what was done may
// have been done.
//
// The first statement that fails decides the fate of its transaction, on both
// databases: later statements are refused and nothing is committed, whatever
// the function returns. Who expects a conflict and wants to go on says
// ON CONFLICT DO NOTHING.
//
// # Waking
//
// Waiting for a change is Waits: register, look at the database, wait. The
// transaction that makes the change calls Tx.Wake; if and when it commits, the
// wake happens in this process and, through NOTIFY, in every replica that runs
// DB.Listen.
//
// NOTIFY is not part of the transaction. PostgreSQL lets only one transaction
// at a time commit with a notification, disk and all, which would put all that
// matters here in single file. It is sent right after, for many transactions
// at once. A process that dies in between leaves its wakes to others unsaid, so
// a wake is a hint that makes things fast: whoever waits also looks now and
// then.
package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

var (
	// ErrConflict reports that a row with the same key exists.
	ErrConflict = errors.New("store: a row with this key exists already")

	// ErrNotFound reports that there is no such row.
	ErrNotFound = errors.New("store: no such row")

	// ErrUnknownOutcome reports that the connection was lost while the
	// transaction was being committed: all of it happened, or none of it.
	// Look before trying again, unless trying again is harmless.
	ErrUnknownOutcome = errors.New("store: the connection was lost during commit; the transaction may or may not have happened")

	// ErrInvalidText reports an argument that no TEXT column can hold.
	ErrInvalidText = errors.New("store: text holds a NUL character or is not valid UTF-8")

	// ErrClosed reports a transaction on a database that was closed.
	ErrClosed = errors.New("store: the database is closed")

	// ErrAgain, returned by the function of a transaction, has it undone and run
	// again, as after a deadlock: for one that finds that it would have to lock
	// against the order of locks.
	ErrAgain = errors.New("store: what the transaction goes by has changed while it ran")

	// errGaveUp reports that trying again did not help, though it might have:
	// the database is not there, say.
	errGaveUp = errors.New("store: gave up")
)

// A DB is the platform's database. It is safe for concurrent use.
type DB struct {
	engine engine
	waits  *Waits

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// Open opens "sqlite:PATH", creating the file if there is none, or
// "postgres://USER:PASSWORD@HOST/DATABASE?…", and makes sure that it answers.
//
// A PostgreSQL URL takes the parameters of libpq; pool_max_conns=N changes the
// number of connections from 16, and pool_max_conn_idle_time=1h how long one is
// kept that nobody uses, from 5 minutes. A SQLite path may end in
// ?synchronous=normal, with which a power failure may undo the last commits,
// or ?synchronous=off, with which it may ruin the file; neither matters when
// only the process dies.
func Open(ctx context.Context, url string) (*DB, error) {
	db := &DB{waits: newWaits()}
	var err error
	scheme, path, _ := strings.Cut(url, ":")
	switch scheme {
	case "sqlite":
		db.engine, err = openSQLite(path)
	case "postgres", "postgresql":
		db.engine, err = openPostgres(ctx, url)
	default:
		return nil, errors.New(`store: cannot tell which database is meant: the URL must be "sqlite:PATH" or "postgres://USER:PASSWORD@HOST/DATABASE"`)
	}
	if err != nil {
		return nil, err
	}
	if err := db.Do(ctx, func(tx *Tx) error {
		var one int
		return tx.QueryRow(`SELECT 1`).Scan(&one)
	}); err != nil {
		db.Close()
		return nil, fmt.Errorf("store: the %s database does not accept transactions: %w", scheme, err)
	}
	return db, nil
}

// Close waits for the transactions under way and closes the database.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	db.mu.Unlock()
	db.running.Wait()
	return db.engine.close()
}

// Waits returns the wait lists that Tx.Wake wakes.
func (db *DB) Waits() *Waits { return db.waits }

// Do runs f in a transaction that may write, and commits it unless f fails.
//
// f may run more than once, so it has effects only through its Tx, and sets
// what it returns through captured variables rather than adding to them. It
// waits for nothing but the database: others wait for it. So Do does not nest;
// on SQLite, the inner one would wait for the outer one for ever.
//
// An error of f is returned as it is, unless what f went by was undone and running it
// again was not possible.
func (db *DB) Do(ctx context.Context, f func(*Tx) error) error {
	return db.run(ctx, write, f)
}

// View runs f in a transaction that cannot write and sees one moment of the
// database. Like that of Do, f may run more than once.
func (db *DB) View(ctx context.Context, f func(*Tx) error) error {
	return db.run(ctx, view, f)
}

// ViewOnce is View for one statement, which sees one moment by itself: PostgreSQL
// is asked once instead of twice. A second statement is refused. QueryEach counts
// as one, but each of its rows may see another moment. That it only reads is up to
// f: SQLite refuses anything else, PostgreSQL is not told.
func (db *DB) ViewOnce(ctx context.Context, f func(*Tx) error) error {
	return db.run(ctx, once, f)
}

func (db *DB) run(ctx context.Context, k kind, f func(*Tx) error) error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return ErrClosed
	}
	db.running.Add(1)
	db.mu.Unlock()
	defer db.running.Done()

	return retry(ctx, func() (error, bool) { return db.try(ctx, k, f) })
}

// Twelve tries take four seconds or more: longer than a deadlock, a busy writer
// or a restart of the server lasts, shorter than a caller's patience.
const (
	maxTries     = 12
	firstBackoff = 10 * time.Millisecond
	maxBackoff   = time.Second
)

// retry tries until it succeeds, fails for good or has failed too often.
func retry(ctx context.Context, try func() (err error, again bool)) error {
	for n := 1; ; n++ {
		err, again := try()
		if !again {
			return err
		}
		if n == maxTries {
			return fmt.Errorf("%w after %d tries: %w", errGaveUp, n, err)
		}
		ceiling := min(firstBackoff<<(n-1), maxBackoff)
		select {
		case <-time.After(ceiling/2 + rand.N(ceiling/2)):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// try runs f in one transaction. again says that the transaction left no trace
// and may succeed if it is run anew.
func (db *DB) try(ctx context.Context, k kind, f func(*Tx) error) (err error, again bool) {
	inner, err := db.engine.begin(ctx, k)
	if err != nil {
		return fmt.Errorf("store: begin a transaction: %w", withCause(ctx, err)), ctx.Err() == nil && db.engine.transient(err)
	}
	tx := &Tx{ctx: ctx, db: db, inner: inner, kind: k}
	defer tx.end() // also when f panics
	err = f(tx)
	tx.closeRows()
	if err == nil && tx.failure == nil {
		err = tx.commit()
		return err, err != nil && tx.again
	}
	if undone := tx.end(); undone != nil { // by what another has failed of
		return fmt.Errorf("store: what the transaction went by was undone: %w", withCause(ctx, undone)), ctx.Err() == nil
	}
	if tx.failure != nil && (tx.again || err == nil) {
		return tx.failure, tx.again
	}
	return err, errors.Is(err, ErrAgain)
}

// withCause makes an error that came of the end of ctx say so, whatever a
// driver made of it.
func withCause(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}
