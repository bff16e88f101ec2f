package credentials

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Definition is what the configuration says of a credential. State is in the
// database; definitions are not, as they name programs to run and addresses of
// servers: who may ask for a rotation must not be able to change these.
type Definition struct {
	Name      string
	Kind      string
	Settings  json.RawMessage
	Consumers []Use
	Plan      Plan

	// Overlap is for how long an old version stays beside the new one unless every
	// consumer has confirmed before: a day where it is zero.
	Overlap time.Duration

	// Quiet is for how long an old version must not have been seen in use before it
	// goes, where the provider tells: an hour where it is zero.
	Quiet time.Duration

	// Grace is how long a version stays disabled before it is retired: an hour where
	// it is zero.
	Grace time.Duration
}

// A Use is a consumer of a credential. At most one of Secret, File, Command and
// Platform is given; without any it is one that fetches or is told by its own means,
// and says by the API which version it has.
type Use struct {
	Name string

	Secret   string   // a secret of this platform, by its name
	File     string   // a file on every replica
	Member   string   // of the secret, as text, is what the file gets; "" is all of it, as JSON
	Command  []string // a program that is run on every replica, and is given the version
	Platform string   // a part of this platform

	// Must has old versions wait for this consumer, however long it takes.
	Must bool
}

const (
	defaultOverlap = 24 * time.Hour
	defaultQuiet   = time.Hour
	defaultGrace   = time.Hour
)

// Names stand in scopes, in keys of messages and in labels of providers.
var namePattern = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

const maxName = 64

func goodName(s string) bool { return len(s) <= maxName && namePattern.MatchString(s) }

// A defined is a Definition as it is worked with.
type defined struct {
	Definition
	kind  Kind
	place string
	wrong string // why nothing can be done with it

	delivery delivery
}

// define checks a definition. One that is wrong keeps nothing else from working:
// what is wrong with it is its state.
func (c *Credentials) define(d Definition) *defined {
	d.Overlap, d.Quiet, d.Grace = cmp.Or(d.Overlap, defaultOverlap), cmp.Or(d.Quiet, defaultQuiet), cmp.Or(d.Grace, defaultGrace)
	if len(bytes.TrimSpace(d.Settings)) == 0 {
		d.Settings = json.RawMessage("{}")
	}
	out := &defined{Definition: d, kind: c.config.Kinds[d.Kind], delivery: newDelivery()}
	err := d.check(c.config)
	if err == nil {
		out.place, err = out.kind.Check(d.Settings)
	}
	if err != nil {
		out.wrong = err.Error()
	}
	return out
}

func (d Definition) check(c Config) error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if c.Kinds[d.Kind] == nil {
		bad("there is no kind %q; this deployment has %s", d.Kind, strings.Join(sortedKeys(c.Kinds), ", "))
	}
	if d.Overlap < 0 || d.Quiet < 0 || d.Grace < 0 {
		bad("overlap, quiet and grace must not be negative")
	}
	if err := d.Plan.Check(); err != nil {
		wrong = append(wrong, err)
	}
	names := map[string]bool{}
	for _, u := range d.Consumers {
		if !goodName(u.Name) {
			bad("the consumer %q needs a name of lower-case letters, digits and hyphens between, up to %d", u.Name, maxName)
		} else if names[u.Name] {
			bad("there are two consumers %s", u.Name)
		}
		names[u.Name] = true
		ways := 0
		for _, given := range []bool{u.Secret != "", u.File != "", len(u.Command) > 0, u.Platform != ""} {
			if given {
				ways++
			}
		}
		switch {
		case ways > 1:
			bad("the consumer %s has more than one of secret, file, command and platform; make them consumers of their own", u.Name)
		case u.File != "" && !filepath.IsAbs(u.File):
			bad("the consumer %s: file is %q; it must be an absolute path", u.Name, u.File)
		case u.Member != "" && u.File == "":
			bad("the consumer %s: member is of no use without file", u.Name)
		case len(u.Command) > 0 && !filepath.IsAbs(u.Command[0]):
			bad("the consumer %s: command begins with %q; it must be an absolute path", u.Name, u.Command[0])
		case u.Secret != "" && c.Secrets == nil:
			bad("the consumer %s: this deployment has no secrets", u.Name)
		case u.Platform != "" && c.Platform[u.Platform] == nil:
			bad("the consumer %s: there is no part %q of the platform that takes credentials; there are %s", u.Name, u.Platform,
				cmp.Or(strings.Join(sortedKeys(c.Platform), ", "), "none"))
		}
	}
	return errors.Join(wrong...)
}

func sortedKeys[V any](m map[string]V) (list []string) {
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// everywhere tells that the consumer is on every replica.
func (u Use) everywhere() bool { return u.File != "" || len(u.Command) > 0 || u.Platform != "" }

// confirms tells that being handed a version is to use it.
func (u Use) confirms() bool { return len(u.Command) > 0 || u.Platform != "" }

// kind says in a word what the consumer is.
func (u Use) kind() string {
	switch {
	case u.Secret != "":
		return "secret"
	case u.File != "":
		return "file"
	case len(u.Command) > 0:
		return "command"
	case u.Platform != "":
		return "platform"
	}
	return "told"
}
