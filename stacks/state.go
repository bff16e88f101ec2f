package stacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Export is a stack's state, secrets encrypted: a backup that Restore takes.
func (d *Driver) Export(ctx context.Context, name string) (json.RawMessage, error) {
	s, err := d.engine.state(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.text, nil
}

// Restore makes an exported state that of a stack. Nothing but the state is changed.
func (d *Driver) Restore(ctx context.Context, name string, text []byte) error {
	var s state
	if err := json.Unmarshal(text, &s); err != nil || s.Version == 0 {
		return errors.New("it is no state as taskfleet stacks export writes it")
	}
	for _, r := range s.Deployment.Resources {
		if want := fmt.Sprintf("urn:pulumi:%s::%s::", d.Environment.Name, project(name)); !strings.HasPrefix(r.URN, want) {
			return fmt.Errorf("it is the state of another stack or environment: it has %.200s, and not %s…", r.URN, want)
		}
	}
	if _, err := d.engine.ensure(ctx, name); err != nil {
		return err
	}
	return d.engine.restore(ctx, name, text)
}

// Outputs are what a stack hands on, by name. Secret ones are hidden.
func (d *Driver) Outputs(ctx context.Context, name string) (map[string]json.RawMessage, error) {
	text, err := d.engine.run(ctx, name, "stack", "output", "--json", "--stack", d.Environment.Name)
	if err != nil {
		return nil, err
	}
	var out map[string]json.RawMessage
	return out, json.Unmarshal([]byte(text), &out)
}

// An Event is something that was done with a stack.
type Event struct {
	Stack   string         `json:"stack"`
	Kind    string         `json:"kind"` // update, refresh, destroy, import
	Began   time.Time      `json:"startTime"`
	Ended   time.Time      `json:"endTime,omitzero"`
	Message string         `json:"message"`
	Result  string         `json:"result"`
	Changes map[string]int `json:"resourceChanges,omitempty"`
}

// History is what was done with a stack, the latest first; at most n.
func (d *Driver) History(ctx context.Context, name string, n int) ([]Event, error) {
	text, err := d.engine.run(ctx, name, "stack", "history", "--json", "--stack", d.Environment.Name, "--page-size", fmt.Sprint(n), "--page", "1")
	if err != nil {
		return nil, err
	}
	var out []Event
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("the history of stack %s cannot be read: %w", name, err)
	}
	for i := range out {
		out[i].Stack = name
		if message, err := strconv.Unquote(out[i].Message); err == nil { // package auto has quoted it
			out[i].Message = message
		}
	}
	return out, nil
}

// A Lock is somebody's who works on a stack.
type Lock struct {
	Stack string    `json:"stack"`
	User  string    `json:"username"`
	Host  string    `json:"hostname"`
	PID   int       `json:"pid"`
	Since time.Time `json:"timestamp"`
}

// Locks are the locks of a stack, where the backend is a directory; elsewhere only who tries to work is told of them.
func (d *Driver) Locks(name string) (locks []Lock, known bool, err error) {
	path := d.Environment.states()
	if path == "" {
		return nil, false, nil
	}
	files, err := filepath.Glob(filepath.Join(escapeGlob(path), ".pulumi", "locks", "organization", project(name), d.Environment.Name, "*.json"))
	for _, f := range files {
		l := Lock{Stack: name}
		text, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, true, err
		}
		_ = json.Unmarshal(text, &l) // a lock that says nothing is one too
		locks = append(locks, l)
	}
	return locks, true, err
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// Gone tells whether the holder was a process of this machine that is not there any more.
func (l *Lock) Gone() bool {
	host, err := os.Hostname()
	return err == nil && host == l.Host && l.PID > 0 && !alive(l.PID)
}

// Cancel takes a stack's lock away. Who holds it has to be dead: two who write a state spoil it.
func (d *Driver) Cancel(ctx context.Context, name string) error {
	_, err := d.engine.run(ctx, name, "cancel", "--yes", "--stack", d.Environment.Name)
	return err
}
