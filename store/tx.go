package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A Tx is one transaction, for one goroutine, until the function it was given
// to returns. Its statements run under the context of Do or View.
type Tx struct {
	ctx   context.Context
	db    *DB
	inner transaction
	kind  kind
	used  bool // for a statement

	rows    *Rows // being read
	failure error // of the first statement that failed
	again   bool  // the failure is one that may not come again
	over    bool

	wakes []wake
	after []func()
}

// Exec runs a statement and returns how many rows it inserted, updated or
// deleted.
func (tx *Tx) Exec(statement string, args ...any) (rowsAffected int64, err error) {
	args, err = tx.prepare(statement, args)
	if err != nil {
		return 0, err
	}
	n, err := tx.inner.exec(tx.ctx, tx.db.engine.text(statement), args)
	if err != nil {
		return 0, tx.fail(statement, err)
	}
	return n, nil
}

// Query runs a statement that returns rows. They have to be read to the end,
// or closed, before the next statement; what is open when the transaction's
// function returns is closed.
func (tx *Tx) Query(statement string, args ...any) (*Rows, error) {
	args, err := tx.prepare(statement, args)
	if err != nil {
		return nil, err
	}
	rows, err := tx.inner.query(tx.ctx, tx.db.engine.text(statement), args)
	if err != nil {
		return nil, tx.fail(statement, err)
	}
	tx.rows = &Rows{tx: tx, rows: rows, statement: statement}
	return tx.rows, nil
}

// QueryRow runs a statement that returns at most one row of interest. It has
// to be scanned.
func (tx *Tx) QueryRow(statement string, args ...any) *Row {
	rows, err := tx.Query(statement, args...)
	return &Row{rows: rows, err: err}
}

// Later runs a statement of which nothing is needed before the commit. PostgreSQL
// is sent it together with the next one, or with COMMIT, so that nobody waits for
// it by itself. If it fails so does the transaction: with the next statement or
// with the commit. Statements run in the order in which they were given, whether
// later or now.
//
// scan, unless it is nil, gets every row that it returns, at that time. It only
// takes note of them: where they come with the commit, it is too late for an error
// of its to undo anything. Who decides by them runs another statement first.
func (tx *Tx) Later(statement string, args []any, scan func(Scanner) error) error {
	if tx.kind != write {
		return tx.refuse(fmt.Errorf("store: %s: Later in a View: who reads wants to know now", brief(statement)))
	}
	values, err := tx.prepare(statement, args)
	if err != nil {
		return err
	}
	read := scan
	if scan != nil {
		read = func(row Scanner) error {
			if err := scan(converted{row}); err != nil {
				return tx.refuse(fmt.Errorf("store: %s: %w", brief(statement), err))
			}
			return nil
		}
	}
	err = tx.inner.later(tx.ctx, call{tx.db.engine.text(statement), values}, read)
	switch {
	case err == nil:
		return nil
	case tx.failure != nil: // by scan
		return tx.failure
	}
	return tx.fail(statement, err)
}

// Column runs a statement that returns one column of text, and reads it.
func (tx *Tx) Column(statement string, args ...any) (list []string, err error) {
	rows, err := tx.Query(statement, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}

// Everybody is a number of waiters for Wake that none exceeds.
const Everybody = 1 << 30

// Wake wakes up to n waiters of topic once the transaction has committed, in
// this process and, a moment later, in every other that listens.
func (tx *Tx) Wake(topic string, n int) {
	switch {
	case n <= 0:
		return
	case tx.kind != write:
		tx.refuse(fmt.Errorf("store: Wake(%q) in a View: what changed nothing has nobody to wake", topic))
		return
	case len(topic) > maxTopic || strings.ContainsRune(topic, 0):
		tx.refuse(fmt.Errorf("store: Wake: a topic has at most %d bytes and no NUL, this one has %d bytes", maxTopic, len(topic)))
		return
	}
	tx.wakes = merge(tx.wakes, wake{topic, n})
}

// maxTopic leaves room in the 8,000 bytes that a notification may have.
const maxTopic = 1000

// AfterCommit has f run after the commit, in the order of the calls, and not
// at all if there is none.
func (tx *Tx) AfterCommit(f func()) { tx.after = append(tx.after, f) }

// prepare makes sure that a statement may run now, and makes its arguments
// such that both databases understand them alike.
func (tx *Tx) prepare(statement string, args []any) ([]any, error) {
	if err := tx.ready(statement); err != nil {
		return nil, err
	}
	return tx.values(statement, args)
}

func (tx *Tx) ready(statement string) error {
	switch {
	case tx.over:
		return fmt.Errorf("store: %s: the transaction is over; use a Tx only inside its function", brief(statement))
	case tx.failure != nil:
		return fmt.Errorf("store: %s: not run, since the transaction failed before: %w", brief(statement), tx.failure)
	case tx.rows != nil:
		return tx.refuse(fmt.Errorf("store: %s: the rows of %s are still open; read them to the end, scan or close them first", brief(statement), brief(tx.rows.statement)))
	case tx.used && tx.kind == once:
		return tx.refuse(fmt.Errorf("store: %s: the second statement of a ViewOnce; use View", brief(statement)))
	}
	tx.used = true
	return nil
}

func (tx *Tx) values(statement string, args []any) ([]any, error) {
	values, err := arguments(args)
	if err != nil {
		return nil, tx.refuse(fmt.Errorf("store: %s: %w", brief(statement), err))
	}
	return values, nil
}

// fail records what a statement failed of and says it in our terms.
func (tx *Tx) fail(statement string, err error) error {
	again := tx.ctx.Err() == nil && tx.db.engine.transient(err)
	err = withCause(tx.ctx, err)
	if tx.db.engine.conflict(err) {
		err = fmt.Errorf("%w: %w", ErrConflict, err)
	}
	err = fmt.Errorf("store: %s: %w", brief(statement), err)
	if tx.failure == nil {
		tx.failure, tx.again = err, again
	}
	return err
}

// refuse records an error of the caller's.
func (tx *Tx) refuse(err error) error {
	if tx.failure == nil {
		tx.failure = err
	}
	return err
}

// commit commits and does what was to follow.
func (tx *Tx) commit() error {
	if tx.ctx.Err() != nil {
		return fmt.Errorf("store: not committed: %w", context.Cause(tx.ctx))
	}
	tx.over = true
	err := tx.inner.commit(tx.ctx)
	if err != nil && (tx.kind != write || tx.db.engine.undone(err)) {
		return tx.fail("COMMIT", err)
	}
	if len(tx.wakes) > 0 { // needless, if it did not happen, is better than missing, if it did
		for _, w := range tx.wakes {
			tx.db.waits.Wake(w.topic, w.n)
		}
		tx.db.engine.notify(tx.wakes)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	for _, f := range tx.after {
		f()
	}
	return nil
}

// end undoes what was not committed. An error says that the transaction may have
// gone by something that was undone as well.
func (tx *Tx) end() error {
	if tx.over {
		return nil
	}
	tx.closeRows()
	tx.over = true
	return tx.inner.rollback(tx.ctx)
}

func (tx *Tx) closeRows() {
	if tx.rows != nil {
		tx.rows.Close()
	}
}

// Rows are the rows that a query returned.
//
//	rows, err := tx.Query(…)
//	if err != nil {
//		return err
//	}
//	for rows.Next() {
//		if err := rows.Scan(&a, &b); err != nil {
//			return err
//		}
//	}
//	return rows.Err()
//
// Forgetting Err or Close loses nothing: an error fails the transaction, the
// end of the transaction closes the rows.
type Rows struct {
	tx        *Tx
	rows      cursor
	statement string
	err       error
	closed    bool
}

// Next moves to the next row and tells whether there is one. After the last
// one it closes the rows.
func (r *Rows) Next() bool {
	if r.closed {
		return false
	}
	if r.rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Scan copies the columns of the current row to where dest points.
func (r *Rows) Scan(dest ...any) error {
	if err := r.rows.Scan(destinations(dest)...); err != nil {
		return fmt.Errorf("store: %s: %w", brief(r.statement), err)
	}
	return nil
}

// Err tells why Next stopped: nil if it was the last row.
func (r *Rows) Err() error { return r.err }

// Close lets the next statement run.
func (r *Rows) Close() error {
	if r.closed {
		return r.err
	}
	r.closed = true
	r.tx.rows = nil
	err := r.rows.Close()
	if e := r.rows.Err(); e != nil {
		err = e
	}
	if err != nil {
		r.err = r.tx.fail(r.statement, err)
	}
	return r.err
}

// A Row is the first row that a query returned, if it returned any.
type Row struct {
	rows *Rows
	err  error
}

// Scan copies the columns to where dest points. It returns ErrNotFound if there
// is no row.
func (r *Row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return ErrNotFound
	}
	return errors.Join(r.rows.Scan(dest...), r.rows.Close())
}

// brief is the beginning of a statement, to recognize it by.
func brief(statement string) string {
	const limit = 80
	s := strings.Join(strings.Fields(statement), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
