package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/client/credentials"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/test/server"
	"github.com/taskfleet/taskfleet/timestamp"
)

// asRegistrar has the test binary be the program of a hook.
const asRegistrar = "act-as-a-registrar"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == asRegistrar {
		if err := register(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	os.RemoveAll(folder)
	os.Exit(code)
}

// folder is where the server is built, once for all tests.
var folder string

var build = sync.OnceValues(func() (binary string, err error) {
	if folder, err = os.MkdirTemp("", "taskfleet-crash-"); err != nil {
		return "", err
	}
	return server.Build(context.Background(), folder)
})

// register is a program whose provider is a folder with a file for each version.
func register(folder string) error {
	var in struct{ Action, ID, Seed string }
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	out := map[string]any{}
	key := filepath.Join(folder, in.ID)
	switch in.Action {
	case "mint":
		// It may be killed, too: what is there is whole.
		if err := os.WriteFile(key+".new", []byte(in.Seed), 0o600); err != nil {
			return err
		}
		if err := os.Rename(key+".new", key); err != nil {
			return err
		}
		out["public"], out["secret"] = map[string]string{"key": in.ID}, map[string]string{"key": in.ID, "password": in.Seed}
	case "prove":
		if _, err := os.Stat(key); err != nil {
			return err
		}
	case "retire":
		if err := os.Remove(key); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		os.Remove(key + ".new")
	case "list":
		names, err := keys(folder)
		if err != nil {
			return err
		}
		list := []map[string]string{}
		for _, n := range names {
			list = append(list, map[string]string{"id": n})
		}
		out["versions"] = list
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func keys(folder string) (names []string, err error) {
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		if filepath.Ext(e.Name()) == "" {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// A rotating platform has credentials, each with a file that consumers read: a key, and a
// token for each kill.
type rotating struct {
	*fleet
	token     string // that is rotated
	service   *credentials.Client
	files     map[string]string
	registrar string // the folder of its keys
	used      int    // how often consumers have used what they have
}

const rotatingKills = 6 // and some more until the last rotation has ended

func TestKillingTheServerWhileCredentialsRotate(t *testing.T) {
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	storetest.EachURL(t, func(t *testing.T, database string) {
		r := startRotating(t, binary, database)
		for k := range rotatingKills {
			// A token is seen in use for minutes, so it is another one's turn each time.
			r.token = fmt.Sprintf("token-%d", k)
			for _, name := range []string{r.token, "key"} {
				if err := r.again(func() error { _, err := r.service.Rotate(t.Context(), name); return err }); err != nil {
					t.Fatal(err)
				}
			}
			for end := time.Now().Add(time.Duration(rand.IntN(150)) * time.Millisecond); time.Now().Before(end); { // any moment
				r.use(true)
				time.Sleep(5 * time.Millisecond)
			}
			if err := r.server.Kill(); err != nil {
				t.Fatal(err)
			}
			r.use(false) // what is needed for that is there
			r.restart()
			r.use(true)
			if t.Failed() {
				t.Fatalf("at kill %d", k+1)
			}
		}
		r.unforced()
		for k := range rotatingKills {
			r.token = fmt.Sprintf("token-%d", k)
			r.use(true)
		}
		r.settle()
		t.Logf("consumers have used what they had %d times", r.used)
	})
}

func startRotating(t *testing.T, binary, database string) *rotating {
	dir := t.TempDir()
	r := &rotating{registrar: filepath.Join(dir, "registrar"), files: map[string]string{"key": filepath.Join(dir, "key")}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.registrar, 0o700); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
credentials:
- {name: key, kind: hook, settings: {command: [%s, %s, %s]}, overlap: 50ms, quiet: 50ms, grace: 50ms, consumers: [{name: app, file: %s}]}
`, self, asRegistrar, r.registrar, r.files["key"])
	r.fleet = &fleet{t: t, options: server.Options{Binary: binary, Data: filepath.Join(dir, "data"), Listen: freeAddress(t), CheckOutput: true}}
	if strings.HasPrefix(database, "postgres:") {
		r.options.Database = database
	}
	r.fleet.restart()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the servers' log:\n%s", tail(r.server.Log(), 20_000))
		}
		if err := r.server.Kill(); err != nil {
			t.Error(err)
		}
	})
	if r.core, err = client.New(client.Options{RootURL: r.server.RootURL, Retry: client.Patient,
		Credentials: cred.Credentials{ClientID: r.server.ClientID, AccessToken: r.server.AccessToken}}); err != nil {
		t.Fatal(err)
	}
	r.service = credentials.New(r.core)
	for k := range rotatingKills {
		name := fmt.Sprintf("token-%d", k)
		if _, err := auth.New(r.core).CreateClient(t.Context(), "team/"+name, &auth.CreateClientRequest{
			Expires: timestamp.Now().Add(24 * time.Hour), Description: "rotates", Scopes: []string{"auth:current-scopes"}}); err != nil {
			t.Fatal(err)
		}
		r.files[name] = filepath.Join(dir, name)
		config += fmt.Sprintf("- {name: %s, kind: client, settings: {clientId: team/%[1]s}, overlap: 50ms, quiet: 181s, grace: 50ms, consumers: [{name: app, file: %s}]}\n", name, r.files[name])
	}
	if err := r.server.Stop(); err != nil {
		t.Fatal(err)
	}
	r.options.Config = config
	r.fleet.restart()
	r.await(slices.Collect(maps.Keys(r.files))...)
	return r
}

// again has what fails for a moment be done once more.
func (r *rotating) again(f func() error) (err error) {
	for range 3 {
		if err = f(); err == nil {
			return nil
		}
	}
	return err
}

// use has both consumers use what they have; the platform's client only while that is there.
func (r *rotating) use(serving bool) {
	r.t.Helper()
	r.used++
	var key struct{ Key, Password string }
	r.read("key", &key)
	if has, err := os.ReadFile(filepath.Join(r.registrar, key.Key)); err != nil || string(has) != key.Password {
		// The file may have been replaced in between.
		before := key.Key
		if r.read("key", &key); key.Key == before {
			r.t.Errorf("the key %s does not work: %v", key.Key, err)
		}
	}
	if !serving {
		return
	}
	var token struct{ ClientID, AccessToken string }
	r.read(r.token, &token)
	c, err := client.New(client.Options{RootURL: r.server.RootURL, Credentials: cred.Credentials{ClientID: token.ClientID, AccessToken: token.AccessToken}, Retry: client.Patient})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := auth.New(c).CurrentScopes(r.t.Context()); err != nil {
		r.t.Errorf("the token does not work: %v", err)
	}
}

func (r *rotating) read(name string, to any) {
	r.t.Helper()
	text, err := os.ReadFile(r.files[name])
	if err == nil {
		err = json.Unmarshal(text, to)
	}
	if err != nil {
		r.t.Fatalf("the file of %s: %v", name, err)
	}
}

// await waits until there are the files of credentials.
func (r *rotating) await(names ...string) {
	r.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		missing := 0
		for _, name := range names {
			if _, err := os.Stat(r.files[name]); err != nil {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("there are no credentials after %v", patience)
		}
	}
}

// unforced sees the rotations of the key end that were asked for and killed, and that nobody
// forces. A server looks at those under way when it starts, so it is killed until they have: later each time, as a machine
// that is busy comes no further otherwise.
func (r *rotating) unforced() {
	t := r.t
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for late := 200 * time.Millisecond; ; late += late / 2 {
		c, err := r.service.Credential(ctx, "key")
		if err != nil {
			t.Fatalf("waiting for a rotation of the key to end: %v", err)
		}
		if c.Rotation == nil {
			break
		}
		time.Sleep(rand.N(late))
		if err := r.server.Kill(); err != nil {
			t.Fatal(err)
		}
		r.restart()
	}
	list, err := r.service.History(ctx, "key", credentials.HistoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	for _, x := range list.Rotations {
		if x.Reason == "request" && x.State == "done" && !x.Forced {
			done++
		} else if x.State != "done" {
			t.Errorf("a rotation is %s: %s", x.State, x.Note)
		}
	}
	if done == 0 {
		t.Errorf("no rotation that was asked for has ended: %+v", list.Rotations)
	}
	r.use(true)
	t.Logf("%d rotations of the key were completed", done)
}

// settle has what is under way end, and then looks whether anything is left. Revoking
// is a rotation that does not wait for what was used a moment ago.
func (r *rotating) settle() {
	t := r.t
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for name := range r.files {
		if _, err := r.service.Revoke(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	for name := range r.files {
		for {
			c, err := r.service.Credential(ctx, name)
			if err != nil {
				t.Fatalf("waiting for the end of the rotation of %s: %v", name, err)
			}
			if c.Rotation == nil && c.State == "good" && len(c.Versions) == 1 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		v, err := r.service.Verify(ctx, name)
		if err != nil || !v.Works {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
		left, err := r.service.Leftovers(ctx, name)
		if err != nil || !left.Told || len(left.Leftovers) != 0 {
			t.Errorf("left of %s is %+v, %v", name, left, err)
		}
	}
	if names, err := keys(r.registrar); err != nil || len(names) != 1 {
		t.Errorf("the registrar has %q, %v", names, err)
	}
}
