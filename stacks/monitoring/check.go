package monitoring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/signalfx/signalfx-go/notification"

	"github.com/taskfleet/taskfleet/stacks/provider"
)

const (
	mostName    = 100
	mostText    = 1000
	mostProgram = 50_000
	mostCharts  = 100
	mostRules   = 50
	columns     = 12
)

func problem(member, format string, args ...any) error {
	return &provider.Problem{Member: member, Reason: fmt.Sprintf(format, args...)}
}

// normal reads a document strictly, and has it checked and completed.
func normal[S any](text json.RawMessage, check func(*S) []error) (s S, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, problem("", "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); err != io.EOF {
		return s, problem("", "must be one object")
	}
	return s, errors.Join(check(&s)...)
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)

// checkName checks a name at SignalFx. That of a token is a part of an address.
func checkName(name string, token bool) error {
	switch {
	case token && !plainName.MatchString(name):
		return problem("", "the name is %q; it must be up to %d letters, digits, full stops, underscores and hyphens", name, mostName)
	case !line(name, mostName):
		return problem("", "the name is %q; it must be a line of up to %d characters", name, mostName)
	}
	return nil
}

// line tells that a text is one line, and not empty.
func line(text string, most int) bool {
	return text != "" && len(text) <= most && strings.TrimSpace(text) == text && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func checkDescription(text string) error {
	if len(text) > mostText || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' }) {
		return problem("description", "must be text of up to %d bytes", mostText)
	}
	return nil
}

// checkIDs checks ids of SignalFx's, and sorts them.
func checkIDs(member string, ids []string) (problems []error) {
	for i, id := range ids {
		if !plainName.MatchString(id) {
			problems = append(problems, problem(fmt.Sprintf("%s[%d]", member, i), "is %q; it must be an id, as in the address of the team's page", id))
		}
	}
	slices.Sort(ids)
	return problems
}

// published are the labels that a program publishes under.
func published(program string) (labels []string) {
	for _, m := range publish.FindAllStringSubmatch(program, -1) {
		labels = append(labels, m[1]+m[2])
	}
	return labels
}

var publish = regexp.MustCompile(`\.publish\(\s*(?:label\s*=\s*)?(?:'([^']*)'|"([^"]*)")`)

// checkProgram checks what can be checked of SignalFlow without SignalFx.
func checkProgram(program *string) (problems []error) {
	*program = strings.TrimSpace(*program)
	switch {
	case *program == "":
		problems = append(problems, problem("program", "is missing: SignalFlow, such as data('taskfleet_event_lag').publish('A')"))
	case len(*program) > mostProgram:
		problems = append(problems, problem("program", "has more than %d bytes", mostProgram))
	case len(published(*program)) == 0:
		problems = append(problems, problem("program", "publishes nothing: end what is to be seen with .publish('A')"))
	}
	return problems
}

// checkNotifications checks notifications, and brings them into their form.
func checkNotifications(member string, list []Notification) (problems []error) {
	for i, n := range list {
		at := fmt.Sprintf("%s[%d]", member, i)
		text, err := json.Marshal(n)
		if err != nil {
			problems = append(problems, problem(at, "must have strings, numbers and lists only"))
			continue
		}
		parsed, err := known(text)
		switch {
		case err != nil:
			problems = append(problems, problem(at, "must be one of SignalFx's, such as {type: Email, email: ops@example.com}: %s", err))
			continue
		case n["type"] == "Webhook" && (n["secret"] != nil || n["url"] != nil):
			problems = append(problems, problem(at, "must name the webhook's integration by credentialId: its URL and secret are secret"))
		}
		for name := range n {
			if _, ok := parsed[name]; !ok && n[name] != nil {
				problems = append(problems, problem(at+"."+name, "is nothing that a notification of the type %v has", n["type"]))
			}
		}
		list[i] = parsed
	}
	return problems
}

// known is a notification with the members that its type has.
func known(text []byte) (Notification, error) {
	var n notification.Notification
	if err := json.Unmarshal(text, &n); err != nil {
		return nil, errors.New("its type is not known, or a member is of the wrong type")
	}
	text, err := json.Marshal(&n)
	if err != nil {
		return nil, err
	}
	out := Notification{}
	return out, json.Unmarshal(text, &out)
}

// sent are notifications as they are sent.
func sent(list []Notification) ([]*notification.Notification, error) {
	out, err := as[[]*notification.Notification](list)
	if err != nil {
		return nil, errors.New("a notification is of a type that is not known")
	}
	return *out, nil
}

// shown are notifications as they are written. SignalFx may add to them: what was is left as it
// was where it is still so.
func shown(list []*notification.Notification, was []Notification) ([]Notification, error) {
	var out []Notification
	for i, n := range list {
		text, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		is, err := known(text)
		if err != nil {
			return nil, err
		}
		delete(is, "secret") // of a webhook that somebody has made by hand
		if i < len(was) && holds(is, was[i]) {
			is = was[i]
		}
		out = append(out, is)
	}
	return out, nil
}

// holds tells that a notification has all that another one has.
func holds(n, other Notification) bool {
	for name, x := range other {
		l, _ := json.Marshal(x)
		r, _ := json.Marshal(n[name])
		if !bytes.Equal(l, r) {
			return false
		}
	}
	return true
}

var span = regexp.MustCompile(`^([1-9][0-9]{0,4})([mhd])$`)

var units = []struct {
	name  string
	milli int64
}{{"d", 24 * 3_600_000}, {"h", 3_600_000}, {"m", 60_000}}

// milliseconds reads a span of time such as 90m.
func milliseconds(text string) (int64, bool) {
	m := span.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	n, _ := strconv.ParseInt(m[1], 10, 64)
	for _, u := range units {
		if u.name == m[2] {
			n *= u.milli
		}
	}
	return n, true
}

// spelled writes it in the largest unit that fits.
func spelled(milli int64) string {
	for _, u := range units {
		if milli%u.milli == 0 {
			return strconv.FormatInt(milli/u.milli, 10) + u.name
		}
	}
	return strconv.FormatInt(milli, 10) + "ms"
}
