package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/getsentry/sentry-go"
	"github.com/google/uuid"
)

// IDKey is the attribute of a line of the log that is its incident id.
const IDKey = "incidentId"

// Handler returns a handler that gives all to next, and reports what is an error.
func (r *Reporter) Handler(next slog.Handler) slog.Handler { return &handler{r: r, next: next} }

type handler struct {
	r     *Reporter
	next  slog.Handler
	attrs []slog.Attr
	group string // before the names of attributes, ending in a dot
}

// Enabled is part of slog.Handler.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelError || h.next.Enabled(ctx, level)
}

// Handle is part of slog.Handler.
func (h *handler) Handle(ctx context.Context, line slog.Record) error {
	if line.Level < slog.LevelError {
		return h.next.Handle(ctx, line)
	}
	i := &incident{at: line.Time, message: line.Message, fields: map[string]string{}}
	var hiding []Hiding
	note := func(name string, v slog.Value) {
		v = v.Resolve()
		if e, ok := v.Any().(error); ok {
			if x, ok := errors.AsType[Hiding](e); ok {
				hiding = append(hiding, x)
			}
			i.addError(e)
			return
		}
		i.add(name, v)
	}
	for _, a := range h.attrs {
		note(a.Key, a.Value)
	}
	line.Attrs(func(a slog.Attr) bool { note(h.group+a.Key, a.Value); return true })
	if i.id == "" {
		i.id = uuid.NewString()
		line = line.Clone()
		line.AddAttrs(slog.String(IDKey, i.id))
	}
	h.r.report(i, hiding)
	if !h.next.Enabled(ctx, line.Level) {
		return nil
	}
	return h.next.Handle(ctx, line)
}

// WithAttrs is part of slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	own := *h
	own.next = h.next.WithAttrs(attrs)
	own.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		own.attrs = append(own.attrs, slog.Attr{Key: h.group + a.Key, Value: a.Value})
	}
	return &own
}

// WithGroup is part of slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	own := *h
	own.next = h.next.WithGroup(name)
	if name != "" {
		own.group += name + "."
	}
	return &own
}

// Hiding is an error that knows what must not be sent of its text: what the caller
// has sent, as text or as decoded JSON.
type Hiding interface {
	error
	Hidden() []any
}

// An incident is an error that is to be sent.
type incident struct {
	id      string
	at      time.Time
	message string // what has failed, in constant words
	text    string // of the error
	kind    string // Go's name for the innermost error
	stack   string // of a panic
	fields  map[string]string
	tries   int
}

const (
	// What is looked at of a text, and what is sent of it.
	longestRead  = 4 << 10
	longestText  = 2 << 10
	longestStack = 16 << 10
	longestWord  = 200 // of a field
	mostFields   = 24
)

func (i *incident) addError(err error) {
	text, stack, panicked := strings.Cut(err.Error(), "\ngoroutine ")
	if panicked {
		i.stack = "goroutine " + stack
	}
	i.text = strings.TrimPrefix(i.text+"; "+text, "; ")
	inner := err
	for next := inner; next != nil; {
		inner = next
		switch x := next.(type) {
		case interface{ Unwrap() error }:
			next = x.Unwrap()
		case interface{ Unwrap() []error }:
			next = nil
			if list := x.Unwrap(); len(list) > 0 {
				next = list[len(list)-1]
			}
		default:
			next = nil
		}
	}
	i.kind = fmt.Sprintf("%T", inner)
}

func (i *incident) add(name string, v slog.Value) {
	switch {
	case name == IDKey:
		i.id = v.String()
	case name == "stack":
		i.stack = v.String()
	case name == "panic":
		i.addError(fmt.Errorf("panic: %v", v.Any()))
	case v.Kind() == slog.KindGroup:
		for _, a := range v.Group() {
			i.add(name+"."+a.Key, a.Value.Resolve())
		}
	case len(i.fields) < mostFields:
		i.fields[name] = v.String()
	}
}

// report queues an incident, or drops it.
func (r *Reporter) report(i *incident, hiding []Hiding) {
	if r.target.Load() == nil {
		return // a platform without Sentry, or one that is just starting
	}
	if !r.limit.Allow() {
		r.dropped.WithLabelValues(droppedRate).Inc()
		return
	}
	// What the caller has sent is large and belongs to the call, so it is looked at now.
	var hides []any
	for _, x := range hiding {
		hides = append(hides, x.Hidden()...)
	}
	i.text = hide(clip(i.text, longestRead), hides)
	for name, value := range i.fields {
		i.fields[name] = hide(clip(value, longestRead), hides)
	}
	select {
	case r.queue <- i:
	default:
		r.dropped.WithLabelValues(droppedFull).Inc()
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// tags are fields that are worth looking for in Sentry.
var tags = []string{"service", "method", "loop", "credential", "job", "pool"}

// event is what is sent.
func (i *incident) event(r *Reporter) *sentry.Event {
	text := clip(r.scrub(i.text), longestText)
	where := i.fields["loop"]
	if s := i.fields["service"]; s != "" {
		where = s + "." + i.fields["method"]
	}
	e := &sentry.Event{
		EventID: sentry.EventID(strings.ReplaceAll(i.id, "-", "")), Timestamp: i.at, Level: sentry.LevelError, Platform: "go", Logger: "taskfleet",
		Release: r.config.Release, Environment: r.config.Environment, ServerName: r.config.ServerName,
		Sdk:         sentry.SdkInfo{Name: "sentry.go", Version: sentry.SDKVersion},
		Message:     i.message,
		Transaction: where,
		Fingerprint: []string{i.message, where, i.kind, class(text)},
		Exception:   []sentry.Exception{{Type: cmpOr(i.message, where), Value: text}},
		Tags:        map[string]string{"incident": i.id},
		Contexts:    map[string]sentry.Context{},
	}
	if i.kind != "" {
		e.Tags["error"] = i.kind
	}
	details := sentry.Context{}
	for name, value := range i.fields {
		if secretName(name) {
			value = gone
		} else {
			value = clip(r.scrub(value), longestWord)
		}
		if slices.Contains(tags, name) {
			e.Tags[name] = value
		} else {
			details[name] = value
		}
	}
	if len(details) > 0 {
		e.Contexts["details"] = details
	}
	if i.stack != "" {
		e.Contexts["panic"] = sentry.Context{"stack": clip(r.scrub(clip(i.stack, longestStack)), longestStack)}
	}
	return e
}

func cmpOr(message, where string) string {
	if where == "" {
		return message
	}
	return message + " (" + where + ")"
}
