package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/taskfleet/taskfleet/mirror/source/faulty"
)

// Over TCP, TLS and HTTP/2 it is the same.
func TestOverANetwork(t *testing.T) {
	for _, c := range []struct{ tls, http2 bool }{{false, false}, {true, false}, {true, true}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			o := faulty.New(1)
			o.Put("/a", faulty.Object{Size: 1 << 20})
			o.Put("/reset", faulty.Object{Size: 1 << 20, Plan: faulty.Script(faulty.Reset)})
			o.Put("/cut", faulty.Object{Size: 1 << 20, Plan: faulty.Script(faulty.Truncate)})
			var protocols []string
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				protocols = append(protocols, r.Proto)
				if len(r.Cookies()) > 0 || r.Referer() != "" || r.Header.Get("Authorization") != "" || r.Header.Get("Accept-Encoding") != "identity" {
					t.Errorf("the headers are %v", r.Header)
				}
				o.ServeHTTP(w, r)
			}))
			s.EnableHTTP2 = c.http2
			config := Config{Addresses: []string{"127.0.0.0/8"}}
			if c.tls {
				s.StartTLS()
				config.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			} else {
				s.Start()
			}
			defer s.Close()
			config.Allow = []string{s.URL + "/"}
			client, err := New(config)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			want, err := client.Stat(t.Context(), parse(t, s.URL+"/a"))
			if err != nil {
				t.Fatal(err)
			}
			b, _, err := client.Get(t.Context(), parse(t, s.URL+"/a"), 0, -1, want)
			if err != nil {
				t.Fatal(err)
			}
			h := sha256.New()
			_, err = io.Copy(h, b)
			b.Close()
			if err != nil || hex.EncodeToString(h.Sum(nil)) != o.SHA256("/a") {
				t.Error(err)
			}
			for _, path := range []string{"/reset", "/cut"} {
				b, _, err := client.Get(t.Context(), parse(t, s.URL+path), 0, -1, Unknown)
				if err == nil {
					_, err = io.Copy(io.Discard, b)
					b.Close()
				}
				if !errors.Is(err, ErrTemporary) {
					t.Errorf("%s: %v", path, err)
				}
				if path == "/reset" && !c.tls && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the connection was reset: %v", err)
				}
			}
			if got := slices.Compact(protocols); c.http2 != slices.Equal(got, []string{"HTTP/2.0"}) {
				t.Errorf("the protocols were %v", got)
			}

			// Without leave, none of it is there.
			strict, err := New(Config{Allow: config.Allow})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := strict.Stat(t.Context(), parse(t, s.URL+"/a")); !errors.Is(err, ErrForbiddenAddress) {
				t.Error(err)
			}
			if c.tls {
				config.RootCAs = nil
				stranger, err := New(config)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := stranger.Stat(t.Context(), parse(t, s.URL+"/a")); err == nil || errors.Is(err, ErrTemporary) || !strings.Contains(err.Error(), "certificate") {
					t.Errorf("of nobody's certificate: %v", err)
				}
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	site := "http://" + l.Addr().String()
	l.Close()
	c, err := New(Config{Allow: []string{site + "/"}, Addresses: []string{"127.0.0.1/32"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stat(t.Context(), parse(t, site)); !errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, ErrTemporary) {
		t.Error(err)
	}
}
