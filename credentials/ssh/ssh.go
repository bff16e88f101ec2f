// Package ssh rotates key pairs by which users of hosts log in with SSH.
//
// A version is a line in the authorized_keys of every host, put there over SFTP by an
// administrator's key, beside the line of the version before. Its comment says which
// version it is; so what is ours is told from what is not, and no other line is ever
// changed. The file is replaced at once, under a lock that is its next content, and keeps
// its owner and mode. Whom the file belongs to can mean harm to an administrator with more
// rights: who has these follows no links, and changes owners by handles alone.
//
// The key is made of the seed of the order. The keys of hosts are known, or there is no
// connection.
package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/taskfleet/taskfleet/credentials"
)

// Kind is credentials.Kind for SSH keys.
type Kind struct {
	Log *slog.Logger

	// Dial connects to a host; nil: by TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Settings are those of a credential of this kind.
type Settings struct {
	Hosts []string `json:"hosts"` // user@host or user@host:port: who logs in with the key, and where

	File    string `json:"file"`    // with the lines; .ssh/authorized_keys of who writes it where it is empty; %u is the user
	Options string `json:"options"` // of the lines, such as from="10.0.0.0/8",no-agent-forwarding

	KnownHosts string   `json:"knownHosts"` // a file with the keys of the hosts
	HostKeys   []string `json:"hostKeys"`   // or these are the lines of one

	Administrator administrator `json:"administrator"`
}

// An administrator writes the lines.
type administrator struct {
	User    string `json:"user"`    // each host's own where it is empty
	KeyFile string `json:"keyFile"` // a file with a private key, without a passphrase
}

// A public is what tells a version.
type public struct {
	PublicKey   string `json:"publicKey,omitempty"`
	Fingerprint string `json:"fingerprint"`
	Hosts       int    `json:"hosts"` // that have it; all their names can be too long
}

// A secret is what consumers get.
type secret struct {
	PrivateKey string `json:"privateKey"` // as a file of OpenSSH
	PublicKey  string `json:"publicKey"`
}

const (
	defaultFile = ".ssh/authorized_keys"
	maxHosts    = 500
	atATime     = 16
	maxListed   = 1000 // versions of a credential

	connectLimit = 10 * time.Second
	hostLimit    = 30 * time.Second // for all that is done on a host at once
)

var userPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,31}$`)

// A host is where a user logs in.
type host struct {
	user    string
	address string
	file    string
	writer  string // who writes the file
}

func (h host) String() string {
	return h.user + "@" + strings.TrimSuffix(h.address, ":22")
}

func parse(text json.RawMessage) (s Settings, hosts []host, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, nil, fmt.Errorf("the settings of an SSH key are hosts, file, options, knownHosts, hostKeys and administrator: %w", err)
	}
	if s.File == "" {
		s.File = defaultFile
	}
	switch {
	case len(s.Hosts) == 0 || len(s.Hosts) > maxHosts:
		return s, nil, fmt.Errorf("hosts must name who logs in where, such as [deploy@web1.example.com], up to %d", maxHosts)
	case (s.KnownHosts == "") == (len(s.HostKeys) == 0):
		return s, nil, errors.New("one of knownHosts, a file, and hostKeys, its lines, must have the keys of the hosts; ssh-keyscan prints them, and they are to be compared with what the hosts themselves say")
	case s.KnownHosts != "" && !filepath.IsAbs(s.KnownHosts):
		return s, nil, fmt.Errorf("knownHosts is %q; it must be an absolute path", s.KnownHosts)
	case !filepath.IsAbs(s.Administrator.KeyFile):
		return s, nil, errors.New("administrator.keyFile must be the absolute path of a file with the private key of who writes the lines")
	case s.Administrator.User != "" && !userPattern.MatchString(s.Administrator.User):
		return s, nil, fmt.Errorf("administrator.user is %q; it must be the name of a user", s.Administrator.User)
	case strings.ContainsAny(s.Options, "\r\n#") || strings.TrimSpace(s.Options) != s.Options:
		return s, nil, errors.New("options must be on one line, as they stand before a key in authorized_keys")
	case strings.ContainsAny(s.File, "\r\n\x00") || strings.HasSuffix(s.File, "/"):
		return s, nil, fmt.Errorf("file is %q; it must be the name of a file on the hosts", s.File)
	}
	if s.Options != "" {
		if _, _, got, rest, err := ssh.ParseAuthorizedKey([]byte(s.Options + " " + example)); err != nil || len(rest) > 0 || len(got) == 0 {
			return s, nil, fmt.Errorf("options is %q; that cannot stand before a key in authorized_keys", s.Options)
		}
	}
	seen := map[string]bool{}
	for _, text := range s.Hosts {
		user, name, ok := strings.Cut(text, "@")
		port := "22"
		if h, p, err := net.SplitHostPort(name); err == nil {
			name, port = h, p
		}
		name = strings.Trim(name, "[]")
		if n, err := strconv.ParseUint(port, 10, 16); !ok || !userPattern.MatchString(user) || name == "" || strings.ContainsAny(name, " /@,") || err != nil || n == 0 {
			return s, nil, fmt.Errorf("hosts: %q is not user@host or user@host:port", text)
		}
		h := host{user: user, address: net.JoinHostPort(name, port), writer: s.Administrator.User, file: strings.ReplaceAll(s.File, "%u", user)}
		if h.writer == "" {
			h.writer = user
		}
		if h.writer != user && !path.IsAbs(h.file) {
			return s, nil, fmt.Errorf("file is %q; as the administrator is another user than %s, it must be an absolute path, such as /home/%%u/.ssh/authorized_keys", s.File, user)
		}
		if seen[h.String()] {
			return s, nil, fmt.Errorf("hosts: %s is there twice", text)
		}
		seen[h.String()] = true
		hosts = append(hosts, h)
	}
	if _, err := s.known(); err != nil && s.KnownHosts == "" {
		return s, nil, err
	}
	return s, hosts, nil
}

// example is some key, to try options with.
var example = func() string {
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public())
	if err != nil {
		panic(err) // it is always the same
	}
	return string(ssh.MarshalAuthorizedKey(key))
}()

// Check implements credentials.Kind.
func (Kind) Check(settings json.RawMessage) (place string, err error) {
	s, hosts, err := parse(settings)
	if err != nil {
		return "", err
	}
	if _, err := s.known(); err != nil {
		return "", err
	}
	place = "authorized_keys of " + hosts[0].String()
	if len(hosts) > 1 {
		place += fmt.Sprintf(" and %d more", len(hosts)-1)
	}
	return place, nil
}

// Site implements credentials.Sited: lines of several credentials are beside each
// other in a file.
func (Kind) Site(settings json.RawMessage) (site string, shared bool) {
	s, _, err := parse(settings)
	if err != nil {
		return string(settings), true
	}
	return s.File + "\x00" + strings.Join(slices.Sorted(slices.Values(s.Hosts)), "\x00"), true
}

// Mint implements credentials.Kind.
func (k Kind) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	s, hosts, err := parse(o.Settings)
	if err != nil {
		return m, credentials.Refused("%w", err)
	}
	seed, err := hkdf.Key(sha256.New, o.Seed, nil, "ssh ed25519 "+o.Credential+" "+o.ID, ed25519.SeedSize)
	if err != nil {
		return m, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	shown, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return m, err
	}
	comment := label(o.Credential, o.ID)
	text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(shown))) + " " + comment
	line := strings.TrimSpace(s.Options + " " + text)
	if err := k.everywhere(ctx, hosts, func(ctx context.Context, h host) error {
		return k.edit(ctx, s, h, o.ID, func(lines []string) []string {
			if i := slices.Index(lines, line); i >= 0 {
				return lines
			}
			return append(without(lines, o.Credential, o.ID), line)
		})
	}); err != nil {
		return m, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return m, err
	}
	if m.Public, err = json.Marshal(public{text, ssh.FingerprintSHA256(shown), len(hosts)}); err == nil {
		m.Secret, err = json.Marshal(secret{string(pem.EncodeToMemory(block)), text})
	}
	return m, err
}

// Prove implements credentials.Kind: it logs in on every host.
func (k Kind) Prove(ctx context.Context, v credentials.Version) error {
	s, hosts, err := parse(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	var held secret
	if err := json.Unmarshal(v.Secret, &held); err != nil {
		return credentials.Refused("the secret cannot be read")
	}
	key, err := ssh.ParsePrivateKey([]byte(held.PrivateKey))
	if err != nil {
		return credentials.Refused("the secret cannot be read")
	}
	return k.everywhere(ctx, hosts, func(ctx context.Context, h host) error {
		c, err := k.login(ctx, s, h, h.user, key)
		if !errors.Is(err, errNotAccepted) {
			if err == nil {
				c.Close()
			}
			return err
		}
		// Is that because its line is not there?
		lines, looked := k.read(ctx, s, h)
		if looked == nil && !slices.ContainsFunc(lines, func(line string) bool {
			id, disabled := labelled(v.Credential, line)
			return id == v.ID && !disabled
		}) {
			return fmt.Errorf("its line is not in %s any more: %w", h.file, credentials.ErrNoVersion)
		}
		return fmt.Errorf("%w; look at what sshd logs there", err)
	})
}

// Used implements credentials.Kind.
func (Kind) Used(context.Context, credentials.Version) (time.Time, error) {
	return time.Time{}, credentials.ErrNotTold
}

// Disable implements credentials.Kind: the lines become comments.
func (k Kind) Disable(ctx context.Context, v credentials.Version) error {
	return k.change(ctx, v, func(lines []string) []string {
		lines = slices.Clone(lines)
		for i, line := range lines {
			if id, disabled := labelled(v.Credential, line); id == v.ID && !disabled {
				lines[i] = disabledMark + line
			}
		}
		return lines
	})
}

// Retire implements credentials.Kind: the lines go.
func (k Kind) Retire(ctx context.Context, v credentials.Version) error {
	return k.change(ctx, v, func(lines []string) []string { return without(lines, v.Credential, v.ID) })
}

// change changes the lines of a version on its hosts, which are reached as the definition
// says by now. Those that it does not name any more may be gone for good: what they have
// is left there if they cannot be reached.
func (k Kind) change(ctx context.Context, v credentials.Version, f func(lines []string) []string) error {
	s, hosts, err := parse(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	now, named, err := parse(v.Defined)
	if err != nil { // there is none, or none that could be of use
		now, named = s, hosts
	}
	return k.everywhere(ctx, hosts, func(ctx context.Context, h host) error {
		i := slices.IndexFunc(named, func(n host) bool { return n.String() == h.String() })
		if i >= 0 {
			if path.IsAbs(h.file) || named[i].writer == h.user {
				h.writer = named[i].writer
			}
			return k.edit(ctx, now, h, v.ID, f)
		}
		if err := k.edit(ctx, s, h, v.ID, f); err != nil {
			k.Log.Warn("a host that is not in the settings any more could not be reached; if it comes back, the line of this version is to be removed there by hand",
				"credential", v.Credential, "version", v.ID, "host", h.String(), "file", h.file, "err", err)
		}
		return nil
	})
}

// List implements credentials.Kind.
func (k Kind) List(ctx context.Context, o credentials.Order) (found []credentials.Found, err error) {
	s, hosts, err := parse(o.Settings)
	if err != nil {
		return nil, credentials.Refused("%w", err)
	}
	var mu sync.Mutex
	where := map[string]*public{}
	err = k.everywhere(ctx, hosts, func(ctx context.Context, h host) error {
		lines, err := k.read(ctx, s, h)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		here := map[string]bool{}
		for _, line := range lines {
			id, _ := labelled(o.Credential, line)
			if id == "" {
				continue
			}
			if here[id] {
				continue
			}
			here[id] = true
			if where[id] == nil {
				where[id] = &public{}
				if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(strings.TrimPrefix(line, disabledMark))); err == nil {
					where[id].Fingerprint = ssh.FingerprintSHA256(key)
				}
			}
			where[id].Hosts++
		}
		if len(where) > maxListed {
			return fmt.Errorf("%s has more than %d versions of the credential, which nobody has made", h.file, maxListed)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for id, p := range where {
		f := credentials.Found{ID: id}
		if f.Public, err = json.Marshal(p); err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b credentials.Found) int { return strings.Compare(a.ID, b.ID) })
	return found, nil
}

// everywhere does something on all hosts, on some at a time, and tells of each on
// which it failed. What others have is done by then. It begins with others each time, so
// that many which do not answer are not always in the way of the rest.
func (k Kind) everywhere(ctx context.Context, hosts []host, f func(ctx context.Context, h host) error) error {
	errs := make([]error, len(hosts))
	slots := make(chan struct{}, atATime)
	var working sync.WaitGroup
	for _, i := range rand.Perm(len(hosts)) {
		h := hosts[i]
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			limited, stop := context.WithTimeout(ctx, hostLimit)
			defer stop()
			if err := f(limited, h); err != nil {
				errs[i] = fmt.Errorf("%s: %w", h, err)
			}
		})
	}
	working.Wait()
	var failed []error
	gone := 0
	for _, err := range errs {
		if err != nil {
			failed = append(failed, err)
		}
		if errors.Is(err, credentials.ErrNoVersion) {
			gone++
		}
	}
	if len(failed) == 0 {
		return context.Cause(ctx)
	}
	err := shown(failed)
	if len(hosts) > 1 {
		err = fmt.Errorf("on %d of %d hosts: %w", len(failed), len(hosts), err)
	}
	switch {
	case gone == len(hosts):
		return credentials.ErrNoVersion
	case gone > 0:
		return credentials.Refused("%w", err)
	}
	return err
}

// shown are so many errors as people read.
func shown(failed []error) error {
	const most, length = 5, 400 // which is for a host to choose
	if len(failed) > most {
		failed = append(slices.Clone(failed[:most]), fmt.Errorf("and %d more", len(failed)-most))
	}
	var texts []string
	for _, err := range failed {
		text := err.Error()
		texts = append(texts, text[:min(len(text), length)])
	}
	return errors.New(strings.Join(texts, "; "))
}

// label is the comment of a version's line.
func label(credential, id string) string {
	return "taskfleet credential " + credential + " version " + id
}

const disabledMark = "# disabled: "

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)

// labelled is the version of the credential that a line is, or "".
func labelled(credential, line string) (id string, disabled bool) {
	text, disabled := strings.CutPrefix(strings.TrimSpace(line), disabledMark)
	if strings.HasPrefix(text, "#") {
		return "", false
	}
	_, id, ok := strings.Cut(text, " "+label(credential, ""))
	if !ok || !idPattern.MatchString(id) {
		return "", false
	}
	return id, disabled
}

func without(lines []string, credential, id string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		is, _ := labelled(credential, line)
		return is == id
	})
}
