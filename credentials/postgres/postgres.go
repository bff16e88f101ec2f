// Package postgres rotates how an application logs in to a PostgreSQL server, by two
// roles that take turns.
//
// One role is in use, the other cannot log in. A new version is a new password of the
// other one; when consumers have it, the first one cannot log in any more. So for the
// time of the overlap both work, and what either owns or may do stays, as both are
// members of the same group role.
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
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/taskfleet/taskfleet/credentials"
)

// Kind is credentials.Kind for PostgreSQL.
type Kind struct{}

// Settings are those of a credential of this kind.
type Settings struct {
	// URL is how to reach the server as one who may change the roles:
	// postgres://rotator:…@host/database, with the parameters of libpq.
	URL string `json:"url"`

	Roles    []string `json:"roles"`    // the two that take turns; those that are not there are made
	MemberOf []string `json:"memberOf"` // roles whose members they are, such as the owner of the tables

	// Address is host:port where consumers find the server, if that is not the host of
	// URL, and Database theirs.
	Address  string `json:"address"`
	Database string `json:"database"`
}

// A public is what tells a version.
type public struct {
	Role    string `json:"role"`
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
		return s, nil, fmt.Errorf("the settings of a PostgreSQL credential are url, roles, memberOf, address and database: %w", err)
	}
	if !strings.HasPrefix(s.URL, "postgres://") && !strings.HasPrefix(s.URL, "postgresql://") {
		return s, nil, errors.New("url must be that of the server and of one who may change the roles, such as postgres://rotator:…@db.example.com/app")
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

func good(role string) bool {
	return role != "" && len(role) <= 63 && !strings.ContainsRune(role, 0) && !strings.HasPrefix(role, "pg_")
}

// Check implements credentials.Kind.
func (Kind) Check(settings json.RawMessage) (place string, err error) {
	s, c, err := parse(settings)
	if err != nil {
		return "", err
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
func change(ctx context.Context, settings json.RawMessage, f func(s Settings, tx pgx.Tx, roles []*role) error) error {
	s, c, err := parse(settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return fmt.Errorf("connecting to the server as %s: %w", c.User, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
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
func (Kind) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	password := passwordOf(o.Seed)
	err = change(ctx, o.Settings, func(s Settings, tx pgx.Tx, roles []*role) error {
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
	u.Path = "/" + out.Database
	query := u.Query()
	query.Del("passfile") // which is where the other's password is
	u.RawQuery = query.Encode()
	out.URL = u.String()
	if m.Public, err = json.Marshal(public{Role: role}); err == nil {
		m.Secret, err = json.Marshal(out)
	}
	return m, err
}

// Prove implements credentials.Kind. It asks the server by the way that the rotation
// has, as that of the consumers may not be open from here.
func (Kind) Prove(ctx context.Context, v credentials.Version) error {
	_, c, err := parse(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	var is secret
	if err := json.Unmarshal(v.Secret, &is); err != nil {
		return credentials.Refused("the secret cannot be read")
	}
	c.User, c.Password = is.Username, is.Password
	c.Database = is.Database
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return fmt.Errorf("logging in as %s: %w", is.Username, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var one int
	if err := conn.QueryRow(ctx, `SELECT 1`).Scan(&one); err != nil {
		return fmt.Errorf("asking something as %s: %w", is.Username, err)
	}
	return nil
}

// Used implements credentials.Kind. A server tells who is connected, and not who
// was.
func (Kind) Used(ctx context.Context, v credentials.Version) (at time.Time, err error) {
	err = change(ctx, v.Settings, func(_ Settings, tx pgx.Tx, roles []*role) error {
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
func (Kind) Disable(ctx context.Context, v credentials.Version) error {
	return change(ctx, v.Settings, func(_ Settings, tx pgx.Tx, roles []*role) error {
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
func (Kind) Retire(ctx context.Context, v credentials.Version) error {
	return change(ctx, v.Settings, func(_ Settings, tx pgx.Tx, roles []*role) error {
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
func (Kind) List(ctx context.Context, o credentials.Order) (list []credentials.Found, err error) {
	err = change(ctx, o.Settings, func(_ Settings, _ pgx.Tx, roles []*role) error {
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

const scramRounds = 4096

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
