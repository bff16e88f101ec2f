package rabbitmq

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A broker is what the management API shows of one, in memory. It is what the API's
// documentation says: https://www.rabbitmq.com/docs/http-api-reference.
type broker struct {
	mux *http.ServeMux

	mu          sync.Mutex
	users       map[string]*account
	hosts       []string
	connections []string // the users that have them
	requests    []string
	oldest      bool // knows no pages, and tags as a text

	// fault is asked before a request is carried out: a status other than 0 is answered
	// instead, or, with after, when it was done.
	fault func(n int, r *http.Request) (status int, after bool)
	slow  time.Duration // each request takes
}

type account struct {
	hash        string
	tags        []string
	permissions map[string]Permission
	topics      map[string]map[string]Permission // by virtual host and exchange
	limits      map[string]int
}

const rotatorPassword = "rotator-password"

func newBroker(hosts ...string) *broker {
	b := &broker{mux: http.NewServeMux(), users: map[string]*account{}, hosts: append([]string{"/"}, hosts...)}
	b.users["rotator"] = &account{hash: hashed(rotatorPassword), tags: []string{"administrator"}}
	for pattern, f := range map[string]func(r *http.Request) (int, any){
		"GET /api/whoami":                             b.whoami,
		"GET /api/users":                              b.listUsers,
		"GET /api/users/{user}":                       b.showUser,
		"PUT /api/users/{user}":                       b.putUser,
		"DELETE /api/users/{user}":                    b.deleteUser,
		"GET /api/users/{user}/permissions":           b.listPermissions,
		"GET /api/users/{user}/topic-permissions":     b.listTopics,
		"PUT /api/permissions/{host}/{user}":          b.putPermission,
		"DELETE /api/permissions/{host}/{user}":       b.deletePermission,
		"PUT /api/topic-permissions/{host}/{user}":    b.putTopic,
		"DELETE /api/topic-permissions/{host}/{user}": b.deleteTopics,
		"PUT /api/user-limits/{user}/{limit}":         b.putLimit,
		"GET /api/connections/username/{user}":        b.listConnections,
		"DELETE /api/connections/username/{user}":     b.closeConnections,
	} {
		b.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			status, out := f(r)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			if out != nil {
				json.NewEncoder(w).Encode(out)
			}
		})
	}
	return b
}

// RoundTrip has the broker answer.
func (b *broker) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	b.requests = append(b.requests, r.Method+" "+r.URL.EscapedPath())
	n, slow, fault := len(b.requests), b.slow, b.fault
	b.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	status, after := 0, false
	if fault != nil {
		status, after = fault(n, r)
	}
	w := httptest.NewRecorder()
	if status == 0 || after {
		b.serve(w, r)
	}
	if status != 0 {
		w = httptest.NewRecorder()
		if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "2")
		}
		// As a proxy that is too helpful: it repeats what it was sent.
		var sent bytes.Buffer
		if r.GetBody != nil {
			if body, err := r.GetBody(); err == nil {
				sent.ReadFrom(body)
			}
		}
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]string{"error": "failed", "reason": sent.String() + r.Header.Get("Authorization")})
	}
	return w.Result(), nil
}

func (b *broker) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name, password, _ := r.BasicAuth()
	u := b.users[name]
	if u == nil || !u.is(password) || !slices.ContainsFunc(u.tags, func(t string) bool { return slices.Contains(managing, t) }) {
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(map[string]string{"error": "not_authorized", "reason": "Login failed"})
		return
	}
	if r.URL.Path != "/api/whoami" && !slices.Contains(u.tags, "administrator") {
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(map[string]string{"error": "not_authorised", "reason": "Not administrator user"})
		return
	}
	if at, err := url.Parse(strings.ReplaceAll(r.URL.String(), "/%2F/", "/"+slash+"/")); err == nil {
		r = r.Clone(r.Context())
		r.URL = at
	}
	b.mux.ServeHTTP(w, r)
}

// slash stands for the virtual host /, as a ServeMux takes such a segment for the end of
// a path.
const slash = "the-host-that-is-a-slash"

func hostOf(r *http.Request) string {
	if host := r.PathValue("host"); host != slash {
		return host
	}
	return "/"
}

// is tells whether a password is that of the account.
func (a *account) is(password string) bool {
	raw, err := base64.StdEncoding.DecodeString(a.hash)
	if err != nil || len(raw) != 4+sha256.Size {
		return false
	}
	sum := sha256.Sum256(append(bytes.Clone(raw[:4]), password...))
	return bytes.Equal(sum[:], raw[4:])
}

// logIn is what AMQP would be asked for.
func (b *broker) logIn(_ context.Context, at string) error {
	u, err := url.Parse(at)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.users[u.User.Username()]
	password, _ := u.User.Password()
	if a == nil || !a.is(password) {
		return errors.New("ACCESS_REFUSED")
	}
	host, err := url.PathUnescape(strings.TrimPrefix(u.EscapedPath(), "/"))
	if _, ok := a.permissions[host]; !ok || err != nil {
		return fmt.Errorf("access to the vhost %q is refused", host)
	}
	return nil
}

func missing() (int, any) {
	return 404, map[string]string{"error": "Object Not Found", "reason": "Not Found"}
}

func bad(reason string) (int, any) {
	return 400, map[string]string{"error": "bad_request", "reason": reason}
}

// paged is a page of a list, if pages were asked for and are known.
func (b *broker) paged(r *http.Request, list []map[string]any) (int, any) {
	q := r.URL.Query()
	if b.oldest || q.Get("page") == "" {
		return 200, list
	}
	page, _ := strconv.Atoi(q.Get("page"))
	size, _ := strconv.Atoi(q.Get("page_size"))
	count := max((len(list)+size-1)/max(size, 1), 1)
	if page < 1 || size < 1 || page > count {
		return bad("page_out_of_range")
	}
	part := list[(page-1)*size : min(page*size, len(list))]
	return 200, map[string]any{"items": part, "page": page, "page_count": count, "page_size": size, "item_count": len(part), "total_count": len(list), "filtered_count": len(list)}
}

func (b *broker) shown(name string) map[string]any {
	if b.oldest {
		return map[string]any{"name": name, "tags": strings.Join(b.users[name].tags, ",")}
	}
	return map[string]any{"name": name, "tags": append([]string{}, b.users[name].tags...), "hashing_algorithm": hashing, "limits": map[string]int{}}
}

func (b *broker) whoami(r *http.Request) (int, any) {
	name, _, _ := r.BasicAuth()
	return 200, b.shown(name)
}

func (b *broker) listUsers(r *http.Request) (int, any) {
	list := []map[string]any{}
	for name := range b.users {
		list = append(list, b.shown(name))
	}
	slices.SortFunc(list, func(x, y map[string]any) int { return strings.Compare(x["name"].(string), y["name"].(string)) })
	return b.paged(r, list)
}

func (b *broker) showUser(r *http.Request) (int, any) {
	if b.users[r.PathValue("user")] == nil {
		return missing()
	}
	return 200, b.shown(r.PathValue("user"))
}

func (b *broker) putUser(r *http.Request) (int, any) {
	var in struct {
		PasswordHash *string `json:"password_hash"`
		Algorithm    string  `json:"hashing_algorithm"`
		Tags         *string `json:"tags"`
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil || in.PasswordHash == nil || in.Tags == nil || in.Algorithm != hashing {
		return bad("what a user needs is not there")
	}
	name, status := r.PathValue("user"), 204
	if b.users[name] == nil {
		b.users[name], status = &account{permissions: map[string]Permission{}, topics: map[string]map[string]Permission{}, limits: map[string]int{}}, 201
	}
	b.users[name].hash = *in.PasswordHash
	b.users[name].tags = strings.FieldsFunc(*in.Tags, func(r rune) bool { return r == ',' })
	return status, nil
}

func (b *broker) deleteUser(r *http.Request) (int, any) {
	if b.users[r.PathValue("user")] == nil {
		return missing()
	}
	delete(b.users, r.PathValue("user"))
	b.closeConnections(r)
	return 204, nil
}

// of is the user that a path names, if its virtual host is there as well.
func (b *broker) of(r *http.Request) *account {
	if host := hostOf(r); host != "" && !slices.Contains(b.hosts, host) {
		return nil
	}
	return b.users[r.PathValue("user")]
}

func (b *broker) listPermissions(r *http.Request) (int, any) {
	list := []map[string]any{}
	a := b.of(r)
	if a == nil {
		return missing()
	}
	for host, p := range a.permissions {
		list = append(list, map[string]any{"user": r.PathValue("user"), "vhost": host, "configure": p.Configure, "write": p.Write, "read": p.Read})
	}
	return 200, list
}

func (b *broker) listTopics(r *http.Request) (int, any) {
	list := []map[string]any{}
	a := b.of(r)
	if a == nil {
		return missing()
	}
	for host, topics := range a.topics {
		for exchange, p := range topics {
			list = append(list, map[string]any{"user": r.PathValue("user"), "vhost": host, "exchange": exchange, "write": p.Write, "read": p.Read})
		}
	}
	return 200, list
}

func (b *broker) putPermission(r *http.Request) (int, any) {
	a := b.of(r)
	var p map[string]string
	if a == nil {
		return missing()
	}
	if json.NewDecoder(r.Body).Decode(&p) != nil || len(p) != 3 {
		return bad("configure, write and read are mandatory")
	}
	a.permissions[hostOf(r)] = Permission{p["configure"], p["write"], p["read"]}
	return 201, nil
}

func (b *broker) deletePermission(r *http.Request) (int, any) {
	a := b.of(r)
	if a == nil {
		return missing()
	}
	delete(a.permissions, hostOf(r))
	return 204, nil
}

func (b *broker) putTopic(r *http.Request) (int, any) {
	a := b.of(r)
	var p map[string]string
	if a == nil {
		return missing()
	}
	if json.NewDecoder(r.Body).Decode(&p) != nil || p["exchange"] == "" {
		return bad("exchange, write and read are mandatory")
	}
	if a.topics[hostOf(r)] == nil {
		a.topics[hostOf(r)] = map[string]Permission{}
	}
	a.topics[hostOf(r)][p["exchange"]] = Permission{"", p["write"], p["read"]}
	return 201, nil
}

func (b *broker) deleteTopics(r *http.Request) (int, any) {
	a := b.of(r)
	if a == nil {
		return missing()
	}
	delete(a.topics, hostOf(r))
	return 204, nil
}

func (b *broker) putLimit(r *http.Request) (int, any) {
	var in struct{ Value int }
	if r.Header.Get("Accept") == "application/json" { // as brokers do
		return 406, nil
	}
	if b.of(r) == nil {
		return missing()
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil {
		return bad("value is mandatory")
	}
	b.of(r).limits[r.PathValue("limit")] = in.Value
	return 204, nil
}

func (b *broker) listConnections(r *http.Request) (int, any) {
	list := []map[string]any{}
	for i, u := range b.connections {
		if u == r.PathValue("user") {
			list = append(list, map[string]any{"user": u, "name": fmt.Sprint(i)})
		}
	}
	return b.paged(r, list)
}

func (b *broker) closeConnections(r *http.Request) (int, any) {
	b.connections = slices.DeleteFunc(b.connections, func(u string) bool { return u == r.PathValue("user") })
	return 204, nil
}
