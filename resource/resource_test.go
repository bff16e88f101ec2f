package resource

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/taskfleet/taskfleet/client"
)

// What a proxy or another server says is not taken for "not there".
func TestA404ThatIsNotTheAPIsIsAnError(t *testing.T) {
	for body, gone := range map[string]bool{
		`{"code": "ResourceNotFound", "message": "There is no such role."}`: true,
		`<html><h1>404 Not Found</h1></html>`:                               false,
		``:                                                                  false,
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(body))
		}))
		defer s.Close()
		c, err := client.New(client.Options{RootURL: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		is, err := Roles.Read(t.Context(), c, "project:example")
		if is != nil || (err == nil) != gone {
			t.Errorf("%q: %s, %v", body, is, err)
		}
	}
}
