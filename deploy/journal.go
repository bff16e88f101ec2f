package deploy

import (
	"bufio"
	"cmp"
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
)

// Folder is where an environment keeps the journals of its deploys.
const Folder = ".deploy"

// A Result is what a deploy has come to.
type Result string

// Results. What has none was cut off, or is under way.
const (
	Done        Result = "done"
	Failed      Result = "failed"      // where it failed can be tried again
	Declined    Result = "declined"    // somebody who was asked said no
	Forbidden   Result = "forbidden"   // by policy
	RolledBack  Result = "rolled back" // the release before is at work
	Broken      Result = "broken"      // the release has failed, and the one before is not known to work either
	Interrupted Result = "interrupted"
)

// resumable tells whether the same deploy can go on.
func (r Result) resumable() bool { return !slices.Contains([]Result{Done, RolledBack, Broken}, r) }

// A record is a line of a journal. It is on disk before anything that comes after it.
type record struct {
	Time   time.Time `json:"time"`
	What   string    `json:"what"` // open, resume, begin, agreed, done, failed, end
	Step   Step      `json:"step,omitempty"`
	Image  string    `json:"image,omitempty"`  // open: that was asked for
	Before string    `json:"before,omitempty"` // agreed, of the platform: the image that was at work; open: by the deploy that was given up
	Wanted string    `json:"wanted,omitempty"` // that replaces it
	Text   string    `json:"text,omitempty"`   // of done: what was done; of failed: why
	Result Result    `json:"result,omitempty"`
	Host   string    `json:"host,omitempty"`
	PID    int       `json:"pid,omitempty"`

	Files map[string]string `json:"files,omitempty"` // agreed: digests of what the preview was made of
}

// A journal is the file of one deploy, and what it says.
type journal struct {
	name string // of the deploy
	file *os.File
	records
}

// records are what a journal says.
type records struct {
	image     string                     // that was asked for
	before    string                     // image that was at work when the deploy began to replace it; "" for none
	wanted    string                     // image that it is replaced by
	replacing bool                       // both are known
	done      map[Step]string            // how
	begun     map[Step]bool              // and not ended
	agreed    map[Step]map[string]string // to what was made of files with these digests
	rolling   bool                       // back, since it has begun to
	failedAt  Step                       // the step that it rolls back from
	failure   string                     // of that
	result    Result                     // "" if it was cut off, or is under way
	last      record
	host      string
	pid       int
}

// take goes on with a record.
func (r *records) take(x record) {
	r.last = x
	switch x.What {
	case "open", "resume":
		r.host, r.pid, r.result = x.Host, x.PID, ""
		if x.What == "open" {
			r.image = x.Image
			r.before, r.wanted, r.replacing = x.Before, x.Wanted, x.Wanted != ""
		}
	case "agreed":
		r.agreed[x.Step] = x.Files
		if x.Step == StepPlatform {
			r.before, r.wanted, r.replacing = x.Before, x.Wanted, true
		}
	case "begin":
		r.begun[x.Step] = true
		r.rolling = r.rolling || x.Step == StepRollback
	case "done":
		delete(r.begun, x.Step)
		r.done[x.Step] = x.Text
	case "failed":
		delete(r.begun, x.Step)
		if !r.rolling {
			r.failedAt, r.failure = x.Step, x.Text
		}
	case "end":
		r.result = x.Result
	}
}

func directory(environment string) string { return filepath.Join(environment, Folder) }

// openJournal makes the journal of a new deploy.
func openJournal(environment string, first record) (*journal, error) {
	dir := directory(environment)
	base := time.Now().UTC().Format("20060102-150405")
	for n := 1; ; n++ {
		name := base
		if n > 1 {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		f, err := os.OpenFile(filepath.Join(dir, name+".jsonl"), os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		j := &journal{name: name, file: f, records: newRecords()}
		if err := errors.Join(j.write(first), syncDirectory(dir)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return j, nil
	}
}

func newRecords() records {
	return records{done: map[Step]string{}, begun: map[Step]bool{}, agreed: map[Step]map[string]string{}}
}

// resume opens a journal again for writing.
func (j *journal) resume(environment string) (err error) {
	if j.file, err = os.OpenFile(filepath.Join(directory(environment), j.name+".jsonl"), os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	if _, err := j.file.WriteString("\n"); err != nil { // a crash may have cut the last line
		return err
	}
	return j.write(record{What: "resume"})
}

// textLimit is how much of the beginning of a text is kept. A line has to be one that can be read again.
const textLimit = 64 << 10

// write appends a record, and returns when it is on disk.
func (j *journal) write(r record) error {
	r.Time = time.Now().UTC()
	if len(r.Text) > textLimit {
		r.Text = strings.ToValidUTF8(r.Text[:textLimit], "") + "…"
	}
	if r.What == "open" || r.What == "resume" {
		r.Host, _ = os.Hostname() // "" tells that it is not known
		r.PID = os.Getpid()
	}
	line, err := json.Marshal(r)
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write the journal %s: %w", j.file.Name(), err)
	}
	j.take(r)
	return nil
}

// lastJournal reads the journal of the last deploy of an environment; nil if there is none.
func lastJournal(environment string) (*journal, error) {
	files, err := os.ReadDir(directory(environment))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".jsonl"); ok {
			names = append(names, name)
		}
	}
	// 20270131-101500-10 comes after 20270131-101500-9.
	slices.SortFunc(names, func(a, b string) int {
		first := min(len(a), len(b), len("20270131-101500"))
		return cmp.Or(strings.Compare(a[:first], b[:first]), cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	})
	for _, name := range slices.Backward(names) {
		j := &journal{name: name, records: newRecords()}
		if err := j.read(filepath.Join(directory(environment), name+".jsonl")); err != nil {
			return nil, err
		}
		if j.last.What != "" { // else it was cut off before its first line
			return j, nil
		}
	}
	return nil, nil
}

// read takes what a journal says. A line that is not whole is left out: a crash has cut it.
func (j *journal) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var r record
		if json.Unmarshal(lines.Bytes(), &r) == nil && r.What != "" {
			j.take(r)
		}
	}
	return lines.Err()
}

// lock makes sure that an environment is deployed by one process at a time. It ends with the process, however that ends.
// The error says who has it.
func lock(environment, name string) (unlock func() error, err error) {
	dir := directory(environment)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o600); err != nil { // what was done here is nobody else's
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	free, err := tryLock(f)
	switch {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	case !free:
		who := ""
		if j, err := lastJournal(environment); err == nil && j != nil {
			who = fmt.Sprintf(", by process %d on %s", j.pid, j.host)
		}
		return nil, errors.Join(fmt.Errorf("%s is being deployed already%s. Nothing was done", name, who), f.Close())
	}
	return f.Close, nil
}

// syncDirectory has a directory know its new file after a power failure.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
