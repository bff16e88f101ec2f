package security

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/hawk"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/test/server"
)

func TestWhatIsTooMuchIsRefused(t *testing.T) {
	t.Parallel()
	each(t, server.Options{Config: notifying}, func(t *testing.T, p *platform) {
		f := furnish(p)
		slow := p.slow(t)
		t.Run("bodies", p.at(func(t *testing.T, p *platform) { bodies(t, p) }))
		t.Run("numbers", p.at(func(t *testing.T, p *platform) { numbers(t, p) }))
		t.Run("parameters", p.at(func(t *testing.T, p *platform) { parameters(t, p, f) }))
		t.Run("members", p.at(func(t *testing.T, p *platform) { members(t, p, f) }))
		t.Run("pages", p.at(pages))
		t.Run("schemas of callers", p.at(schemas))
		t.Run("names of files", p.at(names))
		// After all that it is as well as before.
		p.want(200, p.root(), "GET", "/api/queue/v1/task/"+f.task+"/status", nil)
		if strings.Contains(string(p.Log()), "panic") {
			t.Error("something panicked")
		}
		t.Run("connections", p.at(connections))
		// A header that never ends is not waited for; so whoever wants connections
		// has to go on opening them.
		if err := slow.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, slow); err != nil {
			t.Errorf("a header that never ends: %v", err)
		}
	})
}

// slow is a connection on which a header has begun and does not end.
func (p *platform) slow(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.RootURL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, "GET /api/queue/v1/ping HTTP/1.1\r\nHost: x\r\n"); err != nil {
		t.Fatal(err)
	}
	return c
}

// at is the platform of a part of a test.
func (p *platform) at(f func(*testing.T, *platform)) func(*testing.T) {
	return func(t *testing.T) { f(t, &platform{Server: p.Server, t: t, data: p.data}) }
}

func bodies(t *testing.T, p *platform) {
	path := "/api/queue/v1/task/" + slugid.New()
	large := bytes.Repeat([]byte(" "), 10<<20+1)
	for _, as := range []caller{anonymous, p.root()} {
		if r := p.call(as, "PUT", path, large); r.status != 413 || r.code != "InputTooLarge" {
			t.Errorf("a body of more than 10 MiB: %d %.200s", r.status, r.text)
		}
	}
	// One that does not say how long it is.
	if got := p.raw(t, "PUT "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"+
		fmt.Sprintf("%x\r\n", len(large))+string(large)+"\r\n0\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 413") {
		t.Errorf("a chunked body of more than 10 MiB: %.100s", got)
	}
	// One that says that it is longer than anything is refused before it comes.
	if got := p.raw(t, "PUT "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 413") {
		t.Errorf("a Content-Length of 100 GB: %.100s", got)
	}
	nested := func(depth int) []byte {
		d := definition(queueID, object{"payload": object{"x": "NEST"}})
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Replace(text, []byte(`"NEST"`), []byte(strings.Repeat("[", depth)+strings.Repeat("]", depth)), 1)
	}
	for _, depth := range []int{1000, 9_000, 100_000, 4_000_000} {
		for _, path := range []string{path, "/api/secrets/v1/secret/deep", "/api/hooks/v1/hooks/group/hook/trigger"} {
			method := "PUT"
			body := nested(depth)
			if strings.Contains(path, "secret") {
				body = []byte(`{"expires": "` + in(time.Hour) + `", "secret": {"x":` + strings.Repeat(`{"x":`, depth) + "1" + strings.Repeat("}", depth) + "}}")
			} else if strings.Contains(path, "hooks") {
				method, body = "POST", []byte(strings.Repeat(`{"x":`, depth)+"1"+strings.Repeat("}", depth))
			}
			r := p.call(p.root(), method, path, body)
			if want := depth <= 9000 && r.status == 200 || r.status == 400 || r.status == 409 || r.status == 413; !want {
				t.Errorf("%s nested %d levels deep: %d %.300s", path, depth, r.status, r.text)
			}
		}
	}
	// Nobody unpacks what is packed.
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(large); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := bytes.Repeat(packed.Bytes(), 100) // a hundred times the limit: what is packed may be continued
	if r := p.call(p.root(), "PUT", path, bomb, "Content-Encoding", "gzip"); r.status != 400 {
		t.Errorf("a packed body: %d %.200s", r.status, r.text)
	}
	for _, text := range []string{"", "null", "[]", `"x"`, "1", "{}{}", `{"a":1e999999999}`, "{\"\xff\":1}", `{"\ud800":1}`, `{"a":"\u0000"}`} {
		if r := p.call(p.root(), "PUT", path, []byte(text)); r.status != 400 {
			t.Errorf("the body %q: %d %.200s", text, r.status, r.text)
		}
	}
	if r := p.call(p.root(), "PUT", path, definition(queueID, nil), "Content-Type", "text/plain"); r.status != 400 {
		t.Errorf("a body of text/plain, as a form of a foreign page can send it: %d", r.status)
	}
}

func numbers(t *testing.T, p *platform) {
	long := strings.Repeat("x", 100<<10)
	if r := p.call(anonymous, "GET", "/api/queue/v1/ping", nil, "X-Long", long); r.status != 431 {
		t.Errorf("a header of 100 KiB: %d", r.status)
	}
	if r := p.call(anonymous, "GET", "/api/queue/v1/ping?"+long, nil); r.status != 431 && r.status != 414 {
		t.Errorf("a URL of 100 KiB: %d", r.status)
	}
	var scopes []string
	for i := range 200_000 {
		scopes = append(scopes, fmt.Sprint("many:", i))
	}
	client := object{"scopes": scopes, "description": "", "expires": in(time.Hour), "deleteOnExpiration": false}
	wide := object{"scopes": []string{strings.Repeat("x", 1<<20)}, "description": "", "expires": in(time.Hour), "deleteOnExpiration": false}
	for i, c := range []struct {
		verb, path string
		body       any
	}{
		{"PUT", "/api/auth/v1/clients/many", client},
		{"PUT", "/api/auth/v1/clients/wide", wide},
		{"PUT", "/api/auth/v1/roles/many", object{"scopes": scopes, "description": ""}},
		{"POST", "/api/auth/v1/scopes/expand", object{"scopes": scopes}},
		{"PUT", "/api/queue/v1/task/" + slugid.New(), definition(queueID, object{"scopes": scopes})},
		{"PUT", "/api/queue/v1/task/" + slugid.New(), definition(queueID, object{"routes": scopes})},
		{"PUT", "/api/queue/v1/task/" + slugid.New(), definition(queueID, object{"tags": object{"x": strings.Repeat("x", 1<<20)}})},
	} {
		r := p.call(p.root(), c.verb, c.path, c.body)
		if r.status >= 500 || r.status == 200 && !strings.Contains(c.path, "expand") {
			t.Errorf("%d: %s %s with very much: %d %.300s", i, c.verb, c.path, r.status, r.text)
		}
	}
}

// parameters puts what is long or strange into every parameter of every method.
func parameters(t *testing.T, p *platform, f *furniture) {
	strange := []string{
		strings.Repeat("x", 5000), string(bytes.Map(func(r rune) rune { return 'a' + r%26 }, random(9000))), "a/../../b", "..", ".", "a\x00b", "a\nb", "\xff", "🦄", "a'; DROP TABLE task; --", "%", "*", "<clientId>", "",
	}
	for _, m := range p.methods() {
		if m.service == "events" || m.name == "claimWork" {
			continue // which go on for long
		}
		s := sample{}
		if m.scopes != nil {
			s, _ = f.sample(t, m)
		}
		for _, name := range parameter.FindAllString(m.route, -1) {
			for _, value := range strange {
				s := s
				s.path = maps.Clone(s.path)
				if s.path == nil {
					s.path = f.shared(m.service)
					s.path["token"] = "token"
				}
				s.path[name[1:len(name)-1]] = value
				path, err := s.fill(m.route)
				if err != nil {
					t.Fatalf("%s: %v", m, err)
				}
				if r := p.call(p.root(), m.verb, path, s.body); r.status >= 500 {
					t.Errorf("%s with %.30q as %s: %d %.300s", m, value, name, r.status, r.text)
				}
			}
		}
		if m.scopes == nil {
			continue
		}
		path, err := s.fill(m.route)
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		route, query, _ := strings.Cut(path, "?")
		if query != "" {
			query += "&"
		}
		ask := func(more string, want ...int) {
			t.Helper()
			if r := p.call(p.root(), m.verb, route+"?"+query+more, s.body); !slices.Contains(want, r.status) {
				t.Errorf("%s?%.100s: %d %.300s; want %d", m, more, r.status, r.text, want)
			}
		}
		if m.verb == "GET" {
			ask("unknown=1", 400)
			ask("a=%zz", 400)
		}
		if slices.Contains(m.query, "limit") {
			ask("limit=999999999", 200, 404)
			for _, limit := range []string{"1000000000", "99999999999999999999", "0", "-1", "1e3", "0x10", "", "limit"} {
				if limit == "" {
					ask("limit=1&limit=1000", 400)
				} else {
					ask("limit="+limit, 400)
				}
			}
		}
		if slices.Contains(m.query, "continuationToken") {
			for _, keys := range []string{"", "null", "1", `"x"`, "[]", "[1]", "{}", `["x"]`, `["x","y"]`, `["x","y","z"]`, `["1"]`, `["-1","99999999999999999999"]`, `["1","1"]`, `["1","1","1","1"]`, `["\u0000"]`, `["'); DROP TABLE task; --"]`, `["` + strings.Repeat("x", 5000) + `"]`} {
				ask("continuationToken="+base64.RawURLEncoding.EncodeToString([]byte(keys)), 200, 400, 404)
			}
			ask("continuationToken=!", 400, 404)
			ask("continuationToken=a&continuationToken=b", 400)
		}
	}
}

// members adds to every body a member that differs from one of it in case only,
// which JSON decoders may take for it, and a second one of the same name.
func members(t *testing.T, p *platform, f *furniture) {
	// Bodies that may be what callers like, since it is not they that are checked or they are said to be wrong otherwise.
	free := []string{"hooks.triggerHook", "index.listNamespacesPost", "index.listTasksPost", "provisioner.validateWorkerPool", "provisioner.previewWorkerPool"}
	for _, m := range p.methods() {
		if m.scopes == nil || !m.input || slices.Contains(free, m.String()) {
			continue
		}
		s, _ := f.sample(t, m)
		path, err := s.fill(m.route)
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		body := s.body.(object)
		for name, value := range body {
			other := maps.Clone(body)
			other[strings.ToUpper(name)] = value
			if r := p.call(p.root(), m.verb, path, other); r.status != 400 || r.code != "InputValidationError" {
				t.Errorf("%s with %s and %s: %d %.200s", m, name, strings.ToUpper(name), r.status, r.text)
			}
		}
	}
	// Of two members of the same name, that which counts is checked.
	text, err := json.Marshal(definition(queueID, object{"scopes": []string{"secrets:get:*"}}))
	if err != nil {
		t.Fatal(err)
	}
	mild := bytes.Replace(text, []byte("{"), []byte(`{"scopes":[],`), 1)
	last := append(bytes.TrimSuffix(text, []byte("}")), []byte(`,"scopes":[]}`)...)
	as := p.with("queue:create-task:*", "queue:scheduler-id:*")
	for _, body := range [][]byte{mild, last} {
		id := slugid.New()
		switch r := p.call(as, "PUT", "/api/queue/v1/task/"+id, body); r.status {
		case 403, 400:
		case 200:
			if d := p.want(200, p.root(), "GET", "/api/queue/v1/task/"+id, nil); strings.Contains(d.text, "secrets:get") {
				t.Errorf("scopes that were not checked: %s", d.text)
			}
		default:
			t.Errorf("two members of the same name: %d %s", r.status, r.text)
		}
	}
}

// pages has more than a page holds.
func pages(t *testing.T, p *platform) {
	const entries = 1010
	var group sync.WaitGroup
	work := make(chan int)
	for range 16 {
		group.Go(func() {
			for i := range work {
				r := p.call(p.root(), "POST", "/api/purge-cache/v1/purge-cache/security%2Fpages", object{"cacheName": fmt.Sprint("cache-", i)})
				if r.status/100 != 2 {
					t.Errorf("a cache to purge: %d %s", r.status, r.text)
				}
			}
		})
	}
	for i := range entries {
		work <- i
	}
	close(work)
	group.Wait()
	r := p.want(200, p.root(), "GET", "/api/purge-cache/v1/purge-cache/list?limit=999999999", nil)
	list, _ := r.body["requests"].([]any)
	if len(list) != 1000 || r.member("continuationToken") == "" {
		t.Errorf("a page of 999999999 has %d entries", len(list))
	}
}

// schemas are what callers give to be worked with: regular expressions that
// take for ever elsewhere, references to other machines.
func schemas(t *testing.T, p *platform) {
	elsewhere := listen(t)
	asked := make(chan struct{}, 10)
	go serve(elsewhere, func(net.Conn) { asked <- struct{}{} })
	hook := func(schema any, task any) object {
		return object{"metadata": object{"name": "hook", "description": "", "owner": "owner@example.com"}, "task": task, "triggerSchema": schema}
	}
	null := object{"$if": "false", "then": object{}}
	for _, pattern := range []string{"(?=x)", `(x)\1`, "((x{1000}){1000}){1000}", "(((((x{50}){50}){50}){50}){50})", "[", strings.Repeat("(", 5000), strings.Repeat("x?", 5000)} {
		if r := p.call(p.root(), "PUT", "/api/hooks/v1/hooks/security/"+slugid.New(), hook(object{"type": "string", "pattern": pattern}, null)); r.status != 400 {
			t.Errorf("the pattern %.30q: %d %.300s", pattern, r.status, r.text)
		}
	}
	for _, ref := range []string{fmt.Sprintf("http://127.0.0.1:%d/schema", port(elsewhere)), "file:///etc/passwd", "taskfleet:///schemas/queue/v1/task.json"} {
		if r := p.call(p.root(), "PUT", "/api/hooks/v1/hooks/security/"+slugid.New(), hook(object{"$ref": ref}, null)); r.status != 400 {
			t.Errorf("a reference to %s: %d %.300s", ref, r.status, r.text)
		}
		if r := p.call(p.root(), "PUT", "/api/hooks/v1/hooks/security/"+slugid.New(), hook(object{"$schema": ref}, null)); r.status != 400 {
			t.Errorf("a schema of %s: %d %.300s", ref, r.status, r.text)
		}
	}
	select {
	case <-asked:
		t.Error("a schema was fetched from where a caller said")
	default:
	}
	// Patterns that elsewhere take as long as the universe is old.
	id := slugid.New()
	p.want(200, p.root(), "PUT", "/api/hooks/v1/hooks/security/"+id, hook(object{"type": "object", "properties": object{"x": object{"type": "string", "pattern": "^(a+)+(b|a?)*$"}}}, null))
	for _, size := range []int{100, 30_000} {
		if r := p.call(p.root(), "POST", "/api/hooks/v1/hooks/security/"+id+"/trigger", object{"x": strings.Repeat("a", size) + "!"}); r.status != 400 {
			t.Errorf("a payload of %d characters: %d %.300s", size, r.status, r.text)
		}
	}
	// A template that grows without end.
	var bomb any = "x"
	for range 30 {
		bomb = object{"$map": []int{1, 2, 3, 4, 5, 6, 7, 8, 9}, "each(x)": bomb}
	}
	p.want(200, p.root(), "PUT", "/api/hooks/v1/hooks/security/bomb", hook(object{"type": "object"}, object{"payload": bomb}))
	if r := p.call(p.root(), "POST", "/api/hooks/v1/hooks/security/bomb/trigger", object{}); r.status != 400 {
		t.Errorf("a template that grows: %d %.300s", r.status, r.text)
	}
}

// names lead out of the directory that data is kept in, if they are taken for
// paths.
func names(t *testing.T, p *platform) {
	before := p.files(t)
	id := p.task(queueID, nil)
	p.want(200, p.root(), "POST", "/api/queue/v1/task/"+id+"/runs/0/claim", object{"workerGroup": "group", "workerId": "worker"})
	for _, name := range []string{"../../../escaped", "..", "/escaped", "a/../../../../../escaped", "a//b", "./escaped", `..\..\escaped`, "%2e%2e/escaped"} {
		path := url.PathEscape(name)
		r := p.call(p.root(), "POST", "/api/queue/v1/task/"+id+"/runs/0/artifacts/"+path, object{"storageType": "s3", "expires": in(time.Hour), "contentType": "text/plain"})
		if r.status >= 500 {
			t.Errorf("an artifact %s: %d %s", name, r.status, r.text)
		}
		if where := r.member("putUrl"); where != "" {
			put(t, where)
		}
		r = p.call(p.root(), "PUT", "/api/object/v1/upload/"+path, object{
			"projectId": "project", "uploadId": slugid.New(), "expires": in(time.Hour), "hashes": object{},
			"proposedUploadMethods": object{"dataInline": object{"contentType": "text/plain", "objectData": "eA=="}},
		})
		if r.status >= 500 {
			t.Errorf("an object %s: %d %s", name, r.status, r.text)
		}
		if r := p.call(p.with("secrets:get:a/*"), "GET", "/api/secrets/v1/secret/"+url.PathEscape("a/../security/one"), nil); r.status != 404 {
			t.Errorf("a secret by another path: %d %s", r.status, r.text)
		}
	}
	for _, file := range p.files(t) {
		if !slices.Contains(before, file) && !strings.HasPrefix(file, "s3/") && !strings.HasPrefix(file, "taskfleet.db") {
			t.Errorf("%s was written", file)
		}
	}
}

func put(t *testing.T, where string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, where, strings.NewReader("escaped"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "text/plain")
	response, err := direct.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode >= 500 {
		t.Errorf("PUT %s: %s", r.URL.Path, response.Status)
	}
}

// files are those of the data directory and of what is around it.
func (p *platform) files(t *testing.T) (list []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Dir(p.data), func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(p.data, file)
		list = append(list, filepath.ToSlash(name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// connections are many that begin something and do not end it.
func connections(t *testing.T, p *platform) {
	address := strings.TrimPrefix(p.RootURL, "http://")
	var all []net.Conn
	t.Cleanup(func() {
		for _, c := range all {
			c.Close()
		}
	})
	dial := func(say string) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		if _, err := io.WriteString(c, say); err != nil {
			t.Fatal(err)
		}
	}
	for range 300 {
		dial("GET /api/queue/v1/ping HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		dial("POST /api/queue/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	}
	for range 100 {
		p.want(200, anonymous, "GET", "/api/queue/v1/ping", nil)
	}
}

// raw sends a request as it is and returns the answer to it.
func (p *platform) raw(t *testing.T, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.RootURL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(c, request) }() // it is broken off where it is too long
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	return line
}

// What a request says is taken as it was signed, once, in time, and no other
// way of saying who one is counts.
func TestSignaturesAreGoodForWhatWasSigned(t *testing.T) {
	t.Parallel()
	each(t, server.Options{}, func(t *testing.T, p *platform) {
		const path = "/api/auth/v1/scopes/current"
		address, err := url.Parse(p.RootURL)
		if err != nil {
			t.Fatal(err)
		}
		host, number, err := cred.SplitHost(address.Host)
		if err != nil {
			t.Fatal(err)
		}
		sign := func(r hawk.Request, at time.Time) string {
			h := hawk.Header{ID: p.ClientID, Timestamp: at.Unix(), Nonce: slugid.New()}
			h.Sign(r, p.AccessToken)
			return h.String()
		}
		right := hawk.Request{Method: "GET", Resource: path, Host: host, Port: number}
		ask := func(what string, want int, path, authorization string, headers ...string) {
			t.Helper()
			if r := p.call(anonymous, "GET", path, nil, append([]string{"Authorization", authorization}, headers...)...); r.status != want {
				t.Errorf("%s: %d %.300s; want %d", what, r.status, r.text, want)
			}
		}
		now := time.Now()
		once := sign(right, now)
		ask("a signature", 200, path, once)
		ask("the same again", 401, path, once)
		ask("the same again, written in another way", 401, path, strings.Replace(once, "Hawk id", "hawk  id", 1))
		ask("14 minutes late", 200, path, sign(right, now.Add(-14*time.Minute)))
		ask("14 minutes early", 200, path, sign(right, now.Add(14*time.Minute)))
		ask("16 minutes late", 401, path, sign(right, now.Add(-16*time.Minute)))
		ask("16 minutes early", 401, path, sign(right, now.Add(16*time.Minute)))

		other := func(change func(*hawk.Request)) hawk.Request {
			r := right
			change(&r)
			return r
		}
		ask("of another method", 401, path, sign(other(func(r *hawk.Request) { r.Method = "POST" }), now))
		ask("of another path", 401, path, sign(other(func(r *hawk.Request) { r.Resource = "/api/auth/v1/clients/" }), now))
		ask("of another query", 401, path+"?limit=1", sign(right, now))
		ask("of another port", 401, path, sign(other(func(r *hawk.Request) { r.Port = 80 }), now))
		ask("of another host", 401, path, sign(other(func(r *hawk.Request) { r.Host = "example.com" }), now))
		// One that was made for another platform, shown here with its address.
		elsewhere := other(func(r *hawk.Request) { r.Host, r.Port = "example.com", 443 })
		ask("of another host, with the right Host", 401, path, sign(elsewhere, now))
		// The port is that of the proxy in front of us; saying another one only
		// makes a signature wrong.
		ask("with another port of a proxy", 401, path, sign(right, now), "X-Forwarded-Port", "443")
		ask("with a proxy that takes https", 401, path, sign(right, now), "X-Forwarded-Proto", "https")
		ask("with no number of a port", 401, path, sign(right, now), "X-Forwarded-Port", "x")
		ask("with another Host", 401, path, sign(right, now), "Host", "example.com")
		ask("as another client", 401, path, strings.Replace(sign(right, now), p.ClientID, "static/taskcluster/queue", 1))
		for _, header := range []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(p.ClientID+":"+p.AccessToken)), "Bearer " + p.AccessToken, "Hawk", "Hawk ", `Hawk id="` + p.ClientID + `"`} {
			ask("by "+header[:4], 401, path, header)
		}
		// A cookie is nothing.
		r := p.call(anonymous, "GET", "/api/auth/v1/audit/client/x", nil, "Cookie", "clientId="+p.ClientID+"; accessToken="+p.AccessToken, "X-Client-Id", p.ClientID)
		if r.status != 403 || r.header.Get("Set-Cookie") != "" || r.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("with a cookie: %d %v", r.status, r.header)
		}

		bewit := func(path string, expires time.Time) string {
			signed, err := cred.SignURL(p.RootURL+path, p.root().Credentials, expires, nil)
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimPrefix(signed, p.RootURL)
		}
		signed := bewit(path, now.Add(time.Hour))
		for what, c := range map[string]struct {
			verb, path string
			want       int
		}{
			"a bewit":                        {"GET", signed, 200},
			"a bewit again":                  {"GET", signed, 200},
			"a bewit on POST":                {"POST", bewit("/api/auth/v1/clients/security/reset", now.Add(time.Hour)), 401},
			"a bewit on DELETE":              {"DELETE", bewit("/api/auth/v1/clients/security", now.Add(time.Hour)), 401},
			"a bewit that has expired":       {"GET", bewit(path, now.Add(-time.Minute)), 401},
			"a bewit of another path":        {"GET", strings.Replace(signed, path, "/api/auth/v1/clients/", 1), 401},
			"a bewit with more of a query":   {"GET", signed + "&limit=1", 401},
			"a bewit with a query before it": {"GET", strings.Replace(signed, "?", "?limit=1&", 1), 401},
			"two bewits":                     {"GET", signed + "&" + strings.SplitN(signed, "?", 2)[1], 401},
		} {
			var body any
			if c.verb == "POST" {
				body = object{}
			}
			if r := p.call(anonymous, c.verb, c.path, body); r.status != c.want {
				t.Errorf("%s: %d %.300s; want %d", what, r.status, r.text, c.want)
			}
		}
		if r := p.call(p.root(), "GET", signed, nil); r.status != 401 {
			t.Errorf("a bewit and a header: %d", r.status)
		}

		// A hash in the header binds the body.
		body := []byte(`{"scopes":["a"]}`)
		const expand = "/api/auth/v1/scopes/expand"
		h := hawk.Header{ID: p.ClientID, Timestamp: now.Unix(), Nonce: slugid.New(), Hash: hawk.PayloadHash("application/json", body)}
		h.Sign(hawk.Request{Method: "POST", Resource: expand, Host: host, Port: number}, p.AccessToken)
		if r := p.call(anonymous, "POST", expand, []byte(`{"scopes":["b"]}`), "Authorization", h.String()); r.status != 401 {
			t.Errorf("another body than was signed: %d", r.status)
		}

		// What two machines could read in two ways is read in none.
		for what, request := range map[string]string{
			"two lengths":               "POST " + expand + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
			"a length that is none":     "POST " + expand + " HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}",
			"an unknown coding":         "POST " + expand + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
			"two hosts":                 "GET " + path + " HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
			"no host":                   "GET " + path + " HTTP/1.1\r\n\r\n",
			"a blank in a header":       "GET " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n",
			"a chunk's length too long": "POST " + expand + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
		} {
			if got := p.raw(t, request); !strings.HasPrefix(got, "HTTP/1.1 4") && !strings.HasPrefix(got, "HTTP/1.1 501") {
				t.Errorf("%s: %.100s", what, got)
			}
		}
	})
}
