package ownbody_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/ownbody"
)

// watched is a body that knows whether it was closed. Who sends it here closes it in haste, as the SDK does.
type watched struct {
	io.Reader
	closed bool
}

func (w *watched) Close() error { w.closed = true; return nil }

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

func TestWithoutAClientItIsTheUsualOne(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), "POST", server.URL, strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := ownbody.Client(nil).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestWhoSendsHasABodyThatNobodyElseCloses(t *testing.T) {
	sent := &watched{Reader: strings.NewReader("Action=CreateUser")}
	r, err := http.NewRequestWithContext(t.Context(), "POST", "https://iam.example.com/", sent)
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = 17
	var late io.ReadCloser
	if _, err := ownbody.Client(doer(func(r *http.Request) (*http.Response, error) {
		late = r.Body
		if r.ContentLength != 17 || r.URL.Host != "iam.example.com" {
			t.Errorf("it is another request: %v", r)
		}
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})).Do(r); err != nil {
		t.Fatal(err)
	}
	if !sent.closed {
		t.Error("the caller's body is left open")
	}
	r.Body.Close()
	if text, err := io.ReadAll(late); err != nil || string(text) != "Action=CreateUser" {
		t.Errorf("after the caller has closed its own, the transport reads %q, %v", text, err)
	}
}
