package mirror

import (
	"net/http"
	"net/url"
	"strings"
)

// Legacy serves what clients of the cloud-mirror of 2016 know, under /v1/ at the
// root, by the methods of today: it rewrites the path and passes the request on to
// the handler of the API. What it does not know is a 404.
//
// It does not go behind an http.ServeMux, which redirects paths with "//" in them,
// as those have that were not percent-encoded and are to be told so.
func Legacy(api http.Handler) http.Handler {
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
		api.ServeHTTP(w, &to)
	})
}
