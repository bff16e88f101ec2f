package security

import (
	"cmp"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/test/server"
)

// open are the methods that need no scopes, and why.
var open = map[string]string{
	"auth.authenticateHawk":           "it judges somebody else's signature, and tells only whoever has one",
	"auth.testAuthenticate":           "it tells clients whether they sign well, and makes up the client it tests with",
	"auth.testAuthenticateGet":        "likewise",
	"hooks.triggerHookWithToken":      "the token in the URL is what entitles",
	"mirror.redirect":                 "it leads to what anybody may read, and asks the queue's scopes of the caller for artifacts",
	"mirror.stream":                   "the ticket in the URL is what entitles",
	"worker-manager.registerWorker":   "the proof of identity is what entitles",
	"ping, lbheartbeat and heartbeat": "they tell monitors that the process answers",
	"version":                         "it tells which build that is",
}

func isOpen(m method) bool {
	switch m.name {
	case "ping", "lbheartbeat", "heartbeat":
		return true
	case "version":
		return true
	}
	return open[m.String()] != ""
}

// mirroring has a region for copies.
const mirroring = `
mirror: {regions: [{name: away}]}
`

// notifying has all that can be notified by, none of which is there.
const notifying = mirroring + `
notify:
  smtp: {host: 127.0.0.1, port: 9, security: none, from: fleet@example.com}
  slack: {token: nobodys, url: "http://127.0.0.1:9"}
  matrix: {accessToken: nobodys, url: "http://127.0.0.1:9"}
`

func TestEveryMethodDemandsItsScopes(t *testing.T) {
	t.Parallel()
	each(t, server.Options{Config: notifying}, func(t *testing.T, p *platform) {
		f := furnish(p)
		methods := p.methods()
		for _, m := range methods {
			switch {
			case m.scopes == nil && !isOpen(m):
				t.Errorf("%s is open to everybody; if it is meant to be, list it with the reason", m)
			case m.scopes != nil && isOpen(m):
				t.Errorf("%s demands scopes, but is listed as open", m)
			}
		}
		p.want(200, p.root(), "POST", "/api/auth/v1/roles/anonymous", object{"scopes": []string{}, "description": "nothing"})
		created := p.want(200, p.root(), "PUT", "/api/auth/v1/clients/security%2Fnobody", object{
			"scopes": []string{}, "description": "", "expires": in(time.Hour), "deleteOnExpiration": false,
		})
		nobody := caller{Credentials: cred.Credentials{ClientID: "security/nobody", AccessToken: created.member("accessToken")}}
		none := []string{}
		limited := p.root()
		limited.scopes = none
		// First what is refused, so that nothing has changed for what follows.
		refused := 0
		for _, m := range methods {
			if isOpen(m) {
				continue
			}
			s, enough := f.sample(t, m)
			path, err := s.fill(m.route)
			if err != nil {
				t.Errorf("%s: %v", m, err)
				continue
			}
			refuse := func(what string, as caller) {
				t.Helper()
				refused++
				if r := p.call(as, m.verb, path, s.body); r.status != http.StatusForbidden || r.code != "InsufficientScopes" {
					t.Errorf("%s %s: %d %.500s; want 403 InsufficientScopes", m, what, r.status, r.text)
				}
			}
			refuse("anonymously", anonymous)
			refuse("by a client without scopes", nobody)
			refuse("by temporary credentials without scopes", p.with())
			refuse("with authorizedScopes that are none", limited)
			for _, scopes := range enough {
				var like []string
				for _, x := range scopes {
					like = append(like, x+"x", x+"/", x[:len(x)-1], "x"+x, strings.ToUpper(x), x+"x*")
				}
				like = slices.DeleteFunc(like, func(x string) bool { return x == "" || slices.Contains(scopes, x) })
				refuse("with scopes that are merely like those", p.with(like...))
				for i := range scopes {
					if len(scopes) > 1 {
						refuse("without "+scopes[i], p.with(slices.Concat(scopes[:i:i], scopes[i+1:])...))
					}
				}
			}
		}
		if refused < 800 {
			t.Errorf("%d calls were refused; there should be more", refused)
		}
		// Then what is accepted; what takes things away comes last.
		slices.SortStableFunc(methods, func(a, b method) int { return cmp.Compare(late(a.name), late(b.name)) })
		for _, m := range methods {
			if isOpen(m) {
				continue
			}
			s, enough := f.sample(t, m)
			for _, scopes := range enough {
				path, err := s.fill(m.route)
				if err != nil {
					continue // which was said
				}
				r := p.call(p.with(scopes...), m.verb, path, s.body)
				if r.status == 400 || r.status == 401 || r.status == 403 || r.status == 500 {
					t.Errorf("%s with %q: %d %.1000s", m, scopes, r.status, r.text)
				}
				s, _ = f.sample(t, m) // with new ids, where it needs them
			}
		}
	})
}

// late orders methods by what they take away.
func late(name string) int {
	for i, verb := range []string{"drain", "disable", "cancel", "terminate", "delete", "remove"} {
		if strings.HasPrefix(name, verb) {
			return i + 1
		}
	}
	return 0
}

// What anybody may do on a new deployment is to read, and never to read
// secrets, definitions of pools, or whatever is not public of artifacts.
func TestAnonymousCallersOnlyRead(t *testing.T) {
	t.Parallel()
	each(t, server.Options{Config: mirroring}, func(t *testing.T, p *platform) {
		f := furnish(p)
		private := []string{
			"secrets.", "object.", "hooks.getTriggerToken", "auth.awsS3Credentials", "auth.azure", "auth.gcpCredentials", "auth.sentryDSN", "auth.websocktunnelToken",
			"auth.getEntityHistory", "auth.listAuditHistory", "worker-manager.workerPool", "worker-manager.listWorkerPool", "notify.", "index.findArtifactFromTask",
			"queue.getArtifact", "queue.getLatestArtifact", "queue.artifact", "queue.latestArtifact", "provisioner.", "mirror.", "schedules.", "credentials.", "credentials-audit.",
		}
		// Those that tell of artifacts, not what is in them.
		tells := []string{"queue.artifactInfo", "queue.latestArtifactInfo"}
		for _, m := range p.methods() {
			if isOpen(m) {
				continue
			}
			s, _ := f.sample(t, m)
			path, err := s.fill(m.route)
			if err != nil {
				t.Errorf("%s: %v", m, err)
				continue
			}
			r := p.call(anonymous, m.verb, path, s.body)
			if r.status == http.StatusForbidden {
				continue
			}
			reads := m.verb == "GET" || slices.Contains([]string{"auth.expandScopes", "queue.tasks", "queue.statuses", "index.findTasksAtIndex", "index.listNamespacesPost", "index.listTasksPost"}, m.String())
			if !reads {
				t.Errorf("anybody may call %s: %d", m, r.status)
			}
			if slices.ContainsFunc(private, func(x string) bool { return strings.HasPrefix(m.String(), x) }) && !slices.Contains(tells, m.String()) {
				t.Errorf("anybody may read %s: %d", m, r.status)
			}
		}
	})
}

// furniture is what has to be there for the scopes of some methods to be
// decided.
type furniture struct {
	p               *platform
	task, group     string
	secret          string
	worker, renewal string // the secret of a static worker, and that which it got for it
	upload          string
	pool            object
	hook            object
	client          object
}

const (
	queueID = "security/build"
	poolID  = "security/static"
)

func furnish(p *platform) *furniture {
	p.t.Helper()
	root := p.root()
	f := &furniture{p: p, secret: slugid.Token(), worker: slugid.Token(), upload: slugid.New()}
	f.task = p.task(queueID, nil)
	f.group = f.task
	run := "/api/queue/v1/task/" + f.task + "/runs/0"
	p.want(200, root, "POST", run+"/claim", object{"workerGroup": "group", "workerId": "worker"})
	p.want(200, root, "POST", run+"/artifacts/private%2Fa.txt", object{
		"storageType": "reference", "expires": in(time.Hour), "url": "https://example.com/a.txt", "contentType": "text/plain",
	})
	p.want(200, root, "POST", run+"/artifacts/private%2Flink.txt", object{
		"storageType": "link", "expires": in(time.Hour), "artifact": "private/a.txt", "contentType": "text/plain",
	})
	p.want(200, root, "PUT", "/api/index/v1/task/security.latest", object{"taskId": f.task, "rank": 1, "data": object{}, "expires": in(time.Hour)})
	f.pool = object{
		"providerId": "static", "description": "", "owner": "owner@example.com", "emailOnError": false, "config": object{},
	}
	p.want(200, root, "PUT", "/api/worker-manager/v1/worker-pool/"+url.PathEscape(poolID), f.pool)
	p.want(200, root, "PUT", "/api/worker-manager/v1/workers/"+url.PathEscape(poolID)+"/group/worker", f.known())
	f.renewal = p.want(200, anonymous, "POST", "/api/worker-manager/v1/worker/register", object{
		"workerPoolId": poolID, "providerId": "static", "workerGroup": "group", "workerId": "worker",
		"workerIdentityProof": object{"staticSecret": f.worker},
	}).member("secret")
	f.hook = object{
		"metadata": object{"name": "hook", "description": "", "owner": "owner@example.com"},
		"task":     definition(queueID, nil), "triggerSchema": object{"type": "object"},
	}
	p.want(200, root, "PUT", "/api/hooks/v1/hooks/group/hook", f.hook)
	p.want(200, root, "PUT", "/api/secrets/v1/secret/security%2Fone", object{"secret": object{"key": f.secret}, "expires": in(time.Hour)})
	p.want(200, root, "PUT", "/api/auth/v1/roles/hook-id%3Agroup%2Fhook", object{"scopes": []string{"queue:*"}, "description": ""})
	f.client = object{"scopes": []string{}, "description": "", "expires": in(time.Hour), "deleteOnExpiration": false}
	p.want(200, root, "PUT", "/api/auth/v1/clients/security%2Fclient", f.client)
	p.want(200, root, "PUT", "/api/auth/v1/roles/security", object{"scopes": []string{"none"}, "description": ""})
	p.want(200, root, "PUT", "/api/object/v1/upload/security%2Fobject", f.uploading())
	return f
}

func (f *furniture) known() object {
	return object{"expires": "2100-01-01T00:00:00.000Z", "capacity": 1, "providerInfo": object{"staticSecret": f.worker}}
}

func (f *furniture) uploading() object {
	return object{
		"projectId": "project", "uploadId": f.upload, "expires": "2100-01-01T00:00:00.000Z", "hashes": object{},
		"proposedUploadMethods": object{"dataInline": object{"contentType": "text/plain", "objectData": base64.StdEncoding.EncodeToString([]byte("data"))}},
	}
}

// shared are the URL parameters of most calls to a service.
func (f *furniture) shared(service string) map[string]string {
	all := map[string]string{
		"taskId": f.task, "taskGroupId": f.group, "runId": "0", "taskQueueId": queueID, "workerPoolId": poolID,
		"provisionerId": "security", "workerType": "build", "workerGroup": "group", "workerId": "worker",
		"hookGroupId": "group", "hookId": "hook", "indexPath": "security.latest", "namespace": "security",
		"clientId": "security/client", "roleId": "security", "entityType": "client", "entityId": "security/client",
		"bucket": "builds", "prefix": "a/b", "level": "read-only", "account": "account", "table": "Table", "container": "box",
		"project": "project", "projectId": "project", "serviceAccount": "builder@example.com", "appName": "app", "owner": "acme",
		"wstAudience": "tunnels", "wstClient": "worker", "name": "security/one",
		"service": "s3", "region": "away", "url": "https://example.com/a", "id": strings.Repeat("a1", 32),
	}
	maps.Copy(all, map[string]map[string]string{
		"queue":  {"name": "private/link.txt"},
		"index":  {"name": "private/a.txt"},
		"object": {"name": "security/object"},

		"credentials":       {"name": "one", "consumer": "app"},
		"credentials-audit": {"auditId": "VMxKlcVxTDyPoOYBxIhZ5A"},

		"schedules": {"name": "schedule.tidy", "due": "2026-01-01T00:00:00.000Z"},
	}[service])
	return all
}

// sample is a call of a method, and the sets of scopes that are enough for it.
func (f *furniture) sample(t *testing.T, m method) (sample, [][]string) {
	t.Helper()
	s := f.samples()[m.String()]
	shared := f.shared(m.service)
	maps.Copy(shared, s.path)
	s.path = shared
	if m.input && s.body == nil {
		t.Errorf("%s has a body: give it a sample", m)
	}
	enough, err := s.ways(m.scopes)
	if err != nil {
		t.Errorf("%s: %v; give the sample this parameter", m, err)
	}
	for _, scopes := range enough {
		if len(scopes) == 0 {
			t.Errorf("%s: the sample needs no scopes; make it one that does", m)
		}
	}
	return s, enough
}

func (f *furniture) samples() map[string]sample {
	ofTask := sample{vars: scope.Vars{"schedulerId": "scheduler", "taskGroupId": f.group, "projectId": "project"}}
	given := []string{"given:x", "given:y"}
	client := maps.Clone(f.client)
	client["scopes"] = given
	role := object{"scopes": given, "description": ""}
	claim := object{"workerGroup": "group", "workerId": "worker"}
	ofWorker := scope.Vars{"workerGroup": "group", "workerId": "worker"}
	address := object{"notificationType": "email", "notificationAddress": "nobody@example.com"}
	names := scope.Vars{"names": []string{"private/a.txt", "private/link.txt"}}
	provider := scope.Vars{"providerId": "static"}
	readOnly := sample{vars: scope.Vars{"levelIsReadOnly": true}}
	purpose := slugid.New()
	pool := map[string]string{"workerPoolId": "security/s" + strings.ToLower(strings.NewReplacer("-", "a", "_", "b").Replace(purpose))}
	work := definition(queueID, object{"scopes": given, "routes": []string{"index.security.new", "notify.pulse.x.on-any"}})
	return map[string]sample{
		"auth.createClient": {path: map[string]string{"clientId": "security/" + purpose}, body: client, vars: scope.Vars{"scopes": given}},
		"auth.updateClient": {body: client, vars: scope.Vars{"scopesAdded": given}},
		"auth.createRole":   {path: map[string]string{"roleId": "security:" + purpose}, body: role, vars: scope.Vars{"scopes": given}},
		"auth.updateRole":   {body: role, vars: scope.Vars{"scopesAdded": given}},
		"auth.expandScopes": {body: object{"scopes": given}},
		"auth.githubRepoToken": {
			body: object{"repositories": []string{"one", "two"}, "permissions": object{"contents": "read"}},
			vars: scope.Vars{"repoPerms": []string{"one:contents:read", "two:contents:read"}},
		},
		"auth.awsS3Credentials": readOnly, "auth.azureTableSAS": readOnly, "auth.azureContainerSAS": readOnly,

		"queue.createTask": {
			path: map[string]string{"taskId": purpose}, body: work,
			vars: scope.Vars{
				"scopes": given, "routes": work["routes"], "projectId": "project", "schedulerId": "scheduler",
				"priorities": []string{"highest", "very-high", "high"}, "provisionerId": "security", "workerType": "build",
			},
		},
		"queue.tasks":        {body: object{"taskIds": []string{f.task, purpose}}, vars: scope.Vars{"taskIds": []string{f.task, purpose}}},
		"queue.statuses":     {body: object{"taskIds": []string{f.task, purpose}}, vars: scope.Vars{"taskIds": []string{f.task, purpose}}},
		"queue.scheduleTask": ofTask, "queue.rerunTask": ofTask, "queue.cancelTask": ofTask,
		"queue.cancelTaskGroup": ofTask, "queue.sealTaskGroup": ofTask,
		"queue.changeTaskPriority":      {body: object{"newPriority": "low"}, vars: scope.Vars{"taskQueueId": queueID}},
		"queue.changeTaskGroupPriority": {body: object{"newPriority": "low"}, vars: scope.Vars{"schedulerId": "scheduler"}},
		"queue.claimWork":               {body: object{"workerGroup": "group", "workerId": "worker", "tasks": 1}, vars: ofWorker},
		"queue.claimTask": {body: claim, vars: scope.Vars{
			"provisionerId": "security", "workerType": "build", "workerGroup": "group", "workerId": "worker",
		}},
		"queue.reportException": {path: map[string]string{"runId": "7"}, body: object{"reason": "internal-error"}},
		"queue.reportCompleted": {path: map[string]string{"runId": "7"}}, "queue.reportFailed": {path: map[string]string{"runId": "7"}},
		"queue.createArtifact":    {path: map[string]string{"name": "private/" + purpose}, body: object{"storageType": "error", "expires": in(time.Hour), "reason": "invalid-resource-on-worker", "message": "none"}},
		"queue.finishArtifact":    {path: map[string]string{"name": "private/none"}, body: object{"uploadId": slugid.New()}},
		"queue.getArtifact":       {vars: names},
		"queue.artifact":          {vars: names},
		"queue.getLatestArtifact": {vars: names}, "queue.latestArtifact": {vars: names},
		"queue.quarantineWorker": {body: object{"quarantineUntil": in(-time.Hour), "quarantineInfo": "none"}},
		"queue.declareWorker":    {body: object{"expires": in(time.Hour)}, vars: scope.Vars{"properties": []string{"expires"}}},

		"worker-manager.createWorkerPool":     {path: pool, body: f.pool, vars: provider},
		"worker-manager.updateWorkerPool":     {body: f.pool, vars: provider},
		"worker-manager.reportWorkerError":    {body: object{"workerGroup": "group", "workerId": "worker", "kind": "trouble", "title": "t", "description": "d", "extra": object{}}, vars: ofWorker},
		"worker-manager.workerPoolErrorStats": {query: "workerPoolId=" + url.QueryEscape(poolID)},
		"worker-manager.createWorker":         {body: f.known()},
		"worker-manager.updateWorker":         {body: f.known()},
		"worker-manager.reregisterWorker": {
			body: object{"workerPoolId": poolID, "workerGroup": "group", "workerId": "worker", "secret": f.renewal},
			vars: scope.Vars{"workerPoolId": poolID, "workerGroup": "group", "workerId": "worker"},
		},
		"provisioner.validateWorkerPool": {body: f.pool, vars: provider},
		"provisioner.previewWorkerPool":  {body: f.pool, vars: provider},

		"hooks.createHook":  {path: map[string]string{"hookId": purpose}, body: f.hook},
		"hooks.updateHook":  {body: f.hook},
		"hooks.triggerHook": {body: object{}},

		"index.findTasksAtIndex": {
			body: object{"indexes": []string{"security.latest", "security.none"}}, vars: scope.Vars{"indexPaths": []string{"security.latest", "security.none"}},
		},
		"index.insertTask":         {path: map[string]string{"namespace": "security.new"}, body: object{"taskId": f.task, "rank": 1, "data": object{}, "expires": in(time.Hour)}},
		"index.deleteTask":         {path: map[string]string{"namespace": "security.latest"}},
		"index.listNamespacesPost": {body: object{}}, "index.listTasksPost": {body: object{}},

		"events.connect": {query: "bindings=" + url.QueryEscape(`{"bindings": [{"exchange": "exchange/taskcluster-queue/v1/task-completed", "routingKeyPattern": "#"}]}`)},

		"secrets.set":            {body: object{"secret": object{"key": f.secret}, "expires": in(time.Hour)}},
		"purge-cache.purgeCache": {body: object{"cacheName": "cache"}, vars: scope.Vars{"cacheName": "cache"}},

		"object.createUpload":  {path: map[string]string{"name": "security/object"}, body: f.uploading(), vars: scope.Vars{"projectId": "project"}},
		"object.finishUpload":  {body: object{"projectId": "project", "uploadId": f.upload, "hashes": object{}}, vars: scope.Vars{"projectId": "project"}},
		"object.startDownload": {body: object{"acceptDownloadMethods": object{"simple": true}}},

		"mirror.wantCopies": {
			body: object{"region": "away", "pinned": true, "copies": []object{{"url": "https://example.com/a"}}}, vars: scope.Vars{"region": "away", "pinned": true},
		},

		"credentials.consumed":         {body: object{}},
		"credentials.supply":           {body: object{"secret": object{"key": f.secret}}},
		"credentials.retire":           {body: object{"id": purpose}},
		"credentials.bootstrap":        {body: object{"spec": object{}}},
		"credentials-audit.beginAudit": {body: object{}},

		"schedules.explainExpression": {query: "expression=%40daily"},

		"notify.email":              {body: object{"address": "nobody@example.com", "subject": "s", "content": "c"}, vars: scope.Vars{"address": "nobody@example.com"}},
		"notify.pulse":              {body: object{"routingKey": "a.b", "message": object{}}, vars: scope.Vars{"routingKey": "a.b"}},
		"notify.matrix":             {body: object{"roomId": "!a:b", "body": "b"}, vars: scope.Vars{"roomId": "!a:b"}},
		"notify.slack":              {body: object{"channelId": "C1", "text": "t"}, vars: scope.Vars{"channelId": "C1"}},
		"notify.addDenylistAddress": {body: address}, "notify.deleteDenylistAddress": {body: address},
	}
}
