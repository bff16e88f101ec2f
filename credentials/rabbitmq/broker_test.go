package rabbitmq

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/taskfleet/taskfleet/credentials"
)

// The broker of these tests is a real one. Other tests kill it now and then, and it is
// started again, so a rotation that fails is tried anew until there is no time left.
func TestARealBrokerIsRotated(t *testing.T) {
	at, management := os.Getenv("TASKFLEET_TEST_RABBITMQ"), os.Getenv("TASKFLEET_TEST_RABBITMQ_MANAGEMENT")
	if at == "" || management == "" {
		t.Fatal("TASKFLEET_TEST_RABBITMQ and TASKFLEET_TEST_RABBITMQ_MANAGEMENT are not set: run `make test`, which starts a RabbitMQ for the tests")
	}
	at, management, authority := behindTLS(t, at, management)
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	for {
		err := rotateReal(ctx, at, management, authority)
		if err == nil {
			return
		}
		t.Log(err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			t.Fatalf("no rotation succeeds: %v", err)
		}
	}
}

// behindTLS puts TLS before the broker and its management API, with an authority of its
// own, which is in a file.
func behindTLS(t *testing.T, at, management string) (address, api, authority string) {
	t.Helper()
	broker, err := url.Parse(at)
	if err != nil {
		t.Fatal("TASKFLEET_TEST_RABBITMQ is no URL")
	}
	behind, err := url.Parse(management)
	if err != nil {
		t.Fatal("TASKFLEET_TEST_RABBITMQ_MANAGEMENT is no URL")
	}
	who := behind.User
	behind.User = nil
	proxy := httputil.NewSingleHostReverseProxy(behind)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // the broker is away now and then
	server := httptest.NewTLSServer(proxy)
	t.Cleanup(server.Close)
	authority = filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: server.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			front, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer front.Close()
				back, err := net.Dial("tcp", broker.Host)
				if err != nil {
					return
				}
				defer back.Close()
				go func() {
					io.Copy(back, front)
					back.Close()
				}()
				io.Copy(front, back)
			}()
		}
	}()
	api = "https://" + who.String() + "@" + strings.TrimPrefix(server.URL, "https://")
	return "amqps://" + listener.Addr().String(), api, authority
}

func rotateReal(ctx context.Context, at, management, authority string) error {
	run := strings.ToLower(rand.Text()[:8])
	s := map[string]any{
		"url": management, "address": at, "caFile": authority, "prefix": run, "present": run + "-by-hand",
		"permissions":      map[string]Permission{"/": {Configure: "^" + run, Write: "^(" + run + "|amq.topic$)", Read: "^" + run}},
		"topicPermissions": []map[string]string{{"exchange": "amq.topic", "write": "^a", "read": ".*"}},
		"limits":           map[string]int{"maxConnections": 2}, "tags": []string{"management"},
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	k := Kind{}
	o := credentials.Order{Credential: run, Settings: text, ID: first, Seed: []byte(rand.Text())}
	_, m, err := k.open(text)
	if err != nil {
		return err
	}
	byHand := run + "-by-hand"
	if err := m.putUser(ctx, byHand, hashed("by hand"), []string{"management"}); err != nil {
		return err
	}
	defer m.deleteUser(context.WithoutCancel(ctx), byHand)

	var versions []credentials.Version
	for _, id := range []string{first, second} {
		o.ID, o.Seed = id, []byte(run+id)
		for range 2 { // again, it is the same
			made, err := k.Mint(ctx, o)
			if err != nil {
				return fmt.Errorf("mint: %w", err)
			}
			v := credentials.Version{ID: id, Credential: run, Settings: text, Public: made.Public, Secret: made.Secret}
			defer k.Retire(context.WithoutCancel(ctx), v)
			if err := k.Prove(ctx, v); err != nil {
				return fmt.Errorf("prove: %w", err)
			}
			if len(versions) > 0 && versions[len(versions)-1].ID == id {
				versions = versions[:len(versions)-1]
			}
			versions = append(versions, v)
		}
	}
	o.Known = versions
	found, err := k.List(ctx, o)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if len(found) != 3 || !found[0].Adopt && !found[1].Adopt && !found[2].Adopt {
		return fmt.Errorf("found %+v", found)
	}

	old := versions[0]
	if _, err := k.Used(ctx, old); !errors.Is(err, credentials.ErrNotTold) {
		return fmt.Errorf("used by nobody: %w", err)
	}
	conn, err := dial(old.Secret, m.tls)
	if err != nil {
		return err
	}
	defer conn.Close()
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	if err := rights(conn, run); err != nil {
		return err
	}
	if at, err := k.Used(ctx, old); err != nil || time.Since(at) > time.Minute {
		return fmt.Errorf("used by one: %v, %w", at, err)
	}
	another, err := dial(old.Secret, m.tls)
	if err != nil {
		return err
	}
	defer another.Close()
	if name, err := m.whoAmI(ctx, userOf(Settings{}, old), passwordOf([]byte(run+first))); err != nil || name != userOf(Settings{}, old) {
		return fmt.Errorf("the management API takes the user for %q: %w", name, err)
	}
	if third, err := dial(old.Secret, m.tls); err == nil {
		third.Close()
		return errors.New("a user has more connections than its limit")
	}

	for range 2 {
		if err := k.Disable(ctx, old); err != nil {
			return fmt.Errorf("disable: %w", err)
		}
	}
	select {
	case <-closed:
	case <-ctx.Done():
		return errors.New("the connection of a user that was disabled goes on")
	}
	// By AMQP a broker makes whoever is refused wait for three seconds.
	if _, err := m.whoAmI(ctx, userOf(Settings{}, old), passwordOf([]byte(run+first))); err == nil {
		return errors.New("a user that was disabled logs in")
	}
	for range 2 {
		if err := k.Retire(ctx, old); err != nil {
			return fmt.Errorf("retire: %w", err)
		}
	}
	if _, err := k.Used(ctx, old); !errors.Is(err, credentials.ErrNoVersion) {
		return fmt.Errorf("using a user that was deleted: %w", err)
	}
	if err := k.Disable(ctx, old); err != nil {
		return fmt.Errorf("a late disable: %w", err)
	}
	adopted := credentials.Version{ID: run + "/" + byHand, Credential: run, Settings: text, Public: json.RawMessage(fmt.Sprintf(`{"user":%q}`, byHand))}
	for _, f := range []func(context.Context, credentials.Version) error{k.Disable, k.Retire} {
		if err := f(ctx, adopted); err != nil {
			return fmt.Errorf("the user that was there first: %w", err)
		}
	}
	o.Known = versions[1:]
	if found, err = k.List(ctx, o); err != nil || len(found) != 1 || found[0].ID != second {
		return fmt.Errorf("in the end there are %+v: %w", found, err)
	}
	if err := k.Prove(ctx, versions[1]); err != nil {
		return fmt.Errorf("the new one: %w", err)
	}

	if err := connect(ctx, secretURL(versions[1]), nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		return fmt.Errorf("an authority that nobody trusts: %w", err)
	}

	// A virtual host that is not there, and one who may not make users.
	elsewhere := o
	s["permissions"] = map[string]Permission{"/": {}, "elsewhere": {}}
	if elsewhere.Settings, err = json.Marshal(s); err != nil {
		return err
	}
	if _, err := k.Mint(ctx, elsewhere); err == nil || !strings.Contains(err.Error(), "elsewhere") {
		return fmt.Errorf("a virtual host that is not there: %w", err)
	}
	nobody := *m
	nobody.name, nobody.password = userOf(Settings{}, versions[1]), passwordOf([]byte(run+second))
	if err, ok := errors.AsType[*failure](nobody.putUser(ctx, run+"-x", "", nil)); !ok || err.status != http.StatusUnauthorized {
		return fmt.Errorf("one without the tag administrator makes users: %v", err)
	}
	list, err := pages[user](ctx, m, "/users", url.Values{"columns": {"name,tags"}, "sort": {"name"}})
	if err != nil || len(list) == 0 || list[0].Name == "" {
		return fmt.Errorf("users by pages: %+v, %w", list, err)
	}

	// One that is retired without having been disabled loses its connections as well.
	if conn, err = dial(versions[1].Secret, m.tls); err != nil {
		return err
	}
	defer conn.Close()
	closed = conn.NotifyClose(make(chan *amqp.Error, 1))
	if err := k.Retire(ctx, versions[1]); err != nil {
		return fmt.Errorf("retire: %w", err)
	}
	select {
	case <-closed:
	case <-ctx.Done():
		return errors.New("the connection of a user that was retired goes on")
	}
	return nil
}

func secretURL(v credentials.Version) string {
	var is secret
	json.Unmarshal(v.Secret, &is)
	return is.URL
}

// dial connects as a consumer that knows its url.
func dial(text json.RawMessage, trust *tls.Config) (*amqp.Connection, error) {
	var is secret
	if err := json.Unmarshal(text, &is); err != nil {
		return nil, err
	}
	return amqp.DialTLS(is.URL, trust)
}

// rights checks that a user may do what the settings say, and nothing else.
func rights(conn *amqp.Connection, run string) error {
	for _, c := range []struct {
		what  string
		legal bool
		do    func(*amqp.Channel) error
	}{
		{"declare a queue of its own", true, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(run+"-q", false, true, true, false, nil)
			return err
		}},
		{"declare one of others", false, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("other-"+run, false, true, true, false, nil)
			return err
		}},
		{"publish to a topic", true, func(ch *amqp.Channel) error { return confirmed(ch, "a.b") }},
		{"publish to another topic", false, func(ch *amqp.Channel) error { return confirmed(ch, "b.a") }},
	} {
		ch, err := conn.Channel()
		if err != nil {
			return err
		}
		if err := c.do(ch); (err == nil) != c.legal {
			return fmt.Errorf("to %s: %v", c.what, err)
		}
		if c.legal {
			ch.Close()
		}
	}
	return nil
}

func confirmed(ch *amqp.Channel, key string) error {
	if err := ch.Confirm(false); err != nil {
		return err
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	done, err := ch.PublishWithDeferredConfirm("amq.topic", key, false, false, amqp.Publishing{})
	if err != nil {
		return err
	}
	select {
	case <-done.Done():
		return nil
	case err := <-closed:
		return err
	}
}
