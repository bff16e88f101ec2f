// Package imdstest imitates the instance metadata service of EC2, version 2,
// for one instance.
//
// It speaks what programs on an instance ask for: who the instance is, its
// user data, its identity document with the signatures, and notices of what is
// to become of it. Document and signatures are the caller's, so that they can be
// really signed by a key that a test trusts. As on an instance that requires
// version 2, a request without a session token is refused with 401, and what
// there is nothing of is 404. Requests that came through a proxy get no token.
//
// A Server needs no *testing.T, as it may belong to one of the many instances of
// an imitation of EC2.
package imdstest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An Instance is what the service tells. What is "" is not there: 404.
type Instance struct {
	ID               string // i-...
	Type             string // m7g.large
	ImageID          string // ami-...
	Region           string
	AvailabilityZone string
	PrivateIP        string
	PrivateHostname  string
	PublicIP         string
	PublicHostname   string
	LifeCycle        string // on-demand or spot
	UserData         string

	// The identity: the document, byte for byte, and its signatures as the
	// service gives them, which is in base64.
	Document, Signature, RSA2048, PKCS7 string
}

// A Server is the metadata service of one instance. It is safe for concurrent
// use.
type Server struct {
	http *http.Server
	url  string

	mu       sync.Mutex
	now      func() time.Time
	instance Instance
	off      bool
	tokens   map[string]time.Time // and when they expire
	notices  map[string]string    // by path
	events   []event
	asked    map[string]int // by path
}

type event struct {
	NotBefore   string
	Code        string
	Description string
	EventID     string `json:"EventId"`
	NotAfter    string
	State       string
}

// New returns a Server that does not listen: it is an http.Handler. now is for
// the life of session tokens and what notices say about when they were given;
// nil means time.Now.
func New(i Instance, now func() time.Time) *Server {
	if now == nil {
		now = time.Now
	}
	return &Server{now: now, instance: i, tokens: map[string]time.Time{}, notices: map[string]string{}, asked: map[string]int{}}
}

// Start returns a Server that listens on the loopback interface until Close.
func Start(i Instance) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("imdstest: %w", err)
	}
	s := New(i, nil)
	s.url = "http://" + listener.Addr().String()
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go s.http.Serve(listener) // until Close
	return s, nil
}

// URL is where a Server that Start has returned listens, for
// AWS_EC2_METADATA_SERVICE_ENDPOINT.
func (s *Server) URL() string { return s.url }

// Environment is what a process needs in its environment to ask this server.
func (s *Server) Environment() []string {
	return []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + s.url}
}

// Close ends a Server that Start has returned.
func (s *Server) Close() error { return s.http.Close() }

// Enable turns the service off, so that it answers 403 to everything, or on
// again. It is on at first.
func (s *Server) Enable(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = !on
}

// Update changes what the service tells.
func (s *Server) Update(change func(*Instance)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.instance)
}

// Interrupt gives notice that the instance is terminated at that time, as a
// spot instance gets it two minutes before.
func (s *Server) Interrupt(at time.Time) { s.InterruptWith("terminate", at) }

// InterruptWith is Interrupt for any action: terminate, stop or hibernate.
func (s *Server) InterruptWith(action string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notices["spot/instance-action"] = fmt.Sprintf(`{"action": %q, "time": %q}`, action, stamp(at))
	if action == "terminate" {
		s.notices["spot/termination-time"] = stamp(at)
	}
}

// Recommend gives the recommendation, as of now, to replace the instance.
func (s *Server) Recommend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notices["events/recommendations/rebalance"] = fmt.Sprintf(`{"noticeTime": %q}`, stamp(s.now()))
}

// Schedule announces maintenance, such as system-reboot or
// instance-retirement, for the time between two times.
func (s *Server) Schedule(code string, notBefore, notAfter time.Time) {
	const format = "2 Jan 2006 15:04:05 GMT"
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, event{
		NotBefore: notBefore.UTC().Format(format), NotAfter: notAfter.UTC().Format(format), Code: code,
		Description: "scheduled " + code, EventID: fmt.Sprintf("instance-event-%017x", len(s.events)+1), State: "active",
	})
}

// Complete marks all scheduled maintenance as over.
func (s *Server) Complete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.events {
		s.events[i].State = "completed"
		s.events[i].Description = "[Completed] " + s.events[i].Description
	}
}

// Asked counts the requests for a path below /latest/, such as
// meta-data/spot/instance-action, that were not refused; it may be that nothing
// is there.
func (s *Server) Asked(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

const (
	tokenHeader = "X-Aws-Ec2-Metadata-Token"
	lifeHeader  = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	longestLife = 21600 // seconds
)

// ServeHTTP answers a request to the service.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Server", "EC2ws")
	w.Header().Set("Content-Type", "text/plain")
	if s.off {
		http.Error(w, "Forbidden", http.StatusForbidden)
		return
	}
	if r.URL.Path == "/latest/api/token" {
		s.giveToken(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	if end, found := s.tokens[r.Header.Get(tokenHeader)]; !found || s.now().After(end) {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	path, found := strings.CutPrefix(r.URL.Path, "/latest/")
	s.asked[path]++
	content := s.content(path)
	if !found || content == "" {
		http.Error(w, "Not Found", http.StatusNotFound)
		return
	}
	fmt.Fprint(w, content)
}

func (s *Server) giveToken(w http.ResponseWriter, r *http.Request) {
	life, err := strconv.Atoi(r.Header.Get(lifeHeader))
	switch {
	case r.Method != http.MethodPut:
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	case r.Header.Get("X-Forwarded-For") != "":
		http.Error(w, "Forbidden", http.StatusForbidden)
	case err != nil || life < 1 || life > longestLife:
		http.Error(w, "Bad Request", http.StatusBadRequest)
	default:
		token := rand.Text()
		s.tokens[token] = s.now().Add(time.Duration(life) * time.Second)
		w.Header().Set(lifeHeader, strconv.Itoa(life))
		fmt.Fprint(w, token)
	}
}

// content is what is at a path below /latest/, a listing if the path is one of a
// category.
func (s *Server) content(path string) string {
	leaves := s.leaves()
	if leaf := leaves[path]; leaf != "" {
		return leaf
	}
	below := map[string]bool{}
	for name, leaf := range leaves {
		if rest, found := strings.CutPrefix(name, strings.TrimSuffix(path, "/")+"/"); found && leaf != "" {
			first, _, more := strings.Cut(rest, "/")
			if more {
				first += "/"
			}
			below[first] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(below)), "\n")
}

func (s *Server) leaves() map[string]string {
	i := s.instance
	leaves := map[string]string{
		"user-data": i.UserData,

		"meta-data/ami-id":                       i.ImageID,
		"meta-data/hostname":                     i.PrivateHostname,
		"meta-data/instance-id":                  i.ID,
		"meta-data/instance-life-cycle":          i.LifeCycle,
		"meta-data/instance-type":                i.Type,
		"meta-data/local-hostname":               i.PrivateHostname,
		"meta-data/local-ipv4":                   i.PrivateIP,
		"meta-data/placement/availability-zone":  i.AvailabilityZone,
		"meta-data/placement/region":             i.Region,
		"meta-data/public-hostname":              i.PublicHostname,
		"meta-data/public-ipv4":                  i.PublicIP,
		"meta-data/events/maintenance/scheduled": "[]",
		"meta-data/events/maintenance/history":   "[]",
		"meta-data/services/domain":              "amazonaws.com",
		"meta-data/services/partition":           "aws",
		"dynamic/instance-identity/document":     i.Document,
		"dynamic/instance-identity/signature":    i.Signature,
		"dynamic/instance-identity/rsa2048":      i.RSA2048,
		"dynamic/instance-identity/pkcs7":        i.PKCS7,
	}
	if len(s.events) > 0 {
		list, err := json.Marshal(s.events)
		if err != nil {
			panic(err) // they are strings
		}
		leaves["meta-data/events/maintenance/scheduled"] = string(list)
	}
	for path, text := range s.notices {
		leaves["meta-data/"+path] = text
	}
	return leaves
}
