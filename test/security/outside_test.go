package security

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"
)

// An outside is all that the platform talks to, at its worst: a mail server,
// Slack, Matrix, STS, Azure, Google Cloud, GitHub and a broker that refuse
// whatever they are asked, and repeat what they were sent as they do. Some files
// can be had.
type outside struct {
	mail, broker net.Listener
	web          *httptest.Server
	mails, calls atomic.Int64
}

func startOutside(t *testing.T) *outside {
	o := &outside{}
	o.mail, o.broker = listen(t), listen(t)
	go serve(o.mail, o.refuseMail)
	go serve(o.broker, func(c net.Conn) {
		// No AMQP at all.
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") // it may have gone
	})
	o.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/files/") {
			files(w, r)
			return
		}
		o.calls.Add(1)
		text, err := httputil.DumpRequest(r, true)
		if err != nil {
			text = []byte(err.Error())
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Repeated", strings.Join(r.Header.Values("Authorization"), ", "))
		w.WriteHeader(http.StatusBadRequest)
		// In the form of each of their errors.
		fmt.Fprintf(w, `{"ok": false, "error": "invalid_auth", "errcode": "M_UNKNOWN_TOKEN", "message": %[1]q, "error_description": %[1]q, "response_metadata": {"messages": [%[1]q]}}`, text)
	}))
	t.Cleanup(o.web.Close)
	return o
}

func listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func serve(l net.Listener, talk func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			talk(c)
		}()
	}
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// refuseMail refuses every attempt to log in with the line that made it.
func (o *outside) refuseMail(c net.Conn) {
	say := func(line string) { fmt.Fprintf(c, "%s\r\n", line) }
	say("220 outside")
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		switch command, _, _ := strings.Cut(strings.ToUpper(lines.Text()), " "); command {
		case "EHLO":
			say("250-outside")
			say("250 AUTH PLAIN")
		case "AUTH":
			o.mails.Add(1)
			say("535 5.7.8 not understood: " + lines.Text())
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}
