package infra

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/taskfleet/taskfleet/infra/plan"
)

// Results of an apply.
const (
	Applied     = "applied"
	Failed      = "failed"      // terraform or a provider has failed
	Interrupted = "interrupted" // in good order: what was under way has ended
	CutOff      = "cut off"     // killed: what was under way is not known
	Running     = "running"
)

// A record is a line of a journal, .plans/NAME/journal.jsonl. It is on disk before anybody is told.
type record struct {
	Time    time.Time `json:"time"`
	Run     string    `json:"run"`  // of which apply it is
	What    string    `json:"what"` // begin, start, done, failed, error, end
	Address string    `json:"address,omitempty"`
	Action  string    `json:"action,omitempty"`
	ID      string    `json:"id,omitempty"` // that AWS gave
	Seconds float64   `json:"seconds,omitempty"`
	Text    string    `json:"text,omitempty"` // of an error; of end, the result
	Host    string    `json:"host,omitempty"`
	PID     int       `json:"pid,omitempty"`
}

// A journal is written while a plan is applied.
type journal struct {
	file *os.File
	run  string
	err  error // the first one
}

func openJournal(directory string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(directory, "journal.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{file: f, run: rand.Text()}
	if _, err := f.WriteString("\n"); err != nil { // a crash may have cut the last line
		return nil, errors.Join(err, f.Close())
	}
	host, _ := os.Hostname() // "" tells that it is not known
	j.write(record{Time: time.Now().UTC(), What: "begin", Host: host, PID: os.Getpid()})
	return j, j.err
}

// write appends a record. A disk that is full does not end an apply: what is under way would be lost. The error is kept.
func (j *journal) write(r record) {
	r.Run = j.run
	line, err := json.Marshal(r)
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil && j.err == nil {
		j.err = fmt.Errorf("write the journal %s: %w", j.file.Name(), err)
	}
}

// A Step is what an apply has done to one resource, or has not.
type Step struct {
	Address string      `json:"address"`
	Action  plan.Action `json:"action"`
	ID      string      `json:"id,omitempty"` // that AWS gave
	Error   string      `json:"error,omitempty"`
}

// A Report is what has become of the last apply of a plan.
type Report struct {
	Plan   string    `json:"plan"`
	Result string    `json:"result"`
	Began  time.Time `json:"began"`
	Last   time.Time `json:"last"` // that it told something
	Host   string    `json:"host"`
	PID    int       `json:"pid"`
	Total  int       `json:"total"` // of the resources that were to change

	Done       []Step   `json:"done"`       // and recorded in the state
	Unrecorded []Step   `json:"unrecorded"` // done, and the state does not know
	Failed     []Step   `json:"failed"`
	Unknown    []Step   `json:"unknown"` // under way when it was killed
	Left       []Step   `json:"left"`    // not begun
	Errors     []string `json:"errors"`
	Next       []string `json:"next"` // what to do now
}

// Report tells what has become of the last apply of a saved plan, from its journal and from the resources that the state
// has, ids by address. It is nil if the plan was never applied.
func (d *Deployment) report(s *Saved, recorded map[string]string) (*Report, error) {
	records, err := readJournal(filepath.Join(s.directory, "journal.jsonl"))
	if err != nil || len(records) == 0 {
		return nil, err
	}
	r := &Report{
		Plan: s.Name, Result: CutOff, Began: records[0].Time, Last: records[len(records)-1].Time, Host: records[0].Host, PID: records[0].PID,
		Done: []Step{}, Unrecorded: []Step{}, Failed: []Step{}, Unknown: []Step{}, Left: []Step{}, Errors: []string{}, Next: []string{},
	}
	last := map[string]record{}
	for _, x := range records {
		switch x.What {
		case "start", "done", "failed":
			last[x.Address+" "+x.Action] = x
		case "error":
			r.Errors = append(r.Errors, x.Text)
		case "end":
			r.Result = x.Text
		}
	}
	if host, _ := os.Hostname(); r.Result == CutOff && host == r.Host && alive(r.PID) {
		r.Result = Running
	}
	for _, c := range s.Plan.Changes {
		// A replacement is two steps of terraform's, create and delete in either order.
		actions := []plan.Action{c.Action}
		switch c.Action {
		case plan.Replace:
			actions = []plan.Action{plan.Delete, plan.Create}
		case plan.Create, plan.Update, plan.Delete:
		default:
			continue // the state alone
		}
		r.Total += len(actions)
		for _, a := range actions {
			step := Step{Address: c.Address, Action: a}
			plain, _, _ := strings.Cut(c.Address, " (deposed ") // terraform's events do not tell it apart
			x, begun := last[plain+" "+string(a)]
			step.ID = x.ID
			id, there := recorded[c.Address]
			switch {
			case !begun:
				r.Left = append(r.Left, step)
			case x.What == "start" && r.Result != Running:
				r.Unknown = append(r.Unknown, step)
			case x.What == "start":
				r.Left = append(r.Left, step)
			case x.What == "failed":
				step.Error = x.Text
				r.Failed = append(r.Failed, step)
			case a == plan.Create && (!there || x.ID != "" && x.ID != id),
				a == plan.Delete && c.Action == plan.Delete && there:
				r.Unrecorded = append(r.Unrecorded, step)
			default:
				r.Done = append(r.Done, step)
			}
		}
	}
	r.next(d, s.Destroy)
	return r, nil
}

// next works out how to go on.
func (r *Report) next(d *Deployment, destroy bool) {
	dir := " --dir " + d.Directory
	say := func(format string, args ...any) { r.Next = append(r.Next, fmt.Sprintf(format, args...)) }
	switch r.Result {
	case Applied:
		return
	case Running:
		say("It may still be at work: process %d on this machine. Wait for it.", r.PID)
		return
	}
	if path := filepath.Join(d.Directory, "errored.tfstate"); exists(path) {
		say("The state could not be written; it is in %s. First of all: %s -chdir=%s state push errored.tfstate, then remove the file.", path, d.Program, d.Directory)
	}
	for _, s := range r.Unrecorded {
		if s.Action == plan.Create && s.ID != "" {
			say("%s was made and is not in the state. Take it in, or the next apply makes another: taskfleet infra import%s '%s' '%s'", s.Address, dir, s.Address, s.ID)
		} else if s.Action == plan.Create {
			say("%s was made and is not in the state, and its id is not known: look for it at AWS by its tags, and take it in with taskfleet infra import%s '%s' ID", s.Address, dir, s.Address)
		}
	}
	for _, s := range r.Unknown {
		switch s.Action {
		case plan.Create:
			say("%s may be there, whole or in part: look for it at AWS by its name and tags. If it is there: taskfleet infra import%s '%s' ID", s.Address, dir, s.Address)
		default:
			say("%s of %s may have been done: the next plan looks at what is there.", strings.ToUpper(string(s.Action[:1]))+string(s.Action[1:]), s.Address)
		}
	}
	if r.Result == CutOff {
		say("If the next command says that the state is locked by %s of that time: taskfleet infra unlock%s", r.Host, dir)
	}
	if len(r.Failed) > 0 || len(r.Errors) > 0 {
		say("Mend what the errors name.")
	}
	if destroy {
		say("Destroy again, that has what is left: taskfleet infra destroy%s", dir)
		return
	}
	say("Plan again, that has what is left: taskfleet infra plan%s", dir)
}

// readJournal reads the records of the last apply that has begun with a resource, or of the last one if none has: while one is
// at work others may try, and find the state locked. A line that is not whole is left out: a crash has cut it.
func readJournal(path string) ([]record, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	var runs [][]record
	byRun := map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			continue
		}
		i, known := byRun[r.Run]
		if !known {
			i = len(runs)
			byRun[r.Run], runs = i, append(runs, nil)
		}
		runs[i] = append(runs[i], r)
	}
	if err := lines.Err(); err != nil || len(runs) == 0 {
		return nil, err
	}
	for _, run := range slices.Backward(runs) {
		if slices.ContainsFunc(run, func(r record) bool { return r.What == "start" }) {
			return run, nil
		}
	}
	return runs[len(runs)-1], nil
}

// warnOfLost tells of applies that were cut off and have made what the state does not know. Those before the last apply
// that came to its end are not told of any more: its plan has told of them.
func (d *Deployment) warnOfLost(recorded map[string]string) error {
	plans, err := d.Plans()
	if err != nil {
		return err
	}
	var reports []*Report
	var ended time.Time
	for _, p := range plans {
		if !exists(filepath.Join(p.directory, "journal.jsonl")) {
			continue
		}
		s, err := d.Saved(p.Name)
		if err != nil {
			continue // it cannot be applied either, and says so there
		}
		r, err := d.report(s, recorded)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		if reports = append(reports, r); r.Result == Applied && r.Began.After(ended) {
			ended = r.Began
		}
	}
	for _, r := range reports {
		if r.Began.Before(ended) {
			continue
		}
		if r.Result == Running {
			d.notice(fmt.Sprintf("plan %s may still be applied by process %d on this machine", r.Plan, r.PID))
		}
		for _, u := range slices.Concat(r.Unrecorded, r.Unknown) {
			if _, known := recorded[u.Address]; u.Action == plan.Create && !known {
				d.notice(fmt.Sprintf("%s: the apply of plan %s was %s, and may have made it without recording it. taskfleet infra show --dir %s %s says what to do",
					u.Address, r.Plan, r.Result, d.Directory, r.Plan))
			}
		}
	}
	return nil
}

// alive tells whether a process is there.
func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	defer p.Release()
	err = p.Signal(syscall.Signal(0))
	return err == nil || errors.Is(err, fs.ErrPermission)
}

// LastApply words what has become of the last apply of a saved plan by its journal alone: "-" if there was none.
func (s *Saved) LastApply() string {
	records, err := readJournal(filepath.Join(s.directory, "journal.jsonl"))
	switch {
	case err != nil:
		return "journal cannot be read"
	case len(records) == 0:
		return "-"
	}
	if last := records[len(records)-1]; last.What == "end" {
		return last.Text
	}
	return CutOff + ", or running"
}
