package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/gzhttp"
	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/taskfleet/taskfleet/scope"
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
	input       *jsonschema.Schema
	output      *jsonschema.Schema
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

// A Reply is a result that has an HTTP status and headers of its own.
type Reply interface {
	Status() int
	Header() map[string]string
}

// NoContent is the result of a method that has nothing to say, which clients of
// the platform that we are compatible with expect as an empty 204. Others answer
// None, an empty object.
type NoContent struct{}

// Status is 204.
func (NoContent) Status() int { return http.StatusNoContent }

// Header is empty.
func (NoContent) Header() map[string]string { return nil }

// A Stream is a result that writes itself, for replies without an end and those
// of another form than the method's schema.
type Stream func(http.ResponseWriter, *http.Request) error

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

// answer writes the reply of a call, and takes back what was handed out if it
// cannot be delivered.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, x *exchange, q *request, out any, err error) int {
	if err == nil && s.opts.CheckOutput {
		err = x.checkOutput(out)
	}
	if err == nil && len(q.who.undo) > 0 {
		err = r.Context().Err() // nobody waits for what was handed out
	}
	limitWriting(w) // anew, as the handler may have waited
	if err != nil {
		q.who.undoAll()
		return s.refuse(w, r, x, q, err)
	}
	status := http.StatusOK
	switch out := out.(type) {
	case Stream:
		if err := out(w, r); err != nil {
			x.log().Debug("stream ended", "method", x.Name, "err", err)
		}
		return status
	case None:
		err = writeJSON(w, r, status, struct{}{})
	case Reply:
		status = out.Status()
		setAll(w.Header(), out.Header())
		err = writeReply(w, r, status, out, !x.Private)
	default:
		err = writeReply(w, r, status, out, !x.Private)
	}
	if len(q.who.undo) > 0 {
		// Flushing makes the kernel tell us about a connection that is gone. That the
		// context has ended by now tells nothing: the server is being stopped, or the
		// caller has read the reply and closed, and both have it.
		if err == nil {
			err = http.NewResponseController(w).Flush()
		}
		if err != nil && !errors.Is(err, http.ErrNotSupported) {
			q.who.undoAll()
		}
	}
	return status
}

func (c *caller) undoAll() {
	for _, f := range c.undo {
		f()
	}
	c.undo = nil
}

// refuse answers a call that failed with err, returning the HTTP status.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, x *exchange, q *request, err error) int {
	a, ok := errors.AsType[*Error](err)
	switch {
	case ok:
	case r.Context().Err() != nil:
		// The caller has gone, or the server is being stopped. Saying
		// nothing would be an empty 200.
		x.log().Debug("call broken off", "service", x.service, "method", x.Name, "err", err)
		a = Errorf(ServiceUnavailable, "The call was broken off, as the server is being stopped. Call again.")
	default:
		incident := uuid.NewString()
		x.log().Error("internal error", "incidentId", incident, "service", x.service, "method", x.Name, "err", err)
		a = Errorf(InternalServerError, "Internal server error, incident id %s. The details are in the server's log under this id.", incident)
	}
	if x.Private {
		q.payload = nil
	}
	vars := x.vars
	if len(x.Hidden) > 0 {
		vars = maps.Clone(vars)
		maps.DeleteFunc(vars, func(name, _ string) bool { return slices.Contains(x.Hidden, name) })
	}
	if a.Code == AuthenticationFailed {
		w.Header().Set("WWW-Authenticate", "Hawk")
	}
	writeJSON(w, r, a.Status(), newErrorBody(a, x.Name, vars, q.payload))
	return a.Status()
}

// run checks a request and calls the handler.
func (s *Server) run(w http.ResponseWriter, r *http.Request, x *exchange, q *request) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := s.check(w, r, x, q); err != nil {
		return nil, err
	}
	return x.invoke(r.Context(), r, q)
}

// check makes the checks in their order.
func (s *Server) check(w http.ResponseWriter, r *http.Request, x *exchange, q *request) error {
	raw, doc, err := readBody(w, r)
	if err != nil {
		return err
	}
	q.payload = doc
	if q.who, err = s.authenticate(r, x.endpoint, q.path, raw); err != nil {
		return err
	}
	if !x.fits {
		return x.misfit(q.path)
	}
	if q.query, err = x.parseQuery(r); err != nil {
		return err
	}
	if x.input != nil {
		if q.body, err = x.parseBody(r, raw, doc, &q.payload); err != nil {
			return err
		}
		q.payload = json.RawMessage(q.body) // which takes less memory than doc, for a call that waits
	}
	return nil
}

// readBody reads a bounded body and parses it where it claims to be JSON.
func readBody(w http.ResponseWriter, r *http.Request) (raw []byte, doc any, err error) {
	if r.ContentLength > MaxBody {
		return nil, nil, tooLarge()
	}
	if r.Body == nil || r.ContentLength == 0 {
		return nil, nil, nil
	}
	// A recorder in tests has no deadline to set; a real connection does.
	ctl := http.NewResponseController(w)
	if ctl.SetReadDeadline(time.Now().Add(transferTimeout)) == nil {
		defer ctl.SetReadDeadline(time.Time{})
	}
	raw, err = io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, nil, tooLarge()
		}
		return nil, nil, Errorf(MalformedPayload, "The request body could not be read: %v", err)
	}
	if len(raw) == 0 || !isJSON(r.Header.Get("Content-Type")) {
		return raw, nil, nil
	}
	doc, err = decodeJSON(raw)
	if err != nil {
		return nil, nil, Errorf(MalformedPayload, "The request body is not valid JSON: %s", shorten(err.Error(), 300))
	}
	return raw, doc, nil
}

func tooLarge() *Error {
	return Errorf(InputTooLarge, "The request body is larger than %d MiB.", MaxBody>>20)
}

func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && t == "application/json"
}

func (s *Server) authenticate(r *http.Request, e *endpoint, vars map[string]string, raw []byte) (*caller, error) {
	who := &caller{need: e.Scopes, vars: scope.Vars{}, credential: Credential{
		Method: r.Method, Resource: r.URL.RequestURI(), Host: r.Host,
		ForwardedPort: r.Header.Get("X-Forwarded-Port"), ForwardedProto: r.Header.Get("X-Forwarded-Proto"),
		Authorization: r.Header.Get("Authorization"), RemoteAddr: r.RemoteAddr,
		ContentType: r.Header.Get("Content-Type"), Body: raw,
	}}
	for k, v := range vars {
		who.vars[k] = v
	}
	if e.Scopes == nil {
		who.checked = true
		return who, nil
	}
	var err error
	if who.Identity, err = s.opts.Auth.Authenticate(r.Context(), who.credential); err != nil {
		return who, err
	}
	who.adviser, _ = s.opts.Auth.(Adviser)
	if who.decidable(e.scopeParams) {
		return who, who.check(nil)
	}
	return who, nil
}

// misfit says which URL parameter does not fit its pattern.
func (e *endpoint) misfit(vars map[string]string) error {
	for _, name := range e.route.params() {
		if p := e.patterns[name]; p != nil && !p.MatchString(vars[name]) {
			return Errorf(InvalidRequestArguments, "The URL parameter %s is %q, which does not match %s", name, shorten(vars[name], 200), p)
		}
	}
	return Errorf(InvalidRequestArguments, "The URL does not fit the route %s", e.route.text)
}

func (e *endpoint) parseQuery(r *http.Request) (map[string]string, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	values, err := parseQueryString(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if name == "bewit" {
			continue // part of the authentication
		}
		p, known := e.patterns[name], slices.Contains(e.Query, name)
		switch v := values[name]; {
		case !known && len(e.Query) == 0:
			return nil, Errorf(InvalidRequestArguments, "The query parameter %q is unknown: %s takes none", shorten(name, 100), e.Name)
		case !known:
			return nil, Errorf(InvalidRequestArguments, "The query parameter %q is unknown: %s takes %s", shorten(name, 100), e.Name, strings.Join(e.Query, ", "))
		case len(v) > 1:
			return nil, Errorf(InvalidRequestArguments, "The query parameter %s is given %d times", name, len(v))
		case !p.MatchString(v[0]):
			return nil, Errorf(InvalidRequestArguments, "The query parameter %s is %q, which does not match %s", name, shorten(v[0], 200), p)
		default:
			out[name] = v[0]
		}
	}
	return out, nil
}

// parseBody validates a body and returns it with the schema's defaults.
func (e *endpoint) parseBody(r *http.Request, raw []byte, doc any, payload *any) ([]byte, error) {
	if len(raw) == 0 {
		doc = map[string]any{}
	} else if t := r.Header.Get("Content-Type"); !isJSON(t) {
		return nil, Errorf(MalformedPayload, "The request body must be JSON, with Content-Type: application/json; this request has %q", shorten(t, 100))
	}
	applyDefaults(e.input, doc)
	*payload = doc
	if err := e.input.Validate(doc); err != nil {
		return nil, Errorf(InputValidationError, "The request body does not fit the schema %s:\n%s", e.Input, explain(err, e.Private))
	}
	// What the handler sees is what was validated, not the text, which may name
	// a member twice.
	return encodeJSON(doc)
}

func (e *endpoint) checkOutput(out any) error {
	if r, ok := out.(Reply); e.output == nil || ok && r.Status() >= 400 {
		return nil // the schema is that of success
	}
	if _, ok := out.(Stream); ok {
		return nil // of a form of its own
	}
	b, err := encodeJSON(out)
	if err != nil {
		return fmt.Errorf("%s.%s: encoding the reply: %w", e.service, e.Name, err)
	}
	doc, err := decodeJSON(b)
	if err != nil {
		return fmt.Errorf("%s.%s: decoding the reply: %w", e.service, e.Name, err)
	}
	if err := e.output.Validate(doc); err != nil {
		if e.Private {
			b = nil
		}
		return fmt.Errorf("%s.%s: the reply does not fit %s:\n%s\n%s", e.service, e.Name, e.Output, explain(err, e.Private), b)
	}
	return nil
}

// writeJSON writes v with a weak ETag, or 304 where the caller has it already.
func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) error {
	return writeReply(w, r, status, v, true)
}

func writeReply(w http.ResponseWriter, r *http.Request, status int, v any, tagged bool) error {
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return nil
	}
	b, err := encodeJSON(v)
	if err != nil {
		http.Error(w, `{"code":"InternalServerError","message":"the reply could not be encoded"}`, http.StatusInternalServerError)
		return fmt.Errorf("encoding the reply: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if tagged {
		sum := fnv.New64a()
		sum.Write(b)
		tag := fmt.Sprintf(`W/"%x-%x"`, len(b), sum.Sum64())
		h.Set("ETag", tag)
		if status == http.StatusOK && r.Method == http.MethodGet && strings.Contains(r.Header.Get("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	compress(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, err = w.Write(b)
	}))(w, r)
	return err
}

// compress compresses what a handler writes, if the caller takes that. It is
// only put around the writing, as a call that waits for work should have little
// on its stack. The fastest level takes half of the time of the usual one, for
// a tenth more bytes; what fits into a packet or two is not worth either.
var compress = func() func(http.Handler) http.HandlerFunc {
	c, err := gzhttp.NewWrapper(gzhttp.MinSize(2048), gzhttp.CompressionLevel(gzip.BestSpeed))
	if err != nil {
		panic(err) // only for a malformed constant
	}
	return c
}()
