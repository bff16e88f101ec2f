package infra

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/terraform-exec/tfexec"

	"github.com/taskfleet/taskfleet/infra/plan"
)

// An event is a line of terraform's machine-readable output, as far as we need it.
// https://developer.hashicorp.com/terraform/internals/machine-readable-ui
type event struct {
	Type string    `json:"type"`
	Time time.Time `json:"@timestamp"`
	Hook *struct {
		Resource struct {
			Address string `json:"addr"`
		} `json:"resource"`
		Action  string  `json:"action"`
		IDKey   string  `json:"id_key"`
		ID      string  `json:"id_value"`
		Seconds float64 `json:"elapsed_seconds"`
	} `json:"hook"`
	Diagnostic *Diagnostic `json:"diagnostic"`
}

// A Diagnostic is an error or a warning of terraform or a provider.
type Diagnostic struct {
	Severity string `json:"severity"` // error or warning
	Summary  string `json:"summary"`
	Detail   string `json:"detail"`
	Address  string `json:"address"` // of the resource, "" if it concerns none
	Range    *struct {
		File  string `json:"filename"`
		Start struct {
			Line int `json:"line"`
		} `json:"start"`
	} `json:"range"`
}

// String is the diagnostic for people, in some lines.
func (d Diagnostic) String() string {
	text := d.Summary
	switch {
	case d.Address != "" && d.Range != nil:
		text += fmt.Sprintf(" (%s, %s:%d)", d.Address, d.Range.File, d.Range.Start.Line)
	case d.Address != "":
		text += " (" + d.Address + ")"
	case d.Range != nil:
		text += fmt.Sprintf(" (%s:%d)", d.Range.File, d.Range.Start.Line)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(d.Detail), "\n") {
		if line = strings.TrimRight(line, " \r"); line != "" {
			text += "\n    " + line
		}
	}
	return text
}

// A FailedError is what terraform or a provider did not do, and why.
type FailedError struct {
	Doing       string // what was being done
	Diagnostics []Diagnostic
	Err         error // of the process
}

func (e *FailedError) Unwrap() error { return e.Err }

func (e *FailedError) Error() string {
	if len(e.Diagnostics) == 0 {
		return e.Doing + ": " + tidy(e.Err)
	}
	text := e.Doing + " failed:"
	for _, d := range e.Diagnostics {
		text += "\n  " + d.String()
	}
	return text
}

// A LockedError says that somebody else holds the lock of the state.
type LockedError struct {
	Directory string    `json:"-"`
	ID        string    `json:"id"`
	Who       string    `json:"who"`       // user@host
	Operation string    `json:"operation"` // of terraform, such as OperationTypeApply
	Since     time.Time `json:"since"`     // zero if that is not told
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("the state is locked: %s. Nothing was done. If that is still at work, wait for it; "+
		"if it is certainly dead: taskfleet infra unlock --dir %s", e.Holder(), e.Directory)
}

// Holder says who holds the lock for what, since when.
func (e *LockedError) Holder() string {
	text := cmp.Or(e.Who, "somebody who does not say who")
	if e.Operation != "" {
		text += ", for " + strings.ToLower(strings.TrimPrefix(e.Operation, "OperationType"))
	}
	if !e.Since.IsZero() {
		text += fmt.Sprintf(", since %s (%s)", e.Since.UTC().Format("2006-01-02 15:04:05 UTC"), time.Since(e.Since).Round(time.Second))
	}
	return text + ", lock " + cmp.Or(e.ID, "without an id")
}

var (
	lockText  = regexp.MustCompile(`(?i)error acquiring the state lock|error locking (state|destination|source)|state lock`)
	lockField = regexp.MustCompile(`(?m)^[\s│|]*(ID|Who|Operation|Created):[ \t]+(.*?)\s*$`)
)

// locked recognises in what terraform has said that the lock is held.
func (d *Deployment) locked(text string) *LockedError {
	if !lockText.MatchString(text) {
		return nil
	}
	e := &LockedError{Directory: d.Directory}
	for _, m := range lockField.FindAllStringSubmatch(text, -1) {
		switch m[1] {
		case "ID":
			e.ID = m[2]
		case "Who":
			e.Who = m[2]
		case "Operation":
			e.Operation = m[2]
		case "Created":
			e.Since, _ = time.Parse("2006-01-02 15:04:05.999999999 -0700 MST", m[2]) // another form is left out
		}
	}
	if e.ID == "" && e.Who == "" {
		return nil
	}
	return e
}

// fail makes an error of what terraform has said.
func (d *Deployment) fail(doing string, err error, said []Diagnostic) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) { // whose text is nil's if the command has ended well nevertheless
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	}
	var errs []Diagnostic
	for _, s := range said {
		if s.Severity == "error" {
			if l := d.locked(s.Summary + "\n" + s.Detail); l != nil {
				return l
			}
			errs = append(errs, s)
		}
	}
	if l := d.locked(err.Error()); l != nil {
		return l
	}
	return &FailedError{Doing: doing, Diagnostics: errs, Err: err}
}

// tidy is the text of an error without the frame that terraform draws round it.
func tidy(err error) string {
	var lines []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		line = strings.TrimRight(strings.TrimPrefix(strings.TrimLeft(ansi.ReplaceAllString(line, ""), "╷╵"), "│"), " \r")
		if line = strings.TrimPrefix(line, " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n  ")
}

var ansi = regexp.MustCompile("\x1b\\[[0-9;]*m")

// watch runs a command of terraform that tells in JSON what it does, and returns its errors and warnings.
func (d *Deployment) watch(see func(event), run func(io.Writer) error) ([]Diagnostic, error) {
	lines := &lineWriter{}
	var said []Diagnostic
	lines.line = func(line []byte) {
		var e event
		if json.Unmarshal(line, &e) != nil {
			return // not of the protocol: a warning about the command line's configuration, say
		}
		if see != nil {
			see(e)
		}
		if e.Diagnostic != nil {
			said = append(said, *e.Diagnostic)
		}
	}
	defer d.tf.SetStdout(io.Discard)
	err := run(lines)
	return said, err
}

// A lineWriter hands on whole lines, of any length.
type lineWriter struct {
	line   func([]byte)
	buffer bytes.Buffer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.buffer.Write(p)
	for {
		i := bytes.IndexByte(w.buffer.Bytes(), '\n')
		if i < 0 {
			return len(p), nil
		}
		w.line(w.buffer.Next(i + 1))
	}
}

// prepare makes terraform ready for the directory, unless an apply has left there what the state does not know.
func (d *Deployment) prepare(ctx context.Context, o ...tfexec.InitOption) error {
	if path := filepath.Join(d.Directory, "errored.tfstate"); exists(path) {
		return fmt.Errorf("%s holds what an apply has done and could not write to the state: nothing else is done before it is there. "+
			"Run: %s -chdir=%s state push errored.tfstate, then remove the file", path, d.Program, d.Directory)
	}
	return d.init(ctx, o...)
}

// init has terraform look at backend, modules and providers.
func (d *Deployment) init(ctx context.Context, o ...tfexec.InitOption) error {
	if d.reattach != nil {
		o = append(o, tfexec.Reattach(d.reattach))
	}
	err := d.fail("init", d.tf.Init(ctx, o...), nil)
	if err != nil && backendChanged.MatchString(err.Error()) {
		return fmt.Errorf("where the state of %s is kept is not where it was: taskfleet infra bootstrap --dir %s moves it, or goes on with that\n%w", d.Directory, d.Directory, err)
	}
	return err
}

var backendChanged = regexp.MustCompile(`Backend (initialization required|configuration changed)|Backend type changed|migrate-state`)

// A position is a state's version: a plan is for one.
type position struct {
	Lineage string `json:"lineage"` // "" if there is no state yet
	Serial  uint64 `json:"serial"`
}

// state reads what terraform has recorded: where it stands, and the ids of the resources by address.
func (d *Deployment) state(ctx context.Context) (position, map[string]string, error) {
	text, err := d.tf.StatePull(ctx)
	if err != nil {
		return position{}, nil, d.fail("read the state", err, nil)
	}
	return parseState([]byte(text))
}

// templates quotes what would begin a template in HCL, as terraform does in addresses.
var templates = strings.NewReplacer("${", "$${", "%{", "%%{")

// parseState reads a state, which is empty before the first apply.
func parseState(text []byte) (at position, ids map[string]string, err error) {
	var s struct {
		position
		Resources []struct {
			Module, Mode, Type, Name string
			Instances                []struct {
				Index      any `json:"index_key"`
				Deposed    string
				Attributes struct {
					ID any `json:"id"`
				}
			}
		}
	}
	ids = map[string]string{}
	if len(bytes.TrimSpace(text)) == 0 {
		return position{}, ids, nil
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return position{}, nil, fmt.Errorf("read the state: %w", err)
	}
	for _, r := range s.Resources {
		if r.Mode != "managed" {
			continue
		}
		for _, i := range r.Instances {
			address := r.Type + "." + r.Name
			if r.Module != "" {
				address = r.Module + "." + address
			}
			switch index := i.Index.(type) {
			case string:
				address += fmt.Sprintf("[%q]", templates.Replace(index))
			case float64:
				address += fmt.Sprintf("[%d]", int(index))
			}
			if i.Deposed != "" {
				address += plan.Deposed(i.Deposed)
			}
			ids[address] = fmt.Sprint(i.Attributes.ID)
		}
	}
	return s.position, ids, nil
}
