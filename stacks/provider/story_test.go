package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/blang/semver"
	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/integration"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// boxes is a kind that keeps what it makes, and fails on request.
type boxes struct {
	mu      sync.Mutex
	there   map[string]json.RawMessage
	fail    error                       // of the next change
	partial bool                        // whether something is made nevertheless
	odd     bool                        // whether the state has what Pulumi cannot keep
	block   func(context.Context) error // of a change
	silent  bool                        // nobody answers
}

type box struct {
	Size   int             `json:"size"`
	Color  string          `json:"color"`
	Room   string          `json:"room,omitempty"`
	Tags   []string        `json:"tags"`
	Note   *string         `json:"note,omitempty"` // what it leaves out stays as it is
	Config json.RawMessage `json:"config,omitempty"`
	URL    string          `json:"url,omitempty"`
	Key    string          `json:"key,omitempty"`
}

const boxToken = "taskfleet:test:Box"

func (*boxes) Token() string      { return boxToken }
func (*boxes) Secrets() []string  { return []string{"config.token", "key"} }
func (*boxes) Replaces() []string { return []string{"room"} }
func (*boxes) Computed() []string { return []string{"url", "key"} }

func (*boxes) Normal(name string, spec json.RawMessage) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(spec))
	d.DisallowUnknownFields()
	var b box
	if err := d.Decode(&b); err != nil {
		return nil, err
	}
	var wrong []error
	if b.Size < 0 {
		wrong = append(wrong, &Problem{"size", "must be at least 0"})
	}
	var config struct{ MaxCapacity float64 }
	if b.Config != nil && json.Unmarshal(b.Config, &config) == nil && config.MaxCapacity < 0 {
		wrong = append(wrong, &Problem{"config.maxCapacity", "must be at least 0"})
	}
	if strings.HasPrefix(b.Color, "dark") {
		wrong = append(wrong, &Problem{"color", "must be a light one, and is " + b.Color})
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	if b.Color == "" {
		b.Color = "white"
	}
	b.Tags = append([]string{}, b.Tags...)
	slices.Sort(b.Tags)
	return json.Marshal(b)
}

func (k *boxes) Read(ctx context.Context, name string, _ json.RawMessage) (json.RawMessage, error) {
	if k.silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.there[name], nil
}

func (k *boxes) put(ctx context.Context, name string, spec json.RawMessage) (json.RawMessage, error) {
	if k.block != nil {
		if err := k.block(ctx); err != nil {
			return nil, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	fail := k.fail
	k.fail = nil
	if fail != nil && !k.partial {
		return nil, fail
	}
	document, err := k.Complete(spec, k.there[name])
	if err != nil {
		return nil, err
	}
	var b box
	if err := json.Unmarshal(document, &b); err != nil {
		return nil, err
	}
	b.URL = "https://boxes/" + name
	if fail == nil {
		b.Key = "key-of-" + name
	}
	if k.odd {
		b.Config = json.RawMessage(`{"serial": 9007199254740993}`)
	}
	k.there[name], err = json.Marshal(b)
	return k.there[name], errors.Join(err, fail)
}

func (k *boxes) Create(ctx context.Context, name string, spec json.RawMessage) (json.RawMessage, error) {
	return k.put(ctx, name, spec)
}

func (k *boxes) Update(ctx context.Context, name string, _, spec json.RawMessage) (json.RawMessage, error) {
	return k.put(ctx, name, spec)
}

func (k *boxes) Delete(_ context.Context, name string, _ json.RawMessage) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.there, name)
	return nil
}

func (*boxes) Complete(spec, state json.RawMessage) (json.RawMessage, error) {
	var b, is box
	if err := json.Unmarshal(spec, &b); err != nil {
		return nil, err
	}
	if state != nil {
		if err := json.Unmarshal(state, &is); err != nil {
			return nil, err
		}
		b.URL, b.Key = is.URL, is.Key
		if b.Note == nil {
			b.Note = is.Note
		}
	}
	return json.Marshal(b)
}

// A story is the life of one resource, as the engine leads it.
type story struct {
	t      *testing.T
	server integration.Server
	urn    presource.URN
	id     string
	state  property.Map // outputs
	inputs property.Map // as they were checked
}

func newStory(t *testing.T, token string, kinds ...Kind) *story {
	t.Helper()
	prov, err := New("1.2.3", kinds...)
	if err != nil {
		t.Fatal(err)
	}
	server, err := integration.NewServer(t.Context(), Name, semver.MustParse("1.2.3"), integration.WithProvider(prov))
	if err != nil {
		t.Fatal(err)
	}
	return &story{t: t, server: server, urn: presource.NewURN("test", "project", "", tokens.Type(token), "it")}
}

// value is JSON as property values.
func value(t *testing.T, text string) property.Value {
	t.Helper()
	v, err := fromJSON(nil, json.RawMessage(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func inputs(name string, spec property.Value) property.Map {
	return property.NewMap(map[string]property.Value{"name": property.New(name), "spec": spec})
}

func (s *story) check(in property.Map) (property.Map, []p.CheckFailure) {
	s.t.Helper()
	r, err := s.server.Check(p.CheckRequest{Urn: s.urn, Inputs: in})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Inputs, r.Failures
}

func (s *story) checked(in property.Map) property.Map {
	s.t.Helper()
	out, failures := s.check(in)
	if len(failures) > 0 {
		s.t.Fatalf("the inputs are refused: %v", failures)
	}
	return out
}

func (s *story) create(name, spec string) error {
	s.t.Helper()
	s.inputs = s.checked(inputs(name, value(s.t, spec)))
	r, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: s.inputs})
	s.id, s.state = r.ID, r.Properties
	return err
}

func (s *story) diff(in property.Map) p.DiffResponse {
	s.t.Helper()
	r, err := s.server.Diff(p.DiffRequest{ID: s.id, Urn: s.urn, State: s.state, OldInputs: s.inputs, Inputs: in})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// differs is what a diff with a spec tells, in a line.
func (s *story) differs(spec string) string {
	s.t.Helper()
	return lineOf(s.diff(s.checked(inputs(s.id, value(s.t, spec)))))
}

func lineOf(r p.DiffResponse) string {
	var all []string
	for _, where := range slices.Sorted(maps.Keys(r.DetailedDiff)) {
		all = append(all, fmt.Sprintf("%s %s", r.DetailedDiff[where].Kind, where))
	}
	if r.HasChanges != (len(all) > 0) {
		all = append(all, "HasChanges is wrong")
	}
	if r.DeleteBeforeReplace {
		all = append(all, "delete first")
	}
	return strings.Join(all, ", ")
}

func (s *story) update(spec string) error {
	s.t.Helper()
	in := s.checked(inputs(s.id, value(s.t, spec)))
	r, err := s.server.Update(p.UpdateRequest{ID: s.id, Urn: s.urn, State: s.state, OldInputs: s.inputs, Inputs: in})
	if err == nil || r.PartialState != nil {
		s.state, s.inputs = r.Properties, in
	}
	return err
}

// refresh reads it, and tells whether it is there.
func (s *story) refresh() bool {
	s.t.Helper()
	r, err := s.server.Read(p.ReadRequest{ID: s.id, Urn: s.urn, Properties: s.state, Inputs: s.inputs})
	if err != nil {
		s.t.Fatal(err)
	}
	s.state, s.inputs = r.Properties, r.Inputs
	return r.ID != ""
}

func (s *story) remove() {
	s.t.Helper()
	if err := s.server.Delete(p.DeleteRequest{ID: s.id, Urn: s.urn, Properties: s.state, OldInputs: s.inputs}); err != nil {
		s.t.Fatal(err)
	}
}

// text is a value as JSON, with what is secret in <> and what is unknown as ?.
func text(t *testing.T, v property.Value) string {
	t.Helper()
	v = replace(v, func(v property.Value) property.Value {
		secret := v.Secret()
		if v.IsComputed() {
			v = property.New("?")
		}
		if secret {
			document, err := toJSON(nil, v, nil)
			if err != nil {
				t.Fatal(err)
			}
			v = property.New("<" + string(document) + ">")
		}
		return v
	})
	document, err := toJSON(nil, v, nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(document)
}

func (s *story) stateText() string { return text(s.t, property.New(s.state)) }

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is\n  %s\nand should be\n  %s", what, got, want)
	}
}

func newBoxes() *boxes { return &boxes{there: map[string]json.RawMessage{}} }
