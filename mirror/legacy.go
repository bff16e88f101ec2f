package mirror

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/api"
)

// Legacy serves what clients of the cloud-mirror of 2016 know, under /v1/ at the
// root, by the methods of today: it rewrites the path and passes the request on to
// the handler of the API. What it does not know is a 404.
//
// It does not go behind an http.ServeMux, which redirects paths with "//" in them,
// as those have that were not percent-encoded and are to be told so.
func Legacy(service http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.EscapedPath()
		switch rest, ok := strings.CutPrefix(path, "/v1/"); {
		case ok && (strings.HasPrefix(rest, "redirect/") || strings.HasPrefix(rest, "purge/") || rest == "ping"):
			path = "/api/mirror/v1/" + rest
		case ok && rest == "api-reference":
			path = "/references/mirror/v1/api.json"
		default:
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			w.WriteHeader(http.StatusNotFound)
			w.Write([]byte(`{"error":"Not found"}`))
			return
		}
		plain, err := url.PathUnescape(path)
		if err != nil { // not of a path that net/url has parsed
			http.Error(w, "the path is not percent-encoded", http.StatusBadRequest)
			return
		}
		to := *r
		to.URL = new(url.URL)
		*to.URL = *r.URL
		to.URL.Path, to.URL.RawPath = plain, path
		service.ServeHTTP(w, &to)
	})
}

// Legible tells those what is wrong who call a method with a URL that is missing, or
// no text, by today's path or that of 2016. To the API the path is then none of any
// method. All else is passed on.
func Legible(rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		why := illegible(r.URL.EscapedPath())
		if why == "" || r.Method == http.MethodOptions {
			rest.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"code": string(api.InputError), "message": why})
	})
}

// illegible says what is wrong with a path; "": nothing, or it is another's.
func illegible(path string) string {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "/api/mirror"), "/v1/")
	method, rest, _ := strings.Cut(rest, "/")
	before := map[string]int{"redirect": 2, "purge": 2, "explain": 1}[method] // the URL
	parts := strings.SplitN(rest, "/", before+1)
	switch {
	case !ok || before == 0 || len(parts) < before || parts[before-1] == "":
		return ""
	case len(parts) == before || parts[before] == "":
		return "There is no URL in the path: its last segment is to be one, percent-encoded as a whole, such as https%3A%2F%2Fexample.com%2Ffile."
	}
	plain, err := url.PathUnescape(rest)
	if err != nil || !utf8.ValidString(plain) || strings.Contains(plain, "\x00") {
		return "The path has a NUL, or bytes that are no UTF-8. If the URL is percent-encoded itself, encode its percent signs too: %00 in it is %2500 here."
	}
	return ""
}
