package mirror

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

var streamed = Route{Name: "streamed", Policy: Stream}

// Whoever is streamed to gets what is stored, with its headers, and there is a
// copy then.
func TestStreams(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db, streamed)
		w.copying()
		for i, size := range []int{0, 1, 5000, partSize + 5} {
			body := noise(i, size)
			o := w.artifact(someTask, "public/a"+strings.Repeat("x", i), body)
			p := w.redirected(far, o.String())
			if p.status != 302 || !strings.HasPrefix(p.location, w.root+"/api/mirror/v1/stream/") {
				t.Fatalf("%d bytes: %d %s", size, p.status, p.text)
			}
			got := w.get("GET", p.location, nil)
			if got.status != 200 || got.text != string(body) || got.header.Get("Content-Type") != "text/plain" || got.header.Get("Content-Encoding") != "identity" {
				t.Fatalf("%d bytes: %d, %d bytes, %v", size, got.status, len(got.text), got.header)
			}
			w.demandCopy(far, o.String(), body)
			// The ticket is good for the copy, too.
			if again := w.get("GET", p.location, nil); again.status != 302 || again.body["status"] != "present" {
				t.Errorf("%d bytes, again: %d %s", size, again.status, again.text)
			}
		}
		w.remote("/pub/chunked", faulty.Object{Size: 70_000, ContentType: "image/svg+xml", Always: []faulty.Fault{faulty.Chunked}})
		content, _ := io.ReadAll(w.origin.Content("/pub/chunked"))
		got := w.get("GET", w.redirected(far, w.originURL+"/pub/chunked").location, nil)
		if got.text != string(content) || !strings.Contains(got.header.Get("Content-Security-Policy"), "sandbox") {
			t.Errorf("of unknown size: %d, %d bytes, %v", got.status, len(got.text), got.header)
		}
		if n := w.origin.Count("/pub/chunked").Gets; n != 1 {
			t.Errorf("the origin was asked %d times", n)
		}
		w.count()
	})
}

// Nobody gets all of what turns out to be wrong.
func TestWhatIsWrongIsNotStreamedWhole(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db, streamed)
		w.copying()
		for _, f := range []faulty.Fault{faulty.WrongBytes, faulty.Truncate, faulty.LongLength} {
			path := "/pub/" + string(f)
			o := w.remote(path, faulty.Object{Size: 3000, Plan: faulty.Script(f)})
			want := wish(far, o)
			want.SHA256 = w.origin.SHA256(path)
			place, err := w.streamURL(want)
			if err != nil {
				t.Fatal(err)
			}
			// It may be that the client has to wait for the copy, and gets that.
			r, err := http.Get(place)
			if err != nil {
				continue
			}
			body, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err == nil && sha(body) != want.SHA256 {
				t.Errorf("%s: all of %d wrong bytes", f, len(body))
			}
		}
		// What is not to be had at all is told as such.
		o := w.remote("/pub/none", faulty.Object{Size: 3000, Always: []faulty.Fault{faulty.Missing}})
		place, err := w.streamURL(wish(far, o))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if p := w.get("GET", place, nil); p.status != 404 || p.body["err"] != errBadStatus {
				t.Errorf("what is missing: %d %s", p.status, p.text)
			}
		}
	})
}

// The last byte comes when all is known to be right.
func TestTheLastByteIsHeldBack(t *testing.T) {
	rec := httptest.NewRecorder()
	out := &outflow{to: rec, control: http.NewResponseController(rec)}
	to := out.begin(blob.Headers{ContentType: "text/html", ContentDisposition: "inline"}, 5)
	for i, some := range []string{"a", "", "bcd", "e"} {
		if n, err := io.WriteString(to, some); n != len(some) || err != nil {
			t.Errorf("%q: %d, %v", some, n, err)
		}
		if got := rec.Body.String(); got != []string{"", "", "abc", "abcd"}[i] {
			t.Errorf("after %q there is %q", some, got)
		}
	}
	if err := out.finish(); err != nil || rec.Body.String() != "abcde" || rec.Header().Get("Content-Length") != "5" {
		t.Errorf("%v, %q, %v", err, rec.Body, rec.Header())
	}
}

func TestWhoCannotBeStreamedToIsRedirected(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db, streamed)
		body := noise(1, 1000)
		o := w.artifact(someTask, "public/a", body)
		place := w.redirected(far, o.String()).location
		for _, change := range []func(*http.Request){
			func(r *http.Request) { r.Method = "HEAD" },
			func(r *http.Request) { r.Header.Set("Range", "bytes=0-9") },
		} {
			r, err := http.NewRequest("GET", place, nil)
			if err != nil {
				t.Fatal(err)
			}
			change(r)
			a, err := w.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			a.Body.Close()
			if a.StatusCode != 302 || w.get("GET", a.Header.Get("Location"), nil).text != string(body) {
				t.Errorf("%s %s: %d to %s", r.Method, r.Header, a.StatusCode, a.Header.Get("Location"))
			}
		}
		// Another makes the copy already: who comes second waits for it.
		w.wanting(wish(far, o))
		if err := w.change(t.Context(), func(ch *changes) error {
			list, err := ch.named(name{far, o.ID()})
			for _, c := range list {
				c.State, c.Lease, c.LeaseUntil, c.Token = Copying, "another", timestamp.Now().Add(time.Second), ""
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		w.copying()
		p := w.get("GET", place, nil)
		if p.status != 302 || !bytes.Equal([]byte(w.get("GET", p.location, nil).text), body) || !strings.Contains(p.location, "copies-far") {
			t.Errorf("the second: %d to %s", p.status, p.location)
		}
		w.demandCopy(far, o.String(), body)
		// HTTP/1.0 has no end but that of the connection, where the size is not known.
		unsized := w.remote("/pub/chunked", faulty.Object{Size: 1000, Always: []faulty.Fault{faulty.Chunked}})
		ticket := strings.TrimPrefix(w.redirected(far, unsized.URL).location, w.root)
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.root, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", ticket)
		old, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || old.StatusCode != 302 || old.Header.Get("Location") != unsized.URL {
			t.Errorf("by HTTP/1.0: %+v, %v", old, err)
		}
	})
}

func TestTickets(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db, streamed)
		o := w.artifact(someTask, "private/a", []byte("a"))
		place, err := w.streamURL(wish(far, o))
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(place)
		if err != nil {
			t.Fatal(err)
		}
		sealed := u.Path[strings.LastIndexByte(u.Path, '/')+1:]
		if got, err := w.openTicket(sealed); err != nil || got.Origin != o || got.Region != far || got.Priority != Waited {
			t.Errorf("%+v, %v", got, err)
		}
		changed := []byte(sealed)
		if at := len(changed) / 2; changed[at] == 'A' {
			changed[at] = 'B'
		} else {
			changed[at] = 'A'
		}
		w.answers(403, "GET", "/stream/"+string(changed), nil)
		w.answers(403, "GET", "/stream/x", nil)
		old := w.sealed(ticket{Region: far, Origin: o.String(), Until: timestamp.Now()})
		p := w.answers(410, "GET", "/stream/"+old, nil)
		if strings.Contains(p.text, old) {
			t.Errorf("the ticket is shown: %s", p.text)
		}
		w.answers(404, "GET", "/stream/"+w.sealed(ticket{Region: "mars", Origin: o.String(), Until: timestamp.Now().Add(time.Hour)}), nil)
	})
}

// sealed is a ticket as it stands in a URL.
func (w *window) sealed(t ticket) string {
	w.Helper()
	b, err := json.Marshal(t)
	if err != nil {
		w.Fatal(err)
	}
	return w.config.Keys.Seal(b, ticketPlace)
}
