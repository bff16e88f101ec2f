// Package platform has the kinds of things that the stack platform is made of: the configuration of the servers, secrets that are
// made once, how many replicas there are, and the release, which is what they run. What they stand on is made by package infra, and
// is neither made nor deleted here: a kind fills, changes and moves what is there.
//
// Names say where a thing is, so that it can be read without anything else, also when it is imported:
//
//	Configuration    ARN of a secret of AWS Secrets Manager, or absolute path of a file
//	GeneratedSecret  ARN of a secret
//	Replicas         REGION/CLUSTER/SERVICE of ECS, see Service
//	Release          REGION/CLUSTER/SERVICE
//	Restart          root URL of a platform that is configured by files
//
// # Releases
//
// A release is a revision of the foundation's task definition, with another image and with the versions of the configuration that
// it was made for. So what is gone back to when a rollout fails is the image and the configuration of before. Several things may
// release one service, each with versions of its own: a revision has those of all of them. What a revision was made of is
// written in it, and how far a rollout is, is at AWS alone: what a killed process had begun is found there and gone on with.
//
// # Secrets
//
// A document of configuration is read only when its secret has another version than the one that was written. A generated secret is
// never read: its version is all that is known of it.
package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/stacks/provider"
)

// Options are what the kinds need of others.
type Options struct {
	// Check judges a document of the server's configuration, as taskfleet config check does. Its error names entries and lines, and
	// has no secrets. nil: documents are only looked at for their sections.
	Check func(document []byte) error

	// Secrets makes a file of secrets for servers that have none, as taskfleet config secrets prints it. taken is called once they have
	// it: of two files that are made at the same time, by different processes, one is taken.
	Secrets func() (text []byte, taken func(), err error)

	// Progress is told what long work is at, for the thing of a name. The context is that of the call. nil: nobody is.
	Progress func(ctx context.Context, name, text string)

	// Transport carries requests to AWS and to platforms. nil: the usual one.
	Transport http.RoundTripper
}

// Kinds are all of the package.
func Kinds(o Options) []provider.Kind {
	if o.Progress == nil {
		o.Progress = func(context.Context, string, string) {}
	}
	if o.Check == nil {
		o.Check = func([]byte) error { return nil }
	}
	c := &cloud{transport: o.Transport}
	return []provider.Kind{configurations(o, c), generatedSecrets(o, c), replicas(c), releases(o, c), restarts(o)}
}

// A kind is a provider.Kind whose documents are S, and whose states are T: S with what is computed. The thing is never replaced, as it
// is nothing but what is at the place that its name says.
type kind[S, T any] struct {
	token             string
	secrets, computed []string

	check    func(name string, spec *S, bad func(member, format string, args ...any)) // fills defaults in, too
	read     func(ctx context.Context, name string, was *T) (*T, error)
	write    func(ctx context.Context, name string, was *T, spec S) (*T, error) // was: nil if it is not there
	remove   func(ctx context.Context, name string, was T) error                // nil: it is left as it is
	complete func(spec S, was *T) T                                             // was: nil if it is not there
}

// Token implements provider.Kind.
func (k *kind[S, T]) Token() string { return "taskfleet:platform:" + k.token }

// Secrets implements provider.Kind.
func (k *kind[S, T]) Secrets() []string { return k.secrets }

// Replaces implements provider.Kind.
func (k *kind[S, T]) Replaces() []string { return nil }

// Computed implements provider.Kind.
func (k *kind[S, T]) Computed() []string { return k.computed }

// Normal implements provider.Kind.
func (k *kind[S, T]) Normal(name string, spec json.RawMessage) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(spec))
	d.DisallowUnknownFields()
	v := new(S)
	if err := d.Decode(v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) { // whose text may have the value in it
			return nil, &provider.Problem{Member: wrong.Field, Reason: fmt.Sprintf("must be of the type %s", wrong.Type)}
		}
		return nil, &provider.Problem{Reason: strings.TrimPrefix(err.Error(), "json: ")}
	}
	var problems []error
	k.check(name, v, func(member, format string, args ...any) {
		problems = append(problems, &provider.Problem{Member: member, Reason: fmt.Sprintf(format, args...)})
	})
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return marshal(v)
}

// Read implements provider.Kind.
func (k *kind[S, T]) Read(ctx context.Context, name string, state json.RawMessage) (json.RawMessage, error) {
	was, err := parse[T](state)
	if err != nil {
		return nil, err
	}
	return document(k.read(ctx, name, was))
}

// Create implements provider.Kind.
func (k *kind[S, T]) Create(ctx context.Context, name string, spec json.RawMessage) (json.RawMessage, error) {
	return k.Update(ctx, name, nil, spec)
}

// Update implements provider.Kind.
func (k *kind[S, T]) Update(ctx context.Context, name string, state, spec json.RawMessage) (json.RawMessage, error) {
	was, err := parse[T](state)
	if err != nil {
		return nil, err
	}
	s, err := parse[S](spec)
	if err != nil {
		return nil, err
	}
	return document(k.write(ctx, name, was, *s))
}

// Delete implements provider.Kind.
func (k *kind[S, T]) Delete(ctx context.Context, name string, state json.RawMessage) error {
	was, err := parse[T](state)
	if was == nil || err != nil || k.remove == nil {
		return err
	}
	return k.remove(ctx, name, *was)
}

// Complete implements provider.Kind.
func (k *kind[S, T]) Complete(spec, state json.RawMessage) (json.RawMessage, error) {
	s, err := parse[S](spec)
	if err != nil {
		return nil, err
	}
	was, err := parse[T](state)
	if err != nil {
		return nil, err
	}
	return marshal(k.complete(*s, was))
}

// parse reads a document of ours; nil if there is none.
func parse[D any](text json.RawMessage) (*D, error) {
	if text == nil {
		return nil, nil
	}
	d := new(D)
	if json.Unmarshal(text, d) != nil {
		return nil, errors.New("it is no document of its kind") // what is wrong with it may be a secret
	}
	return d, nil
}

func document[T any](v *T, err error) (json.RawMessage, error) {
	if v == nil || err != nil {
		return nil, err
	}
	return marshal(v)
}

func marshal(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// A Count is a whole number, which JSON may spell as 2 or 2.0.
type Count int

// UnmarshalJSON implements json.Unmarshaler.
func (c *Count) UnmarshalJSON(text []byte) error {
	var f float64
	if err := json.Unmarshal(text, &f); err != nil {
		return errors.New("a count must be a number")
	}
	if *c = Count(f); float64(*c) != f {
		return fmt.Errorf("a count must be a whole number, not %v", f)
	}
	return nil
}

// Service is the name of Replicas and Release of a service of ECS.
func Service(region, cluster, service string) string {
	return strings.Join([]string{region, cluster, service}, "/")
}

// service splits such a name.
func service(name string) (region, cluster, service string, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || slices.Contains(parts, "") || !regionPattern.MatchString(parts[0]) {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

func checkService(name string, bad func(member, format string, args ...any)) {
	if _, _, _, ok := service(name); !ok {
		bad("", "the name is %q; it must be REGION/CLUSTER/SERVICE, such as eu-central-1/taskfleet-prod/taskfleet-prod", name)
	}
}
