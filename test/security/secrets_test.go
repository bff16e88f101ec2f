package security

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/test/server"
)

// No secret is in what the platform says (logs, errors, headers, metrics,
// events) or keeps, in whatever form, when things go well and when they do not.
func TestNoSecretIsToldOrKeptReadable(t *testing.T) {
	t.Parallel()
	storetest.EachURL(t, func(t *testing.T, database string) {
		s := &plants{}
		out := startOutside(t)
		config, metricsToken := secretConfig(t, s, out)
		p := startPlatform(t, server.Options{
			Config: config, Environment: []string{
				"TASKFLEET_LOG_LEVEL=debug",
				"TASKFLEET_RABBITMQ_URL=" + fmt.Sprintf("amqp://fleet:%s@127.0.0.1:%d/", url.QueryEscape(s.new("the broker's password")), port(out.broker)),
			},
		}, database)
		if u, err := url.Parse(database); err == nil && u.User != nil {
			password, _ := u.User.Password()
			s.add("the database's password", password)
		}
		for name, secret := range readJSON(t, filepath.Join(p.data, "secrets.json")) {
			s.add("own secret "+name, secret.(string))
		}
		b := &burglar{platform: p, plants: s, outside: out}
		b.live()
		b.mirror()
		b.stumble()
		b.work()
		b.lookAtProcesses()
		b.awaitLog("notify/smtp", "notify/slack", "notify/matrix", "rabbit:")

		metrics := p.call(anonymous, "GET", "/metrics", nil, "Authorization", "Bearer "+metricsToken)
		if metrics.status != 200 {
			t.Errorf("metrics: %d", metrics.status)
		}
		b.find("the metrics", []byte(metrics.text))
		b.find("the metrics without the token", []byte(p.call(anonymous, "GET", "/metrics", nil, "Authorization", "Bearer wrong").text))
		b.lookAtMessages()
		// What is there while it runs, and what it leaves.
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		b.lookAtDatabase(database)
		b.lookAtFiles()
		b.find("the log", p.Log())
		for _, h := range p.heard {
			// A refusal repeats what was sent, but not where that is secret.
			b.find(h.where, []byte(h.text))
		}
		t.Logf("%d forms of secrets were looked for in %d places", len(s.forms), b.places.Load())
	})
}

// secretConfig configures all that takes a secret.
func secretConfig(t *testing.T, s *plants, out *outside) (config, metricsToken string) {
	metricsToken = s.token("metricsToken")
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	s.add("a private key", strings.Split(key, "\n")[3])
	azure := random(48)
	s.add("the Azure key", string(azure))
	quote := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	google := quote(map[string]string{
		"type": "service_account", "project_id": "project", "client_email": "platform@example.com",
		"private_key": key, "private_key_id": "1", "token_uri": out.web.URL + "/token",
	})
	return quote(object{
		"metricsToken": metricsToken,
		"mirror":       mirrorConfig(out),
		"clients":      []object{{"clientId": "static/planted", "accessToken": s.token("a static client's token"), "scopes": []string{"queue:*"}}},
		"notify": object{
			"smtp":   object{"host": "127.0.0.1", "port": port(out.mail), "security": "none", "username": "fleet", "password": s.new("the SMTP password"), "from": "fleet@example.com"},
			"slack":  object{"token": s.token("the Slack token"), "url": out.web.URL + "/slack"},
			"matrix": object{"accessToken": s.token("the Matrix token"), "url": out.web.URL},
		},
		"auth": object{
			"aws":           object{"endpoint": out.web.URL, "keys": []object{{"accessKeyId": "AKIA", "secretAccessKey": s.token("the AWS secret"), "buckets": []string{"builds"}}}},
			"azure":         object{"accounts": object{"account": object{"key": base64.StdEncoding.EncodeToString(azure), "blobEndpoint": out.web.URL, "tableEndpoint": out.web.URL}}},
			"gcp":           object{"endpoint": out.web.URL, "projects": object{"project": object{"key": google, "serviceAccounts": []string{"builder@example.com"}}}},
			"github":        object{"endpoint": out.web.URL, "apps": object{"app": object{"appId": "1", "privateKey": key}}},
			"websocktunnel": object{"secret": s.token("the tunnels' secret")},
		},
	}), metricsToken
}

func readJSON(t *testing.T, file string) (v object) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A burglar looks for secrets.
type burglar struct {
	*platform
	*plants
	outside *outside
	places  atomic.Int64
	hook    string // its trigger token
}

// find complains about secrets in a text, but for those whose names begin so.
func (b *burglar) find(where string, text []byte, but ...string) {
	b.t.Helper()
	b.places.Add(1)
	for _, f := range b.search(text, but...) {
		b.t.Errorf("%s holds %s (%s): …%q…", where, f.what, f.as, f.around)
	}
}

// live makes use of everything that takes or gives a secret, with success.
func (b *burglar) live() {
	root := b.root()
	client := b.want(200, root, "PUT", "/api/auth/v1/clients/planted", object{"scopes": []string{"queue:*", "auth:current-scopes"}, "description": "", "expires": in(time.Hour), "deleteOnExpiration": false})
	token := b.add("a client's first token", client.member("accessToken"))
	as := caller{Credentials: cred.Credentials{ClientID: "planted", AccessToken: token}}
	b.want(200, as, "GET", "/api/auth/v1/scopes/current", nil)
	token = b.add("a client's token", b.want(200, root, "POST", "/api/auth/v1/clients/planted/reset", nil).member("accessToken"))
	if r := b.call(as, "GET", "/api/auth/v1/scopes/current", nil); r.status != 401 {
		b.t.Errorf("a token that was replaced: %d", r.status)
	}
	as.AccessToken = token
	temporary, err := cred.Temporary(as.Credentials, cred.Options{Scopes: []string{"queue:*", "auth:current-scopes"}, Expiry: time.Now().Add(time.Hour)})
	if err != nil {
		b.t.Fatal(err)
	}
	b.add("temporary credentials' token", temporary.AccessToken)
	b.want(200, caller{Credentials: temporary}, "GET", "/api/auth/v1/scopes/current", nil)

	value := object{"secret": object{"password": b.new("a secret's value")}, "expires": in(time.Hour)}
	b.want(200, root, "PUT", "/api/secrets/v1/secret/planted", value)
	value["secret"] = object{"password": b.new("a secret's second value"), "nested": object{"list": []string{b.token("a nested value")}}}
	b.want(200, root, "PUT", "/api/secrets/v1/secret/planted", value)
	if r := b.want(200, root, "GET", "/api/secrets/v1/secret/planted", nil); r.header.Get("ETag") != "" {
		b.t.Error("a secret has an ETag, which tells whether it is another one's")
	}

	hook := object{
		"metadata": object{"name": "hook", "description": "", "owner": "owner@example.com"},
		"task":     definition(queueID, nil), "triggerSchema": object{"type": "object", "properties": object{"number": object{"type": "integer"}}},
	}
	b.want(200, root, "PUT", "/api/hooks/v1/hooks/group/planted", hook)
	b.want(200, root, "PUT", "/api/auth/v1/roles/hook-id%3Agroup%2Fplanted", object{"scopes": []string{"queue:*"}, "description": ""})
	for range 2 {
		r := b.want(200, root, "GET", "/api/hooks/v1/hooks/group/planted/token", nil)
		b.hook = b.add("a hook's trigger token", r.member("token"))
		b.want(200, anonymous, "POST", "/api/hooks/v1/hooks/group/planted/trigger/"+b.hook, object{"word": b.new("a hook's payload")})
		r = b.want(200, root, "POST", "/api/hooks/v1/hooks/group/planted/token", nil)
		b.add("a hook's trigger token", r.member("token"))
		if r.header.Get("ETag") != "" {
			b.t.Error("a trigger token has an ETag")
		}
	}

	secret := b.token("a static worker's secret")
	pool := object{"providerId": "static", "description": "", "owner": "owner@example.com", "emailOnError": false, "config": object{}}
	b.want(200, root, "PUT", "/api/worker-manager/v1/worker-pool/planted%2Fstatic", pool)
	b.want(200, root, "PUT", "/api/worker-manager/v1/workers/planted%2Fstatic/group/worker", object{"expires": in(time.Hour), "providerInfo": object{"staticSecret": secret}})
	worker := object{"workerPoolId": "planted/static", "workerGroup": "group", "workerId": "worker"}
	registration := maps.Clone(worker)
	registration["providerId"], registration["workerIdentityProof"] = "static", object{"staticSecret": secret}
	r := b.want(200, anonymous, "POST", "/api/worker-manager/v1/worker/register", registration)
	b.add("a worker's token", r.member("credentials", "accessToken"))
	worker["secret"] = b.add("a worker's reregistration secret", r.member("secret"))
	r = b.want(200, root, "POST", "/api/worker-manager/v1/worker/reregister", worker)
	b.add("a worker's next reregistration secret", r.member("secret"))
	b.add("a worker's next token", r.member("credentials", "accessToken"))

	data := b.new("an object's data")
	upload := object{
		"projectId": "project", "uploadId": slugid.New(), "expires": in(time.Hour), "hashes": object{},
		"proposedUploadMethods": object{"dataInline": object{"contentType": "text/plain", "objectData": base64.StdEncoding.EncodeToString([]byte(data))}},
	}
	b.want(200, root, "PUT", "/api/object/v1/upload/planted", upload)
	b.want(200, root, "POST", "/api/object/v1/finish-upload/planted", object{"projectId": "project", "uploadId": upload["uploadId"], "hashes": object{}})
	r = b.want(200, root, "PUT", "/api/object/v1/start-download/planted", object{"acceptDownloadMethods": object{"simple": true}})
	b.visit(r.member("url"), "an object's presigned URL")

	id := b.task(queueID, object{"scopes": []string{"secrets:get:planted"}})
	r = b.want(200, root, "POST", "/api/queue/v1/task/"+id+"/runs/0/claim", object{"workerGroup": "group", "workerId": "worker"})
	b.add("a task's token", r.member("credentials", "accessToken"))
	r = b.want(200, root, "POST", "/api/queue/v1/task/"+id+"/runs/0/reclaim", nil)
	b.add("a task's next token", r.member("credentials", "accessToken"))
	r = b.want(200, root, "POST", "/api/queue/v1/task/"+id+"/runs/0/artifacts/private%2Fa", object{"storageType": "s3", "expires": in(time.Hour), "contentType": "text/plain"})
	b.visit(r.member("putUrl"), "an artifact's presigned PUT")
	signed, err := cred.SignURL(b.RootURL+"/api/queue/v1/task/"+id+"/runs/0/artifacts/private%2Fa", root.Credentials, time.Now().Add(time.Hour), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	_, bewit, _ := strings.Cut(signed, "bewit=")
	b.add("a bewit", bewit)
	request, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, signed, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if r := b.send(request); r.status == 401 || r.status == 403 {
		b.t.Errorf("a bewit: %d %s", r.status, r.text)
	}
	for _, path := range []string{"aws/s3/read-only/builds/a", "azure/account/table/Table/read-only", "azure/account/containers/box/read-only", "azure/account/tables", "azure/account/containers", "gcp/credentials/project/builder@example.com"} {
		b.call(root, "GET", "/api/auth/v1/"+path, nil)
	}
	b.call(root, "POST", "/api/auth/v1/github/app/acme/repo-token", object{"repositories": []string{"one"}, "permissions": object{"contents": "read"}})
	b.add("a tunnel's token", b.want(200, root, "GET", "/api/auth/v1/websocktunnel/tunnels/worker", nil).member("token"))
	b.call(root, "POST", "/api/notify/v1/email", object{"address": "nobody@example.com", "subject": "s", "content": "c"})
	b.call(root, "POST", "/api/notify/v1/slack", object{"channelId": "C1", "text": "t"})
	b.call(root, "POST", "/api/notify/v1/matrix", object{"roomId": "!a:b", "body": "b"})
}

// visit puts or gets what a presigned URL leads to, rightly and wrongly, and
// plants the URL's signature.
func (b *burglar) visit(where, what string) {
	b.t.Helper()
	u, err := url.Parse(where)
	if err != nil || u.Query().Get("X-Amz-Signature") == "" {
		b.t.Fatalf("%s: %q is no presigned URL", what, where)
	}
	b.add(what, u.Query().Get("X-Amz-Signature"))
	for _, visit := range []struct{ verb, url string }{
		{"GET", where}, {"PUT", where}, {"DELETE", where}, {"GET", strings.Replace(where, "X-Amz-Expires=", "X-Amz-Expires=9", 1)},
	} {
		r, err := http.NewRequestWithContext(b.t.Context(), visit.verb, visit.url, nil)
		if err != nil {
			b.t.Fatal(err)
		}
		response, err := direct.Do(r)
		if err != nil {
			b.t.Fatal(err)
		}
		response.Body.Close()
	}
}

// stumble makes every mistake that there is with secrets.
func (b *burglar) stumble() {
	root := b.root()
	wrong := func(what string) string { return b.token("what is nearly " + what) }
	type mistake struct {
		as         caller
		verb, path string
		body       any
	}
	good := in(time.Hour)
	static := "/api/worker-manager/v1/workers/planted%2Fstatic/group/"
	register := func(proof any) object {
		return object{"workerPoolId": "planted/static", "providerId": "static", "workerGroup": "group", "workerId": "worker", "workerIdentityProof": proof}
	}
	upload := func(changes object) object {
		o := object{"projectId": "project", "uploadId": slugid.New(), "expires": good, "hashes": object{}, "proposedUploadMethods": object{"dataInline": object{
			"contentType": "text/plain", "objectData": base64.StdEncoding.EncodeToString([]byte(b.new("an object's data in a mistake"))),
		}}}
		maps.Copy(o, changes)
		return o
	}
	value := object{"password": b.new("a secret's value in a mistake")}
	for _, m := range []mistake{
		{root, "PUT", "/api/secrets/v1/secret/wrong", object{"secret": value}},
		{root, "PUT", "/api/secrets/v1/secret/wrong", object{"secret": value, "expires": good, "more": wrong("a secret")}},
		{root, "PUT", "/api/secrets/v1/secret/wrong", object{"secret": wrong("a secret"), "expires": good}},
		{root, "PUT", "/api/secrets/v1/secret/wrong", object{"secret": value, "expires": wrong("a secret")}},
		{root, "PUT", "/api/secrets/v1/secret/wrong", object{"secret": object{wrong("a secret"): value, "\u0000": ""}, "expires": good}},
		{root, "PUT", "/api/secrets/v1/secret/wrong", []byte(`{"secret": {"password": "` + wrong("a secret") + "\xff" + `"}}`)},
		{root, "PUT", "/api/secrets/v1/secret/wrong", []byte(`{"secret": {"password": ` + wrong("a secret"))},
		{root, "PUT", "/api/secrets/v1/secret/wrong", []byte(wrong("a secret"))},
		{b.with(), "PUT", "/api/secrets/v1/secret/wrong", object{"secret": value, "expires": good}},
		{anonymous, "PUT", "/api/secrets/v1/secret/wrong", object{"secret": value, "expires": good}},
		{anonymous, "POST", "/api/worker-manager/v1/worker/register", register(object{"staticSecret": wrong("a static secret")})},
		{anonymous, "POST", "/api/worker-manager/v1/worker/register", register(object{"staticSecret": wrong("a static secret") + "x"})},
		{anonymous, "POST", "/api/worker-manager/v1/worker/register", register(object{"token": wrong("a token")})},
		{anonymous, "POST", "/api/worker-manager/v1/worker/register", register(object{"document": wrong("a document"), "signature": wrong("a signature")})},
		{anonymous, "POST", "/api/worker-manager/v1/worker/register", register(object{"document": wrong("a document"), "pkcs7": wrong("a signature")})},
		{anonymous, "POST", "/api/worker-manager/v1/worker/register", register(wrong("a proof"))},
		{root, "POST", "/api/worker-manager/v1/worker/reregister", object{"workerPoolId": "planted/static", "workerGroup": "group", "workerId": "worker", "secret": wrong("a secret")}},
		{root, "POST", "/api/worker-manager/v1/worker/reregister", object{"workerPoolId": "planted/static", "workerGroup": "group", "workerId": "worker", "secret": wrong("a secret") + "x"}},
		{root, "PUT", static + "two", object{"expires": good, "providerInfo": object{"staticSecret": wrong("a static secret") + "x"}}},
		{root, "PUT", static + "two", object{"expires": in(-time.Hour), "providerInfo": object{"staticSecret": wrong("a static secret")}}},
		{root, "PUT", static + "worker", object{"expires": good, "providerInfo": object{"staticSecret": wrong("a static secret")}}},
		{root, "POST", static + "none", object{"expires": good, "providerInfo": object{"staticSecret": wrong("a static secret")}}},
		{b.with(), "PUT", static + "two", object{"expires": good, "providerInfo": object{"staticSecret": wrong("a static secret")}}},
		{root, "PUT", "/api/object/v1/upload/wrong", upload(object{"projectId": "?"})},
		{root, "PUT", "/api/object/v1/upload/wrong", upload(object{"expires": in(-time.Hour)})},
		{root, "PUT", "/api/object/v1/upload/wrong", upload(object{"hashes": object{"sha256": strings.Repeat("0", 64)}})},
		{root, "PUT", "/api/object/v1/upload/planted", upload(nil)},
		{root, "PUT", "/api/object/v1/upload/wrong", upload(object{"proposedUploadMethods": object{"dataInline": object{"contentType": "text/plain", "objectData": "?" + wrong("an object's data")}}})},
		{anonymous, "POST", "/api/hooks/v1/hooks/group/planted/trigger/" + wrong("a trigger token"), object{}},
		{anonymous, "POST", "/api/hooks/v1/hooks/group/none/trigger/" + wrong("a trigger token"), object{}},
		{anonymous, "POST", "/api/hooks/v1/hooks/group/planted/trigger/" + b.add("a hook's trigger token", b.want(200, root, "GET", "/api/hooks/v1/hooks/group/planted/token", nil).member("token")), object{"number": "none"}},
		{anonymous, "POST", "/api/hooks/v1/hooks/group/planted/trigger/" + wrong("a trigger token"), []byte("{")},
		{root, "POST", "/api/auth/v1/authenticate-hawk", object{"method": 1, "resource": "/?bewit=" + wrong("a bewit")}},
		{anonymous, "GET", "/api/queue/v1/task-queues?bewit=" + wrong("a bewit"), nil},
		{anonymous, "GET", "/nowhere/" + wrong("a path"), nil},
	} {
		if r := b.call(m.as, m.verb, m.path, m.body); r.status < 400 || r.status >= 500 {
			b.t.Errorf("%s %s: %d %.300s; it should be refused", m.verb, m.path, r.status, r.text)
		}
	}
	// What is wrong with others' signatures is an answer, not a refusal.
	for _, r := range []object{
		{"resource": "/", "authorization": `Hawk id="x", ts="1", nonce="x", mac="` + wrong("a signature") + `"`},
		{"resource": "/?bewit=" + wrong("a bewit")},
	} {
		maps.Copy(r, object{"method": "get", "host": "example.com", "port": 443})
		b.find("the answer of authenticateHawk", []byte(b.want(200, root, "POST", "/api/auth/v1/authenticate-hawk", r).text))
	}
	// Signatures that are wrong, by a token that is right and by others.
	for _, as := range []caller{
		{Credentials: cred.Credentials{ClientID: "static/planted", AccessToken: wrong("a token")}},
		{Credentials: cred.Credentials{ClientID: "nobody", AccessToken: wrong("a token")}},
	} {
		b.want(401, as, "GET", "/api/auth/v1/scopes/current", nil)
	}
	for _, header := range []string{"Bearer " + wrong("a bearer's token"), "Hawk " + wrong("a header"), `Hawk id="` + wrong("a header") + `"`} {
		if r := b.call(anonymous, "GET", "/api/auth/v1/scopes/current", nil, "Authorization", header); r.status != 401 {
			b.t.Errorf("Authorization %.10s: %d", header, r.status)
		}
	}
	b.commands()
}

// commands runs those of the command line that have secrets, and fail.
func (b *burglar) commands() {
	directory := b.t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(directory, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			b.t.Fatal(err)
		}
		return file
	}
	config, err := os.ReadFile(filepath.Join(b.data, "config.yml"))
	if err != nil {
		b.t.Fatal(err)
	}
	password := func() string { return url.QueryEscape(b.new("a password on the command line")) }
	good := write("good.yml", string(config))
	token := "TASKCLUSTER_ACCESS_TOKEN=" + b.token("a token in the environment")
	root := "TASKCLUSTER_ROOT_URL=" + b.RootURL
	secretURL := func() string { return b.outside.web.URL + "/files/a?secret=" + url.QueryEscape(b.new(originQuery)) }
	nowhere := "127.0.0.1:" + strconv.Itoa(port(listenAndClose(b.t)))
	others := 0
	other := func() string {
		others++
		return "--data=" + filepath.Join(directory, fmt.Sprint("data-", others))
	}
	var running sync.WaitGroup
	for _, c := range []struct {
		environment, command []string
		succeeds             bool
	}{
		{nil, []string{"config", "check", "--config", good}, true},
		{nil, []string{"config", "check", "--config", write("cut.yml", string(config[:len(config)-3]))}, false},
		{nil, []string{"config", "check", "--config", write("unknown.yml", strings.Replace(string(config), `"metricsToken"`, `"metricToken"`, 1))}, false},
		{nil, []string{"config", "check", "--config", write("type.yml", strings.Replace(string(config), `"metricsToken":`, `"metricsToken":["x"],"logLevel":`, 1))}, false},
		{nil, []string{"config", "check", "--config", write("client.yml", strings.Replace(string(config), `static/planted`, `planted`, 1))}, false},
		{nil, []string{"config", "check", "--config", write("key.yml", strings.ReplaceAll(string(config), `BEGIN PRIVATE`, `BEGIN PUBLIC`))}, false},
		{[]string{"TASKFLEET_DATABASE=mysql://u:" + password() + "@h/d"}, []string{"config", "check"}, false},
		{[]string{"TASKFLEET_RABBITMQ_URL=http://u:" + password() + "@h/d"}, []string{"config", "check"}, false},
		{[]string{"TASKFLEET_RABBITMQ_URL=amqp://u:" + b.new("a password on the command line") + "@h/d"}, []string{"config", "check"}, false},
		{[]string{"TASKFLEET_ROOT_URL=ftp://u:" + password() + "@h/d"}, []string{"config", "check"}, false},
		{[]string{"TASKFLEET_DATABASE=postgres://u:" + password() + "@" + nowhere + "/d"}, []string{"serve", other(), "--listen=127.0.0.1:0"}, false},
		{[]string{"TASKFLEET_DATABASE=postgres://u:" + b.new("a password on the command line") + "@h:x/d"}, []string{"serve", other(), "--listen=127.0.0.1:0"}, false},
		{nil, []string{"serve", other(), "--listen", strings.TrimPrefix(b.RootURL, "http://"), "--config", good}, false},
		{[]string{"TASKFLEET_S3_ENDPOINT=http://" + nowhere, "TASKFLEET_S3_REGION=us-east-1", "TASKFLEET_S3_ACCESS_KEY_ID=AKIA", "TASKFLEET_S3_SECRET_ACCESS_KEY=" + b.new("the S3 secret"), "AWS_MAX_ATTEMPTS=1"}, []string{"serve", other(), "--listen=127.0.0.1:0", "--log-level=debug"}, false},
		{[]string{root, token, "TASKCLUSTER_CLIENT_ID=static/planted"}, []string{"loops"}, false},
		{[]string{root, token, "TASKCLUSTER_CLIENT_ID=static/planted"}, []string{"mirror", "explain", secretURL(), "--region", "away"}, false},
		{[]string{root, token, "TASKCLUSTER_CLIENT_ID=static/planted"}, []string{"mirror", "purge", secretURL(), "--region", "away"}, false},
		{[]string{root, token, "TASKCLUSTER_CLIENT_ID=static/planted"}, []string{"task", "status", slugid.New()}, false},
		{[]string{root, token, "TASKCLUSTER_CLIENT_ID=static/planted", "TASKCLUSTER_CERTIFICATE={" + b.token("a certificate in the environment")}, []string{"loops"}, false},
		{[]string{"TASKCLUSTER_ROOT_URL=http://u:" + password() + "@" + nowhere, token, "TASKCLUSTER_CLIENT_ID=static/planted"}, []string{"loops"}, false},
		{[]string{"TASKCLUSTER_ROOT_URL=http://" + nowhere, token, "TASKCLUSTER_CLIENT_ID=static/planted"}, []string{"loops"}, false},
		{nil, []string{"worker", "--config", write("worker.json", `{"rootUrl": "x", "workerIdentityProof": {"token": "`+b.token("a proof in a file")+`"}}`)}, false},
		{nil, []string{"worker", "--config", write("worker-cut.json", `{"workerIdentityProof": {"token": "`+b.token("a proof in a file")+`"`)}, false},
	} {
		running.Go(func() { // as some try again for a while
			cmd := exec.CommandContext(b.t.Context(), binary, c.command...)
			cmd.Dir = directory
			cmd.Env = append(slices.DeleteFunc(os.Environ(), func(entry string) bool {
				return strings.HasPrefix(entry, "TASK") || strings.HasPrefix(entry, "AWS_")
			}), c.environment...)
			out, err := cmd.CombinedOutput()
			if (err == nil) != c.succeeds {
				b.t.Errorf("taskfleet %s: %v %s", strings.Join(c.command, " "), err, out)
			}
			b.find("what taskfleet "+strings.Join(c.command[:min(2, len(c.command))], " ")+" says", out)
		})
	}
	running.Wait()
}

// work has a worker of the local provider run a task.
func (b *burglar) work() {
	root := b.root()
	b.want(200, root, "PUT", "/api/worker-manager/v1/worker-pool/planted%2Flocal", object{
		"providerId": "local", "description": "", "owner": "owner@example.com", "emailOnError": false,
		"config": object{"minCapacity": 0, "maxCapacity": 1, "workerConfig": object{"idleTimeoutSecs": 60, "env": object{"PATH": os.Getenv("PATH")}}},
	})
	id := b.task("planted/local", object{"payload": object{"command": [][]string{{"sh", "-c", "env; cat /proc/self/environ; exit 0"}}, "maxRunTime": 60}})
	until(b.t, "the task was resolved", func() bool {
		s := b.want(200, root, "GET", "/api/queue/v1/task/"+id+"/status", nil).member("status", "state")
		if s == "failed" || s == "exception" {
			b.t.Fatalf("the task is %s", s)
		}
		return s == "completed"
	})
	for _, name := range []string{"public/logs/live.log"} {
		r := b.want(200, root, "GET", "/api/queue/v1/task/"+id+"/artifact-content/"+url.PathEscape(name), nil)
		text, err := b.download(r.member("url"))
		if err != nil {
			b.t.Fatal(err)
		}
		b.find("the task's log", text)
	}
}

// until polls for what happens in another process.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it was not so in time that %s", what)
		}
	}
}

// awaitLog waits for the server to have failed at what it does by itself.
func (b *burglar) awaitLog(words ...string) {
	for _, word := range words {
		until(b.t, "the log tells of "+word, func() bool { return strings.Contains(string(b.Log()), word) })
	}
	if b.outside.mails.Load() == 0 || b.outside.calls.Load() == 0 {
		b.t.Error("the outside was not asked for anything")
	}
}
