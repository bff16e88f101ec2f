// Package postgres rotates how an application logs in to a PostgreSQL server, by two
// roles that take turns.
//
// One role is in use, the other cannot log in. A new version is a new password of the
// other one; when consumers have it, the first one cannot log in any more. So for the
// time of the overlap both work. Both are members of the same group role, and their
// sessions begin as the first one that is named: what one of them creates belongs to the
// group, as ownership is not shared by members.
//
// The comment on a role says which version it is. It is looked at under a lock, in the
// transaction that changes the role, so that what comes late for a version that is gone
// changes nothing of its successor. Passwords are made of the seed of the order, and
// sent to the server as SCRAM verifiers, so they are in no log of the server.
package postgres

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/taskfleet/taskfleet/credentials"
)

// Kind is credentials.Kind for PostgreSQL.
type Kind struct {
	// Logins are other ways to log in as the user of url than with a password that stays
	// the same: they make one for the moment.
	Logins map[string]func(ctx context.Context, host string, port uint16, user string) (password string, err error)

	keep func(ctx context.Context, c *pgx.ConnConfig) (*pgx.Conn, func(), error) // one that is connected, and lets it go; nil: each time another one
}

// Settings are those of a credential of this kind.
type Settings struct {
	// URL is how to reach the server as one who may change the roles:
	// postgres://rotator:…@host/database, with the parameters that consumers may have, too.
	URL string `json:"url"`

	// Login names how that user logs in, of the Logins; "" is with a password.
	Login string `json:"login"`

	Roles    []string `json:"roles"`    // the two that take turns; those that are not there are made
	MemberOf []string `json:"memberOf"` // roles whose members they are; the first is the owner of what they create

	// Address is host:port where consumers find the server, if that is not the host of
	// URL, and Database theirs.
	Address  string `json:"address"`
	Database string `json:"database"`
}

// A public is what tells a version.
type public struct {
	Role    string `json:"role"`
	As      string `json:"as,omitempty"`      // what its sessions begin as, if that is another role
	Adopted bool   `json:"adopted,omitempty"` // it was there before, without a label
}

// A secret is what consumers get.
type secret struct {
	URL      string `json:"url"`
	Username string `json:"username"`
	Password string `json:"password"`
	Host     string `json:"host"`
	Port     uint16 `json:"port"`
	Database string `json:"database"`
}

const connectLimit = 15 * time.Second

func parse(text json.RawMessage) (s Settings, c *pgx.ConnConfig, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, nil, fmt.Errorf("the settings of a PostgreSQL credential are url, login, roles, memberOf, address and database: %w", err)
	}
	if !strings.HasPrefix(s.URL, "postgres://") && !strings.HasPrefix(s.URL, "postgresql://") {
		return s, nil, errors.New("url must be that of the server and of one who may change the roles, such as postgres://rotator:…@db.example.com/app")
	}
	if err := checkParameters(s.URL); err != nil {
		return s, nil, err
	}
	if c, err = pgx.ParseConfig(s.URL); err != nil {
		return s, nil, errors.New("url cannot be read; it is not shown, as it may hold a password. Percent-encode what is special in it")
	}
	c.ConnectTimeout = min(cmp.Or(c.ConnectTimeout, connectLimit), connectLimit)
	if len(s.Roles) != 2 || s.Roles[0] == s.Roles[1] || !good(s.Roles[0]) || !good(s.Roles[1]) {
		return s, nil, errors.New("roles must be the names of two roles that take turns, such as [app_a, app_b]")
	}
	if slices.Contains(s.Roles, c.User) {
		return s, nil, fmt.Errorf("roles: %s is the one of url, which cannot change itself", c.User)
	}
	for _, g := range s.MemberOf {
		if !good(g) {
			return s, nil, fmt.Errorf("memberOf: %q is no name of a role", g)
		}
	}
	return s, c, nil
}

// shared are the parameters of url that are consumers' as well: their url has them.
var shared = []string{"sslmode", "sslrootcert", "application_name", "connect_timeout", "target_session_attrs"}

// checkParameters finds those that would be handed to consumers and are not for them,
// or that say otherwise than the url what is replaced in it.
func checkParameters(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("url cannot be read; it is not shown, as it may hold a password. Percent-encode what is special in it, and name one server")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("the parameters of url cannot be read; they are not shown, as there may be a password among them. Percent-encode what is special in them")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if slices.Contains(shared, name) {
			continue
		}
		fix := ""
		switch name {
		case "user", "password", "host", "hostaddr", "port", "dbname", "database", "service", "servicefile":
			fix = "write the server, the user and the database as postgres://user:password@host:port/database"
		case "passfile":
			fix = "have PGPASSFILE in the environment of the server name that file, or let it be ~/.pgpass"
		case "sslkey", "sslcert", "sslpassword":
			fix = "have PGSSLCERT and PGSSLKEY in the environment of the server name the files"
		case "options", "role", "search_path":
			fix = "set it for the roles, by ALTER ROLE … SET"
		default: // it can be a piece of a password
			name, fix = "that is not shown here", "remove it, or percent-encode the password if there is a ? or & in that"
		}
		return fmt.Errorf("url has a parameter %s, but consumers get its parameters, so they can be %s alone; %s", name, strings.Join(shared, ", "), fix)
	}
	return nil
}

func good(role string) bool {
	return role != "" && len(role) <= 63 && !strings.ContainsRune(role, 0) && !strings.HasPrefix(role, "pg_")
}

// Check implements credentials.Kind.
func (k Kind) Check(settings json.RawMessage) (place string, err error) {
	s, c, err := parse(settings)
	if err != nil {
		return "", err
	}
	if s.Login != "" && k.Logins[s.Login] == nil {
		return "", fmt.Errorf("login is %q; it must be left out, or one of %s", s.Login, cmp.Or(strings.Join(slices.Sorted(maps.Keys(k.Logins)), ", "), "none that there are"))
	}
	return fmt.Sprintf("PostgreSQL at %s:%d, roles %s", c.Host, c.Port, strings.Join(s.Roles, " and ")), nil
}

// A role is one of the two as it is.
type role struct {
	name   string
	exists bool
	login  bool
	label  string
}

func label(credential, id string) string {
	return "taskfleet credential " + credential + " version " + id
}

// labelled is the id of the version that a comment names.
func labelled(credential, text string) string {
	id, ok := strings.CutPrefix(text, label(credential, ""))
	if !ok {
		return ""
	}
	return id
}

// change does something with the two roles, while nobody else does.
func (k Kind) change(ctx context.Context, settings json.RawMessage, f func(s Settings, tx pgx.Tx, roles []*role) error) error {
	s, c, err := parse(settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	if login := k.Logins[s.Login]; login != nil {
		if c.Password, err = login(ctx, c.Host, c.Port, c.User); err != nil {
			return fmt.Errorf("logging in as %s by %s: %w", c.User, s.Login, err)
		}
	}
	connect := k.keep
	if connect == nil {
		connect = connection
	}
	conn, done, err := connect(ctx, c)
	if err != nil {
		return fmt.Errorf("connecting to the server as %s: %w", c.User, err)
	}
	defer done()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "taskfleet credentials "+strings.Join(s.Roles, " ")); err != nil {
			return err
		}
		var roles []*role
		for _, name := range s.Roles {
			r := &role{name: name}
			err := tx.QueryRow(ctx, `SELECT true, rolcanlogin, coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = $1`, name).Scan(&r.exists, &r.login, &r.label)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return err
			}
			roles = append(roles, r)
		}
		return f(s, tx, roles)
	})
}

// connection is one for the moment.
func connection(ctx context.Context, c *pgx.ConnConfig) (*pgx.Conn, func(), error) {
	conn, err := pgx.ConnectConfig(ctx, c)
	return conn, func() { conn.Close(context.WithoutCancel(ctx)) }, err
}

// of is the role that is a version, or nil.
func of(v credentials.Version, roles []*role) *role {
	var p public
	json.Unmarshal(v.Public, &p)
	for _, r := range roles {
		if r.exists && (labelled(v.Credential, r.label) == v.ID || p.Adopted && p.Role == r.name && r.label == "") {
			return r
		}
	}
	return nil
}

// Mint implements credentials.Kind.
func (k Kind) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	password := passwordOf(o.Seed)
	err = k.change(ctx, o.Settings, func(s Settings, tx pgx.Tx, roles []*role) error {
		r, err := free(o, roles)
		if err != nil {
			return err
		}
		verifier, err := scram(password)
		if err != nil {
			return err
		}
		name := pgx.Identifier{r.name}.Sanitize()
		verb := "ALTER"
		if !r.exists {
			verb = "CREATE"
		}
		statements := []string{fmt.Sprintf("%s ROLE %s LOGIN PASSWORD '%s'", verb, name, verifier)}
		for _, g := range s.MemberOf {
			statements = append(statements, fmt.Sprintf("GRANT %s TO %s", pgx.Identifier{g}.Sanitize(), name))
		}
		former, err := formerGroups(ctx, tx, r.name, s.MemberOf)
		if err != nil {
			return err
		}
		for _, g := range former {
			statements = append(statements, fmt.Sprintf("REVOKE %s FROM %s", pgx.Identifier{g}.Sanitize(), name))
		}
		if as := s.as(); as != "" {
			statements = append(statements, fmt.Sprintf("ALTER ROLE %s SET role = %s", name, quoted(as)))
		} else {
			statements = append(statements, fmt.Sprintf("ALTER ROLE %s RESET role", name))
		}
		statements = append(statements, fmt.Sprintf("COMMENT ON ROLE %s IS '%s'", name, label(o.Credential, o.ID)))
		for _, text := range statements {
			if _, err := tx.Exec(ctx, text); err != nil {
				return fmt.Errorf("preparing the role %s: %w", r.name, err)
			}
		}
		m, err = minted(s, r.name, password)
		return err
	})
	return m, err
}

// as is the role that sessions begin as; "" for that which logs in.
func (s Settings) as() string {
	if len(s.MemberOf) == 0 {
		return ""
	}
	return s.MemberOf[0]
}

// quoted is a text as a literal in SQL.
func quoted(text string) string {
	literal := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		literal = " E" + strings.ReplaceAll(literal, `\`, `\\`)
	}
	return literal
}

// formerGroups are those that the rotator once made a role a member of, and that are not
// named any more. What others have granted is theirs.
func formerGroups(ctx context.Context, tx pgx.Tx, role string, named []string) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT DISTINCT g.rolname::text FROM pg_auth_members m
		 JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member JOIN pg_roles b ON b.oid = m.grantor
		 WHERE r.rolname = $1 AND b.rolname = current_user AND g.rolname::text <> ALL($2::text[])`, role, append([]string{}, named...))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// free is the role that is not in use.
func free(o credentials.Order, roles []*role) (*role, error) {
	inUse := map[*role]bool{}
	for _, r := range roles {
		if labelled(o.Credential, r.label) == o.ID { // an attempt before has come that far
			return r, nil
		}
	}
	for _, v := range o.Known {
		if r := of(v, roles); r != nil {
			inUse[r] = true
		}
	}
	for _, r := range roles {
		if !inUse[r] && (!r.exists || r.label == "" && !r.login) {
			return r, nil
		}
	}
	var reasons []string
	for _, r := range roles {
		switch {
		case inUse[r]:
			reasons = append(reasons, r.name+" is in use")
		case r.label == "":
			reasons = append(reasons, r.name+" can log in, and nobody knows for whom (ALTER ROLE … NOLOGIN, if it is for nobody)")
		default:
			reasons = append(reasons, fmt.Sprintf("%s says that it is %q (COMMENT ON ROLE … IS NULL and ALTER ROLE … NOLOGIN, if that is not so)", r.name, r.label))
		}
	}
	return nil, credentials.Refused("neither role is free: %s", strings.Join(reasons, "; "))
}

func minted(s Settings, role, password string) (m credentials.Minted, err error) {
	c, err := pgx.ParseConfig(s.URL)
	if err != nil {
		return m, errors.New("url cannot be read")
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return m, errors.New("url cannot be read")
	}
	u.User = url.UserPassword(role, password)
	out := secret{Username: role, Password: password, Host: c.Host, Port: c.Port, Database: cmp.Or(s.Database, c.Database)}
	if s.Address != "" {
		u.Host = s.Address
		at, err := pgx.ParseConfig(u.String())
		if err != nil {
			return m, credentials.Refused("address is %q; it must be host:port", s.Address)
		}
		out.Host, out.Port = at.Host, at.Port
	}
	u.Path, u.RawPath = "/"+out.Database, ""
	out.URL = u.String()
	if m.Public, err = json.Marshal(public{Role: role, As: s.as()}); err == nil {
		m.Secret, err = json.Marshal(out)
	}
	return m, err
}

// Prove implements credentials.Kind. It logs in by the URL that consumers have; where
// their address is another one than that of the rotation it takes the latter, as the
// former may not be open from here.
func (Kind) Prove(ctx context.Context, v credentials.Version) error {
	s, at, err := parse(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	var is secret
	var p public
	if json.Unmarshal(v.Secret, &is) != nil || json.Unmarshal(v.Public, &p) != nil {
		return credentials.Refused("the secret or the public members cannot be read")
	}
	u, err := url.Parse(is.URL)
	if err != nil {
		return credentials.Refused("the url in the secret cannot be read")
	}
	if own, err := url.Parse(s.URL); err == nil && s.Address != "" {
		u.Host = own.Host
	}
	c, err := pgx.ParseConfig(u.String())
	if err != nil {
		return credentials.Refused("the url in the secret cannot be read")
	}
	c.ConnectTimeout = min(cmp.Or(c.ConnectTimeout, at.ConnectTimeout), connectLimit)
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return fmt.Errorf("logging in as %s: %w", p.Role, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var login, as string
	if err := conn.QueryRow(ctx, `SELECT session_user::text, current_user::text`).Scan(&login, &as); err != nil {
		return fmt.Errorf("asking something as %s: %w", p.Role, err)
	}
	if login != p.Role || as != cmp.Or(p.As, as) {
		return fmt.Errorf("who logs in by the url is %s and acts as %s; that should be %s and %s", login, as, p.Role, cmp.Or(p.As, p.Role))
	}
	return nil
}

// Used implements credentials.Kind. A server tells who is connected, and not who
// was.
func (k Kind) Used(ctx context.Context, v credentials.Version) (at time.Time, err error) {
	err = k.change(ctx, v.Settings, func(_ Settings, tx pgx.Tx, roles []*role) error {
		r := of(v, roles)
		if r == nil {
			return credentials.ErrNoVersion
		}
		var sessions int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE usename = $1`, r.name).Scan(&sessions); err != nil {
			return err
		}
		if sessions > 0 {
			at = time.Now()
		}
		return nil
	})
	return at, err
}

// Disable implements credentials.Kind. Sessions go on.
func (k Kind) Disable(ctx context.Context, v credentials.Version) error {
	return k.change(ctx, v.Settings, func(_ Settings, tx pgx.Tx, roles []*role) error {
		r := of(v, roles)
		if r == nil {
			return nil
		}
		_, err := tx.Exec(ctx, "ALTER ROLE "+pgx.Identifier{r.name}.Sanitize()+" NOLOGIN")
		return err
	})
}

// Retire implements credentials.Kind. Sessions end. The role stays, as it may own
// things.
func (k Kind) Retire(ctx context.Context, v credentials.Version) error {
	return k.change(ctx, v.Settings, func(_ Settings, tx pgx.Tx, roles []*role) error {
		r := of(v, roles)
		if r == nil {
			return nil
		}
		name := pgx.Identifier{r.name}.Sanitize()
		for _, text := range []string{"ALTER ROLE " + name + " NOLOGIN PASSWORD NULL", "COMMENT ON ROLE " + name + " IS NULL"} {
			if _, err := tx.Exec(ctx, text); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1`, r.name); err != nil {
			return fmt.Errorf("ending the sessions of %s; may the user of url do that (GRANT pg_signal_backend)? %w", r.name, err)
		}
		return nil
	})
}

// List implements credentials.Kind.
func (k Kind) List(ctx context.Context, o credentials.Order) (list []credentials.Found, err error) {
	err = k.change(ctx, o.Settings, func(_ Settings, _ pgx.Tx, roles []*role) error {
		list = nil
		for _, r := range roles {
			f := credentials.Found{ID: labelled(o.Credential, r.label)}
			p := public{Role: r.name}
			switch {
			case !r.exists || r.label == "" && !r.login:
				continue
			case r.label == "":
				p.Adopted, f.Adopt, f.ID = true, true, r.name
			case f.ID == "":
				f.ID = r.name + " of another credential"
			}
			for _, v := range o.Known {
				if of(v, []*role{r}) != nil {
					f.ID = v.ID
				}
			}
			if f.Public, err = json.Marshal(p); err != nil {
				return err
			}
			list = append(list, f)
		}
		return nil
	})
	return list, err
}

// passwordOf makes a password of a seed.
func passwordOf(seed []byte) string {
	mac := hmac.New(sha256.New, seed)
	mac.Write([]byte("password of a PostgreSQL role"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// scramRounds is how often a password is hashed. The server's own default is as many,
// and passwords that were made of a seed do not need more.
var scramRounds = 4096

// scram is what a server keeps of a password (RFC 5803).
func scram(password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt)
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramRounds, sha256.Size)
	if err != nil {
		return "", err
	}
	keyed := func(text string) []byte {
		mac := hmac.New(sha256.New, salted)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(keyed("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramRounds, b64(salt), b64(stored[:]), b64(keyed("Server Key"))), nil
}
