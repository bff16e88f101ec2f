package worker

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
)

// A proxy sends the requests of a task to the platform with the task's scopes,
// so that commands need no credentials. It listens on the loopback interface
// under a path that cannot be guessed, since other tasks can reach it too.
type proxy struct {
	url  string
	http *http.Server
}

// newProxy signs with the credentials that core has at the time, which are
// renewed with the claim.
func newProxy(core *client.Client, scopes []string, log *slog.Logger) (*proxy, error) {
	root, err := url.Parse(core.RootURL())
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	prefix := "/" + base64.RawURLEncoding.EncodeToString(secret)
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(root) // and with it the Host
			r.Out.Header.Del("Authorization")
			r.Out.Header.Del("X-Forwarded-Host")
			r.Out.Header.Del("X-Forwarded-Port")
			r.Out.Header.Del("X-Forwarded-Proto")
		},
		Transport: &signer{core, scopes},
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			http.Error(w, fmt.Sprintf("The proxy cannot reach %s.", core.RootURL()), http.StatusBadGateway)
		},
	}
	p := &proxy{url: "http://" + listener.Addr().String() + prefix}
	p.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, prefix+"/") {
				http.Error(w, "The URL of the proxy is in TASKCLUSTER_PROXY_URL.", http.StatusNotFound)
				return
			}
			http.StripPrefix(prefix, forward).ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go p.http.Serve(listener) // until close
	return p, nil
}

func (p *proxy) close() { p.http.Close() }

// unrepeated keeps no connection: over a kept one that breaks, requests would be
// sent again with the same signature, which is good once.
var unrepeated = &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: 10 * time.Second}

type signer struct {
	core   *client.Client
	scopes []string
}

func (s *signer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if err := cred.Sign(r, s.core.Credentials(), s.scopes); err != nil {
		return nil, err
	}
	return unrepeated.RoundTrip(r)
}
