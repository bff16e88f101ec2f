package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/store"
	server "github.com/taskfleet/taskfleet/test/postgres"
)

// The server of these tests asks for passwords, which that of the database need not.
// admin is its superuser, rotator one who may do no more than the documentation says.
var admin, rotator string

// usualRounds are those outside of tests. Here there are fewer, as consumers and servers
// hash a password at every login, of which there are thousands.
var usualRounds = scramRounds

func TestMain(m *testing.M) {
	scramRounds = 16
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	programs := server.Find(ctx)
	if programs == "" {
		fmt.Fprintf(os.Stderr, "there is no PostgreSQL %d or newer on this machine; apt-get install postgresql\n", server.Oldest)
		return 1
	}
	s, err := server.Start(ctx, programs, server.Disposable...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer s.Stop()
	admin = s.URL
	password, err := scram("rotator-password")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := execute(ctx, admin, "CREATE ROLE rotator LOGIN CREATEROLE PASSWORD '"+password+"'", "GRANT pg_signal_backend TO rotator"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := pgx.ParseConfig(admin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	rotator = fmt.Sprintf("postgres://rotator:rotator-password@%s:%d/postgres?sslmode=disable", c.Host, c.Port)
	return m.Run()
}

func execute(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	for _, text := range statements {
		if _, err = conn.Exec(ctx, text); err != nil {
			err = fmt.Errorf("%s: %w", text, err)
			break
		}
	}
	leave(conn)
	return err
}

// leave ends a session, and waits until the server has ended it, too: it would be one
// of somebody who uses the role until then.
func leave(conn *pgx.Conn) {
	h, err := conn.PgConn().Hijack()
	if err != nil {
		return // it has ended
	}
	defer h.Conn.Close()
	h.Frontend.Send(&pgproto3.Terminate{})
	h.Frontend.Flush()
	io.Copy(io.Discard, h.Conn)
}

func works(ctx context.Context, text json.RawMessage) error {
	var s secret
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	return execute(ctx, s.URL, "SELECT 1")
}

var places atomic.Int64

// place is a pair of roles of its own, with a group.
func place(t *testing.T, prepare ...string) json.RawMessage {
	t.Helper()
	n := places.Add(1)
	group := fmt.Sprintf("app_%d", n)
	s, err := json.Marshal(Settings{URL: rotator, Roles: []string{group + "_a", group + "_b"}, MemberOf: []string{group}})
	if err != nil {
		t.Fatal(err)
	}
	statements := []string{"CREATE ROLE " + group}
	if err := execute(t.Context(), rotator, append(statements, prepare...)...); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRolesTakeTurns(t *testing.T) {
	rotatortest.Run(t, func(t *testing.T, _ *store.DB) rotatortest.Subject {
		return rotatortest.Subject{Kind: Kind{keep: kept(t)}, Settings: string(place(t)), Works: works, Slow: true}
	})
}

// kept has the rotator log in once, as that is most of what a call costs.
func kept(t *testing.T) func(context.Context, *pgx.ConnConfig) (*pgx.Conn, func(), error) {
	var mu sync.Mutex
	var conn *pgx.Conn
	t.Cleanup(func() {
		if conn != nil {
			conn.Close(context.Background())
		}
	})
	return func(ctx context.Context, c *pgx.ConnConfig) (_ *pgx.Conn, done func(), err error) {
		mu.Lock()
		if conn == nil || conn.IsClosed() {
			if conn, err = pgx.ConnectConfig(ctx, c); err != nil {
				mu.Unlock()
			}
		}
		return conn, mu.Unlock, err
	}
}

func order(s json.RawMessage, id string, known ...credentials.Version) credentials.Order {
	return credentials.Order{Credential: "app", Settings: s, ID: id, Seed: []byte("seed of " + id), Known: known}
}

func mint(t *testing.T, o credentials.Order) credentials.Version {
	t.Helper()
	m, err := Kind{}.Mint(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return credentials.Version{ID: o.ID, Credential: "app", Settings: o.Settings, Public: m.Public, Secret: m.Secret}
}

// What was ordered before its process was taken for dead, and arrives when others have
// long gone on, must not harm what is in use.
func TestWhatComesLateChangesNothingOfItsSuccessor(t *testing.T) {
	s := place(t)
	v1 := mint(t, order(s, "v1"))
	v2 := mint(t, order(s, "v2", v1))
	if err := (Kind{}).Retire(t.Context(), v1); err != nil {
		t.Fatal(err)
	}
	v3 := mint(t, order(s, "v3", v2)) // has the role that v1 had
	for what, f := range map[string]func(context.Context, credentials.Version) error{"disable": Kind{}.Disable, "retire": Kind{}.Retire} {
		if err := f(t.Context(), v1); err != nil {
			t.Errorf("a late %s: %v", what, err)
		}
	}
	if _, err := (Kind{}).Mint(t.Context(), order(s, "v1")); err == nil || !strings.Contains(err.Error(), "neither role is free") {
		t.Errorf("a late mint: %v", err)
	}
	for _, v := range []credentials.Version{v2, v3} {
		if err := works(t.Context(), v.Secret); err != nil {
			t.Errorf("%s does not work any more: %v", v.ID, err)
		}
	}
}

func TestARoleThatIsInUseIsAdopted(t *testing.T) {
	s := place(t)
	var have Settings
	if err := json.Unmarshal(s, &have); err != nil {
		t.Fatal(err)
	}
	if err := execute(t.Context(), rotator, "CREATE ROLE "+have.Roles[0]+" LOGIN PASSWORD 'by-hand'"); err != nil {
		t.Fatal(err)
	}
	found, err := Kind{}.List(t.Context(), order(s, ""))
	if err != nil || len(found) != 1 || !found[0].Adopt || found[0].ID != have.Roles[0] {
		t.Fatalf("the provider has %+v, %v", found, err)
	}
	before := credentials.Version{ID: "app/" + found[0].ID, Credential: "app", Settings: s, Public: found[0].Public}
	v1 := mint(t, order(s, "v1", before))
	if !strings.Contains(string(v1.Public), have.Roles[1]) {
		t.Errorf("the role in use was given away: %s", v1.Public)
	}
	if err := (Kind{}).Retire(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	if found, err = (Kind{}).List(t.Context(), order(s, "", v1)); err != nil || len(found) != 1 || found[0].ID != "v1" {
		t.Errorf("then it has %+v, %v", found, err)
	}
}

// A session is seen as use, outlives that its role is disabled, and ends when it is retired.
func TestSessions(t *testing.T) {
	s := place(t)
	v := mint(t, order(s, "v1"))
	if at, err := (Kind{}).Used(t.Context(), v); err != nil || !at.IsZero() {
		t.Errorf("unused: %v, %v", at, err)
	}
	var is secret
	if err := json.Unmarshal(v.Secret, &is); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), is.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if at, err := (Kind{}).Used(t.Context(), v); err != nil || at.IsZero() {
		t.Errorf("with a session: %v, %v", at, err)
	}
	if err := (Kind{}).Disable(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("the session has ended: %v", err)
	}
	if err := works(t.Context(), v.Secret); err == nil {
		t.Error("one that is disabled can log in")
	}
	if err := (Kind{}).Retire(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the session goes on")
	}
}

func TestThePasswordIsInNoLogOfTheServer(t *testing.T) {
	v := mint(t, order(place(t), "v1"))
	var is secret
	if err := json.Unmarshal(v.Secret, &is); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var kept string
	if err := conn.QueryRow(t.Context(), "SELECT rolpassword FROM pg_authid WHERE rolname = $1", is.Username).Scan(&kept); err != nil {
		t.Fatal(err)
	}
	if usualRounds != 4096 {
		t.Errorf("passwords are hashed %d times", usualRounds)
	}
	if !strings.HasPrefix(kept, "SCRAM-SHA-256$16:") || strings.Contains(kept, is.Password) {
		t.Errorf("the server keeps %q", kept)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for text, says := range map[string]string{
		`{}`: "url must be",
		`{"url":"postgres://rotator:hunter2@host:notaport/app","roles":["a","b"]}`:         "percent-encode",
		`{"url":"postgres://rotator:hunter2@host/app"}`:                                    "two roles",
		`{"url":"postgres://rotator:hunter2@host/app","roles":["a","a"]}`:                  "two roles",
		`{"url":"postgres://a:hunter2@host/app","roles":["a","b"]}`:                        "cannot change itself",
		`{"url":"postgres://db/app?user=rotator&password=hunter2","roles":["a","b"]}`:      "a parameter password",
		`{"url":"postgres://r@db/app?passfile=/etc/hunter2","roles":["a","b"]}`:            "pgpassfile",
		`{"url":"postgres://r@db/app?host=hunter2","roles":["a","b"]}`:                     "a parameter host",
		`{"url":"postgres://r@db/app?sslmode=require&search_path=x","roles":["a","b"]}`:    "alter role",
		`{"url":"postgres://r@db/app?sslmode=require;password=hunter2","roles":["a","b"]}`: "percent-encode",
		`{"url":"postgres://r:1?hunter2@db/app","roles":["a","b"]}`:                        "a parameter that is not shown",
		`{"url":"postgres://r@db/app?sslkey=hunter2","roles":["a","b"]}`:                   "pgsslkey",
		`{"uri":"postgres://a:hunter2@host/app"}`:                                          "unknown field",
	} {
		_, err := (Kind{}).Check(json.RawMessage(text))
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if place, err := (Kind{}).Check(json.RawMessage(`{"url":"postgres://rotator:hunter2@db.example.com/app","roles":["a","b"]}`)); err != nil || place != "PostgreSQL at db.example.com:5432, roles a and b" {
		t.Errorf("place %q, %v", place, err)
	}
}

// What the rotation logs in with is not handed to consumers.
func TestConsumersGetTheSharedParametersAlone(t *testing.T) {
	m, err := minted(Settings{URL: "postgres://rotator:hunter2@db.example.com/app?sslmode=require&application_name=x", Address: "near:5433"}, "app_a", "p w")
	if err != nil {
		t.Fatal(err)
	}
	var is secret
	if err := json.Unmarshal(m.Secret, &is); err != nil {
		t.Fatal(err)
	}
	if is.URL != "postgres://app_a:p%20w@near:5433/app?sslmode=require&application_name=x" || strings.Contains(string(m.Secret), "hunter2") {
		t.Errorf("consumers get %s", m.Secret)
	}
}

func TestWhatOneRoleCreatesTheOtherOwns(t *testing.T) {
	s := place(t)
	var have Settings
	if err := json.Unmarshal(s, &have); err != nil {
		t.Fatal(err)
	}
	group := have.MemberOf[0]
	if err := execute(t.Context(), admin, "CREATE SCHEMA "+group+" AUTHORIZATION "+group); err != nil {
		t.Fatal(err)
	}
	as := func(v credentials.Version, statements ...string) {
		t.Helper()
		var is secret
		if err := json.Unmarshal(v.Secret, &is); err != nil {
			t.Fatal(err)
		}
		if err := execute(t.Context(), is.URL, statements...); err != nil {
			t.Error(err)
		}
		if err := (Kind{}).Prove(t.Context(), v); err != nil {
			t.Error(err)
		}
	}
	v1 := mint(t, order(s, "v1"))
	as(v1, "CREATE TABLE "+group+".build (id int)")
	v2 := mint(t, order(s, "v2", v1))
	as(v2, "ALTER TABLE "+group+".build ADD COLUMN name text", "CREATE TABLE "+group+".log (id int)")
	if err := (Kind{}).Retire(t.Context(), v1); err != nil {
		t.Fatal(err)
	}
	as(mint(t, order(s, "v3", v2)), "DROP TABLE "+group+".log")
}

// A role that is minted anew is no member any more of a group that is not named any more.
func TestFormerGroupsAreLeft(t *testing.T) {
	s := place(t, "CREATE ROLE elsewhere")
	v1 := mint(t, order(s, "v1"))
	var have Settings
	if err := json.Unmarshal(s, &have); err != nil {
		t.Fatal(err)
	}
	role, group := have.Roles[0], have.MemberOf[0]
	if err := execute(t.Context(), admin, "CREATE ROLE by_hand", "GRANT by_hand TO "+role); err != nil {
		t.Fatal(err)
	}
	if err := (Kind{}).Retire(t.Context(), v1); err != nil {
		t.Fatal(err)
	}
	have.MemberOf = []string{"elsewhere"}
	s, err := json.Marshal(have)
	if err != nil {
		t.Fatal(err)
	}
	v2 := mint(t, order(s, "v2"))
	if err := (Kind{}).Prove(t.Context(), v2); err != nil {
		t.Error(err)
	}
	conn, err := pgx.Connect(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var of string
	if err := conn.QueryRow(t.Context(), `SELECT string_agg(roleid::regrole::text, ' ' ORDER BY roleid::regrole::text) FROM pg_auth_members WHERE member = $1::regrole`, role).Scan(&of); err != nil {
		t.Fatal(err)
	}
	if of != "by_hand elsewhere" {
		t.Errorf("%s, once of %s, is a member of %s", role, group, of)
	}
}

// A URL by which somebody else logs in than the version is for does not prove it.
func TestAProofIsOfTheVersion(t *testing.T) {
	s := place(t)
	v1 := mint(t, order(s, "v1"))
	v2 := mint(t, order(s, "v2", v1))
	v2.Secret = v1.Secret
	if err := (Kind{}).Prove(t.Context(), v2); err == nil || !strings.Contains(err.Error(), "who logs in by the url is") {
		t.Errorf("the proof by another's url: %v", err)
	}
}

// Who rotates logs in with what is made for the moment, and consumers with passwords.
func TestThePasswordOfTheRotatorIsMadeForTheMoment(t *testing.T) {
	var s Settings
	if err := json.Unmarshal(place(t), &s); err != nil {
		t.Fatal(err)
	}
	s.URL, s.Login = strings.Replace(s.URL, ":rotator-password@", "@", 1), "token"
	settings, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	made, wrong := 0, error(nil)
	k := Kind{Logins: map[string]func(context.Context, string, uint16, string) (string, error){
		"token": func(_ context.Context, host string, port uint16, user string) (string, error) {
			made++
			if host == "" || port == 0 || user != "rotator" {
				t.Errorf("a password is asked for %s at %s:%d", user, host, port)
			}
			return "rotator-password", wrong
		},
	}}
	if _, err := k.Check(settings); err != nil {
		t.Error(err)
	}
	if _, err := (Kind{}).Check(settings); err == nil || !strings.Contains(err.Error(), "login is") {
		t.Errorf("a login that there is not: %v", err)
	}
	m, err := k.Mint(t.Context(), order(settings, "v1"))
	if err != nil {
		t.Fatal(err)
	}
	v := credentials.Version{ID: "v1", Credential: "app", Settings: settings, Public: m.Public, Secret: m.Secret}
	if err := k.Prove(t.Context(), v); err != nil {
		t.Error(err)
	}
	if err := works(t.Context(), m.Secret); err != nil {
		t.Error(err)
	}
	if err := k.Retire(t.Context(), v); err != nil || made != 2 {
		t.Errorf("retiring, with %d passwords made: %v", made, err)
	}
	wrong = fmt.Errorf("nobody knows")
	if err := k.Retire(t.Context(), v); err == nil || !strings.Contains(err.Error(), "as rotator by token: nobody knows") {
		t.Errorf("no password: %v", err)
	}
}
