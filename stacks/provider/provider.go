// Package provider is taskfleet's own Pulumi provider: it runs in the process that runs the program, and offers
// whatever is written as a Kind.
//
// A Kind knows JSON documents alone: how one is checked, made, read, changed, removed. The provider knows Pulumi
// alone: properties, previews, secrets, differences, partial failures. So each thing that stacks have is written
// once, without a word of Pulumi.
//
// Every resource has the same shape. Its inputs are
//
//	name: what the platform calls it, which is also its ID. Another name is another thing: it is replaced
//	spec: an object, the document
//
// and its outputs are name, spec, completed with what there is, and
//
//	computed: an object, what is known only after it was made, such as arn and url
//
// Members are named by paths in the document, such as config.maxCapacity.
package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// A Kind is a sort of thing that stacks have. Its documents are JSON objects in one form: what Normal and Read
// return for things that are the same is the same. A state is such a document, completed with what is there and
// with the computed members.
//
// Methods are called by several goroutines at once. Errors are shown to people: the provider hides in them the
// values of secret members, and nothing else.
type Kind interface {
	// Token is the type, such as taskfleet:index:Role, taskfleet:platform:Release.
	Token() string

	// Normal checks a document and brings it into its form, with defaults, without asking anybody. What is wrong
	// with members is *Problem, several by errors.Join. Numbers in it may be spelled as 1 or 1.0.
	Normal(name string, spec json.RawMessage) (json.RawMessage, error)

	// Read is how it is; nil, nil if it is not there. state is what it was; before it is created, what it is to be,
	// so without computed members; nil at an import. So what is not in state may be left out of
	// what is returned, unless state is nil.
	Read(ctx context.Context, name string, state json.RawMessage) (json.RawMessage, error)

	// Create makes it, after Read has said that it is not there. spec is in its form. If it fails after something
	// was made, it returns the state of that together with the error: then it is kept, and the next run calls
	// Update with it.
	Create(ctx context.Context, name string, spec json.RawMessage) (state json.RawMessage, err error)

	// Update makes it as spec says. If it fails half way, it returns the state that it is in together with
	// the error; the state stays what it was if nil is returned. The next run calls Update again, with the
	// same spec, even if state seems to be as wanted.
	Update(ctx context.Context, name string, state, spec json.RawMessage) (newState json.RawMessage, err error)

	// Delete removes it. It is no error if it is not there.
	Delete(ctx context.Context, name string, state json.RawMessage) error

	// Complete is what the state would be after spec was applied to state (nil: nothing there), as far as it can be
	// known before. It is what differences and previews show. Computed members that it leaves out are unknown until
	// it is done; those that stay what they are it should take from state. If all but the computed members are the
	// same as those of state, there is nothing to do.
	Complete(spec, state json.RawMessage) (json.RawMessage, error)

	// Secrets are members whose values are secret, with all that is in them, such as value or config.token.
	// Replaces are members that cannot be changed: the thing is removed and made anew.
	// Computed are members of the state, at its top, that no document has: they are outputs.
	Secrets() []string
	Replaces() []string
	Computed() []string
}

// A Problem is what is wrong with a member of a document.
type Problem struct {
	Member string // such as config.maxCapacity or schedule[2]; nothing: the document as a whole, or the name
	Reason string // what is wrong and what it should be, such as "must be at least 1"
}

// Error implements error.
func (e *Problem) Error() string {
	if e.Member == "" {
		return e.Reason
	}
	return e.Member + ": " + e.Reason
}

// Name is the package that the provider is, for Pulumi.
const Name = "taskfleet"

var (
	tokenSyntax  = regexp.MustCompile(`^taskfleet:[a-z]+:[A-Z][A-Za-z0-9]*$`)
	memberSyntax = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*$`)
)

// New is a provider of the kinds. version is the provider's, as states have it, such as 1.0.0. The error is that of kinds that do not
// fit together.
func New(version string, kinds ...Kind) (p.Provider, error) {
	v := &provider{kinds: map[string]Kind{}, replaced: map[presource.URN]bool{}, silent: map[string]time.Time{}}
	v.running, v.end = context.WithCancel(context.Background())
	for _, k := range kinds {
		if !tokenSyntax.MatchString(k.Token()) {
			return p.Provider{}, fmt.Errorf("the token of a kind is %q; it must be as taskfleet:index:Role is", k.Token())
		}
		if v.kinds[k.Token()] != nil {
			return p.Provider{}, fmt.Errorf("there are two kinds %s", k.Token())
		}
		for _, member := range slices.Concat(k.Secrets(), k.Replaces()) {
			if !memberSyntax.MatchString(member) {
				return p.Provider{}, fmt.Errorf("%s has a member %q; it must be as config.token is", k.Token(), member)
			}
		}
		v.kinds[k.Token()] = k
	}
	schema, err := v.schema(version)
	if err != nil {
		return p.Provider{}, err
	}
	return p.Provider{
		GetSchema: func(context.Context, p.GetSchemaRequest) (p.GetSchemaResponse, error) {
			return p.GetSchemaResponse{Schema: schema}, nil
		},
		CheckConfig: checkConfig,
		// The configuration is empty, and that another version of us has made a thing is no reason to change it.
		DiffConfig: func(context.Context, p.DiffRequest) (p.DiffResponse, error) { return p.DiffResponse{}, nil },
		Configure:  func(context.Context, p.ConfigureRequest) error { return nil },
		Cancel:     v.cancel,
		Check:      v.check,
		Diff:       v.diff,
		Create:     v.create,
		Read:       v.read,
		Update:     v.update,
		Delete:     v.delete,
	}, nil
}

type provider struct {
	kinds map[string]Kind

	mu       sync.Mutex
	running  context.Context // of all that is under way
	end      context.CancelFunc
	replaced map[presource.URN]bool // by what was told last: removed before it is made anew
	silent   map[string]time.Time   // by token: when nobody answered
}

// cancel ends what is under way. The provider goes on: the next command uses it again.
func (v *provider) cancel(context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.end()
	v.running, v.end = context.WithCancel(context.Background())
	return nil
}

// longest is how long an operation may take of which nobody has said it.
const longest = 24 * time.Hour

// begin is the context of an operation that may take so many seconds; 0: that is not said.
func (v *provider) begin(ctx context.Context, seconds float64) (context.Context, context.CancelFunc) {
	limit := longest
	if seconds > 0 {
		limit = time.Duration(seconds * float64(time.Second))
	}
	ctx, end := context.WithTimeout(ctx, limit)
	v.mu.Lock()
	defer v.mu.Unlock()
	forget := context.AfterFunc(v.running, end)
	return ctx, func() { forget(); end() }
}

// checkConfig refuses a configuration: there is none. What Pulumi itself puts there is kept.
func checkConfig(_ context.Context, r p.CheckRequest) (p.CheckResponse, error) {
	out := p.CheckResponse{Inputs: r.Inputs}
	for name := range r.Inputs.AllStable {
		if name != "version" && name != "pluginDownloadURL" && !strings.HasPrefix(name, "__") {
			const reason = "the provider " + Name + " has no configuration; leave it out"
			out.Failures = append(out.Failures, p.CheckFailure{Property: name, Reason: reason})
		}
	}
	return out, nil
}

// kind is that of a resource's type.
func (v *provider) kind(t tokens.Type) (Kind, error) {
	if k := v.kinds[string(t)]; k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("there is no %s; there are %s", t, strings.Join(slices.Sorted(maps.Keys(v.kinds)), ", "))
}

// scrub is an error without the secrets of a resource, which are in its inputs and outputs.
func (v *provider) scrub(err error, t tokens.Type, all ...property.Map) error {
	var members []string
	if k := v.kinds[string(t)]; k != nil {
		members = k.Secrets()
	}
	var values []property.Value
	for _, m := range all {
		values = append(values, hide(m.Get("spec"), members), hide(m.Get("computed"), members))
	}
	return scrub(err, values...)
}
