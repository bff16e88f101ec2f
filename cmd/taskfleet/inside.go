//go:build !agent

package main

import (
	"bytes"
	"io"
	"net/http"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
)

// An inside is a way to call the platform's API from within it, as any client
// would, without a network: what acts for somebody else (a hook) goes through
// the same checks as they would. The api is set before anything is called.
type inside struct{ api http.Handler }

// client returns a client of the API that acts as creds say.
func (t *inside) client(rootURL string, creds cred.Credentials) (*client.Client, error) {
	return client.New(client.Options{RootURL: rootURL, Credentials: creds, Transport: t, Retry: client.Retry{For: -1}})
}

// RoundTrip has the API answer r.
func (t *inside) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	if in.Host == "" {
		in.Host = in.URL.Host
	}
	in.RequestURI = in.URL.RequestURI()
	in.RemoteAddr = "inside"
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.Header.Set("X-Forwarded-Proto", in.URL.Scheme) // by which it knows the port that was signed
	if port := in.URL.Port(); port != "" {
		in.Header.Set("X-Forwarded-Port", port)
	}
	defer in.Body.Close()
	w := &reply{header: http.Header{}}
	t.api.ServeHTTP(w, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: max(w.status, http.StatusOK), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// A reply keeps what a handler answers.
type reply struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *reply) Header() http.Header { return w.header }

func (w *reply) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
}

func (w *reply) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
