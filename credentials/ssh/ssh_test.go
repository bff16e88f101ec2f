package ssh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// text is the settings of a credential of the network.
func (n *network) text(more ...any) string {
	n.Helper()
	s := map[string]any{"hosts": []string{"deploy@web1.test", "deploy@web2.test"}, "hostKeys": n.hostKeys(), "administrator": map[string]string{"keyFile": n.keyFile}}
	for i := 0; i < len(more); i += 2 {
		s[more[i].(string)] = more[i+1]
		if more[i+1] == nil {
			delete(s, more[i].(string))
		}
	}
	text, err := json.Marshal(s)
	if err != nil {
		n.Fatal(err)
	}
	return string(text)
}

func (n *network) kind() Kind { return Kind{Log: slog.New(slog.DiscardHandler), Dial: n.dial} }

// works logs in everywhere.
func (n *network) works(ctx context.Context, text json.RawMessage) error {
	var s secret
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	key, err := ssh.ParsePrivateKey([]byte(s.PrivateKey))
	if err != nil {
		return err
	}
	for name, m := range n.machines {
		conn, err := m.dial()
		if err != nil {
			return err
		}
		c, _, _, err := ssh.NewClientConn(conn, name, &ssh.ClientConfig{User: "deploy", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(m.key.PublicKey())})
		if err != nil {
			conn.Close()
			return fmt.Errorf("%s: %w", name, err)
		}
		c.Close()
	}
	return nil
}

func (n *network) order(more ...any) credentials.Order {
	return credentials.Order{Credential: "deploy-key", Settings: json.RawMessage(n.text(more...)), ID: slugid.New(), Seed: []byte(strings.Repeat("5", 64))}
}

func (n *network) mint(k Kind, o credentials.Order) credentials.Version {
	n.Helper()
	m, err := k.Mint(n.Context(), o)
	if err != nil {
		n.Fatal(err)
	}
	return credentials.Version{ID: o.ID, Credential: o.Credential, Settings: o.Settings, Public: m.Public, Secret: m.Secret}
}

func TestKeysRotate(t *testing.T) {
	rotatortest.Run(t, func(t *testing.T, db *store.DB) rotatortest.Subject {
		n := newNetwork(t, "web1.test") // another one is more of the same
		return rotatortest.Subject{Kind: n.kind(), Settings: n.text("hosts", []string{"deploy@web1.test"}), Works: n.works, Slow: true}
	})
}

const somebody = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ somebody else"

// What is not ours stays as it is, byte for byte, and the file keeps its mode and the
// link that leads to it.
func TestOtherLinesStay(t *testing.T) {
	n := newNetwork(t, "web1.test", "web2.test")
	k, m := n.kind(), n.machines["web1.test"]
	other := "# by hand\n\n  " + somebody + "\r\n# disabled: " + somebody + "\nfrom=\"10.0.0.0/8\" " + somebody + " taskfleet credential another version 0123456789012345678901"
	m.put("deploy", other)
	real := filepath.Join(m.dir, "deploy", "keys")
	if err := errors.Join(os.Rename(m.file("deploy"), real), os.Symlink("../keys", m.file("deploy")), os.Chmod(real, 0o640)); err != nil {
		t.Fatal(err)
	}
	o := n.order("options", `from="192.0.2.0/24",no-pty`)
	v := n.mint(k, o)
	var p public
	if err := json.Unmarshal(v.Public, &p); err != nil {
		t.Fatal(err)
	}
	line := `from="192.0.2.0/24",no-pty ` + p.PublicKey + "\n"
	if got := m.lines("deploy"); got != other+"\n"+line {
		t.Errorf("minted, the file is %q", got)
	}
	if again := n.mint(k, o); again.Public == nil || string(again.Public) != string(v.Public) || m.lines("deploy") != other+"\n"+line {
		t.Errorf("minted again it is another one: %s", again.Public)
	}
	for range 2 {
		if err := k.Disable(t.Context(), v); err != nil || m.lines("deploy") != other+"\n# disabled: "+line {
			t.Errorf("disabled, %v, the file is %q", err, m.lines("deploy"))
		}
	}
	if found, err := k.List(t.Context(), o); err != nil || len(found) != 1 || found[0].ID != o.ID || !strings.Contains(string(found[0].Public), `"hosts":2`) {
		t.Errorf("there is %+v, %v", found, err)
	}
	for range 2 {
		if err := k.Retire(t.Context(), v); err != nil || m.lines("deploy") != other+"\n" {
			t.Errorf("retired, %v, the file is %q", err, m.lines("deploy"))
		}
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if link, err := os.Readlink(m.file("deploy")); err != nil || link != "../keys" {
		t.Errorf("the link is %q, %v", link, err)
	}
	if left, _ := filepath.Glob(real + "?*"); len(left) != 0 {
		t.Errorf("%q is left", left)
	}
	if info, err := os.Stat(filepath.Dir(n.machines["web2.test"].file("deploy"))); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a directory that was made: %v, %v", info, err)
	}
}

// A host that is down is named, and what the others have is as it should be; when it is
// back, repeating mends it.
func TestAHostThatIsDown(t *testing.T) {
	n := newNetwork(t, "web1.test", "web2.test", "web3.test")
	k, hosts := n.kind(), []string{"deploy@web1.test", "deploy@web2.test", "deploy@web3.test:22"}
	down := func(is bool) {
		m := n.machines["web2.test"]
		m.mu.Lock()
		defer m.mu.Unlock()
		m.down = is
	}
	o := n.order("hosts", hosts)
	one := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "on 1 of 3 hosts: deploy@web2.test: connecting: connection refused") {
			t.Errorf("with a host that is down: %v", err)
		}
	}
	down(true)
	_, err := k.Mint(t.Context(), o)
	one(err)
	_, err = k.List(t.Context(), o)
	one(err)
	one(k.Retire(t.Context(), credentials.Version{ID: o.ID, Credential: o.Credential, Settings: o.Settings}))
	if strings.Contains(n.machines["web1.test"].lines("deploy")+n.machines["web3.test"].lines("deploy"), "taskfleet") {
		t.Error("the others have what was withdrawn")
	}
	down(false)
	v := n.mint(k, o)
	down(true)
	one(k.Prove(t.Context(), v))
	one(k.Disable(t.Context(), v))
	down(false)
	if err := k.Disable(t.Context(), v); err != nil {
		t.Error(err)
	}
	if err := k.Prove(t.Context(), v); !errors.Is(err, credentials.ErrNoVersion) {
		t.Errorf("one that is disabled everywhere: %v", err)
	}
	n.machines["web1.test"].put("deploy", strings.ReplaceAll(n.machines["web1.test"].lines("deploy"), "# disabled: ", ""))
	if err := k.Prove(t.Context(), v); err == nil || errors.Is(err, credentials.ErrNoVersion) || !strings.Contains(err.Error(), "on 2 of 3 hosts") {
		t.Errorf("one that is enabled on one of them: %v", err)
	}
}

// A host shows a key that is known, or it gets none of ours.
func TestHostsAreKnown(t *testing.T) {
	n := newNetwork(t, "web1.test", "web2.test")
	k := n.kind()
	keys := n.hostKeys()
	for i := range keys {
		if strings.HasPrefix(keys[i], "web2") {
			keys[0], keys[i] = keys[i], keys[0]
		}
	}
	o := n.order("hostKeys", keys[:1])
	if _, err := k.Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "on 1 of 2 hosts: deploy@web1.test: its key (SHA256:") || !strings.Contains(err.Error(), "is not among the known ones") {
		t.Errorf("a host that is not known: %v", err)
	}
	logins := n.machines["web1.test"].logins
	_, own := signer(t)
	n.machines["web1.test"].key = own
	o = n.order("hostKeys", keys)
	if _, err := k.Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another one than is known") {
		t.Errorf("a host with another key: %v", err)
	}
	if n.machines["web1.test"].logins != logins || n.machines["web1.test"].lines("deploy") != "" {
		t.Error("it was logged in to")
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(strings.Join(n.hostKeys(), "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	n.mint(k, n.order("hostKeys", nil, "knownHosts", file))
}

// Rotations of several credentials in one file wait for each other, and a lock that was
// left behind is taken over, by the clock of the host.
func TestTheFileIsLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, "web1.test")
		k, m := n.kind(), n.machines["web1.test"]
		hosts := []string{"deploy@web1.test"}
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() {
				o := n.order("hosts", hosts)
				for n := 1; ; n++ {
					_, err := k.Mint(t.Context(), o)
					if err == nil {
						return
					}
					if n > 2 || !errors.Is(err, errBusy) && !strings.Contains(err.Error(), errBusy.Error()) {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if got := strings.Count(m.lines("deploy"), "taskfleet credential deploy-key version "); got != 6 {
			t.Errorf("of 6 keys %d are there", got)
		}
		lock := m.file("deploy") + lockSuffix
		if err := os.WriteFile(lock, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		o := n.order("hosts", hosts)
		if err := errors.Join(os.Chtimes(lock, time.Time{}, realNow(t).Add(-time.Minute))); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another rotation changes the file") {
			t.Errorf("while it is locked: %v", err)
		}
		m.age()
		n.mint(k, o)
		if left := m.left(); len(left) != 0 {
			t.Errorf("%q is left", left)
		}
	})
}

// realNow is the clock of files.
func realNow(t *testing.T) time.Time {
	t.Helper()
	name := filepath.Join(t.TempDir(), "now")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// left are the files that are not the user's.
func (m *machine) left() []string {
	above, _ := filepath.Glob(filepath.Join(m.dir, "deploy", ".*"+lockSuffix+"*"))
	in, _ := filepath.Glob(m.file("deploy") + lockSuffix + "*")
	return append(above, in...)
}

// age has a lock that was left be an old one.
func (m *machine) age() {
	old := realNow(m.T).Add(-2 * staleLock)
	if err := os.Chtimes(m.file("deploy")+lockSuffix, time.Time{}, old); err != nil && !os.IsNotExist(err) {
		m.Error(err)
	}
}

// An interrupted connection has something happen before so much more is written to it.
type interrupted struct {
	net.Conn
	left *int
	by   func(net.Conn)
}

func (i interrupted) Write(p []byte) (int, error) {
	if *i.left--; *i.left == 0 {
		i.by(i.Conn)
	}
	return i.Conn.Write(p)
}

// interrupt is a kind whose connections are.
func (n *network) interrupt(left *int, by func(net.Conn)) Kind {
	k := n.kind()
	k.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		c, err := n.dial(ctx, address)
		return interrupted{c, left, by}, err
	}
	return k
}

// Whenever another credential gets its line into the same file, neither's is lost.
func TestAnotherRotationAtAnyMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, "web1.test")
		m, hosts, waited := n.machines["web1.test"], []string{"deploy@web1.test"}, 0
		for left, at := 0, 4; left <= 0; at++ {
			m.put("deploy", somebody+"\n")
			left = at
			other := n.order("hosts", hosts)
			other.Credential = "another"
			var busy error
			v := n.mint(n.interrupt(&left, func(net.Conn) { _, busy = n.kind().Mint(t.Context(), other) }), n.order("hosts", hosts))
			got := m.lines("deploy")
			if busy != nil { // while the lock is held
				waited++
				if !strings.Contains(busy.Error(), errBusy.Error()) {
					t.Error(busy)
				}
			}
			if !strings.HasPrefix(got, somebody+"\n") || !strings.Contains(got, v.ID+"\n") || strings.Contains(got, other.ID+"\n") != (busy == nil && left <= 0) || len(m.left()) != 0 {
				t.Errorf("another one at %d (%v), the file is %q, and %q is left", at, busy, got, m.left())
			}
		}
		if waited == 0 {
			t.Error("the lock was never in the way")
		}
	})
}

// Wherever the connection breaks, the file is as before or as after, and when it is back
// nothing is left of that.
func TestAConnectionThatBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, "web1.test")
		m, broken := n.machines["web1.test"], 0
		for _, there := range []bool{false, true} {
			for whole, cut := false, 4; !whole; cut++ {
				os.RemoveAll(filepath.Dir(m.file("deploy")))
				before := ""
				if there {
					before = somebody + "\n"
					m.put("deploy", before)
				}
				writes := cut
				o := n.order("hosts", []string{"deploy@web1.test"})
				_, err := n.interrupt(&writes, func(c net.Conn) { c.Close() }).Mint(t.Context(), o)
				synctest.Wait()
				got := m.lines("deploy")
				if after, ok := strings.CutPrefix(got, before); !ok || after != "" && (strings.Count(after, "\n") != 1 || !strings.HasSuffix(after, o.ID+"\n")) {
					t.Fatalf("cut at %d the file is %q", cut, got)
				}
				if err == nil {
					whole = writes > 0
				} else {
					broken++
				}
				m.age()
				v := n.mint(n.kind(), o)
				if left := m.left(); len(left) != 0 {
					t.Errorf("cut at %d, %q is left", cut, left)
				}
				if err := n.kind().Retire(t.Context(), v); err != nil || m.lines("deploy") != before {
					t.Errorf("retired, %v, the file is %q", err, m.lines("deploy"))
				}
			}
		}
		if broken < 30 {
			t.Errorf("it broke at %d points only", broken)
		}
	})
}

// A host that is gone for good is in the way of nothing once it is not in the settings,
// and how to reach the others is looked up where it is now.
func TestAHostThatIsGoneForGood(t *testing.T) {
	n := newNetwork(t, "web1.test", "web2.test")
	var log strings.Builder
	k := n.kind()
	k.Log = slog.New(slog.NewTextHandler(&log, nil))
	v := n.mint(k, n.order())
	n.machines["web2.test"].down = true
	v.Defined = v.Settings
	if err := k.Retire(t.Context(), v); err == nil || !strings.Contains(err.Error(), "on 1 of 2 hosts: deploy@web2.test") {
		t.Errorf("one that is in the settings: %v", err)
	}
	moved := n.keyFile + "-moved"
	if err := os.Rename(n.keyFile, moved); err != nil {
		t.Fatal(err)
	}
	v.Defined = json.RawMessage(n.text("hosts", []string{"deploy@web1.test"}, "administrator", map[string]string{"keyFile": moved}))
	if err := errors.Join(k.Disable(t.Context(), v), k.Retire(t.Context(), v)); err != nil || n.machines["web1.test"].lines("deploy") != "" {
		t.Errorf("one that is not: %v, the other one has %q", err, n.machines["web1.test"].lines("deploy"))
	}
	if !strings.Contains(log.String(), "host=deploy@web2.test") || !strings.Contains(log.String(), v.ID) {
		t.Errorf("the log is %q", log.String())
	}
}

// Many hosts with long names are no more than a version may tell; and all of them can be
// the same machine.
func TestManyHosts(t *testing.T) {
	synctest.Test(t, testManyHosts)
}

func testManyHosts(t *testing.T) {
	n := newNetwork(t, "web1.test")
	var hosts []string
	for i := range 70 {
		name := fmt.Sprintf("%s%d.test", strings.Repeat("a.", 120), i)
		n.machines[name] = n.machines["web1.test"]
		hosts = append(hosts, "deploy@"+name)
	}
	v := n.mint(n.kind(), n.order("hosts", hosts))
	if m := n.machines["web1.test"]; strings.Count(m.lines("deploy"), "\n") != 1 || len(m.left()) != 0 {
		t.Errorf("the file is %q, and %q is left", m.lines("deploy"), m.left())
	}
	if len(v.Public) > 1<<10 {
		t.Errorf("it tells %d bytes", len(v.Public))
	}
}

// What a host says is bounded.
func TestAHostThatMeansHarm(t *testing.T) {
	n := newNetwork(t, "web1.test")
	k, m := n.kind(), n.machines["web1.test"]
	o := n.order("hosts", []string{"deploy@web1.test"})
	many := &strings.Builder{}
	for range maxListed + 1 {
		fmt.Fprintln(many, "ssh-ed25519 AAAA "+label("deploy-key", slugid.New()))
	}
	m.put("deploy", many.String())
	if _, err := k.List(t.Context(), o); err == nil || !strings.Contains(err.Error(), "which nobody has made") {
		t.Errorf("a list without an end: %v", err)
	}
	m.put("deploy", strings.Repeat("#", maxFile+1))
	if _, err := k.Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a file without an end: %v", err)
	}
	os.Remove(m.file("deploy"))
	if err := os.Symlink(strings.Repeat("x/", 2000), m.file("deploy")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Mint(t.Context(), o); err == nil || len(err.Error()) > 600 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// An administrator with more rights than the user is led nowhere by that user's links.
func TestAUserWhoMeansHarm(t *testing.T) {
	n := newNetwork(t, "web1.test")
	k, m := n.kind(), n.machines["web1.test"]
	o := n.order("hosts", []string{"deploy@web1.test"}, "file", filepath.Join(m.dir, "%u", ".ssh/authorized_keys"), "administrator", map[string]string{"user": "root", "keyFile": n.keyFile})
	if _, err := k.Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "its directory") {
		t.Errorf("without the directory: %v", err)
	}
	m.put("root", somebody+"\n")
	if err := errors.Join(os.MkdirAll(filepath.Dir(m.file("deploy")), 0o700), os.Symlink(m.file("root"), m.file("deploy"))); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "it is a link") {
		t.Errorf("a link to another's file: %v", err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Dir(m.file("deploy"))), os.Symlink(filepath.Dir(m.file("root")), filepath.Dir(m.file("deploy")))); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "lead anywhere") {
		t.Errorf("a link to another's directory: %v", err)
	}
	if got := m.lines("root"); got != somebody+"\n" {
		t.Errorf("the other's file is %q", got)
	}
}

// An administrator can be another user, who leaves files to whom they belong.
func TestAnAdministratorOfAnotherName(t *testing.T) {
	n := newNetwork(t, "web1.test")
	m := n.machines["web1.test"]
	m.put("deploy", "")
	v := n.mint(n.kind(), n.order("hosts", []string{"deploy@web1.test"}, "file", filepath.Join(m.dir, "%u", ".ssh/authorized_keys"), "administrator", map[string]string{"user": "root", "keyFile": n.keyFile}))
	if err := n.kind().Prove(t.Context(), v); err != nil || !strings.Contains(m.lines("deploy"), v.ID) {
		t.Errorf("%v, the file is %q", err, m.lines("deploy"))
	}
}

// The administrator's key can be a credential that is rotated by itself.
func TestAnAdministratorsKeyRotatesItself(t *testing.T) {
	n := newNetwork(t, "web1.test")
	k, m := n.kind(), n.machines["web1.test"]
	m.put("deploy", string(ssh.MarshalAuthorizedKey(n.admin.PublicKey())))
	_, unknown := signer(t)
	m.admin = unknown.PublicKey() // no key but those in the file
	hosts := []string{"deploy@web1.test"}
	var before credentials.Version
	for i := range 3 {
		v := n.mint(k, n.order("hosts", hosts))
		var s secret
		if err := errors.Join(k.Prove(t.Context(), v), json.Unmarshal(v.Secret, &s), os.WriteFile(n.keyFile, []byte(s.PrivateKey), 0o600)); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			m.put("deploy", m.lines("deploy")[len(ssh.MarshalAuthorizedKey(n.admin.PublicKey())):]) // by hand
		} else if err := errors.Join(k.Disable(t.Context(), before), k.Retire(t.Context(), before)); err != nil {
			t.Fatal(err)
		}
		before = v
	}
	if got := strings.Count(m.lines("deploy"), "\n"); got != 1 {
		t.Errorf("the file is %q", m.lines("deploy"))
	}
}

// A host that says nothing is given up in time.
func TestAHostThatSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, "web1.test")
		began := time.Now()
		k := Kind{Dial: func(context.Context, string) (net.Conn, error) { c, _ := pipe(); return c, nil }}
		if _, err := k.Mint(t.Context(), n.order("hosts", []string{"deploy@web1.test"})); err == nil || !strings.Contains(err.Error(), "took too long") || time.Since(began) != connectLimit {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

func TestSettings(t *testing.T) {
	n := newNetwork(t, "web1.test", "web2.test")
	if where, err := (Kind{}).Check(json.RawMessage(n.text())); err != nil || where != "authorized_keys of deploy@web1.test and 1 more" {
		t.Errorf("%q, %v", where, err)
	}
	for _, c := range []struct {
		says string
		more []any
	}{
		{"unknown field", []any{"host", "x"}},
		{"hosts must name", []any{"hosts", []string{}}},
		{"is not user@host", []any{"hosts", []string{"web1.test"}}},
		{"is not user@host", []any{"hosts", []string{"deploy@web1.test:0"}}},
		{"is there twice", []any{"hosts", []string{"deploy@web1.test", "deploy@web1.test:22"}}},
		{"one of knownHosts", []any{"hostKeys", nil}},
		{"one of knownHosts", []any{"knownHosts", "/etc/ssh/ssh_known_hosts"}},
		{"absolute path", []any{"hostKeys", nil, "knownHosts", "known_hosts"}},
		{"cannot be read on this machine", []any{"hostKeys", nil, "knownHosts", n.keyFile + "x"}},
		{"hostKeys must be lines", []any{"hostKeys", []string{"web1.test nonsense"}}},
		{"administrator.keyFile must be", []any{"administrator", map[string]string{}}},
		{"administrator.user is", []any{"administrator", map[string]string{"keyFile": n.keyFile, "user": "-o x"}}},
		{"it must be an absolute path, such as", []any{"administrator", map[string]string{"keyFile": n.keyFile, "user": "root"}}},
		{"options must be on one line", []any{"options", "no-pty\nssh-ed25519 AAAA"}},
		{"cannot stand before a key", []any{"options", "ssh-ed25519 AAAA"}},
		{"name of a file", []any{"file", "x/"}},
	} {
		if _, err := (Kind{}).Check(json.RawMessage(n.text(c.more...))); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v", c.more, err)
		}
	}
	k := n.kind()
	for says, text := range map[string]string{"is no private key": "hunter2", "cannot be read on this machine": ""} {
		if text == "" {
			os.Remove(n.keyFile)
		} else if err := os.WriteFile(n.keyFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Mint(t.Context(), n.order()); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", says, err)
		}
	}
}
