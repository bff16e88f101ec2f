// Package rabbitmq rotates how an application logs in to a RabbitMQ broker, by users
// that come and go.
//
// Each version is a user of its own, so old and new work side by side for as long as
// they have to. Its name ends with the id of the version, and a tag says which
// credential it belongs to. The tag is the same for all versions, as a broker never
// forgets one (they are atoms of Erlang).
//
// The password is made of the seed of the order, and sent as a salted hash. The
// management API is spoken directly: it is a dozen requests, and each of them has to end
// with its context and keep what it sends out of its error.
package rabbitmq

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
)

// Kind is credentials.Kind for RabbitMQ.
type Kind struct {
	// Transport leads to the management API; where it is nil, one that trusts the
	// authorities of the settings does.
	Transport http.RoundTripper

	// LogIn has a user log in to the broker; where it is nil, by AMQP.
	LogIn func(ctx context.Context, url string) error
}

// A public is what tells a version.
type public struct {
	User string `json:"user"`
}

// A secret is what consumers get.
type secret struct {
	URL         string `json:"url"`
	Username    string `json:"username"`
	Password    string `json:"password"`
	Host        string `json:"host"`
	Port        int    `json:"port"`
	VirtualHost string `json:"virtualHost"`
}

// marker is the tag of all users of a credential.
func marker(credential string) string { return "taskfleet-credential-" + credential }

// userOf is the name of the user that is a version.
func userOf(s Settings, v credentials.Version) string {
	var p public
	if json.Unmarshal(v.Public, &p) == nil && p.User != "" {
		return p.User
	}
	return s.Prefix + "-" + v.ID // it was not minted, or that is not known
}

// Check implements credentials.Kind.
func (Kind) Check(settings json.RawMessage) (place string, err error) {
	s, err := parse(settings)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("RabbitMQ at %s, users %s-…", s.management.Host, s.Prefix), nil
}

// Site implements credentials.Sited: a broker has room for the users of many credentials.
func (Kind) Site(settings json.RawMessage) (site string, shared bool) {
	s, err := parse(settings)
	if err != nil {
		return string(settings), true
	}
	return s.management.String(), true
}

// Mint implements credentials.Kind.
func (k Kind) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	s, b, err := k.open(o.Settings)
	if err != nil {
		return m, err
	}
	defer b.close()
	user := s.Prefix + "-" + o.ID
	password := passwordOf(o.Seed)
	if err := b.putUser(ctx, user, hashed(password), append(slices.Clone(s.Tags), marker(o.Credential))); err != nil {
		return m, fmt.Errorf("making the user %s: %w", user, err)
	}
	if err := b.allow(ctx, user, s); err != nil {
		return m, fmt.Errorf("giving the user %s its permissions: %w", user, err)
	}
	u := *s.broker
	u.User = url.UserPassword(user, password)
	u.Path, u.RawPath = "/"+s.VirtualHost, "/"+url.PathEscape(s.VirtualHost)
	if m.Public, err = json.Marshal(public{user}); err == nil {
		m.Secret, err = json.Marshal(secret{u.String(), user, password, s.host, s.port, s.VirtualHost})
	}
	return m, err
}

// Prove implements credentials.Kind: it connects to the broker as a consumer would, and
// where its tags let the user do so, asks the management API who it is.
func (k Kind) Prove(ctx context.Context, v credentials.Version) error {
	s, b, err := k.open(v.Settings)
	if err != nil {
		return err
	}
	defer b.close()
	var is secret
	if json.Unmarshal(v.Secret, &is) != nil || is.URL == "" {
		return credentials.Refused("the secret cannot be read")
	}
	logIn := k.LogIn
	if logIn == nil {
		logIn = func(ctx context.Context, url string) error { return connect(ctx, url, b.tls) }
	}
	if err := logIn(ctx, is.URL); err != nil {
		if _, missing := b.user(ctx, is.Username); errors.Is(missing, errNotThere) {
			return credentials.ErrNoVersion
		}
		return fmt.Errorf("logging in to the broker at %s as %s: %w", s.Address, is.Username, err)
	}
	if !slices.ContainsFunc(s.Tags, func(tag string) bool { return slices.Contains(managing, tag) }) {
		return nil
	}
	name, err := b.whoAmI(ctx, is.Username, is.Password)
	if err != nil {
		return fmt.Errorf("asking the management API as %s who that is: %w", is.Username, err)
	}
	if name != is.Username {
		return fmt.Errorf("the management API takes %s for %q", is.Username, name)
	}
	return nil
}

// managing are the tags that open the management API.
var managing = []string{"management", "policymaker", "monitoring", "administrator"}

// Used implements credentials.Kind. A broker tells who is connected, and not who was.
func (k Kind) Used(ctx context.Context, v credentials.Version) (time.Time, error) {
	s, b, err := k.open(v.Settings)
	if err != nil {
		return time.Time{}, err
	}
	defer b.close()
	user := userOf(s, v)
	if _, err := b.user(ctx, user); errors.Is(err, errNotThere) {
		return time.Time{}, credentials.ErrNoVersion
	} else if err != nil {
		return time.Time{}, fmt.Errorf("looking for the user %s: %w", user, err)
	}
	connected, err := b.connected(ctx, user)
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("asking for the connections of %s: %w", user, err)
	case connected:
		return time.Now(), nil
	}
	return time.Time{}, credentials.ErrNotTold
}

// Disable implements credentials.Kind. First nobody can log in any more, then who is
// doing so at the moment finds every virtual host closed, and then connections end.
func (k Kind) Disable(ctx context.Context, v credentials.Version) error {
	s, b, err := k.open(v.Settings)
	if err != nil {
		return err
	}
	defer b.close()
	user := userOf(s, v)
	if _, err := b.user(ctx, user); errors.Is(err, errNotThere) { // to change it would make it
		return nil
	} else if err != nil {
		return fmt.Errorf("looking for the user %s: %w", user, err)
	}
	if err := b.putUser(ctx, user, "", []string{marker(v.Credential)}); err != nil {
		return fmt.Errorf("taking the password of %s away: %w", user, err)
	}
	if err := b.forbid(ctx, user, nil); err != nil {
		return fmt.Errorf("taking the permissions of %s away: %w", user, err)
	}
	if err := b.disconnect(ctx, user); err != nil {
		return fmt.Errorf("closing the connections of %s: %w", user, err)
	}
	return nil
}

// Retire implements credentials.Kind. The broker closes what connections there are.
func (k Kind) Retire(ctx context.Context, v credentials.Version) error {
	s, b, err := k.open(v.Settings)
	if err != nil {
		return err
	}
	defer b.close()
	user := userOf(s, v)
	if err := b.deleteUser(ctx, user); err != nil && !errors.Is(err, errNotThere) {
		return fmt.Errorf("deleting the user %s: %w", user, err)
	}
	return nil
}

// List implements credentials.Kind. The users of a credential have its tag, whatever
// the prefix was when they were made.
func (k Kind) List(ctx context.Context, o credentials.Order) (found []credentials.Found, err error) {
	s, b, err := k.open(o.Settings)
	if err != nil {
		return nil, err
	}
	defer b.close()
	users, err := b.users(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the users: %w", err)
	}
	versions := map[string]string{}
	for _, v := range o.Known {
		versions[userOf(s, v)] = v.ID
	}
	for _, u := range users {
		ours := slices.Contains(u.Tags, marker(o.Credential))
		present := s.Present != "" && u.Name == s.Present
		if !ours && !present {
			continue
		}
		f := credentials.Found{ID: cmp.Or(versions[u.Name], versionIn(u.Name)), Adopt: present}
		if f.Public, err = json.Marshal(public{u.Name}); err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, nil
}

// idLength is that of the ids of versions.
const idLength = 22

// versionIn is the id that the name of a user ends with, or else the name.
func versionIn(name string) string {
	if at := len(name) - idLength; at > 1 && name[at-1] == '-' {
		return name[at:]
	}
	return name
}

// passwordOf makes a password of a seed.
func passwordOf(seed []byte) string {
	mac := hmac.New(sha256.New, seed)
	mac.Write([]byte("password of a RabbitMQ user"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

const hashing = "rabbit_password_hashing_sha256"

// hashed is what a broker keeps of a password: a salt of four bytes, and the SHA-256 of
// that and the password.
func hashed(password string) string {
	out := make([]byte, 4, 4+sha256.Size)
	rand.Read(out)
	sum := sha256.Sum256(append(bytes.Clone(out), password...))
	return base64.StdEncoding.EncodeToString(append(out, sum[:]...))
}

// hosts are the virtual hosts that there are permissions for, in their order.
func (s Settings) hosts() []string { return slices.Sorted(maps.Keys(s.Permissions)) }

// topics are those of a virtual host.
func (s Settings) topics(host string) (list []TopicPermission) {
	for _, t := range s.TopicPermissions {
		if cmp.Or(t.VirtualHost, defaultHost) == host {
			list = append(list, t)
		}
	}
	return list
}

func goodTag(tag string) bool {
	return tag != "" && len(tag) <= 100 && !strings.ContainsFunc(tag, func(r rune) bool { return r <= ' ' || r == ',' || r > '~' })
}
