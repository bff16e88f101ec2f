package store

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A login is who connections to PostgreSQL are made as, which changes while the
// process runs. Connections of the one before go on until they are released; then
// they end one by one, so that not all are made anew at once. Those that nobody uses
// end by being idle.
type login struct {
	mu             sync.Mutex
	user, password string
	replaced       context.Context // ends when they are replaced
	replace        context.CancelFunc
	generation     int       // 0: nothing was replaced yet
	ended          time.Time // when the last connection of another user was
}

// generationKey is where a connection notes of which generation it is known to be.
const generationKey = "taskfleet.login"

func newLogin(c *pgx.ConnConfig) *login {
	l := &login{user: c.User, password: c.Password}
	l.replaced, l.replace = context.WithCancel(context.Background())
	return l
}

// endPace is how far apart connections end that were made as somebody else.
const endPace = 50 * time.Millisecond

// errLoginChanged ends a connection in good order.
var errLoginChanged = errors.New("store: the login was replaced")

// apply has a connection be made as who is current.
func (l *login) apply(_ context.Context, c *pgx.ConnConfig) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.generation == 0 {
		return nil // the password may have come from a file of libpq's
	}
	c.User, c.Password = l.user, l.password
	return nil
}

// keep tells, when a connection is released, whether it may be used again.
func (l *login) keep(c *pgx.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	notes := c.PgConn().CustomData()
	if l.generation == 0 || notes[generationKey] == l.generation {
		return true
	}
	if was := c.Config(); l.is(was.User, was.Password) { // a copy of all of it
		notes[generationKey] = l.generation
		return true
	}
	if time.Since(l.ended) < endPace {
		return true
	}
	l.ended = time.Now()
	return false
}

// is tells whether that is who logs in now; l.mu is held.
func (l *login) is(user, password string) bool {
	return l.user == user && subtle.ConstantTimeCompare([]byte(l.password), []byte(password)) == 1
}

// changed returns a context that ends when the login is replaced.
func (l *login) changed() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.replaced
}

func (l *login) set(user, password string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.is(user, password) {
		return
	}
	l.user, l.password = user, password
	l.generation++
	l.replace()
	l.replaced, l.replace = context.WithCancel(context.Background())
}

// Login has connections be made as another user from now on, or with another
// password, if the database lets him in and to the tables. Where the database is
// stays as it is. Connections made before go on for what is under way, and then
// end, within minutes.
func (db *DB) Login(ctx context.Context, user, password string) error {
	e, ok := db.engine.(*postgresEngine)
	if !ok {
		return errors.New("store: a SQLite database has no users")
	}
	if user == "" {
		return errors.New("store: no user was given to log in to PostgreSQL as")
	}
	c := e.config.Copy()
	c.User, c.Password = user, password
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return fmt.Errorf("store: log in to PostgreSQL as %q: %w", user, err) // pgx leaves the password out
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var schema *string
	if err := conn.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return fmt.Errorf("store: try PostgreSQL as %q: %w", user, err)
	}
	if schema == nil || *schema != e.schema {
		return fmt.Errorf("store: PostgreSQL user %q must find the schema %s first in its search_path, and be allowed to use it", user, e.schema)
	}
	// All tables are looked at: a user that was forgotten in a GRANT is found out now.
	var denied *string
	if err := conn.QueryRow(ctx, `
		SELECT min(format('%I.%I', schemaname, tablename)) FROM pg_tables
		 WHERE schemaname = $1 AND NOT has_table_privilege(format('%I.%I', schemaname, tablename), 'SELECT, INSERT, UPDATE, DELETE')`,
		e.schema).Scan(&denied); err != nil {
		return fmt.Errorf("store: try PostgreSQL as %q: %w", user, err)
	}
	if denied != nil {
		return fmt.Errorf("store: PostgreSQL user %q must be allowed to read and change the table %s: make it a member of the role that owns the tables", user, *denied)
	}
	e.login.set(user, password)
	return nil
}
