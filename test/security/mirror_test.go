package security

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/cred"
)

// An origin's query may be a signature. It is kept where it is needed to copy again, and shown nowhere.
const originQuery = "an origin's query"

// mirrorConfig allows what the outside has, and what it refuses.
func mirrorConfig(out *outside) object {
	return object{
		"regions": []object{{"name": "away"}}, "ipRanges": "none", "allowAddresses": []string{"127.0.0.0/8"},
		"allow":  []string{out.web.URL + "/files/", out.web.URL + "/refused/"},
		"routes": []object{{"name": "streamed", "url": "*/files/streamed?*", "policy": "stream"}},
	}
}

// files are what the outside has after all, at URLs with a secret in them.
func files(w http.ResponseWriter, r *http.Request) {
	if to := r.FormValue("to"); to != "" {
		http.Redirect(w, r, to, http.StatusFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintf(w, "what is at %s", r.URL.Path)
}

// mirror has copies made of what is at secret URLs, and of what cannot be copied.
func (b *burglar) mirror() {
	root, web := b.root(), b.outside.web.URL
	at := func(path string) string { return web + path + "?secret=" + url.QueryEscape(b.new(originQuery)) }
	moved := web + "/files/moved?to=" + url.QueryEscape(at("/files/there"))
	trap := web + "/files/trap?to=" + url.QueryEscape(at("/refused/there"))
	outward := web + "/files/outward?to=" + url.QueryEscape(at("/elsewhere"))
	good := []string{at("/files/a"), moved, at("/files/streamed")}
	bad := []string{at("/refused/a"), trap, outward, at("/elsewhere"), at("/files/../a"), at("/files/#"), "http://u:" + url.QueryEscape(b.new(originQuery)) + "@127.0.0.1/files/a"}
	for _, u := range good {
		where := b.follow(anonymous, "/v1/redirect/s3/away/"+url.PathEscape(u))
		if _, ticket, ok := strings.Cut(where, "/api/mirror/v1/stream/"); ok {
			b.add("the ticket of a stream", ticket)
			b.want(200, anonymous, "GET", strings.TrimPrefix(where, b.RootURL), nil)
			b.call(anonymous, "GET", strings.TrimPrefix(where, b.RootURL)+"x", nil)
			where = b.follow(anonymous, "/api/mirror/v1/redirect/s3/away/"+url.PathEscape(u))
		}
		b.visit(where, "a copy's presigned URL")
	}
	for _, u := range bad {
		if r := b.call(anonymous, "GET", "/v1/redirect/s3/away/"+url.PathEscape(u), nil); r.status < 400 || r.status >= 500 {
			b.t.Errorf("%.40s cannot be copied: %d %.300s", u, r.status, r.text)
		}
	}
	var wanted []object
	for _, u := range append(good, bad...) {
		wanted = append(wanted, object{"url": u})
		b.find("mirror.explain", []byte(b.call(root, "GET", "/api/mirror/v1/explain/away/"+url.PathEscape(u), nil).text))
	}
	b.find("mirror.wantCopies", []byte(b.want(200, root, "POST", "/api/mirror/v1/copies", object{"region": "away", "copies": wanted}).text))
	for _, path := range []string{"status", "copies", "copies?region=away&state=failed", "routes"} {
		b.find("mirror: "+path, []byte(b.want(200, root, "GET", "/api/mirror/v1/"+path, nil).text))
	}
	if r := b.want(200, root, "GET", "/api/mirror/v1/copies?state=failed", nil); strings.Count(r.text, `"failed"`) < 3 {
		b.t.Errorf("too little has failed: %s", r.text)
	}
	for _, u := range []string{good[0], bad[0]} {
		b.want(204, root, "DELETE", "/api/mirror/v1/purge/s3/away/"+url.PathEscape(u), nil)
	}

	// The copy of an artifact, by a task that may read it.
	id := b.task(queueID, nil)
	claim := b.want(200, root, "POST", "/api/queue/v1/task/"+id+"/runs/0/claim", object{"workerGroup": "group", "workerId": "worker"})
	b.add("a task's token", claim.member("credentials", "accessToken"))
	artifact := "/api/queue/v1/task/" + id + "/runs/0/artifacts/private%2Fcopied"
	made := b.want(200, root, "POST", artifact, object{"storageType": "s3", "expires": in(time.Hour), "contentType": "text/plain"})
	b.upload(made.member("putUrl"))
	b.visit(made.member("putUrl"), "an artifact's presigned PUT")
	b.want(200, root, "POST", "/api/queue/v1/task/"+id+"/runs/0/completed", nil)
	b.visit(b.follow(root, artifact, "X-Taskfleet-Region", "away"), "a presigned URL of an artifact's copy")
	until(b.t, "a copy of the artifact is there", func() bool {
		r := b.want(200, root, "GET", "/api/mirror/v1/copies?state=present&prefix=s3:", nil)
		return strings.Contains(r.text, id)
	})
}

// follow is where an answer leads to: that is for the caller, and not to be searched.
func (b *burglar) follow(as caller, path string, headers ...string) string {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.RootURL+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if err := cred.Sign(r, as.Credentials, as.scopes); err != nil {
		b.t.Fatal(err)
	}
	response, err := direct.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 3 {
		b.t.Fatalf("GET %.100s leads nowhere: %s", path, response.Status)
	}
	return response.Header.Get("Location")
}

func (b *burglar) upload(to string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPut, to, strings.NewReader("content"))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "text/plain")
	response, err := direct.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		b.t.Fatalf("PUT: %s", response.Status)
	}
}
