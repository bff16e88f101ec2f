package resource

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/taskfleet/taskfleet/client"
)

// A Kind is a sort of thing that a platform has under names: it knows how one is made,
// read, changed, deleted, and which there are.
//
// Documents are JSON objects in one form: what Read and Normal return for things that
// are the same is the same, byte by byte, whether the defaults were written out or were filled
// in by the platform. A document may have secrets in it; Show hides them.
type Kind interface {
	// Name is that of managed patterns, such as Role. Noun is for messages: role.
	// Section is where files have definitions of the kind: roles.
	Name() string
	Noun() string
	Section() string

	// Normal checks a document, as far as that can be done without a platform, and
	// brings it into its form, with defaults. Unknown members are errors.
	Normal(name string, document json.RawMessage) (json.RawMessage, error)

	// Read is how it is; nil if it is not there. List is all that there are, without
	// what belongs to the configuration of the platform, and without what takes a call
	// for each: for secrets, their names alone.
	Read(ctx context.Context, c *client.Client, name string) (json.RawMessage, error)
	List(ctx context.Context, c *client.Client) (map[string]json.RawMessage, error)

	// Create makes it, Update changes it; documents are in their form. What a document leaves out
	// on purpose stays as it is. Delete is no error if it is not there.
	Create(ctx context.Context, c *client.Client, name string, document json.RawMessage) error
	Update(ctx context.Context, c *client.Client, name string, document json.RawMessage) error
	Delete(ctx context.Context, c *client.Client, name string) error

	// Complete is what there should be, with what it leaves out on purpose as it is. is may be nil.
	Complete(want, is json.RawMessage) (json.RawMessage, error)

	// Show is a document for people and logs, nothing secret in it. other is what it
	// is compared with, nil if it is not: what is hidden and differs says so.
	Show(document, other json.RawMessage) (json.RawMessage, error)

	// look is Read, of what was is and is to be want. Where List was enough to compare it is enough now.
	look(ctx context.Context, c *client.Client, name string, is, want json.RawMessage) (json.RawMessage, error)

	blank() reflect.Value         // a pointer to an empty document, for files
	whole(string) bool            // whether List tells enough to compare with what there should be
	lean(any)                     // leaves out of a document for files what has its usual value
	canonical(name string) string // of names that are spelled in several ways
}

// Kinds are all that there are, in the order in which they can be made.
func Kinds() []Kind { return []Kind{Roles, Clients, Secrets, WorkerPools, Hooks, Denylist} }

// KindNamed is that of the name; nil if there is none.
func KindNamed(name string) Kind {
	for _, k := range Kinds() {
		if k.Name() == name {
			return k
		}
	}
	return nil
}

// ID is how a thing is called in patterns and messages, such as Role=project:nightly:admin.
func ID(k Kind, name string) string { return k.Name() + "=" + name }

// Plural is the word for several of a kind.
func Plural(k Kind) string {
	if strings.HasSuffix(k.Noun(), "s") {
		return k.Noun() + "es"
	}
	return k.Noun() + "s"
}

// A kind is a Kind whose documents are D.
type kind[D any] struct {
	name, noun, section string

	check  func(name string, d *D) error // fills defaults in, too
	read   func(ctx context.Context, c *client.Client, name string) (*D, error)
	list   func(ctx context.Context, c *client.Client) (map[string]*D, error)
	write  func(ctx context.Context, c *client.Client, name string, d *D, exists bool) error
	remove func(ctx context.Context, c *client.Client, name string) error

	complete func(want, is *D)                                                      // nil: nothing is left out
	show     func(d, other *D)                                                      // nil: nothing is secret
	listed   func(want *D) bool                                                     // whether List tells enough to compare with want; nil: always
	exists   func(ctx context.Context, c *client.Client, name string) (bool, error) // with listed: without reading it
	alike    bool                                                                   // all documents are the same, and to make or delete one twice does no harm: none is looked at again
	usual    func(d *D)                                                             // nil: files have all of it
	spell    func(name string) string                                               // nil: there is one spelling
}

func (k *kind[D]) Name() string    { return k.name }
func (k *kind[D]) Noun() string    { return k.noun }
func (k *kind[D]) Section() string { return k.section }

func (k *kind[D]) blank() reflect.Value { return reflect.ValueOf(new(D)) }

func (k *kind[D]) canonical(name string) string {
	if k.spell != nil {
		return k.spell(name)
	}
	return name
}

func (k *kind[D]) whole(document string) bool {
	if k.listed == nil {
		return true
	}
	d, err := parse[D](json.RawMessage(document))
	return err == nil && k.listed(d)
}

func (k *kind[D]) lean(v any) {
	if k.usual != nil {
		k.usual(v.(*D))
	}
}

// Normal implements Kind.
func (k *kind[D]) Normal(name string, document json.RawMessage) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.DisallowUnknownFields()
	v := new(D)
	if err := d.Decode(v); err != nil {
		return nil, fmt.Errorf("%s: %s", ID(k, name), strings.TrimPrefix(err.Error(), "json: "))
	}
	if err := k.check(name, v); err != nil {
		return nil, fmt.Errorf("%s: %w", ID(k, name), err)
	}
	return marshal(v)
}

// Read implements Kind.
func (k *kind[D]) Read(ctx context.Context, c *client.Client, name string) (json.RawMessage, error) {
	d, err := missing(k.read(ctx, c, name))
	if d == nil || err != nil {
		return nil, err
	}
	return marshal(d)
}

func (k *kind[D]) look(ctx context.Context, c *client.Client, name string, is, want json.RawMessage) (json.RawMessage, error) {
	if k.alike {
		return is, nil
	}
	if k.listed == nil || !k.whole(cmp.Or(string(is), string(want))) {
		return k.Read(ctx, c, name)
	}
	if there, err := k.exists(ctx, c, name); !there || err != nil {
		return nil, err
	}
	return marshal(new(D))
}

// List implements Kind.
func (k *kind[D]) List(ctx context.Context, c *client.Client) (map[string]json.RawMessage, error) {
	list, err := k.list(ctx, c)
	if err != nil {
		return nil, err
	}
	out := make(map[string]json.RawMessage, len(list))
	for name, d := range list {
		if out[k.canonical(name)], err = marshal(d); err != nil {
			return nil, fmt.Errorf("%s: %w", ID(k, name), err)
		}
	}
	return out, nil
}

// Create implements Kind.
func (k *kind[D]) Create(ctx context.Context, c *client.Client, name string, document json.RawMessage) error {
	return k.put(ctx, c, name, document, false)
}

// Update implements Kind.
func (k *kind[D]) Update(ctx context.Context, c *client.Client, name string, document json.RawMessage) error {
	return k.put(ctx, c, name, document, true)
}

func (k *kind[D]) put(ctx context.Context, c *client.Client, name string, document json.RawMessage, exists bool) error {
	d, err := parse[D](document)
	if err != nil {
		return err
	}
	return k.write(ctx, c, name, d, exists)
}

// Delete implements Kind.
func (k *kind[D]) Delete(ctx context.Context, c *client.Client, name string) error {
	_, err := missing(new(D), k.remove(ctx, c, name))
	return err
}

// Complete implements Kind.
func (k *kind[D]) Complete(want, is json.RawMessage) (json.RawMessage, error) {
	if k.complete == nil || is == nil {
		return want, nil
	}
	w, err := parse[D](want)
	if err != nil {
		return nil, err
	}
	i, err := parse[D](is)
	if err != nil {
		return nil, err
	}
	k.complete(w, i)
	return marshal(w)
}

// Show implements Kind.
func (k *kind[D]) Show(document, other json.RawMessage) (json.RawMessage, error) {
	d, err := parse[D](document)
	if err != nil {
		return nil, err
	}
	var o *D
	if other != nil {
		if o, err = parse[D](other); err != nil {
			return nil, err
		}
	}
	if k.show != nil {
		k.show(d, o)
	}
	return marshal(d)
}

func parse[D any](document json.RawMessage) (*D, error) {
	d := new(D)
	if err := json.Unmarshal(document, d); err != nil {
		// What is wrong with it is not repeated: it may be a secret.
		return nil, errors.New("it is no document of its kind")
	}
	return d, nil
}

// A tree is any JSON value, written in one form; null is none.
type tree json.RawMessage

// UnmarshalJSON implements json.Unmarshaler.
func (t *tree) UnmarshalJSON(text []byte) error {
	v, err := decode(text)
	if err != nil || v == nil {
		*t = nil
		return err
	}
	out, err := marshal(v)
	*t = tree(out)
	return err
}

// MarshalJSON implements json.Marshaler.
func (t tree) MarshalJSON() ([]byte, error) {
	if len(t) == 0 {
		return []byte("null"), nil
	}
	return t, nil
}

// IsZero tells encoding/json to leave it out where it may.
func (t tree) IsZero() bool { return len(t) == 0 }

// object tells whether it is one.
func (t tree) object() bool { return len(t) > 0 && t[0] == '{' }

// decode reads one JSON value, with numbers in one spelling.
func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the JSON value")
	}
	return spelled(v), nil
}

// spelled brings the numbers in v into one spelling: 1.0, 1e0 and 1 are the same.
func spelled(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for name, of := range x {
			x[name] = spelled(of)
		}
	case []any:
		for i, of := range x {
			x[i] = spelled(of)
		}
	case json.Number:
		if _, err := strconv.ParseInt(x.String(), 10, 64); err == nil && x != "-0" {
			return x
		}
		if _, err := strconv.ParseUint(x.String(), 10, 64); err == nil {
			return x
		}
		if f, err := x.Float64(); err == nil {
			if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
				return json.Number(strconv.FormatInt(int64(f), 10))
			}
			return f
		}
	}
	return v
}

// marshal is v in the one form that documents have: members in the order of their struct, or of their
// names where they are anybody's (see tree), and no escapes that are for HTML.
func marshal(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}
