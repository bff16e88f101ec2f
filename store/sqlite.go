package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteEngine keeps its connections for good, each with its prepared
// statements: one that writes and a few that read.
type sqliteEngine struct {
	sql         *sql.DB
	synchronous string
	writer      *sqliteWriter
	readers     chan *session // nil stands for a connection to be opened
}

func openSQLite(location string) (*sqliteEngine, error) {
	path, parameters, _ := strings.Cut(location, "?")
	if path == "" {
		return nil, errors.New(`store: "sqlite:" needs the path of a file after it`)
	}
	synchronous := "full"
	if parameters != "" {
		value, ok := strings.CutPrefix(parameters, "synchronous=")
		if !ok || !slices.Contains([]string{"full", "normal", "off"}, value) {
			return nil, fmt.Errorf("store: open sqlite:%s: after the path there may be ?synchronous=full, normal or off, nothing else", location)
		}
		synchronous = value
	}
	// SQLite would create the file readable for everybody; its journal files
	// get the file's mode. Only a new file may be touched: closing any other
	// descriptor of a database drops the locks this process has on it.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("store: create the database: %w", err)
	}
	// As in every distribution's SQLite: as durable as fsync, and what a commit
	// waits for. Where it is not to be had, fsync stays.
	sqlite.Fdatasync(true)
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?_dqs=0&_error_rc=1")
	if err != nil {
		return nil, fmt.Errorf("store: open %s: %w", path, err)
	}
	db.SetMaxIdleConns(-1) // a session that is closed was the connection's last
	e := &sqliteEngine{sql: db, synchronous: synchronous, readers: make(chan *session, max(4, runtime.GOMAXPROCS(0)))}
	e.writer = &sqliteWriter{connect: func(ctx context.Context) (*session, error) { return e.connect(ctx, write) }}
	for range cap(e.readers) {
		e.readers <- nil
	}
	return e, nil
}

func (e *sqliteEngine) begin(ctx context.Context, k kind) (transaction, error) {
	if k == write {
		s, err := e.writer.begin(ctx)
		if err != nil {
			return nil, err
		}
		return sqliteWrite{s, e.writer}, nil
	}
	var s *session
	select {
	case s = <-e.readers:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var err error
	if s == nil {
		s, err = e.connect(ctx, view)
	}
	if err == nil && k == view {
		if _, err = s.exec(ctx, "BEGIN", nil); err != nil {
			s = s.closeIf(!rollBack(s))
		}
	}
	if err != nil {
		e.readers <- s
		return nil, err
	}
	return sqliteRead{s, e, k == once}, nil
}

// A sqliteWrite is a turn of the writer's.
type sqliteWrite struct {
	*session
	writer *sqliteWriter
}

func (t sqliteWrite) commit(context.Context) error { return t.writer.commit() }

func (t sqliteWrite) rollback(context.Context) error { return t.writer.rollback() }

// A sqliteRead is a transaction on one of the connections that read, or, if it
// is bare, one statement without one.
type sqliteRead struct {
	*session
	engine *sqliteEngine
	bare   bool
}

func (t sqliteRead) commit(context.Context) (err error) {
	if !t.bare {
		_, err = t.exec(context.Background(), "COMMIT", nil)
	}
	t.engine.readers <- t.closeIf(err != nil)
	return err
}

func (t sqliteRead) rollback(context.Context) error {
	t.engine.readers <- t.closeIf(!t.bare && !rollBack(t.session))
	return nil
}

// rollBack makes sure that no transaction is open. Often SQLite did so when a
// statement failed, and has no other way of telling.
func rollBack(s *session) bool {
	_, err := s.exec(context.Background(), "ROLLBACK", nil)
	return err == nil || strings.Contains(err.Error(), "no transaction is active")
}

// connect opens a connection. WAL lets readers go on beside the writer, and
// with synchronous=full a commit that returned survives a power failure. The
// timeout is for other processes on the same file; in this one nobody waits
// inside SQLite.
func (e *sqliteEngine) connect(ctx context.Context, k kind) (*session, error) {
	conn, err := e.sql.Conn(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, statements: map[string]*sql.Stmt{}, kind: k}
	if err := e.configure(ctx, s); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (e *sqliteEngine) configure(ctx context.Context, s *session) error {
	pragmas := []string{"busy_timeout=10000", "synchronous=" + e.synchronous, "foreign_keys=ON", "case_sensitive_like=ON", "temp_store=MEMORY"}
	if s.kind == write {
		// A page that many commits change is moved from the log into the database
		// once, and others wait for that less often, than with the usual 1,000.
		pragmas = append(pragmas, "cache_size=-32768", "journal_size_limit=67108864", "wal_autocheckpoint=8000")
	} else {
		pragmas = append(pragmas, "cache_size=-8192", "query_only=ON")
	}
	for _, p := range pragmas {
		if _, err := s.conn.ExecContext(ctx, "PRAGMA "+p); err != nil {
			return fmt.Errorf("PRAGMA %s: %w", p, err)
		}
	}
	var mode string
	if err := s.conn.QueryRowContext(ctx, "PRAGMA journal_mode=WAL").Scan(&mode); err != nil {
		return fmt.Errorf("PRAGMA journal_mode=WAL: %w", err)
	}
	if mode != "wal" {
		return fmt.Errorf("SQLite cannot write ahead to a log here (it offers %q instead); put the file on a local file system", mode)
	}
	return nil
}

func (e *sqliteEngine) text(statement string) string { return statement }

// The file belongs to one process: there is nobody to tell or to hear.
func (e *sqliteEngine) notify([]wake) {}

func (e *sqliteEngine) listen(ctx context.Context, _ *Waits) { <-ctx.Done() }

func (e *sqliteEngine) lockMigrations(*Tx) error { return nil } // BEGIN IMMEDIATE did

func (e *sqliteEngine) conflict(err error) bool {
	se, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	switch se.Code() {
	case sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_ROWID:
		return true
	}
	return false
}

func (e *sqliteEngine) transient(err error) bool {
	if errors.Is(err, errBatchUndone) {
		return true
	}
	se, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	switch se.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL:
		return true
	}
	return false
}

func (e *sqliteEngine) undone(error) bool { return true } // what COMMIT did not do, ROLLBACK undoes

func (e *sqliteEngine) close() error {
	var errs []error
	for range cap(e.readers) {
		if s := <-e.readers; s != nil {
			errs = append(errs, s.close())
		}
	}
	errs = append(errs, e.writer.close()) // the last one to leave empties the WAL
	return errors.Join(append(errs, e.sql.Close())...)
}
