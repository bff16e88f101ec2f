package credentials

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

	// Notify are the addresses of those who are asked for a version that a person has to
	// supply.
	Notify []string
}

// A Use is a consumer of a credential. At most one of Secret, File, Command and
// Platform is given; without any it is one that fetches or is told by its own means,
// and says by the API which version it has.
type Use struct {
	Name string

	Secret   string   // a secret of this platform, by its name
	File     string   // a file on every replica
	Member   string   // of the secret, as text, is what the file gets; "" is all of it, as JSON
	Mode     string   // of the file, as in 0640; "" keeps that of a file which is there, and is 0600 otherwise
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
	kind   Kind
	place  string
	site   string // where it is minted, to be compared; a hash
	shared bool   // others can be minted there, too
	wrong  string // why nothing can be done with it

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
		if out.place, err = out.kind.Check(d.Settings); err == nil {
			out.site, out.shared = siteOf(d.Kind, out.kind, d.Settings, out.place)
			err = errors.Join(d.checkQuiet(out.kind), d.checkLife(out.kind))
		}
	}
	if err != nil {
		out.wrong = err.Error()
	}
	return out
}

// siteOf tells one place of a kind from another.
func siteOf(name string, kind Kind, settings json.RawMessage, words string) (site string, shared bool) {
	if s, ok := kind.(Sited); ok {
		words, shared = s.Site(settings)
	}
	sum := sha256.Sum256([]byte(name + "\x00" + words))
	return hex.EncodeToString(sum[:16]), shared
}

// checkQuiet keeps a version from being taken for unused before its use is told.
func (d Definition) checkQuiet(kind Kind) error {
	if l, ok := kind.(Lagging); ok && d.Quiet <= l.Lag() {
		return fmt.Errorf("quiet is %s; where a %s is in use is told up to %s late, so it must be longer than that", d.Quiet, d.Kind, l.Lag())
	}
	return nil
}

// checkLife keeps a version from ending by itself before all have the next one. One that
// is rotated by nobody but people is left to them.
func (d Definition) checkLife(kind Kind) error {
	l, ok := kind.(Lasting)
	if !ok || d.Plan == (Plan{}) {
		return nil
	}
	if lasts := l.Lasts(d.Settings); d.Plan.MaxAge == 0 || d.Plan.MaxAge+d.Overlap >= lasts {
		return fmt.Errorf("a version ends by itself after %s, so it has to be replaced before: maxAge, which is %s, and overlap, which is %s, must be less than that together", lasts, d.Plan.MaxAge, d.Overlap)
	}
	return nil
}

// apart finds definitions that are in each other's way. None of them is worked with: it
// cannot be told which of them is the one that has been there.
func apart(all map[string]*defined) {
	type claim struct{ what, owner string }
	owners := map[string][]claim{} // by what only one may have
	for _, name := range sortedKeys(all) {
		d := all[name]
		if d.wrong != "" {
			continue
		}
		if !d.shared {
			owners["site "+d.site] = append(owners["site "+d.site], claim{"is minted at the same place (" + d.place + ")", name})
		}
		for _, u := range d.Consumers {
			if u.File != "" {
				for _, file := range []string{filepath.Clean(u.File), filepath.Clean(u.File) + labelSuffix} {
					owners["file "+file] = append(owners["file "+file], claim{"has the file " + file, name})
				}
			}
			if u.Secret != "" {
				owners["secret "+u.Secret] = append(owners["secret "+u.Secret], claim{"has the secret " + u.Secret, name})
			}
		}
	}
	wrong := map[string][]string{}
	for _, what := range sortedKeys(owners) {
		for i, a := range owners[what] {
			for j, b := range owners[what] {
				if i != j {
					text := fmt.Sprintf("the credential %s %s, too; one of them has to go", b.owner, b.what)
					if a.owner == b.owner {
						text = fmt.Sprintf("another consumer of it %s, too", b.what)
					}
					if !slices.Contains(wrong[a.owner], text) {
						wrong[a.owner] = append(wrong[a.owner], text)
					}
				}
			}
		}
	}
	for name, list := range wrong {
		if d := all[name]; d.wrong == "" {
			d.wrong = strings.Join(list, "\n")
		}
	}
}

// mode is what a file is to have; given tells that it is said.
func (u Use) mode() (mode fs.FileMode, given bool) {
	n, err := strconv.ParseUint(u.Mode, 8, 32)
	if u.Mode == "" || err != nil {
		return 0o600, false
	}
	return fs.FileMode(n), true
}

// secretName is what the service secrets takes for a name, but for the slips of a pen.
var secretName = regexp.MustCompile(`^[^\x00-\x20/\x7f]([^\x00-\x1f\x7f]{0,498}[^\x00-\x20/\x7f])?$`)

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
		case (u.Member != "" || u.Mode != "") && u.File == "":
			bad("the consumer %s: member and mode are of no use without file", u.Name)
		case u.Secret != "" && !secretName.MatchString(u.Secret):
			bad("the consumer %s: secret is %q; the name of a secret has no control characters, no space or slash at its ends, and up to 500 bytes", u.Name, u.Secret)
		case len(u.Command) > 0 && !filepath.IsAbs(u.Command[0]):
			bad("the consumer %s: command begins with %q; it must be an absolute path", u.Name, u.Command[0])
		case u.Secret != "" && c.Secrets == nil:
			bad("the consumer %s: this deployment has no secrets", u.Name)
		case u.Platform != "" && c.Platform[u.Platform] == nil:
			bad("the consumer %s: there is no part %q of the platform that takes credentials; there are %s", u.Name, u.Platform,
				cmp.Or(strings.Join(sortedKeys(c.Platform), ", "), "none"))
		}
	}
	for _, u := range d.Consumers {
		if n, given := u.mode(); u.Mode != "" && (!given || n&^0o777 != 0 || n&0o400 == 0 || n&0o002 != 0) {
			bad("the consumer %s: mode is %q; it must be octal, such as \"0640\", with which the owner can read the file and not everybody can write it", u.Name, u.Mode)
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
