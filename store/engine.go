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
	begin(ctx context.Context, write bool) (*session, error)

	// commit commits and takes the session back, whatever the result. It does
	// not end with ctx.
	commit(ctx context.Context, s *session) error

	// rollback undoes the transaction and takes the session back.
	rollback(ctx context.Context, s *session)

	// text is the statement as this database wants it.
	text(statement string) string

	// each runs a statement with each of rows as its arguments and returns how
	// many rows were changed. scan, if there is one, gets every row that comes
	// back; if it fails, so does each.
	each(ctx context.Context, s *session, text string, rows [][]any, scan func(i int, row Scanner) error) (int64, error)

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

// A session is one connection, used by one transaction at a time.
type session struct {
	conn *sql.Conn

	// statements holds prepared statements by their text; nil where the driver
	// keeps its own.
	statements map[string]*sql.Stmt

	write bool

	// begin is the statement that begins the transaction, until it has been sent:
	// with the first statement, so that it costs no wait of its own.
	begin string
}

// settleTimeout bounds COMMIT and ROLLBACK, which do not end with the caller's
// context: a commit broken off would leave nobody knowing what happened.
const settleTimeout = 30 * time.Second

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

// open begins the transaction if that is still to be done.
func (s *session) open(ctx context.Context) error {
	if s.begin == "" {
		return nil
	}
	_, err := s.conn.ExecContext(ctx, s.begin)
	if err == nil {
		s.begin = ""
	}
	return err
}

func (s *session) exec(ctx context.Context, text string, args ...any) (int64, error) {
	var r sql.Result
	err := s.open(ctx)
	if err != nil {
		return 0, err
	}
	if s.statements == nil {
		r, err = s.conn.ExecContext(ctx, text, args...)
	} else {
		var st *sql.Stmt
		if st, err = s.prepare(ctx, text); err == nil {
			r, err = st.ExecContext(ctx, args...)
		}
	}
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("rows affected: %w", err)
	}
	return n, nil
}

func (s *session) query(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if s.statements == nil {
		return s.conn.QueryContext(ctx, text, args...)
	}
	st, err := s.prepare(ctx, text)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

// each runs a statement for one of rows after the other.
func (s *session) each(ctx context.Context, text string, rows [][]any, scan func(int, Scanner) error) (total int64, err error) {
	for i, args := range rows {
		if scan == nil {
			n, err := s.exec(ctx, text, args...)
			if err != nil {
				return 0, err
			}
			total += n
			continue
		}
		if err := s.scanAll(ctx, text, args, func(row Scanner) error { return scan(i, row) }); err != nil {
			return 0, err
		}
	}
	return total, nil
}

func (s *session) scanAll(ctx context.Context, text string, args []any, scan func(Scanner) error) error {
	rows, err := s.query(ctx, text, args...)
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
