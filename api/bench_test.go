package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What a call costs besides its handler and the network: a recorder stands in
// for the connection.
func BenchmarkCall(b *testing.B) {
	s, _, _ := newServer(b)
	s.opts.CheckOutput = false
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r := httptest.NewRequest("GET", "/api/library/v1/book/go", nil)
			r.Header.Set("Authorization", "*")
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				b.Fatal(w.Code, w.Body)
			}
		}
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r := httptest.NewRequest("PUT", "/api/library/v1/book/go", io.NopCloser(strings.NewReader(`{"title":"Go","more":{"deep":{"a":[1,2,3]},"other":"things"}}`)))
			r.Header.Set("Authorization", "*")
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				b.Fatal(w.Code, w.Body)
			}
		}
	})
}
