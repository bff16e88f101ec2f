package api

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

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
	var err error
	if q.raw, q.payload, err = readBody(w, r); err != nil {
		return err
	}
	if q.who, err = s.authenticate(r, x.endpoint, q.path, q.raw); err != nil {
		return err
	}
	if !x.fits {
		return x.misfit(q.path)
	}
	if q.query, err = x.parseQuery(r); err != nil {
		return err
	}
	if x.input != nil {
		return x.checkBody(r, q)
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
	if contentType == "application/json" {
		return true
	}
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && t == "application/json"
}

func (s *Server) authenticate(r *http.Request, e *endpoint, vars map[string]string, raw []byte) (*caller, error) {
	who := &caller{need: e.Scopes, vars: vars, credential: Credential{
		Method: r.Method, Resource: resource(r), Host: r.Host,
		ForwardedPort: r.Header.Get("X-Forwarded-Port"), ForwardedProto: r.Header.Get("X-Forwarded-Proto"),
		Authorization: r.Header.Get("Authorization"), RemoteAddr: r.RemoteAddr,
		ContentType: r.Header.Get("Content-Type"), Body: raw,
	}}
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

// resource is what a caller has signed: the path that it asked for, which may have
// been rewritten since.
func resource(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
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
	if r.URL.RawQuery == "" || e.AnyQuery {
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

// checkBody fills in the schema's defaults and validates the body.
func (e *endpoint) checkBody(r *http.Request, q *request) error {
	if len(q.raw) == 0 {
		q.payload = map[string]any{}
	} else if t := r.Header.Get("Content-Type"); !isJSON(t) {
		return Errorf(MalformedPayload, "The request body must be JSON, with Content-Type: application/json; this request has %q", shorten(t, 100))
	}
	e.input.defaults.fill(q.payload)
	if err := e.input.Validate(q.payload); err != nil {
		return Errorf(InputValidationError, "The request body does not fit the schema %s:\n%s", e.Input, explain(err, e.Private))
	}
	return nil
}
