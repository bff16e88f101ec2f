package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// The files of a deployment that are about policy.
const (
	File   = "policy.yml"
	Folder = "policies" // own rules
)

// Limits of policy.yml.
const (
	maxFile       = 1 << 20 // bytes
	maxExceptions = 500
	longest       = 366 * 24 * time.Hour // an exception may last
	leastReason   = 10                   // characters
)

// An Exception accepts what a rule finds of a resource, until a date.
type Exception struct {
	Rule     string `json:"rule"`
	Resource string `json:"resource"` // an address; * stands for any text
	Reason   string `json:"reason"`
	Until    string `json:"until"`          // the last day, in UTC: 2027-01-31
	Line     int    `json:"line,omitempty"` // in policy.yml
}

// Load reads policy.yml and the folder policies of a deployment. Neither has to be there. Errors name the line.
func Load(directory string) (o Options, err error) {
	if info, err := os.Stat(filepath.Join(directory, Folder)); err == nil && info.IsDir() {
		o.Rules = os.DirFS(filepath.Join(directory, Folder))
	}
	f, err := os.Open(filepath.Join(directory, File))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	} else if err != nil {
		return Options{}, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Options{}, err
	}
	if len(text) > maxFile {
		return Options{}, fmt.Errorf("%s has more than %d KiB", f.Name(), maxFile>>10)
	}
	if err := o.parse(text); err != nil {
		return Options{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return o, nil
}

// parse reads the text of policy.yml.
func (o *Options) parse(text []byte) error {
	var file struct {
		Production *bool       `yaml:"production"`
		Exceptions []yaml.Node `yaml:"exceptions"`
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&file); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%w; it may have production and exceptions", err)
	}
	o.Development = file.Production != nil && !*file.Production
	if len(file.Exceptions) > maxExceptions {
		return fmt.Errorf("there are %d exceptions, and %d at most may be; change the rules instead", len(file.Exceptions), maxExceptions)
	}
	for i, n := range file.Exceptions {
		e, err := parseException(&n)
		if err != nil {
			return fmt.Errorf("line %d: exceptions[%d]: %w", n.Line, i, err)
		}
		o.Exceptions = append(o.Exceptions, e)
	}
	return nil
}

func parseException(n *yaml.Node) (Exception, error) {
	const form = "write it as rule, resource, reason and until"
	if n.Kind != yaml.MappingNode {
		return Exception{}, errors.New("it is no mapping; " + form)
	}
	e := Exception{Line: n.Line}
	fields := map[string]*string{"rule": &e.Rule, "resource": &e.Resource, "reason": &e.Reason, "until": &e.Until}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, known := fields[key.Value]
		switch {
		case !known:
			return e, fmt.Errorf("there is no field %q (line %d); %s", key.Value, key.Line, form)
		case value.Kind != yaml.ScalarNode:
			return e, fmt.Errorf("%s is no text (line %d)", key.Value, value.Line)
		case *field != "":
			return e, fmt.Errorf("%s is there twice (line %d)", key.Value, key.Line)
		}
		*field = strings.TrimSpace(value.Value)
	}
	return e, nil
}

// check says what is wrong with an exception. known are the ids of rules.
func (e Exception) check(known func(rule string) bool, now time.Time) error {
	err := func() error {
		switch {
		case e.Rule == "":
			return errors.New("it names no rule")
		case !known(e.Rule):
			return fmt.Errorf("there is no rule %q; taskfleet infra policy list shows those there are", e.Rule)
		case e.Resource == "":
			return errors.New("it names no resource; give an address, in which * stands for any text")
		case !strings.ContainsFunc(e.Resource, unicode.IsLetter):
			return errors.New("it is for every resource, those too that nobody has written yet; name a module, a type or an address, such as module.mirror.*")
		case len([]rune(e.Reason)) < leastReason:
			return fmt.Errorf("the reason %q says nothing; write a sentence that somebody understands in a year", e.Reason)
		}
		until, err := time.Parse(time.DateOnly, e.Until)
		if err != nil {
			return fmt.Errorf("until is %q; give the last day, such as 2027-01-31", e.Until)
		}
		if last := now.Add(longest); until.After(last) {
			return fmt.Errorf("until is %s, and an exception lasts for a year at most: give %s or before", e.Until, last.UTC().Format(time.DateOnly))
		}
		return nil
	}()
	switch {
	case err == nil:
		return nil
	case e.Line > 0:
		return fmt.Errorf("%s, line %d: the exception for %s: %w", File, e.Line, e.about(), err)
	}
	return fmt.Errorf("the exception for %s: %w", e.about(), err)
}

func (e Exception) about() string {
	if e.Resource == "" {
		return "no resource"
	}
	return e.Resource
}

// over reports whether the last day of an exception is past.
func (e Exception) over(now time.Time) bool { return now.UTC().Format(time.DateOnly) > e.Until }

// matcher says which addresses an exception is for.
func (e Exception) matcher() *regexp.Regexp {
	parts := strings.Split(e.Resource, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
}

// except marks the violations that an exception accepts, by the first one that does. An exception that is over
// accepts nothing.
func except(found []Violation, list []Exception, now time.Time) (expired, unused []Exception) {
	expired, unused = []Exception{}, []Exception{}
	for _, e := range list {
		if e.over(now) {
			expired = append(expired, e)
			continue
		}
		used, match := false, e.matcher()
		for i := range found {
			if found[i].Rule == e.Rule && match.MatchString(found[i].Address) {
				used = true
				if found[i].Excepted == nil {
					found[i].Excepted = &e
				}
			}
		}
		if !used {
			unused = append(unused, e)
		}
	}
	return expired, unused
}
