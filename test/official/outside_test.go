package official

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// An outside stands for the services that the platform sends messages by: a mail server, Slack and a homeserver of Matrix,
// as far as they take a message. What came for an address, a channel or a room the suites are told by GET /received/<it>,
// as a list.
type outside struct {
	mail net.Listener
	web  *httptest.Server

	mutex    sync.Mutex
	received map[string][]any
}

// nowhere is in the addresses that nobody is known by: what is sent to them is refused.
const nowhere = "nowhere"

func startOutside(t *testing.T) *outside {
	o := &outside{received: map[string][]any{}}
	var err error
	if o.mail, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	go o.serveMail()
	routes := http.NewServeMux()
	routes.HandleFunc("POST /slack/chat.postMessage", o.slack)
	routes.HandleFunc("PUT /_matrix/client/v3/rooms/{room}/send/m.room.message/{id}", o.matrix)
	routes.HandleFunc("GET /received/{to}", func(w http.ResponseWriter, r *http.Request) {
		o.mutex.Lock()
		defer o.mutex.Unlock()
		reply(w, http.StatusOK, append([]any{}, o.received[r.PathValue("to")]...))
	})
	lenders(routes)
	o.web = httptest.NewServer(routes)
	t.Cleanup(func() {
		o.web.Close()
		o.mail.Close()
	})
	return o
}

// mirroring keeps copies of artifacts in another region, where all clients are.
const mirroring = `
mirror: {regions: [{name: away}], ipRanges: none, networks: {127.0.0.0/8: away, "::1": away}}
`

// config has the platform use it, and the imitation of AWS's STS at the URL moto.
func (o *outside) config(t *testing.T, moto string) string {
	_, port, err := net.SplitHostPort(o.mail.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(mirroring+`
notify:
  smtp: {host: 127.0.0.1, port: %[1]s, security: none, from: "Taskfleet <taskfleet@example.com>"}
  slack: {token: xoxb-official, url: "%[2]s/slack"}
  matrix: {accessToken: official, url: "%[2]s"}
auth:
  aws: {endpoint: "%[3]s", keys: [{accessKeyId: official, secretAccessKey: official, buckets: [official]}]}
  websocktunnel: {secret: "a secret of the official suite"}
`, port, o.web.URL, moto) + lendersConfig(t, o.web.URL)
}

func (o *outside) receive(to string, message any) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.received[to] = append(o.received[to], message)
}

func (o *outside) slack(w http.ResponseWriter, r *http.Request) {
	var message struct {
		Channel string `json:"channel"`
		Text    string `json:"text"`
	}
	switch err := json.NewDecoder(r.Body).Decode(&message); {
	case r.Header.Get("Authorization") != "Bearer xoxb-official":
		reply(w, http.StatusOK, map[string]any{"ok": false, "error": "invalid_auth"})
	case err != nil || strings.Contains(message.Channel, nowhere):
		reply(w, http.StatusOK, map[string]any{"ok": false, "error": "channel_not_found"})
	default:
		o.receive(message.Channel, message)
		reply(w, http.StatusOK, map[string]any{"ok": true})
	}
}

func (o *outside) matrix(w http.ResponseWriter, r *http.Request) {
	var message struct {
		Type string `json:"msgtype"`
		Body string `json:"body"`
	}
	switch err := json.NewDecoder(r.Body).Decode(&message); {
	case r.Header.Get("Authorization") != "Bearer official":
		reply(w, http.StatusUnauthorized, map[string]any{"errcode": "M_UNKNOWN_TOKEN"})
	case err != nil || strings.Contains(r.PathValue("room"), nowhere):
		reply(w, http.StatusNotFound, map[string]any{"errcode": "M_NOT_FOUND"})
	default:
		o.receive(r.PathValue("room"), message)
		reply(w, http.StatusOK, map[string]any{"event_id": "$" + r.PathValue("id")})
	}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // who asked may have gone
}

// serveMail takes mail until its listener is closed.
func (o *outside) serveMail() {
	for {
		conn, err := o.mail.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			o.takeMail(bufio.NewReader(conn), conn)
		}()
	}
}

// takeMail is one conversation by SMTP.
func (o *outside) takeMail(from *bufio.Reader, to io.Writer) {
	say := func(line string) { fmt.Fprintf(to, "%s\r\n", line) }
	say("220 outside")
	address := ""
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return
		}
		command, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch strings.ToUpper(command) {
		case "RCPT":
			_, rest, _ = strings.Cut(rest, "<")
			if address, _, _ = strings.Cut(rest, ">"); strings.Contains(address, nowhere) {
				say("550 no such mailbox")
				continue
			}
			say("250 ok")
		case "DATA":
			say("354 go on")
			var text strings.Builder
			for line, err = from.ReadString('\n'); err == nil && line != ".\r\n"; line, err = from.ReadString('\n') {
				text.WriteString(strings.TrimPrefix(line, "."))
			}
			o.receive(address, map[string]string{"text": text.String()})
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}
