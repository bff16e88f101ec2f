package auth

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// notes is a log that many write to.
type notes struct {
	sync.Mutex
	bytes.Buffer
}

func (n *notes) Write(b []byte) (int, error) {
	n.Lock()
	defer n.Unlock()
	return n.Buffer.Write(b)
}

// Nothing that opens anything stands in the log, an error, an event or the
// history, whatever goes well or wrong.
func TestSecretsAreNotTold(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := everywhere(t, db)
		log := &notes{}
		w.config.Log = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		w.Auth = w.start()
		w.server = w.serve(w.Auth)
		c := w.client("ci", "auth:*", "a")
		temp := w.temporary(c, cred.Options{Scopes: []string{"a"}})
		fresh := cred.Credentials{ClientID: "ci", AccessToken: w.want(200, c, "POST", "/clients/ci/reset", nil).member("accessToken")}
		added := w.add(fresh, slugid.New())
		secrets := []string{added.AccessToken, w.root.AccessToken, c.AccessToken, temp.AccessToken, fresh.AccessToken, tunnelSecret}
		var said []string
		refused := func(p reply) {
			if p.status == 200 {
				t.Errorf("not refused: %s", p.text)
			}
			said = append(said, p.text)
		}
		in := time.Now().Add(time.Hour)
		for _, who := range []cred.Credentials{c, temp, fresh, added, {ClientID: "ci", AccessToken: w.root.AccessToken}, {ClientID: "nobody", AccessToken: fresh.AccessToken}} {
			refused(w.call(who, "PUT", "/clients/x", clientBody(in, "b")))
			refused(w.restricted(who, []string{"x"}, "GET", "/scopes/current", nil))
			r := w.request("POST", "/authenticate-hawk", nil)
			if err := cred.Sign(r, who, nil); err != nil {
				t.Fatal(err)
			}
			body := map[string]any{"method": "post", "resource": "/x", "host": host, "port": 443, "authorization": r.Header.Get("Authorization")}
			said = append(said, w.call(cred.Credentials{}, "POST", "/authenticate-hawk", body).text)
			body["port"] = "x"
			refused(w.call(cred.Credentials{}, "POST", "/authenticate-hawk", body))
			for _, path := range []string{"/aws/s3/read-write/none/a/", "/azure/one/tables", "/gcp/credentials/p/s", "/sentry/none/dsn", "/websocktunnel/a/" + strings.Repeat("x", 300)} {
				if who != fresh && who != added {
					refused(w.call(who, "GET", path, nil))
				} else {
					w.call(who, "GET", path, nil)
				}
			}
		}
		said = append(said, w.want(200, w.root, "GET", "/audit/client/ci", nil).text, w.want(200, w.root, "GET", "/clients/ci", nil).text, w.want(200, w.root, "GET", "/clients/", nil).text, fmt.Sprint(w.messages()))
		said = append(said, log.String())
		if !strings.Contains(log.String(), "authentication failed") {
			t.Errorf("the log says nothing: %s", log.String())
		}
		for _, secret := range secrets {
			for _, text := range said {
				if i := strings.Index(text, secret); i >= 0 {
					t.Errorf("a secret stands in %s", text[max(0, i-200):min(len(text), i+100)])
				}
			}
		}
	})
}
