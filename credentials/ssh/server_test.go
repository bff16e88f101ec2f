package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// A machine is one with an SSH server: the protocol, SFTP and authorized_keys are real,
// and its homes are directories here.
type machine struct {
	*testing.T
	dir    string // of homes
	key    ssh.Signer
	admin  ssh.PublicKey
	mu     sync.Mutex
	down   bool
	logins int
}

func signer(t *testing.T) (ed25519.PrivateKey, ssh.Signer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, s
}

// file is the authorized_keys of a user.
func (m *machine) file(user string) string {
	return filepath.Join(m.dir, user, ".ssh", "authorized_keys")
}

func (m *machine) lines(user string) string {
	text, err := os.ReadFile(m.file(user))
	if err != nil && !os.IsNotExist(err) {
		m.Error(err)
	}
	return string(text)
}

func (m *machine) put(user, text string) {
	if err := errors.Join(os.MkdirAll(filepath.Dir(m.file(user)), 0o700), os.WriteFile(m.file(user), []byte(text), 0o600)); err != nil {
		m.Fatal(err)
	}
}

// accepts tells whether a user may log in with a key: as sshd does, by the file as it is.
func (m *machine) accepts(user string, key ssh.PublicKey) bool {
	if bytes.Equal(key.Marshal(), m.admin.Marshal()) {
		return true
	}
	rest := []byte(m.lines(user))
	for len(rest) > 0 {
		have, _, _, next, err := ssh.ParseAuthorizedKey(rest)
		if err != nil {
			return false
		}
		if bytes.Equal(have.Marshal(), key.Marshal()) {
			return true
		}
		rest = next
	}
	return false
}

// dial connects to the machine.
func (m *machine) dial() (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, errors.New("connection refused")
	}
	ours, theirs := pipe()
	go m.serve(theirs)
	return ours, nil
}

func (m *machine) serve(conn net.Conn) {
	defer conn.Close()
	config := &ssh.ServerConfig{PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !m.accepts(meta.User(), key) {
			return nil, errors.New("no")
		}
		return nil, nil
	}}
	config.KeyExchanges = []string{ssh.KeyExchangeCurve25519} // the cheapest
	config.AddHostKey(m.key)
	c, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	m.mu.Lock()
	m.logins++
	m.mu.Unlock()
	go ssh.DiscardRequests(requests)
	for n := range channels {
		if n.ChannelType() != "session" {
			n.Reject(ssh.UnknownChannelType, "no")
			continue
		}
		channel, asked, err := n.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range asked {
				ok := r.Type == "subsystem" && strings.HasSuffix(string(r.Payload), "sftp")
				r.Reply(ok, nil)
				if !ok {
					continue
				}
				s, err := sftp.NewServer(channel, sftp.WithServerWorkingDirectory(filepath.Join(m.dir, c.User())))
				if err == nil {
					s.Serve()
				}
				channel.Close()
			}
		}()
	}
}

// A network is some machines, by their addresses.
type network struct {
	*testing.T
	machines map[string]*machine
	keyFile  string
	admin    ssh.Signer
}

func newNetwork(t *testing.T, names ...string) *network {
	t.Helper()
	n := &network{T: t, machines: map[string]*machine{}, keyFile: filepath.Join(t.TempDir(), "admin")}
	key, admin := signer(t)
	block, err := ssh.MarshalPrivateKey(key, "admin")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.keyFile, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	n.admin = admin
	for _, name := range names {
		_, own := signer(t)
		m := &machine{T: t, dir: t.TempDir(), key: own, admin: admin.PublicKey()}
		n.machines[name] = m
		if err := os.MkdirAll(filepath.Join(m.dir, "deploy"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (n *network) dial(ctx context.Context, address string) (net.Conn, error) {
	name, _, _ := net.SplitHostPort(address)
	m := n.machines[name]
	if m == nil {
		return nil, fmt.Errorf("no such host %s", name)
	}
	return m.dial()
}

// hostKeys are the lines of known_hosts.
func (n *network) hostKeys() (lines []string) {
	for name, m := range n.machines {
		lines = append(lines, name+" "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(m.key.PublicKey()))))
	}
	return lines
}

// A half is one direction of a connection that holds what was not read yet: both ends of
// SSH begin by writing.
type half struct {
	mu     sync.Mutex
	more   *sync.Cond
	held   bytes.Buffer
	closed bool
}

func newHalf() *half {
	h := &half{}
	h.more = sync.NewCond(&h.mu)
	return h
}

func (h *half) Read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.held.Len() == 0 && !h.closed {
		h.more.Wait()
	}
	if h.held.Len() == 0 {
		return 0, io.EOF
	}
	return h.held.Read(p)
}

func (h *half) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, io.ErrClosedPipe
	}
	h.more.Broadcast()
	return h.held.Write(p)
}

func (h *half) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.more.Broadcast()
}

type end struct {
	in, out *half
}

func pipe() (net.Conn, net.Conn) {
	a, b := newHalf(), newHalf()
	return end{a, b}, end{b, a}
}

func (e end) Read(p []byte) (int, error)       { return e.in.Read(p) }
func (e end) Write(p []byte) (int, error)      { return e.out.Write(p) }
func (e end) Close() error                     { e.in.close(); e.out.close(); return nil }
func (e end) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)} }
func (e end) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 22} }
func (e end) SetDeadline(time.Time) error      { return nil }
func (e end) SetReadDeadline(time.Time) error  { return nil }
func (e end) SetWriteDeadline(time.Time) error { return nil }
