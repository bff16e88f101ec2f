// Package sentryfake imitates Sentry for tests: what the platform uses of its management
// API, written from the schema that Sentry publishes, and the endpoint that takes
// envelopes of events. It has state, and faults on request.
//
// A Server is an http.Handler for httptest, and an http.RoundTripper for tests in a
// bubble of testing/synctest, which have no network:
//
//	s := sentryfake.New(sentryfake.Options{})
//	s.AddTeam("platform")
//	p := s.AddProject("platform", "queue")
//	dsn := s.DSN("queue")          // for an SDK, with s as its transport
//	…
//	s.Envelopes("queue")           // what has arrived
package sentryfake

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options say what a Server is like.
type Options struct {
	URL          string // that it is reached by, and that DSNs have; http://sentry.test where it is empty
	Organization string // acme where it is empty
	Token        string // Token where it is empty
	PageSize     int    // of lists; 100 where it is 0
	Skew         time.Duration
	NoLimits     bool // as of a plan in which keys have none: they are passed over in silence
}

// Token is the token of a Server for which none was given.
const Token = "sntryu_token-of-the-fake-for-tests-0123456789"

// A Server is an imitation of Sentry.
type Server struct {
	o Options

	mu        sync.Mutex
	next      int64
	teams     []*team
	projects  []*project
	alerts    []*alert
	faults    []*Fault
	calls     []Call
	envelopes []Envelope
}

type team struct{ id, slug string }

type project struct {
	id                   int64
	slug, name, platform string
	teams                []*team
	keys                 []*key
	created              time.Time
	first                time.Time // event
}

type key struct {
	id, secret, name string
	active           bool
	count, window    int
	created          time.Time
	used             map[int64]int64 // events by hour
}

type alert struct {
	id, name  string
	enabled   bool
	project   int64
	monitors  []string
	frequency int
}

// A Call is a call of the management API.
type Call struct {
	At           time.Time
	Method, Path string // with the query
	Status       int    // 0: it was cut, or given up
}

// An Envelope is what was sent to a project.
type Envelope struct {
	At      time.Time
	Project string
	Key     string // public
	Header  map[string]any
	Items   []Item
}

// An Item is a part of an Envelope: an event, a client_report and so on.
type Item struct {
	Type    string
	Header  map[string]any
	Payload []byte
}

// A Fault is how some calls go wrong.
type Fault struct {
	Method string // "" is any
	Path   string // that the call's path contains; "" is any, envelopes too
	Times  int    // how often it happens; 0 is until it is lifted

	Status     int // 0: the call goes well
	RetryAfter string
	After      bool          // the call is carried out nevertheless
	Delay      time.Duration // before the answer
	Cut        bool          // the connection ends instead of an answer
	Body       string        // instead of one that tells the status
}

// New makes a Server without teams and projects.
func New(o Options) *Server {
	o.URL, o.Organization, o.Token = strings.TrimSuffix(cmp.Or(o.URL, "http://sentry.test"), "/"), cmp.Or(o.Organization, "acme"), cmp.Or(o.Token, Token)
	o.PageSize = cmp.Or(o.PageSize, 100)
	return &Server{o: o, next: 4500}
}

// SetURL changes what the Server is reached by, once a test knows it.
func (s *Server) SetURL(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o.URL = strings.TrimSuffix(url, "/")
}

// URL is what the Server is reached by.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.o.URL
}

// Organization is the slug of the one organization there is.
func (s *Server) Organization() string { return s.o.Organization }

// Token is what is accepted.
func (s *Server) Token() string { return s.o.Token }

// Fail has calls go wrong from now on. What is returned lifts that.
func (s *Server) Fail(f Fault) (lift func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Times == 0 {
		f.Times = -1
	}
	s.faults = append(s.faults, &f)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(x *Fault) bool { return x == &f })
	}
}

// fault takes the fault that a call meets, if there is one.
func (s *Server) fault(method, path string) *Fault {
	for _, f := range s.faults {
		if f.Times != 0 && (f.Method == "" || f.Method == method) && strings.Contains(path, f.Path) {
			f.Times--
			return f
		}
	}
	return nil
}

// RoundTrip has the Server answer without a network.
func (s *Server) RoundTrip(r *http.Request) (answer *http.Response, err error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	defer in.Body.Close()
	in.RequestURI = in.URL.RequestURI()
	defer func() {
		if e := recover(); e == http.ErrAbortHandler {
			answer, err = nil, fmt.Errorf("the connection was cut")
		} else if e != nil {
			panic(e)
		}
	}()
	s.ServeHTTP(w, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// AddTeam makes a team.
func (s *Server) AddTeam(slug string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addTeam(slug)
}

func (s *Server) addTeam(slug string) *team {
	t := &team{s.id(), slug}
	s.teams = append(s.teams, t)
	return t
}

// AddProject makes a project with the key that Sentry gives to new ones. The team is
// made if there is none.
func (s *Server) AddProject(team, slug string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.team(team)
	if t == nil {
		t = s.addTeam(team)
	}
	s.addProject(t, slug, slug, "", false)
}

func (s *Server) addProject(t *team, slug, name, platform string, alerts bool) *project {
	id, _ := strconv.ParseInt(s.id(), 10, 64)
	p := &project{id: id, slug: slug, name: name, platform: platform, teams: []*team{t}, created: s.now()}
	s.projects = append(s.projects, p)
	s.addKey(p, "Default")
	if alerts {
		s.alerts = append(s.alerts, &alert{id: s.id(), name: "Send a notification for high priority issues", enabled: true, project: p.id,
			monitors: []string{strconv.FormatInt(p.id*10+1, 10)}, frequency: 30})
	}
	return p
}

// AddKey makes a key of a project, and returns its id.
func (s *Server) AddKey(project, name string) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addKey(s.project(project), name).id
}

func (s *Server) addKey(p *project, name string) *key {
	k := &key{id: random(), secret: random(), name: name, active: true, created: s.now(), used: map[int64]int64{}}
	p.keys = append(p.keys, k)
	return k
}

// Forget removes the keys of a project whose name contains a text, without a call.
func (s *Server) Forget(project, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.project(project)
	p.keys = slices.DeleteFunc(p.keys, func(k *key) bool { return strings.Contains(k.name, name) })
}

// A Key is a key of a project, as it is.
type Key struct {
	ID, Name      string
	Active        bool
	Count, Window int // limit
	DSN           string
}

// Keys are the keys of a project, in the order of their making.
func (s *Server) Keys(project string) (list []Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.project(project)
	if p == nil {
		return nil
	}
	for _, k := range p.keys {
		list = append(list, Key{k.id, k.name, k.active, k.count, k.window, s.dsn(p, k, false)})
	}
	return list
}

// DSN is the address of a project with the newest key that is active.
func (s *Server) DSN(project string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.project(project)
	for _, k := range slices.Backward(p.keys) {
		if k.active {
			return s.dsn(p, k, false)
		}
	}
	return ""
}

// Projects are the slugs of all projects.
func (s *Server) Projects() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.projects {
		list = append(list, p.slug)
	}
	return list
}

// Project tells the platform and the teams of a project.
func (s *Server) Project(slug string) (platform string, teams []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.project(slug)
	for _, t := range p.teams {
		teams = append(teams, t.slug)
	}
	return p.platform, teams
}

// Teams are the slugs of all teams.
func (s *Server) Teams() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.teams {
		list = append(list, t.slug)
	}
	return list
}

// Alerts are the names of the alerts of a project.
func (s *Server) Alerts(project string) (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.project(project)
	for _, a := range s.alerts {
		if a.project == p.id {
			list = append(list, a.name)
		}
	}
	return list
}

// Calls are the calls of the management API so far.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Envelopes are what was sent to a project, with keys that are taken.
func (s *Server) Envelopes(project string) (list []Envelope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.envelopes {
		if e.Project == project {
			list = append(list, e)
		}
	}
	return list
}

func (s *Server) now() time.Time { return time.Now().Add(s.o.Skew).UTC() }

func (s *Server) id() string {
	s.next++
	return strconv.FormatInt(s.next, 10)
}

func random() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func (s *Server) team(slug string) *team {
	for _, t := range s.teams {
		if t.slug == slug || t.id == slug {
			return t
		}
	}
	return nil
}

func (s *Server) project(slug string) *project {
	for _, p := range s.projects {
		if p.slug == slug || strconv.FormatInt(p.id, 10) == slug {
			return p
		}
	}
	return nil
}

func (p *project) key(id string) *key {
	for _, k := range p.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}

func (s *Server) dsn(p *project, k *key, secret bool) string {
	scheme, host, _ := strings.Cut(s.o.URL, "://")
	user := k.id
	if secret {
		user += ":" + k.secret
	}
	return fmt.Sprintf("%s://%s@%s/%d", scheme, user, host, p.id)
}
