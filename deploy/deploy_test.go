package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A world is what deploys of tests change: files in a directory, so that it outlives a process that is killed. It does not
// answer with what a test expects, but with what was done to it before.
type world struct {
	t   *testing.T // nil in a process of its own
	dir string

	fail   map[string]error // what is to fail, by call such as "up platform"
	bad    string           // image on which no task completes
	at     string           // call that calls stop
	stop   func()
	events []Event
}

func newWorld(t *testing.T) *world { return &world{t: t, dir: t.TempDir(), fail: map[string]error{}} }

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) read(name string) string {
	text, err := os.ReadFile(w.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		panic(err)
	}
	return string(text)
}

func (w *world) write(name, text string) {
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		panic(err)
	}
}

// call notes a call, and does effect, which may be nil.
func (w *world) call(ctx context.Context, name string, effect func()) error {
	w.write("calls", w.read("calls")+name+"\n")
	if err := w.fail[name]; err != nil {
		return err
	}
	if effect != nil {
		effect()
	}
	if w.at == name {
		w.stop()
	}
	return ctx.Err()
}

// calls are those since the last time.
func (w *world) calls() string {
	text := strings.ReplaceAll(strings.TrimSpace(w.read("calls")), "\n", ", ")
	w.write("calls", "")
	return text
}

func (w *world) Plan(ctx context.Context) (*Plan, error) {
	err := w.call(ctx, "plan", nil)
	return &Plan{Name: "p1", Digest: "sha256:1", Summary: "3 to create", Text: "what would be made", Empty: w.read("infra") != "", Forbidden: w.fail["policy"], Data: w.fail["data"]}, err
}

func (w *world) Apply(ctx context.Context, p *Plan) error {
	return w.call(ctx, "apply", func() { w.write("infra", p.Digest) })
}

func (w *world) Manifest(ctx context.Context) (string, error) {
	return "manifest.json", w.call(ctx, "manifest", func() { w.write("manifest", w.read("infra")) })
}

func (w *world) Names() []string { return []string{"platform", "access", "pools"} }

func (w *world) Preview(ctx context.Context, stacks []string, image string) (*Preview, error) {
	p := &Preview{Stacks: stacks, Summary: "1 to change", Text: "what would change", Saved: image, Files: map[string]string{"environment.yml": "sha256:of " + w.read("files")}}
	if stacks[0] == "platform" {
		p.Image = image
		if image == "" {
			p.Image = w.read("files")
		}
		p.Empty = p.Image == w.read("image") && w.read("half") == ""
		if p.Running = w.read("half"); p.Running == "" {
			p.Running = w.read("image")
		}
	} else {
		p.Empty = w.read("stacks") != ""
	}
	if w.read("manifest") == "" {
		return nil, errors.New("there is no manifest")
	}
	return p, w.call(ctx, "preview "+strings.Join(stacks, "+"), nil)
}

func (w *world) Up(ctx context.Context, p *Preview) error {
	if p.Stacks[0] != "platform" {
		return w.call(ctx, "up "+strings.Join(p.Stacks, "+"), func() { w.write("stacks", "done"); w.write("stacks for", p.Saved.(string)) })
	}
	if w.fail["itself"] == nil {
		w.write("half", p.Image)
	}
	return w.call(ctx, "up "+p.Image, func() {
		w.write("image", p.Image)
		if w.at != "up "+p.Image { // else it stops half-way
			w.write("half", "")
		}
	})
}

func (w *world) Test(ctx context.Context, progress func(string)) (string, error) {
	progress("the task is pending")
	err := w.call(ctx, "smoke", nil)
	if err == nil && w.read("image") == w.bad {
		err = errors.New("the task has failed. Its log:\nno such file")
	}
	return "t1", err
}

// deploy is a deploy of the world.
func (w *world) deploy() *Deploy {
	return &Deploy{
		Environment: w.dir, Name: "test", Infra: w, Stacks: w, Smoke: w, Files: w.read("files"), Resume: "deploy --resume",
		Tell:  func(e Event) { w.events = append(w.events, e) },
		Agree: func(ctx context.Context, question string) error { return w.call(ctx, "agree", nil) },
	}
}

// outcome is what a run that must not succeed has come to.
func outcome(t *testing.T, err error, want Result) *Outcome {
	t.Helper()
	o, ok := errors.AsType[*Outcome](err)
	if !ok || o.Result != want {
		t.Fatalf("the deploy ended with %v, want the result %s", err, want)
	}
	return o
}

func (o *Outcome) states() string {
	text := ""
	for _, s := range o.Steps {
		text += fmt.Sprintf("%s %s, ", s.Step, s.State)
	}
	return strings.TrimSuffix(text, ", ")
}

const everything = "plan, agree, apply, manifest, preview platform, agree, up v2, preview access+pools, agree, up access+pools, smoke"

// withRelease has the world run v1, while its files say v2.
func withRelease(t *testing.T) *world {
	w := newWorld(t)
	w.write("image", "v1")
	w.write("files", "v2")
	return w
}

func TestDeployDoesAllInOrderAndThenNothing(t *testing.T) {
	w := withRelease(t)
	if err := w.deploy().Run(t.Context(), New); err != nil {
		t.Fatal(err)
	}
	if got := w.calls(); got != everything {
		t.Errorf("it did %s,\nwant %s", got, everything)
	}
	if got := w.read("stacks for"); got != "v2" {
		t.Errorf("the other stacks are for %q, not for the image that was rolled out", got)
	}
	if err := w.deploy().Run(t.Context(), New); err != nil {
		t.Fatal(err)
	}
	if got, want := w.calls(), "plan, manifest, preview platform, preview access+pools, smoke"; got != want {
		t.Errorf("the second time it did %s,\nwant %s", got, want)
	}
	if err := w.deploy().Run(t.Context(), Resume); err == nil || !strings.Contains(err.Error(), "has come to its end: it is done") {
		t.Errorf("to resume what is done was answered with %v", err)
	}
}

func TestDeployTellsExactlyWhatTheStateIsWhenAStepFails(t *testing.T) {
	broke := errors.New("it broke")
	for _, c := range []struct {
		fails  string
		result Result
		calls  string // up to the end
		states string
		next   string
	}{
		{"plan", Failed, "plan", "infra failed, manifest not begun, platform not begun, stacks not begun, smoke not begun", "--resume"},
		{"policy", Forbidden, "plan", "infra failed, manifest not begun, platform not begun, stacks not begun, smoke not begun", "policy.yml"},
		{"data", Failed, "plan", "infra failed, manifest not begun, platform not begun, stacks not begun, smoke not begun", "--resume"},
		{"agree", Declined, "plan, agree", "infra not begun, manifest not begun, platform not begun, stacks not begun, smoke not begun", "Deploy again"},
		{"apply", Failed, "plan, agree, apply", "infra failed, manifest not begun, platform not begun, stacks not begun, smoke not begun", "--resume"},
		{"manifest", Failed, "plan, agree, apply, manifest", "infra done, manifest failed, platform not begun, stacks not begun, smoke not begun", "--resume"},
		{"preview platform", Failed, "plan, agree, apply, manifest, preview platform", "infra done, manifest done, platform failed, stacks not begun, smoke not begun", "--resume"},
		{"up v2", RolledBack, "plan, agree, apply, manifest, preview platform, agree, up v2, preview platform, up v1, smoke", "infra done, manifest done, platform failed, stacks not begun, smoke not begun, rollback done", "v1 is at work again, and a task has completed on it"},
		{"up access+pools", Failed, strings.TrimSuffix(everything, ", smoke"), "infra done, manifest done, platform done, stacks failed, smoke not begun", "--resume"},
	} {
		t.Run(c.fails, func(t *testing.T) {
			w := withRelease(t)
			w.fail[c.fails] = broke
			o := outcome(t, w.deploy().Run(t.Context(), New), c.result)
			if got := w.calls(); got != c.calls {
				t.Errorf("it did %s,\nwant %s", got, c.calls)
			}
			if o.states() != c.states {
				t.Errorf("it told %s,\nwant %s", o.states(), c.states)
			}
			if !errors.Is(o, broke) && !strings.Contains(o.Error(), broke.Error()) {
				t.Errorf("the cause is not told: %v", o)
			}
			if !strings.Contains(strings.Join(o.Next, "\n"), c.next) {
				t.Errorf("how to go on is told as %q, want %s", o.Next, c.next)
			}
			// Mended, it comes to its end: where it stopped, or anew where there was nothing to go on with.
			clear(w.fail)
			mode := Resume
			if c.result == RolledBack {
				mode = New
			}
			if err := w.deploy().Run(t.Context(), mode); err != nil {
				t.Fatal(err)
			}
			if w.read("image") != "v2" || w.read("stacks") != "done" || w.read("infra") == "" {
				t.Errorf("in the end the image is %s, the stacks are %s", w.read("image"), w.read("stacks"))
			}
		})
	}
}

func TestReleaseOnWhichNoTaskCompletesIsRolledBack(t *testing.T) {
	w := withRelease(t)
	w.bad = "v2"
	o := outcome(t, w.deploy().Run(t.Context(), New), RolledBack)
	if got, want := w.calls(), everything+", preview platform+access+pools, up v1, smoke"; got != want {
		t.Errorf("it did %s,\nwant %s", got, want)
	}
	if w.read("image") != "v1" || !strings.Contains(o.Error(), "no such file") || o.Before != "v1" || o.Wanted != "v2" {
		t.Errorf("the image is %s; it told %v", w.read("image"), o)
	}
	if !strings.HasSuffix(o.states(), "stacks done, smoke failed, rollback done") {
		t.Errorf("it told %s", o.states())
	}
}

func TestRollbackThatIsResumedAsksAndIsHeldToTheFiles(t *testing.T) {
	w := withRelease(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.bad, w.at, w.stop = "v2", "up v1", cancel
	outcome(t, w.deploy().Run(ctx, New), Interrupted)
	w.at = ""
	w.calls()

	w.fail["agree"] = errors.New("nobody can be asked here")
	o := outcome(t, w.deploy().Run(t.Context(), Resume), Declined)
	if got, want := w.calls(), "preview platform+access+pools, agree"; got != want {
		t.Errorf("where nobody agrees it did %s,\nwant %s", got, want)
	}
	if next := strings.Join(o.Next, " "); !strings.Contains(o.Error(), "nobody can be asked here") || !strings.Contains(next, "v2 has failed and is not taken back") || !strings.Contains(next, "--anew") {
		t.Errorf("it told %v, %s", o, next)
	}
	clear(w.fail)

	w.write("files", "v3")
	o = outcome(t, w.deploy().Run(t.Context(), Resume), Failed)
	if got, want := w.calls(), "preview platform+access+pools"; got != want || !strings.Contains(o.Error(), "environment.yml changed since") || !strings.HasSuffix(o.states(), "rollback failed") {
		t.Errorf("with other files it did %s: %v, %s", got, o, o.states())
	}

	w.write("files", "v2")
	outcome(t, w.deploy().Run(t.Context(), Resume), RolledBack)
	if got, want := w.calls(), "preview platform+access+pools, agree, up v1, smoke"; got != want || w.read("image") != "v1" {
		t.Errorf("it did %s,\nwant %s; the image is %s", got, want, w.read("image"))
	}
}

func TestRollbackWithOtherFilesThanWereAgreedToAsks(t *testing.T) {
	w := withRelease(t)
	w.bad, w.at, w.stop = "v2", "smoke", func() { w.write("files", "v2 and more") }
	outcome(t, w.deploy().Run(t.Context(), New), RolledBack)
	if got, want := w.calls(), everything+", preview platform+access+pools, agree, up v1, smoke"; got != want {
		t.Errorf("it did %s,\nwant %s", got, want)
	}

	// Also where the other stacks, but not the release, were agreed to with those.
	w = withRelease(t)
	w.bad, w.at, w.stop = "v2", "up v2", func() { w.write("files", "v2 and more") }
	outcome(t, w.deploy().Run(t.Context(), New), RolledBack)
	if got, want := w.calls(), everything+", preview platform+access+pools, agree, up v1, smoke"; got != want {
		t.Errorf("it did %s,\nwant %s", got, want)
	}

	// Where nobody could be asked, somebody can later.
	w = withRelease(t)
	w.bad, w.at, w.stop = "v2", "smoke", func() {
		w.write("files", "v2 and more")
		w.fail["agree"] = errors.New("nobody can be asked here")
	}
	outcome(t, w.deploy().Run(t.Context(), New), Declined)
	clear(w.fail)
	w.at = ""
	w.calls()
	outcome(t, w.deploy().Run(t.Context(), Resume), RolledBack)
	if got, want := w.calls(), "preview platform+access+pools, agree, up v1, smoke"; got != want {
		t.Errorf("resumed, it did %s,\nwant %s", got, want)
	}

	// Who has agreed to that once is held to it, and not to what was before.
	w = withRelease(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.bad, w.at, w.stop = "v2", "smoke", func() {
		w.write("files", "v2 and more")
		w.at, w.stop = "up v1", cancel
	}
	outcome(t, w.deploy().Run(ctx, New), Interrupted)
	w.at = ""
	outcome(t, w.deploy().Run(t.Context(), Resume), RolledBack)
}

func TestReleaseThatHasGoneBackByItselfIsOnlyTested(t *testing.T) {
	w := withRelease(t)
	w.fail["up v2"], w.fail["itself"] = errors.New("it does not start, and v1 runs again"), errors.New("")
	outcome(t, w.deploy().Run(t.Context(), New), RolledBack)
	if got, want := w.calls(), "plan, agree, apply, manifest, preview platform, agree, up v2, preview platform, smoke"; got != want {
		t.Errorf("it did %s,\nwant %s", got, want)
	}
}

func TestReleaseThatCouldNotBeTestedIsNotRolledBack(t *testing.T) {
	w := withRelease(t)
	w.fail["smoke"] = &UntestedError{errors.New("there are no credentials")}
	o := outcome(t, w.deploy().Run(t.Context(), New), Failed)
	if next := strings.Join(o.Next, " "); w.read("image") != "v2" || !strings.Contains(next, "whether v2 works was not tested") || !strings.Contains(next, "--resume") {
		t.Errorf("the image is %s; it told %s", w.read("image"), next)
	}
	clear(w.fail)
	if err := w.deploy().Run(t.Context(), Resume); err != nil {
		t.Fatal(err)
	}
}

func TestRollbackThatFailsIsToldAsSuch(t *testing.T) {
	w := withRelease(t)
	w.bad, w.fail["up v1"] = "v2", errors.New("no room")
	o := outcome(t, w.deploy().Run(t.Context(), New), Broken)
	if !strings.Contains(o.Error(), "no such file") || !strings.Contains(o.Error(), "the rollback: no room") || !strings.HasSuffix(o.states(), "rollback failed") {
		t.Errorf("it told %v\n%s", o, o.states())
	}
	if !strings.Contains(strings.Join(o.Next, " "), "restore the backup") {
		t.Errorf("how to go on is told as %q", o.Next)
	}
}

func TestWhatCannotBeRolledBackIsNot(t *testing.T) {
	for name, c := range map[string]struct{ before, files, want string }{
		"the first release":        {"", "v2", "there is no release before"},
		"another configuration":    {"v2", "v2", "has the same image, v2"},
		"machines of somebody own": {"", "", "environment.yml names no image"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write("image", c.before)
			w.write("files", c.files)
			w.bad = c.files
			o := outcome(t, w.deploy().Run(t.Context(), New), Failed)
			if next := strings.Join(o.Next, " "); !strings.Contains(next, c.want) || strings.Contains(o.states(), "rollback") {
				t.Errorf("it told %s\n%s", next, o.states())
			}
			w.calls()
			// The smoke test alone is done again.
			w.bad = "another"
			if err := w.deploy().Run(t.Context(), Resume); err != nil {
				t.Fatal(err)
			}
			if got := w.calls(); got != "smoke" {
				t.Errorf("resumed, it did %s", got)
			}
		})
	}
}

func TestInterruptIsNoFailureAndIsResumed(t *testing.T) {
	for _, at := range []string{"plan", "apply", "manifest", "preview platform", "up v2", "up access+pools", "smoke"} {
		t.Run(at, func(t *testing.T) {
			w := withRelease(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w.at, w.stop = at, cancel
			o := outcome(t, w.deploy().Run(ctx, New), Interrupted)
			if strings.Contains(o.states(), "failed") || strings.Contains(o.states(), "rollback") || errors.Is(o, context.Canceled) {
				t.Errorf("it told %s: %v", o.states(), o)
			}
			w.at = ""
			if err := w.deploy().Run(t.Context(), New); at != "plan" && (err == nil || !strings.Contains(err.Error(), "--resume")) {
				t.Errorf("a new deploy was answered with %v", err)
			}
			if at == "plan" {
				return // nothing was done, and the new one has done all
			}
			if err := w.deploy().Run(t.Context(), Resume); err != nil {
				t.Fatal(err)
			}
			if w.read("image") != "v2" || w.read("half") != "" || w.read("stacks") != "done" {
				t.Errorf("in the end the image is %s, the stacks are %s", w.read("image"), w.read("stacks"))
			}
		})
	}
}

func TestPlanOnlyChangesNothing(t *testing.T) {
	w := withRelease(t)
	if err := w.deploy().PlanOnly(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.calls(); got != "plan" {
		t.Errorf("it did %s", got)
	}
	var notes []string
	for _, e := range w.events {
		if e.What == EventNote {
			notes = append(notes, string(e.Step)+" "+e.Text)
		}
	}
	if len(notes) != 2 || !strings.Contains(notes[0], "platform cannot be previewed before the changes to infra are made: there is no manifest") {
		t.Errorf("it noted %q", notes)
	}
	w.write("infra", "done")
	w.write("manifest", "done")
	if err := w.deploy().PlanOnly(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.calls(); got != "plan, preview platform, preview access+pools" {
		t.Errorf("it did %s", got)
	}
	w.fail["preview platform"] = errors.New("nobody answers")
	if err := w.deploy().PlanOnly(t.Context()); err == nil || err.Error() != "platform: nobody answers" {
		t.Errorf("a preview that fails was told as %v", err)
	}
	w.fail["policy"] = errors.New("open to the world")
	outcome(t, w.deploy().PlanOnly(t.Context()), Forbidden)
	entries, err := os.ReadDir(w.dir)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == Folder }) || w.read("image") != "v1" {
		t.Errorf("it has left %v, %v; the image is %s", entries, err, w.read("image"))
	}
}

func TestPartsThatAreLeftOut(t *testing.T) {
	w := withRelease(t)
	w.write("manifest", "by hand")
	d := w.deploy()
	d.Infra, d.Smoke, d.Image = nil, nil, "v3"
	if err := d.Run(t.Context(), New); err != nil {
		t.Fatal(err)
	}
	if got, want := w.calls(), "preview platform, agree, up v3, preview access+pools, agree, up access+pools"; got != want {
		t.Errorf("it did %s,\nwant %s", got, want)
	}
}

func TestUnfinishedDeployIsGivenUpOnlyWhenThatIsSaid(t *testing.T) {
	w := withRelease(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.at, w.stop = "up v2", cancel
	outcome(t, w.deploy().Run(ctx, New), Interrupted)
	w.at = ""
	other := w.deploy()
	other.Image = "v3"
	if err := other.Run(t.Context(), Resume); err == nil || !strings.Contains(err.Error(), "the image that the files say, and goes on with that") {
		t.Errorf("resumed with another image, it was %v", err)
	}
	// Another interrupt, before v3 has begun; then v3 does not work either. The release before is not v2, which was never whole.
	again, stop := context.WithCancel(t.Context())
	defer stop()
	w.at, w.stop = "plan", stop
	outcome(t, other.Run(again, Anew), Interrupted)
	w.at = ""
	w.bad = "v3"
	o := outcome(t, other.Run(t.Context(), Anew), RolledBack)
	if o.Before != "v1" || w.read("image") != "v1" {
		t.Errorf("it went back from %s to %s", o.Before, w.read("image"))
	}
}

func TestJournalThatACrashHasCutIsRead(t *testing.T) {
	w := withRelease(t)
	w.fail["manifest"] = errors.New("it broke")
	outcome(t, w.deploy().Run(t.Context(), New), Failed)
	clear(w.fail)
	files, err := filepath.Glob(filepath.Join(w.dir, Folder, "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(text) {
		if err := os.WriteFile(files[0], text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := lastJournal(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		if whole := bytes.Count(text[:cut], []byte("\n")) > 0; j == nil && whole {
			t.Fatalf("cut after %d bytes, it has nothing to say", cut)
		}
	}
	// Without the end of its last line it goes on where it was.
	if err := os.WriteFile(files[0], text[:len(text)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	w.calls()
	if err := w.deploy().Run(t.Context(), Resume); err != nil {
		t.Fatal(err)
	}
	if got := w.calls(); !strings.HasPrefix(got, "manifest, preview platform") {
		t.Errorf("it did %s", got)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the journal: %v, %v", info, err)
	}
}

func TestFilesThatChangeMeanwhileChangeNoReleaseThatWasRolledOut(t *testing.T) {
	w := withRelease(t)
	w.fail["up access+pools"] = errors.New("it broke")
	outcome(t, w.deploy().Run(t.Context(), New), Failed)
	clear(w.fail)
	w.write("files", "v3")
	if err := w.deploy().Run(t.Context(), Resume); err == nil || !strings.Contains(err.Error(), "has rolled out v2, and the files say v3 now") {
		t.Errorf("it was answered with %v", err)
	}
	if err := w.deploy().Run(t.Context(), Anew); err != nil || w.read("image") != "v3" {
		t.Errorf("anew, the image is %s, %v", w.read("image"), err)
	}

	// Before it was rolled out, that is how one mends what the files say.
	w = withRelease(t)
	w.fail["preview platform"] = errors.New("there is no such image")
	outcome(t, w.deploy().Run(t.Context(), New), Failed)
	clear(w.fail)
	w.write("files", "v3")
	if err := w.deploy().Run(t.Context(), Resume); err != nil || w.read("image") != "v3" {
		t.Errorf("resumed, the image is %s, %v", w.read("image"), err)
	}
}

func TestReleaseBeforeIsRememberedWhenTheRollbackHasFailed(t *testing.T) {
	w := withRelease(t)
	w.bad, w.fail["up v1"] = "v2", errors.New("no room")
	outcome(t, w.deploy().Run(t.Context(), New), Broken)
	clear(w.fail)
	w.bad = "v3"
	w.write("files", "v3")
	if o := outcome(t, w.deploy().Run(t.Context(), New), RolledBack); o.Before != "v1" || w.read("image") != "v1" {
		t.Errorf("it went back from %s to %s", o.Before, w.read("image"))
	}
}

func TestFailureOfAnyLengthLeavesAJournalThatIsRead(t *testing.T) {
	w := withRelease(t)
	w.fail["manifest"] = errors.New(strings.Repeat("\x1b[2J…", 4<<20))
	outcome(t, w.deploy().Run(t.Context(), New), Failed)
	clear(w.fail)
	if err := w.deploy().Run(t.Context(), Resume); err != nil {
		t.Fatal(err)
	}
}
