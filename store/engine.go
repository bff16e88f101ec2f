package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// An engine is what SQLite and PostgreSQL do differently. It is the place for
// whatever makes one of them faster: nothing above it knows a driver.
type engine interface {
	// begin waits for a connection and starts a transaction on it.
	begin(ctx context.Context, k kind) (transaction, error)

	// text is the statement as this database wants it.
	text(statement string) string

	// notify tells other processes, soon, what to wake.
	notify(wakes []wake)

	// listen wakes waits as other processes notify, until ctx ends.
	listen(ctx context.Context, waits *Waits)

	// lockMigrations makes the transaction the only one that migrates.
	lockMigrations(tx *Tx) error

	// conflict tells whether err is the violation of a unique key.
	conflict(err error) bool

	// transient tells whether a transaction that failed with err was undone
	// for a reason that may be gone the next time.
	transient(err error) bool

	// undone tells whether a commit that failed with err certainly had no
	// effect.
	undone(err error) bool

	close() error
}

// A kind is what a transaction may do.
type kind int

const (
	write kind = iota
	view       // read, as at one moment
	once       // run one statement that reads
)

// A transaction is one that a database runs. Statements are those of text.
type transaction interface {
	exec(ctx context.Context, text string, args []any) (int64, error)
	query(ctx context.Context, text string, args []any) (cursor, error)

	// all runs statements one after the other and returns how many rows were
	// changed. scan, if there is one, gets every row that comes back, with the
	// index of its statement; if it fails, so does all.
	all(ctx context.Context, list []call, scan func(i int, row Scanner) error) (int64, error)

	// later runs a statement before the next one, or before the commit, and fails
	// with whichever that is if it fails. scan, if there is one, gets its rows.
	later(ctx context.Context, c call, scan func(Scanner) error) error

	// commit commits and takes the connection back, whatever the result. It does
	// not end with ctx.
	commit(ctx context.Context) error

	// rollback undoes the transaction and takes the connection back. An error
	// says that something the transaction may have seen was undone as well.
	rollback(ctx context.Context) error
}

// A call is a statement and its arguments.
type call struct {
	text string
	args []any
}

// A cursor is the rows that a statement returns, while they come.
type cursor interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close() error
}

// A session is one connection of SQLite, used by one transaction at a time.
type session struct {
	conn       *sql.Conn
	statements map[string]*sql.Stmt // prepared, by their text
	kind       kind
}

// settleTimeout bounds COMMIT, with what goes with it, and ROLLBACK. They do not
// end with the caller's context: a commit broken off would leave nobody knowing
// what happened. It is longer than a process that has frozen keeps its locks.
const settleTimeout = 90 * time.Second

// maxStatements bounds what a session keeps prepared. The platform has a few
// hundred statements; more means that somebody builds them.
const maxStatements = 1000

func (s *session) prepare(ctx context.Context, text string) (*sql.Stmt, error) {
	if st := s.statements[text]; st != nil {
		return st, nil
	}
	st, err := s.conn.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	if len(s.statements) >= maxStatements {
		for t, old := range s.statements {
			old.Close()
			delete(s.statements, t)
		}
	}
	s.statements[text] = st
	return st, nil
}

func (s *session) exec(ctx context.Context, text string, args []any) (int64, error) {
	st, err := s.prepare(ctx, text)
	if err != nil {
		return 0, err
	}
	r, err := st.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("rows affected: %w", err)
	}
	return n, nil
}

func (s *session) query(ctx context.Context, text string, args []any) (cursor, error) {
	st, err := s.prepare(ctx, text)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

func (s *session) all(ctx context.Context, list []call, scan func(int, Scanner) error) (total int64, err error) {
	for i, c := range list {
		if scan == nil {
			n, err := s.exec(ctx, c.text, c.args)
			if err != nil {
				return 0, err
			}
			total += n
			continue
		}
		if err := s.scanAll(ctx, c, func(row Scanner) error { return scan(i, row) }); err != nil {
			return 0, err
		}
	}
	return total, nil
}

// later is now: there is nobody far away to wait for.
func (s *session) later(ctx context.Context, c call, scan func(Scanner) error) error {
	if scan == nil {
		_, err := s.exec(ctx, c.text, c.args)
		return err
	}
	return s.scanAll(ctx, c, scan)
}

func (s *session) scanAll(ctx context.Context, c call, scan func(Scanner) error) error {
	rows, err := s.query(ctx, c.text, c.args)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// closeIf closes a session that is of no more use, and returns what remains.
func (s *session) closeIf(broken bool) *session {
	if !broken {
		return s
	}
	s.close()
	return nil
}

func (s *session) close() error {
	for _, st := range s.statements {
		st.Close()
	}
	return s.conn.Close()
}
