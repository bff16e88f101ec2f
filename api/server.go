package api

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// MaxBody is the largest request body, in bytes.
const MaxBody = 10 << 20

// transferTimeout bounds how long a client may take to send a body, and how
// long to take the reply.
const transferTimeout = 2 * time.Minute

// Options are what a Server needs.
type Options struct {
	RootURL string // "https://tasks.example.com", without a slash at the end
	Auth    Authenticator
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Version Version

	// CheckOutput validates every reply against its schema and turns a
	// mismatch into a 500. It is on in tests.
	CheckOutput bool

	// Other serves paths that no service owns; nil answers 404.
	Other http.Handler
}

// A Version tells which build is running, under __version__.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Source  string `json:"source"`
	Build   string `json:"build"`
}

// A Server serves the methods of the services mounted on it, their references
// and their schemas.
type Server struct {
	opts     Options
	started  time.Time
	services map[string]*mounted // by "queue/v1"
	handler  http.Handler

	published func() (map[string]any, error) // made once, when all is mounted

	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
}

type mounted struct {
	router
	reference map[string]any
	exchanges map[string]any // nil where the service publishes nothing
	schemas   *schemas
}

type endpoint struct {
	Spec
	service     string
	route       route
	patterns    map[string]*regexp.Regexp // of all the service's parameters
	scopeParams []string                  // of the scope expression
	input       *schema
	output      *schema
	latency     func() prometheus.Observer // which begins to exist with the first call
	invoke      func(context.Context, *http.Request, *request) (any, error)
}

// NewServer returns a Server without services.
func NewServer(o Options) *Server {
	s := &Server{
		opts: o, started: time.Now(), services: map[string]*mounted{},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "taskfleet_api_requests_total", Help: "API calls by service, method and HTTP status.",
		}, []string{"service", "method", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "taskfleet_api_seconds", Help: "Time from the first byte of a call to the last of its reply. claimWork waits for work by design.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"service", "method"}),
	}
	o.Metrics.MustRegister(s.requests, s.latency)
	s.published = sync.OnceValues(func() (map[string]any, error) { return s.Published(o.RootURL) })
	s.handler = http.HandlerFunc(s.serve)
	return s
}

// Mount adds a service. It fails where a declaration names a schema, a
// parameter or a route that does not fit.
func Mount[S any](s *Server, v Service[S], impl S) error {
	sch, err := loadSchemas(v.Name, v.Version, v.Schemas)
	if err != nil {
		return err
	}
	patterns, err := compileParams(v.Params)
	if err != nil {
		return fmt.Errorf("service %s: %w", v.Name, err)
	}
	m := &mounted{router{map[string][]*endpoint{}, patterns}, v.Reference(), v.exchangesReference(), sch}
	for _, x := range v.Exchanges {
		if _, err := sch.find(x.Schema); err != nil {
			return fmt.Errorf("%s.%s: %w", v.Name, x.Name, err)
		}
	}
	names := map[string]bool{}
	for _, d := range slices.Concat(v.Methods, standardMethods[S](s)) {
		e := &endpoint{Spec: d.Spec, service: v.Name, route: d.route, patterns: patterns}
		e.latency = sync.OnceValue(func() prometheus.Observer { return s.latency.WithLabelValues(v.Name, d.Name) })
		if d.Scopes != nil {
			e.scopeParams = d.Scopes.Params()
		}
		if names[d.Name] {
			return fmt.Errorf("%s.%s is declared twice", v.Name, d.Name)
		}
		names[d.Name] = true
		for _, q := range d.Query {
			if patterns[q] == nil {
				return fmt.Errorf("%s.%s: no pattern for query parameter %s", v.Name, d.Name, q)
			}
		}
		if e.input, err = sch.find(d.Input); err != nil {
			return fmt.Errorf("%s.%s: %w", v.Name, d.Name, err)
		}
		if e.output, err = sch.find(d.Output); err != nil {
			return fmt.Errorf("%s.%s: %w", v.Name, d.Name, err)
		}
		e.invoke = func(ctx context.Context, r *http.Request, q *request) (any, error) {
			return d.invoke(ctx, impl, r, q)
		}
		m.add(e)
	}
	s.services[v.Name+"/"+v.Version] = m
	return nil
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// commonHeaders are in canonical form, and shared by all replies: each value has
// no room to append to.
var commonHeaders = http.Header{
	"X-Content-Type-Options":       {"nosniff"},
	"Content-Security-Policy":      {"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"},
	"Cache-Control":                {"no-store, no-cache, must-revalidate"},
	"Access-Control-Allow-Origin":  {"*"},
	"Access-Control-Max-Age":       {"900"},
	"Access-Control-Allow-Methods": {"OPTIONS,GET,HEAD,POST,PUT,DELETE,TRACE,CONNECT"},
	"Access-Control-Allow-Headers": {"X-Requested-With,Content-Type,Authorization,Accept,Origin,Cache-Control"},
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	log := s.begin(w, r)
	path := r.URL.EscapedPath()
	rest, isAPI := strings.CutPrefix(path, "/api/")
	switch {
	case isAPI:
		s.serveAPI(w, r, rest, log)
	case path == "/__heartbeat__" || path == "/__lbheartbeat__":
		writeJSON(w, r, http.StatusOK, struct{}{})
	case path == "/__version__":
		writeJSON(w, r, http.StatusOK, s.opts.Version)
	case strings.HasPrefix(path, "/references/") || strings.HasPrefix(path, "/schemas/"):
		s.servePublished(w, r, path)
	case s.opts.Other != nil:
		s.opts.Other.ServeHTTP(w, r)
	default:
		notFound(w, r)
	}
}

// begin sets what all replies have in common, and returns the log of this
// request.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) (log func() *slog.Logger) {
	h := w.Header()
	trace := r.Header.Get("X-Taskcluster-Trace-Id")
	if trace == "" || len(trace) > 200 {
		trace = uuid.NewString()
	}
	id := uuid.NewString()
	h.Set("X-For-Trace-Id", trace)
	h.Set("X-For-Request-Id", id)
	maps.Copy(h, commonHeaders)
	limitWriting(w)
	return func() *slog.Logger { return s.opts.Log.With("trace", trace, "request", id) }
}

// limitWriting has the connection broken if the client does not take what is
// written from now on. A recorder in tests has no deadline to set.
func limitWriting(w http.ResponseWriter) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(transferTimeout))
}

func setAll(h http.Header, values map[string]string) {
	for k, v := range values {
		h.Set(k, v)
	}
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, r, http.StatusNotFound, map[string]string{"error": "Not found"})
}

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request, rest string, log func() *slog.Logger) {
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return
	}
	x := s.find(r.Method, rest)
	if x == nil {
		notFound(w, r)
		return
	}
	x.log, x.start = log, time.Now()
	s.count(x, s.call(w, r, x))
}

// An exchange is a request to a method and what is needed to answer it. It is on
// the heap, since calls that wait for work are many, and their stacks stay.
type exchange struct {
	*endpoint
	vars  map[string]string // URL parameters
	fits  bool              // these their patterns
	log   func() *slog.Logger
	start time.Time
}

// find finds the method for a path below /api/, nil if there is none.
func (s *Server) find(verb, path string) *exchange {
	service, rest, _ := strings.Cut(path, "/")
	version, rest, _ := strings.Cut(rest, "/")
	m := s.services[service+"/"+version]
	if m == nil {
		return nil
	}
	e, vars, fits := m.find(verb, "/"+rest)
	if e == nil {
		return nil
	}
	return &exchange{endpoint: e, vars: vars, fits: fits}
}

func (s *Server) count(x *exchange, status int) {
	x.latency().Observe(time.Since(x.start).Seconds())
	s.requests.WithLabelValues(x.service, x.Name, strconv.Itoa(status)).Inc()
}

// call runs one method and writes its reply, returning the HTTP status.
func (s *Server) call(w http.ResponseWriter, r *http.Request, x *exchange) int {
	q := &request{path: x.vars, who: &caller{}}
	out, err := s.run(w, r, x, q)
	return s.answer(w, r, x, q, out, err)
}
