//go:build unix

package worker

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/hawk"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// platform is as much of a queue, a worker-manager and a bucket as a worker
// needs: with state, with the real routes, and with every signature checked.
type platform struct {
	t      *testing.T
	mux    *http.ServeMux
	server *httptest.Server

	mu      sync.Mutex
	changed *sync.Cond
	away    bool

	claimLife    time.Duration // of a claim, 20 min unless set
	workerLife   time.Duration // of a worker's credentials, an hour unless set
	poll         time.Duration // of claimWork
	workerConfig string

	proof      string
	document   string // of an instance, for which signature proves it
	signature  string
	after      int // registrations are refused before one is taken
	providerID string
	secret     string // for the next registration
	unwanted   string // a reason to terminate
	removed    bool
	errors     []string
	reports    []report
	polls      int
	freshPolls int // with the newest credentials
	renewals   int // of registrations
	nonces     map[string]bool
	token      string // the newest of the worker
	used       string // by the request at hand
	tasks      map[string]*task
	pending    []string
	objects    map[string]object
	puts       int           // uploads that began
	stalled    chan struct{} // if there is one, the bucket takes nothing but logs until it is closed
	refusals   []string      // what was refused, for the test to see
	proxied    []string      // scopes of requests to the task
	requested  []string
}

type task struct {
	definition queue.Task
	state      string // of the only run
	reason     string
	resolved   int
	canceled   bool
	token      string // of the run's credentials
	before     string // of those before them
	reclaims   int
	artifacts  map[string]queue.PostArtifactRequest
}

// A report is that of a worker's trouble.
type report struct {
	Kind, Title, Description string
	Extra                    struct{ Log string }
}

type object struct {
	content               []byte
	contentType, encoding string
}

const issuer, issuerToken = "static/taskcluster/queue", "issuer-secret-1"

func newPlatform(t *testing.T, workerConfig string) *platform {
	t.Helper()
	p := &platform{
		t: t, mux: http.NewServeMux(), workerConfig: workerConfig, claimLife: 20 * time.Minute, workerLife: time.Hour, poll: 200 * time.Millisecond,
		proof: slugid.New() + slugid.New(), providerID: "local", nonces: map[string]bool{},
		tasks: map[string]*task{}, objects: map[string]object{},
	}
	p.changed = sync.NewCond(&p.mu)
	for pattern, f := range map[string]func(*platform, *http.Request) (int, any){
		"POST /api/worker-manager/v1/worker/register":                             (*platform).register,
		"POST /api/worker-manager/v1/worker/reregister":                           (*platform).reregister,
		"GET /api/worker-manager/v1/workers/{pool}/{group}/{id}/should-terminate": (*platform).shouldTerminate,
		"DELETE /api/worker-manager/v1/workers/{pool}/{group}/{id}":               (*platform).remove,
		"POST /api/worker-manager/v1/worker-pool-errors/{pool}":                   (*platform).reportError,
		"POST /api/queue/v1/claim-work/{queue}":                                   (*platform).claimWork,
		"POST /api/queue/v1/task/{task}/runs/{run}/reclaim":                       (*platform).reclaim,
		"POST /api/queue/v1/task/{task}/runs/{run}/{state}":                       (*platform).resolve,
		"POST /api/queue/v1/task/{task}/runs/{run}/artifacts/{name...}":           (*platform).createArtifact,
		"GET /api/queue/v1/task/{task}/artifact-content/{name...}":                (*platform).artifactContent,
		"GET /api/queue/v1/task/{task}/status":                                    (*platform).status,
		"GET /api/queue/v1/task/{task}":                                           (*platform).getTask,
	} {
		p.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			status, reply := f(p, r)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			if reply != nil {
				json.NewEncoder(w).Encode(reply)
			}
		})
	}
	p.mux.HandleFunc("/bucket/", p.bucket)
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(func() { p.down(); p.server.Close() })
	return p
}

// serve breaks connections while the platform is away. It keeps its port, which somebody else would have otherwise.
func (p *platform) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	away := p.away
	p.mu.Unlock()
	if away {
		panic(http.ErrAbortHandler)
	}
	p.mux.ServeHTTP(w, r)
}

func (p *platform) up() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = false
}

// down breaks all connections, as a server does that is killed.
func (p *platform) down() {
	p.mu.Lock()
	p.away = true
	p.mu.Unlock()
	p.server.CloseClientConnections()
}

func (p *platform) url() string { return p.server.URL }

// patience is for what has to come. Processes may stand still for long on a machine that is busy.
const patience = 5 * time.Minute

// await waits until f, which is called under the lock, is true.
func (p *platform) await(what string, f func() bool) {
	p.t.Helper()
	done := make(chan struct{})
	go func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for !f() {
			p.changed.Wait()
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		p.t.Fatalf("it never came to be that %s", what)
	}
}

func (p *platform) awaitResolved(id string) {
	p.t.Helper()
	p.await("task "+id+" is resolved", func() bool { return p.tasks[id].resolved > 0 })
}

// add makes a task pending.
func (p *platform) add(payload string, scopes ...string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := slugid.New()
	p.tasks[id] = &task{
		state: "pending", artifacts: map[string]queue.PostArtifactRequest{},
		definition: queue.Task{
			TaskQueueID: "local/test", Scopes: append([]string{}, scopes...), Payload: json.RawMessage(payload),
			Created: timestamp.Now(), Deadline: timestamp.Now().Add(time.Hour), Expires: timestamp.Now().Add(24 * time.Hour),
		},
	}
	p.pending = append(p.pending, id)
	p.changed.Broadcast()
	return id
}

// result is how a task ended: its state, and its reason if that says more.
func (p *platform) result(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tasks[id]
	if t.reason != "" {
		return t.state + "/" + t.reason
	}
	return t.state
}

// read follows a link and returns the plain content of an artifact, or how it is
// not there.
func (p *platform) read(id, name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, found := p.tasks[id].artifacts[name]
	switch {
	case !found:
		return "(absent)"
	case a.StorageType == "link":
		name = a.Artifact
	case a.StorageType == "error":
		return "(" + a.Reason + ")"
	case a.StorageType == "reference":
		return a.URL
	}
	o, found := p.objects["/bucket/"+id+"/"+name]
	if !found {
		return "(no object)"
	}
	if o.encoding != "gzip" {
		return string(o.content)
	}
	z, err := gzip.NewReader(bytes.NewReader(o.content))
	if err != nil {
		p.t.Fatal(err)
	}
	content, err := io.ReadAll(z)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(content)
}

func (p *platform) log(id string) string { return p.read(id, "public/logs/live.log") }

func (p *platform) artifacts(id string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.tasks[id].artifacts))
}

// expectInstance has one registration taken that shows these.
func (p *platform) expectInstance(document, signature string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.document, p.signature, p.providerID = document, signature, "aws-1"
}

// gone reports whether the worker has removed itself.
func (p *platform) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.removed
}

func (p *platform) refused() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.refusals)
}

// Authentication, as the auth service does it.

func (p *platform) issue(clientID string, life time.Duration, scopes ...string) cred.Credentials {
	c, err := cred.Temporary(cred.Credentials{ClientID: issuer, AccessToken: issuerToken}, cred.Options{
		ClientID: clientID, Scopes: scopes, Start: time.Now().Add(-time.Minute), Expiry: time.Now().Add(life),
	})
	if err != nil {
		p.t.Error(err)
	}
	return c
}

// scopes authenticates a request and returns what it may do.
func (p *platform) scopes(r *http.Request) (scope.Set, string, error) {
	h, err := hawk.ParseHeader(r.Header.Get("Authorization"))
	if err != nil {
		return nil, "", err
	}
	ext, err := cred.ParseExt(h.Ext)
	if err != nil {
		return nil, "", err
	}
	if ext.Certificate == nil {
		return nil, "", errors.New("no certificate")
	}
	if err := ext.Certificate.Verify(h.ID, issuerToken); err != nil {
		return nil, "", err
	}
	if err := ext.Certificate.InForce(time.Now()); err != nil {
		return nil, "", err
	}
	key := ext.Certificate.Key(issuerToken)
	host, port, err := cred.SplitHost(r.Host)
	if err != nil {
		return nil, "", err
	}
	switch {
	case !h.Verify(hawk.Request{Method: r.Method, Resource: r.RequestURI, Host: host, Port: port}, key):
		return nil, "", errors.New("bad mac")
	case p.nonces[h.Nonce]:
		return nil, "", errors.New("replayed")
	}
	p.nonces[h.Nonce] = true
	set := scope.NewSet(ext.Certificate.Scopes...)
	if ext.AuthorizedScopes != nil {
		if !set.HasAll(ext.AuthorizedScopes) {
			return nil, "", errors.New("authorizedScopes beyond the certificate's")
		}
		set = scope.NewSet(ext.AuthorizedScopes...)
	}
	return set, key, nil
}

// demand returns a status other than 0 if the request is not allowed.
func (p *platform) demand(r *http.Request, needed string) (int, any) {
	p.requested = append(p.requested, r.Method+" "+r.URL.Path)
	set, key, err := p.scopes(r)
	if err != nil {
		return p.refuse(401, "AuthenticationFailed", err.Error()+" for "+r.URL.Path)
	}
	p.used = key
	if !set.Has(needed) {
		return p.refuse(403, "InsufficientScopes", needed)
	}
	return 0, nil
}

func (p *platform) refuse(status int, code, message string) (int, any) {
	p.refusals = append(p.refusals, fmt.Sprintf("%d %s", status, message))
	return status, map[string]string{"code": code, "message": message}
}

func decode(r *http.Request, v any) {
	d := json.NewDecoder(r.Body)
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		panic(err)
	}
}

// The worker-manager.

func (p *platform) workerCredentials(r map[string]any) map[string]any {
	pool, id := fmt.Sprint(r["workerPoolId"]), fmt.Sprint(r["workerGroup"], "/", r["workerId"])
	c := p.issue("worker/"+pool+"/"+id, p.workerLife+time.Hour,
		"queue:claim-work:"+pool, "queue:worker-id:"+id, "worker-manager:reregister-worker:"+pool+"/"+id,
		"worker-manager:should-worker-terminate:"+pool+"/"+id, "worker-manager:remove-worker:"+pool+"/"+id, "assume:worker-pool:"+pool)
	p.token = c.AccessToken
	p.secret = slugid.New() + slugid.New()
	return map[string]any{"expires": timestamp.Now().Add(p.workerLife), "credentials": c, "secret": p.secret}
}

func (p *platform) register(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var in map[string]any
	decode(r, &in)
	proof, _ := in["workerIdentityProof"].(map[string]any)
	ofInstance := p.document != "" && proof["document"] == p.document && (proof["signature"] == p.signature || proof["pkcs7"] == p.signature)
	if proof["token"] != p.proof && !ofInstance || in["providerId"] != p.providerID {
		return p.refuse(400, "InputError", "wrong proof")
	}
	if p.after--; p.after >= 0 {
		return p.refuse(400, "InputError", "no such worker yet")
	}
	p.proof, p.document = "", "" // good once
	out := p.workerCredentials(in)
	out["workerConfig"] = json.RawMessage(p.workerConfig)
	return 200, out
}

func (p *platform) reregister(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.changed.Broadcast()
	p.freshPolls = 0
	var in map[string]any
	decode(r, &in)
	if status, reply := p.demand(r, fmt.Sprint("worker-manager:reregister-worker:", in["workerPoolId"], "/", in["workerGroup"], "/", in["workerId"])); status != 0 {
		return status, reply
	}
	if in["secret"] != p.secret {
		return p.refuse(400, "InputError", "not what the worker got last")
	}
	p.renewals++
	return 200, p.workerCredentials(in)
}

func workerOf(r *http.Request) string {
	return r.PathValue("pool") + "/" + r.PathValue("group") + "/" + r.PathValue("id")
}

func (p *platform) shouldTerminate(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if status, reply := p.demand(r, "worker-manager:should-worker-terminate:"+workerOf(r)); status != 0 {
		return status, reply
	}
	if p.unwanted != "" {
		return 200, map[string]any{"terminate": true, "reason": p.unwanted}
	}
	return 200, map[string]any{"terminate": false, "reason": "none"}
}

func (p *platform) remove(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.changed.Broadcast()
	if status, reply := p.demand(r, "worker-manager:remove-worker:"+workerOf(r)); status != 0 {
		return status, reply
	}
	p.removed = true
	return 200, nil
}

func (p *platform) reportError(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if status, reply := p.demand(r, "assume:worker-pool:"+r.PathValue("pool")); status != 0 {
		return status, reply
	}
	defer p.changed.Broadcast()
	var in report
	decode(r, &in)
	p.errors = append(p.errors, in.Description)
	p.reports = append(p.reports, in)
	return 200, map[string]any{}
}

// The queue.

func (p *platform) claimWork(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var in struct {
		WorkerGroup, WorkerID string
		Tasks                 int
	}
	decode(r, &in)
	if status, reply := p.demand(r, "queue:claim-work:"+r.PathValue("queue")); status != 0 {
		return status, reply
	}
	p.polls++
	if p.used == p.token {
		p.freshPolls++
	}
	p.changed.Broadcast()
	ctx, stop := context.WithTimeout(r.Context(), p.poll)
	defer stop()
	defer context.AfterFunc(ctx, func() {
		p.mu.Lock() // so that it does not fall between a look and the wait for a change
		defer p.mu.Unlock()
		p.changed.Broadcast()
	})()
	for len(p.pending) == 0 && ctx.Err() == nil {
		p.changed.Wait()
	}
	claims := []any{}
	for len(p.pending) > 0 && len(claims) < in.Tasks && r.Context().Err() == nil {
		id := p.pending[0]
		p.pending = p.pending[1:]
		p.tasks[id].state = "running"
		claims = append(claims, p.claimOf(id, in.WorkerGroup, in.WorkerID))
	}
	p.changed.Broadcast()
	return 200, map[string]any{"tasks": claims}
}

// claimOf is a claim, or its renewal.
func (p *platform) claimOf(id, group, worker string) map[string]any {
	t := p.tasks[id]
	scopes := append([]string{"queue:reclaim-task:" + id + "/0", "queue:resolve-task:" + id + "/0", "queue:create-artifact:" + id + "/0"}, t.definition.Scopes...)
	c := p.issue("task-client/"+id+"/0/on/"+group+"/"+worker, p.claimLife+time.Hour, scopes...)
	t.before, t.token = t.token, c.AccessToken
	until := timestamp.Now().Add(p.claimLife)
	return map[string]any{
		"status": map[string]any{"taskId": id, "state": "running", "runs": []any{
			map[string]any{"runId": 0, "state": "running", "started": until.Add(-p.claimLife), "takenUntil": until},
		}},
		"runId": 0, "workerGroup": group, "workerId": worker, "takenUntil": until, "task": t.definition, "credentials": c,
	}
}

// ours finds the task of a request that needs a scope for its run.
func (p *platform) ours(r *http.Request, needed string) (t *task, status int, reply any) {
	id := r.PathValue("task")
	if status, reply := p.demand(r, needed+id+"/"+r.PathValue("run")); status != 0 {
		return nil, status, reply
	}
	t = p.tasks[id]
	if t.state != "running" && !(t.canceled && strings.Contains(r.URL.Path, "/artifacts/")) {
		status, reply = p.refuse(409, "RequestConflict", "the run is "+t.state)
	}
	return t, status, reply
}

func (p *platform) reclaim(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.changed.Broadcast()
	t, status, reply := p.ours(r, "queue:reclaim-task:")
	if status != 0 {
		return status, reply
	}
	t.reclaims++
	return 200, p.claimOf(r.PathValue("task"), "local", "w-1")
}

func (p *platform) resolve(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.changed.Broadcast()
	t, status, reply := p.ours(r, "queue:resolve-task:")
	if status != 0 {
		return status, reply
	}
	if p.used != t.token && p.used != t.before { // a renewal may be under way
		return p.refuse(401, "AuthenticationFailed", "resolved with credentials that were replaced")
	}
	t.state = r.PathValue("state")
	if t.state == "exception" {
		var in struct{ Reason string }
		decode(r, &in)
		t.reason = in.Reason
	}
	t.resolved++
	return 200, map[string]any{"status": map[string]any{"taskId": r.PathValue("task"), "state": t.state}}
}

// status is for everybody.
func (p *platform) status(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tasks[r.PathValue("task")]
	return 200, map[string]any{"status": map[string]any{"taskId": r.PathValue("task"), "state": t.state, "runs": []any{
		map[string]any{"runId": 0, "state": t.state},
	}}}
}

// cancel is what a user does.
func (p *platform) cancel(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tasks[id].state, p.tasks[id].canceled = "exception", true
}

func (p *platform) createArtifact(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.changed.Broadcast()
	t, status, reply := p.ours(r, "queue:create-artifact:")
	if status != 0 {
		return status, reply
	}
	var in queue.PostArtifactRequest
	decode(r, &in)
	name := r.PathValue("name")
	old, found := t.artifacts[name]
	switch {
	case found && old.StorageType != in.StorageType && !(old.StorageType == "reference" && in.StorageType == "link"):
		return p.refuse(409, "RequestConflict", "artifact "+name+" is "+old.StorageType)
	case in.Expires > t.definition.Expires:
		return p.refuse(400, "InputError", "artifact "+name+" expires late")
	}
	t.artifacts[name] = in
	out := map[string]any{"storageType": in.StorageType}
	if in.StorageType == "s3" {
		out["contentType"], out["expires"] = in.ContentType, timestamp.Now().Add(time.Hour)
		out["putUrl"] = p.url() + "/bucket/" + r.PathValue("task") + "/" + name + "?signature=signature-secret"
	}
	return 200, out
}

func (p *platform) artifactContent(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := r.PathValue("name")
	if status, reply := p.demand(r, "queue:get-artifact:"+name); status != 0 && !strings.HasPrefix(name, "public/") {
		return status, reply
	}
	id := r.PathValue("task")
	t, found := p.tasks[id]
	if !found {
		return p.refuse(404, "ResourceNotFound", "no such task")
	}
	a, found := t.artifacts[name]
	switch {
	case !found:
		return p.refuse(404, "ResourceNotFound", "no such artifact")
	case a.StorageType == "error":
		return 424, map[string]string{"reason": a.Reason, "message": a.Message}
	}
	return 200, map[string]any{"storageType": "s3", "url": p.url() + "/bucket/" + id + "/" + name + "?signature=signature-secret"}
}

// getTask notes with which scopes the task was asked for.
func (p *platform) getTask(r *http.Request) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set, _, err := p.scopes(r)
	if err != nil {
		return p.refuse(401, "AuthenticationFailed", err.Error())
	}
	p.proxied = append(p.proxied, set...)
	return 200, p.tasks[r.PathValue("task")].definition
}

func (p *platform) bucket(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("signature") != "signature-secret" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if r.Method == http.MethodPut {
		p.mu.Lock()
		p.puts++
		p.changed.Broadcast()
		p.mu.Unlock()
		if p.stalled != nil && !strings.HasSuffix(r.URL.Path, ".log") {
			select {
			case <-p.stalled:
			case <-p.t.Context().Done():
			}
		}
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.objects[r.URL.Path] = object{content, r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding")}
		p.changed.Broadcast()
		return
	}
	p.mu.Lock()
	o, found := p.objects[r.URL.Path]
	p.mu.Unlock()
	if !found {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", o.contentType)
	if o.encoding != "" {
		w.Header().Set("Content-Encoding", o.encoding)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(o.content)))
	w.Write(o.content)
}
