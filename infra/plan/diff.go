package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	tfjson "github.com/hashicorp/terraform-json"
)

// hidden stands where a secret was.
const hidden = "(secret)"

// maxDepth is how deep values are looked into; what is deeper is shown as one.
const maxDepth = 32

// A redactor knows the secrets of a plan.
type redactor struct{ values []string }

// leastSecret is how long a value is, at least, that is looked for elsewhere: shorter ones are in too many texts.
const leastSecret = 6

// learn notes the values that are marked as sensitive. Marks get lost on the way: what a resource computes from a secret
// has none.
func (r *redactor) learn(v, secret any) { r.learnAt(v, secret, 0) }

func (r *redactor) learnAt(v, secret any, depth int) {
	if depth > maxDepth || !anyTrue(secret) {
		return
	}
	switch v := v.(type) {
	case string:
		if len(v) >= leastSecret && !slices.Contains(r.values, v) && parse(v) == nil {
			r.values = append(r.values, v)
		}
	case map[string]any:
		for k, e := range v {
			r.learnAt(e, in(secret, k), depth+1)
		}
	case []any:
		for i, e := range v {
			r.learnAt(e, inList(secret, i), depth+1)
		}
	}
}

// hide replaces what was learnt in a text.
func (r *redactor) hide(text string) string {
	for _, v := range r.values {
		text = strings.ReplaceAll(text, v, hidden)
	}
	return text
}

// differences lists the attributes that a change touches.
func (r *redactor) differences(c *tfjson.Change) []Attribute {
	d := differ{r: r}
	d.list = []Attribute{}
	d.walk(nil, "", c.Before, c.After, c.AfterUnknown, c.BeforeSensitive, c.AfterSensitive)
	return d.list
}

type differ struct {
	r    *redactor
	list []Attribute
}

// walk compares two values. Both may be nil, for what is not there; unknown and the two marks of what is sensitive are
// true, or of the form of the values. key is the name that says what the value is.
func (d *differ) walk(steps []any, key string, before, after, unknown, beforeSecret, afterSecret any) {
	a := Attribute{Path: join(steps), steps: slices.Clone(steps)}
	switch {
	case isTrue(beforeSecret), isTrue(afterSecret), d.r.looksSecret(key, before), d.r.looksSecret(key, after):
		if a.Unknown = anyTrue(unknown); a.Unknown || !same(before, after) {
			a.Secret = true
			d.list = append(d.list, a)
		}
		return
	case isTrue(unknown):
		a.Unknown, a.Before = true, d.r.redact(before, beforeSecret, key)
		d.list = append(d.list, a)
		return
	}
	if len(steps) < maxDepth {
		bm, bIs := container[map[string]any](before)
		am, aIs := container[map[string]any](after)
		um, _ := unknown.(map[string]any)
		if bIs && aIs && len(bm)+len(am)+len(um) > 0 {
			for _, k := range keysOf(bm, am, um) {
				d.walk(append(steps, k), nameOf(k, bm, am), bm[k], am[k], um[k], in(beforeSecret, k), in(afterSecret, k))
			}
			return
		}
		bl, bIs := container[[]any](before)
		al, aIs := container[[]any](after)
		ul, _ := unknown.([]any)
		if bIs && aIs && len(bl)+len(al)+len(ul) > 0 && !(d.r.flat(bl) && d.r.flat(al) && !anyTrue(unknown) && !anyTrue(beforeSecret) && !anyTrue(afterSecret)) {
			if names, ok := named(bl, al); ok && len(ul) <= len(al) {
				for _, n := range names {
					b, a := n.before, n.after
					d.walk(append(steps, n.step), key, at(bl, b), at(al, a), at(ul, a), inList(beforeSecret, b), inList(afterSecret, a))
				}
				return
			}
			for i := range max(len(bl), len(al), len(ul)) {
				d.walk(append(steps, i), key, at(bl, i), at(al, i), at(ul, i), inList(beforeSecret, i), inList(afterSecret, i))
			}
			return
		}
	}
	if same(before, after) || void(before) && void(after) {
		return
	}
	a.Before, a.After = d.r.redact(before, beforeSecret, key), d.r.redact(after, afterSecret, key)
	d.list = append(d.list, a)
}

// A pair is an element of two lists whose elements have names. Where there is none its index is -1.
type pair struct {
	step          namedStep
	before, after int
}

// A namedStep is a step of a path into a list, that people know by a name and terraform by an index.
type namedStep struct {
	index int
	name  string
}

func (s namedStep) String() string { return fmt.Sprint(s.index) }

// named pairs the elements of two lists by their names, if all have one and no two the same: so that one variable more in
// an environment is not a change of all that follow.
func named(before, after []any) ([]pair, bool) {
	var pairs []pair
	index := func(l []any) (map[string]int, bool) {
		m := map[string]int{}
		for i, e := range l {
			o, _ := e.(map[string]any)
			name, ok := o["name"].(string)
			if _, twice := m[name]; !ok || twice || name == "" {
				return nil, false
			}
			m[name] = i
		}
		return m, true
	}
	b, ok := index(before)
	a, also := index(after)
	if !ok || !also {
		return nil, false
	}
	for name, i := range a {
		p := pair{namedStep{i, name}, -1, i}
		if j, was := b[name]; was {
			p.before = j
		}
		pairs = append(pairs, p)
	}
	for name, j := range b {
		if _, is := a[name]; !is {
			pairs = append(pairs, pair{namedStep{j, name}, j, -1})
		}
	}
	slices.SortFunc(pairs, func(x, y pair) int { return strings.Compare(x.step.name, y.step.name) })
	return pairs, true
}

// container is v as a map or list, also where that is written as JSON in a text, as policies and container definitions
// are. What is not there is an empty one.
func container[T map[string]any | []any](v any) (T, bool) {
	var none T
	switch v := v.(type) {
	case nil:
		return none, true
	case T:
		return v, true
	case string:
		if parsed, ok := parse(v).(T); ok {
			return parsed, true
		}
	}
	return none, false
}

// parse is the JSON object or list that a text is, nil for any other.
func parse(s string) any {
	if s == "" || s[0] != '{' && s[0] != '[' {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return nil
	}
	return v
}

// redact copies a value without what is secret in it.
func (r *redactor) redact(v, secret any, key string) any { return r.redactAt(v, secret, key, 0) }

func (r *redactor) redactAt(v, secret any, key string, depth int) any {
	if isTrue(secret) && v != nil || r.looksSecret(key, v) || depth > maxDepth {
		return hidden
	}
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = r.redactAt(e, in(secret, k), nameOf(k, v), depth+1)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = r.redactAt(e, inList(secret, i), key, depth+1)
		}
		return l
	case string:
		if parsed := parse(v); parsed != nil {
			if clean := r.redactAt(parsed, nil, key, depth+1); !same(clean, parsed) {
				text, err := json.Marshal(clean)
				if err != nil {
					return hidden
				}
				return string(text)
			}
		}
	}
	return v
}

// secretName matches what a secret is called, whoever forgot to mark it.
var secretName = regexp.MustCompile(`(?i)(^|[_.-])(password|passwd|passphrase|secret|secret_string|secret_binary|token|private_key|access_key|secret_key|secret_access_key|api_key|credentials?)(_wo)?$`)

// secretText matches texts that are secrets by themselves: a private key, a password in a URL, an access token.
var secretText = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY|://[^/@\s:]+:[^/@\s]+@|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAKIA[A-Z0-9]{16}\b`)

func (r *redactor) looksSecret(key string, v any) bool {
	s, ok := v.(string)
	if !ok || s == "" || strings.HasPrefix(s, "arn:") {
		return false
	}
	if parse(s) != nil {
		return secretName.MatchString(key)
	}
	return secretName.MatchString(key) || r.has(s)
}

// has tells whether a text has a secret in it.
func (r *redactor) has(s string) bool {
	return secretText.MatchString(s) || slices.ContainsFunc(r.values, func(v string) bool { return strings.Contains(s, v) })
}

// nameOf says what the value under a key is called: in pairs of name and value, as environments of containers are, it
// is the name.
func nameOf(k string, maps ...map[string]any) string {
	if k == "value" || k == "Value" {
		for _, m := range maps {
			for _, n := range []string{"name", "Name", "key", "Key"} {
				if s, ok := m[n].(string); ok {
					return s
				}
			}
		}
	}
	return k
}

func isTrue(v any) bool { b, ok := v.(bool); return ok && b }

// anyTrue tells whether a structure of marks has one that is set.
func anyTrue(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case map[string]any:
		for _, e := range v {
			if anyTrue(e) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, anyTrue)
	}
	return false
}

func in(marks any, k string) any {
	if isTrue(marks) {
		return true
	}
	m, _ := marks.(map[string]any)
	return m[k]
}

func inList(marks any, i int) any {
	if isTrue(marks) {
		return true
	}
	l, _ := marks.([]any)
	return at(l, i)
}

func at(l []any, i int) any {
	if i >= 0 && i < len(l) {
		return l[i]
	}
	return nil
}

// flat tells whether a list has values only, no lists and objects: those are shown as one.
func (r *redactor) flat(l []any) bool {
	return !slices.ContainsFunc(l, func(v any) bool {
		switch v.(type) {
		case map[string]any, []any:
			return true
		}
		s, ok := v.(string)
		return ok && r.has(s)
	})
}

func same(a, b any) bool { return reflect.DeepEqual(a, b) }

// void tells whether a value says nothing: terraform does not tell these apart.
func void(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

func keysOf(all ...map[string]any) []string {
	union := map[string]bool{}
	for _, m := range all {
		for k := range m {
			union[k] = true
		}
	}
	return slices.Sorted(maps.Keys(union))
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

func join(steps []any) string {
	var b strings.Builder
	for _, s := range steps {
		switch s := s.(type) {
		case string:
			switch {
			case !plainKey.MatchString(s):
				fmt.Fprintf(&b, "[%q]", s)
			case b.Len() > 0:
				b.WriteString("." + s)
			default:
				b.WriteString(s)
			}
		case namedStep:
			fmt.Fprintf(&b, "[%q]", s.name)
		default:
			fmt.Fprintf(&b, "[%v]", s)
		}
	}
	return b.String()
}
