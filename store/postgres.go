package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// postgresEngine keeps a pool of connections. The driver keeps statements
// prepared by their text.
type postgresEngine struct {
	config   *pgx.ConnConfig
	pool     *pgxpool.Pool
	notifier *notifier
	texts    sync.Map // statements by their text in Go, of which there are a few hundred
	login    *login
	schema   string
}

// A poolSize is how many connections there may be, and how long one is kept that
// nobody uses.
type poolSize struct {
	connections int
	idle        time.Duration
}

const (
	defaultConnections = 16
	defaultIdle        = 5 * time.Minute
)

func openPostgres(ctx context.Context, url string) (*postgresEngine, error) {
	_, rest, _ := strings.Cut(url, "://")
	if end := strings.IndexAny(rest, "/?#"); end >= 0 && strings.Contains(rest[end:], "@") {
		// It would be taken for the end of the host's part, and what follows be printed.
		return nil, errors.New("store: the PostgreSQL URL has an @ after the first /, ? or #. In the password, and wherever they are meant as they are, write @ as %40, / as %2F, ? as %3F and # as %23")
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("store: understand the PostgreSQL URL: %w", err) // pgx leaves the password out
	}
	size := poolSize{connections: defaultConnections, idle: defaultIdle}
	if s, ok := config.RuntimeParams["pool_max_conns"]; ok {
		delete(config.RuntimeParams, "pool_max_conns")
		if size.connections, err = strconv.Atoi(s); err != nil || size.connections < 1 {
			return nil, fmt.Errorf("store: pool_max_conns=%s in the PostgreSQL URL: it must be a number above 0", s)
		}
	}
	if s, ok := config.RuntimeParams["pool_max_conn_idle_time"]; ok {
		delete(config.RuntimeParams, "pool_max_conn_idle_time")
		if size.idle, err = time.ParseDuration(s); err != nil || size.idle <= 0 {
			return nil, fmt.Errorf("store: pool_max_conn_idle_time=%s in the PostgreSQL URL: it must be a time above 0 as in 5m", s)
		}
	}
	for name, value := range map[string]string{
		"application_name": "taskfleet",
		// A frozen process must not keep what it locked from all others.
		"idle_in_transaction_session_timeout": "60000",
	} {
		if _, ok := config.RuntimeParams[name]; !ok {
			config.RuntimeParams[name] = value
		}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	in := newLogin(config)
	pool, err := openPool(ctx, url, config, size, in)
	if err != nil {
		return nil, fmt.Errorf("store: understand the PostgreSQL URL: %w", err)
	}
	e := &postgresEngine{config: config, pool: pool, login: in}
	var schema *string
	var version int
	if err := retry(ctx, func() (error, bool) { // the server may be starting, too
		err := pool.QueryRow(ctx, `SELECT current_schema(), current_setting('server_version_num')::int`).Scan(&schema, &version)
		return err, err != nil && ctx.Err() == nil && e.transient(err)
	}); err != nil {
		pool.Close()
		return nil, fmt.Errorf("store: connect to PostgreSQL: %w", withCause(ctx, err))
	}
	if schema == nil {
		pool.Close()
		return nil, fmt.Errorf("store: the schema that the PostgreSQL search_path names does not exist: create it or change search_path in the URL")
	}
	if version < 130000 {
		pool.Close()
		return nil, fmt.Errorf("store: PostgreSQL 13 or newer is needed, this server is version %d", version/10000)
	}
	e.schema = *schema
	e.notifier = newNotifier(config, *schema, size.idle, in)
	return e, nil
}

func openPool(ctx context.Context, url string, config *pgx.ConnConfig, size poolSize, in *login) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	c.ConnConfig = config.Copy()
	c.MaxConns, c.MinConns, c.MaxConnIdleTime = int32(size.connections), 0, size.idle
	c.MaxConnLifetime = max(c.MaxConnLifetime, size.idle) // an hour
	c.BeforeConnect = in.apply
	c.AfterRelease = in.keep
	// What is large is compressed, by default in a way that took two thirds of the
	// time of writing messages. A server may not have the faster one.
	c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `
			SELECT set_config(name, 'lz4', false) FROM pg_settings
			 WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)`)
		return err
	}
	return pgxpool.NewWithConfig(ctx, c)
}

// A View on REPEATABLE READ sees one moment, as on SQLite, and being read-only it
// never has to be tried again for that. One statement sees one moment anyway.
var postgresBegin = map[kind]string{
	write: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
	view:  "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
	once:  "",
}

func (e *postgresEngine) begin(ctx context.Context, k kind) (transaction, error) {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	t := &postgresTx{engine: e, conn: conn}
	if begin := postgresBegin[k]; begin != "" {
		t.waiting = []waiting{{call: call{text: begin}}}
	}
	return t, nil
}

// A postgresTx sends statements in pipelines: those that nobody has waited for,
// BEGIN being the first of them, go with the next one or with COMMIT. Waiting for
// the server costs both sides more than most statements do.
type postgresTx struct {
	engine  *postgresEngine
	conn    *pgxpool.Conn
	waiting []waiting // to be sent
	open    bool      // something was sent that COMMIT or ROLLBACK has to end
}

// A waiting statement is one that is still to be sent, and who reads its rows.
type waiting struct {
	call
	scan func(Scanner) error
}

// send sends what is waiting and then list, of which the answers are still to be
// read. The caller closes them.
func (t *postgresTx) send(ctx context.Context, list ...call) (pgx.BatchResults, error) {
	var b pgx.Batch
	sent := t.waiting
	t.waiting = nil
	for _, w := range sent {
		b.Queue(w.text, w.args...)
	}
	for _, c := range list {
		b.Queue(c.text, c.args...)
	}
	t.open = t.open || len(sent) > 0
	answers := t.conn.SendBatch(ctx, &b)
	for _, w := range sent {
		var err error
		if w.scan == nil {
			_, err = answers.Exec()
		} else {
			err = scanAnswer(answers, w.scan)
		}
		if err != nil {
			return nil, fmt.Errorf("before it, %s: %w", brief(w.text), closed(answers, err))
		}
	}
	return answers, nil
}

// closed is err, or if there was none yet that of closing a pipeline, which is
// otherwise the same again.
func closed(answers pgx.BatchResults, err error) error {
	if e := answers.Close(); err == nil {
		err = e
	}
	return err
}

func scanAnswer(answers pgx.BatchResults, scan func(Scanner) error) error {
	rows, err := answers.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (t *postgresTx) exec(ctx context.Context, text string, args []any) (int64, error) {
	if len(t.waiting) == 0 {
		tag, err := t.conn.Exec(ctx, text, args...)
		return tag.RowsAffected(), err
	}
	return t.all(ctx, []call{{text, args}}, nil)
}

func (t *postgresTx) query(ctx context.Context, text string, args []any) (cursor, error) {
	if len(t.waiting) == 0 {
		rows, err := t.conn.Query(ctx, text, args...)
		if err != nil {
			return nil, err
		}
		return &postgresRows{Rows: rows}, nil
	}
	answers, err := t.send(ctx, call{text, args})
	if err != nil {
		return nil, err
	}
	rows, err := answers.Query()
	if err != nil {
		return nil, closed(answers, err)
	}
	return &postgresRows{Rows: rows, answers: answers}, nil
}

// postgresRows are rows that end a pipeline.
type postgresRows struct {
	pgx.Rows
	answers pgx.BatchResults // nil: there was no pipeline
}

func (r *postgresRows) Close() error {
	r.Rows.Close()
	if r.answers == nil {
		return r.Err()
	}
	return closed(r.answers, r.Err())
}

func (t *postgresTx) all(ctx context.Context, list []call, scan func(int, Scanner) error) (total int64, err error) {
	answers, err := t.send(ctx, list...)
	if err != nil {
		return 0, err
	}
	for i := range list {
		if scan != nil {
			err = scanAnswer(answers, func(row Scanner) error { return scan(i, row) })
		} else {
			var tag pgconn.CommandTag
			tag, err = answers.Exec()
			total += tag.RowsAffected()
		}
		if err != nil {
			break
		}
	}
	return total, closed(answers, err)
}

func (t *postgresTx) later(_ context.Context, c call, scan func(Scanner) error) error {
	t.waiting = append(t.waiting, waiting{c, scan})
	return nil
}

func (t *postgresTx) commit(ctx context.Context) error {
	defer t.conn.Release() // which ends one that is lost, or busy since a scan panicked
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if !t.open && len(t.waiting) <= 1 { // nothing was done in it
		return nil
	}
	if t.conn.Conn().IsClosed() {
		return errNotReached
	}
	tag, err := t.end(ctx, "COMMIT")
	switch {
	case err == nil && tag != "COMMIT":
		return errRolledBack
	case err != nil && t.engine.undone(err):
		t.rollback(ctx)
	}
	return err
}

// end sends what is waiting and then a statement, and returns its tag.
//
// From then on the driver's word that nothing was sent is not to be relied on: it
// says so, too, of a connection lost before the answer. But answers come in order:
// an error in place of an earlier one tells that the server did not come to this
// statement, and once its tag is here nothing that follows matters.
func (t *postgresTx) end(ctx context.Context, text string) (string, error) {
	if len(t.waiting) == 0 {
		tag, err := t.conn.Exec(ctx, text)
		return tag.String(), err
	}
	answers, err := t.send(ctx, call{text: text})
	if err != nil {
		_, told := errors.AsType[*pgconn.PgError](err)
		_, before := errors.AsType[pgx.ErrPreprocessingBatch](err)
		if told || before {
			err = fmt.Errorf("%w: %w", errNotReached, err)
		}
		return "", err
	}
	tag, err := answers.Exec()
	answers.Close()
	return tag.String(), err
}

var (
	errNotReached = errors.New("the connection was lost, or a statement failed, before COMMIT")
	errRolledBack = errors.New("the server rolled back, since a statement had failed")
)

func (t *postgresTx) rollback(ctx context.Context) error {
	defer t.conn.Release() // which undoes, too, if ROLLBACK fails
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	t.waiting = nil
	if t.open {
		t.end(ctx, "ROLLBACK")
	}
	return nil // it saw only what others had committed
}

var postgresText = strings.NewReplacer(
	"INTEGER /*identity*/", "BIGINT GENERATED BY DEFAULT AS IDENTITY",
	"/*bytewise*/", `COLLATE "C"`,
	"/*skip locked*/", "FOR UPDATE SKIP LOCKED",
	"/*for update*/", "FOR UPDATE",
	"/*for share*/", "FOR SHARE",
	"/*for key share*/", "FOR KEY SHARE",
	"/*json*/", "::json",
	"json_each(", "json_array_elements_text(",
)

func (e *postgresEngine) text(statement string) string {
	if text, ok := e.texts.Load(statement); ok {
		return text.(string)
	}
	text := postgresText.Replace(statement)
	e.texts.Store(statement, text)
	return text
}

func (e *postgresEngine) lockMigrations(tx *Tx) error {
	_, err := tx.Exec(`SELECT pg_advisory_xact_lock(hashtextextended('taskfleet migrations ' || current_schema(), 0))`)
	return err
}

func (e *postgresEngine) conflict(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pe.Code == "23505" // unique_violation
}

func (e *postgresEngine) transient(err error) bool {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pe.Code {
		case "40001", "40P01": // serialization_failure, deadlock_detected
			return true
		case "57P01", "57P02", "57P03", "25P03": // the server goes down or comes up; we idled too long
			return true
		case "53300": // too_many_connections
			return true
		case "0A000": // the driver prepares anew what a migration changed
			return strings.Contains(pe.Message, "cached plan")
		}
		return strings.HasPrefix(pe.Code, "08") // connection exceptions
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	for _, lost := range []error{errNotReached, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return pgconn.SafeToRetry(err)
}

// undone: the server said so, or COMMIT was never sent. A FATAL error is no
// such answer: the backend may have been told to end after it committed.
func (e *postgresEngine) undone(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pe.SeverityUnlocalized == "ERROR" || errors.Is(err, errNotReached) || errors.Is(err, errRolledBack)
}

func (e *postgresEngine) close() error {
	e.pool.Close()
	return e.notifier.close()
}
