package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const module = "github.com/taskfleet/taskfleet"

// raced are the packages in which goroutines share memory: they are tested under the race detector, on SQLite. Those that
// have to do with the database are tested on PostgreSQL as well, without the detector, since a race is in our code, not in
// the database's.
var raced = []string{
	"./mirror/...", // these take longest
	"./queue/...",
	"./provisioner",
	"./provisioner/aws/...",
	"./provisioner/fleet/...",
	"./provisioner/local/...",
	"./api/...",
	"./auth/...",
	"./blob/...",
	"./credentials",
	"./event/...",
	"./hooks/...",
	"./index/...",
	"./loop/...",
	"./notify/...",
	"./object/...",
	"./purgecache/...",
	"./schedule",
	"./secrets/...",
	"./store/...",
	"./worker/...",
}

// alone are tests in which there is nearly nothing at the same time that others do not have as well: thousands of calls
// one after the other, passes that are made by hand, long texts. Under the race detector they would take ten times as
// long, which is a third of all its time, so it goes without them, and they are run on SQLite without it.
var alone = []string{
	"^TestNoInputCausesAnInternalError$",
	"^TestALargeGroupGetsAnotherPriority$",
	"^TestAFloodOfMessagesIsBounded$",
	"^TestAPassThatBreaksOff$",
	"^TestAPassIsBounded$",
	"^TestADayWithThreeReplicasThatCrash$", // passes of a day
	"^TestFiresAreListedInPagesAndBounded$",
	"^TestTextsMadeToBeSlowAreSentAsTheyAre$",
	"^TestKilledAtAnyPoint$", // processes of their own
	"^TestKilledAtAnyMomentItHasOnlyWholeObjects$",
	"^TestConformance$/./^a-large-body-is-put-in-parts$",
	"^TestConformance$/./^many-objects-are-listed-and-deleted-in-pages$",
	"^TestConformance$/./^the-store-makes-a-copy-of-a-large-object$",
	"^TestConformance$/./^an-object-is-made-of-parts-of-others$",
	"^TestConformance$/./^an-upload-in-parts-becomes-an-object-when-it-is-completed$",
}

// haveAlone are the raced packages with such tests.
var haveAlone = []string{"./blob/gateway", "./hooks", "./index", "./mirror", "./provisioner", "./queue", "./schedule"}

// A checkout is the source tree under test, and what its tests are told through the environment.
type checkout struct {
	root     string
	env      []string
	without  []string // packages that are not tested
	nice     bool     // whether others come first
	unsteady *unsteady
}

// with is the same with more in the environment.
func (c *checkout) with(env ...string) *checkout {
	another := *c
	another.env = slices.Concat(c.env, env)
	return &another
}

// formatting fails with the files that gofmt would write otherwise.
func (c *checkout) formatting(ctx context.Context, out io.Writer) error {
	files, err := c.goFiles()
	if err != nil {
		return err
	}
	unformatted, err := exec.CommandContext(ctx, "gofmt", append([]string{"-l"}, files...)...).CombinedOutput()
	fmt.Fprintf(out, "%s", unformatted)
	if err != nil {
		return fmt.Errorf("gofmt: %w", err)
	}
	if len(unformatted) > 0 {
		return errors.New("these files are not formatted: run gofmt -w on them")
	}
	fmt.Fprintf(out, "%d files are formatted\n", len(files))
	return nil
}

// goFiles lists the checkout's own Go files: not those of what was installed into it.
func (c *checkout) goFiles() (files []string, err error) {
	err = filepath.WalkDir(c.root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != c.root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules"):
			return fs.SkipDir
		case entry.Type().IsRegular() && strings.HasSuffix(path, ".go"):
			files = append(files, path)
		}
		return nil
	})
	return files, err
}

func (c *checkout) vet(ctx context.Context, out io.Writer) error {
	return c.goCommand(ctx, out, "vet", "./...")
}

// first are the packages whose tests take longest. They begin first, so that none of them is left over when all others
// have ended, with a processor that has nothing to do.
var first = []string{module + "/mirror", module + "/queue", module + "/provisioner", module + "/blob/gateway", module + "/infra"}

// allUnitTests are all but those under test/, which run the built binary, and what needs terraform or pulumi, on
// every database that is asked for.
func (c *checkout) allUnitTests(ctx context.Context, out io.Writer) error {
	packages, err := c.packages(ctx, "./...")
	if err != nil {
		return err
	}
	return c.goTest(ctx, out, []string{"-p", "3", "-skip", "^Test(Terraform|Pulumi|TheProgramRunsFromTheImage)"}, packages)
}

// commands is the package of the program. Its tests wait for processes most of their time, one after the other, so they go on
// beside others.
const commands = module + "/cmd/taskfleet"

func (c *checkout) commandTests(ctx context.Context, out io.Writer) error {
	return c.goTest(ctx, out, nil, []string{commands})
}

// unitTests are those that raceTests and commandTests do not run: of raced packages those on PostgreSQL, and those that are
// alone on SQLite; of all others on both.
func (c *checkout) unitTests(ctx context.Context, out io.Writer) error {
	all, err := c.packages(ctx, "./...")
	if err != nil {
		return err
	}
	once, err := c.packages(ctx, raced...)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(all, func(name string) bool { return name == commands || slices.Contains(once, name) })
	twice, err := c.onDatabases(ctx, once)
	if err != nil {
		return err
	}
	var wrong []error
	for _, run := range []struct {
		databases       string
		flags, packages []string
	}{
		{"postgres", nil, twice},
		{"sqlite,postgres", nil, others},
		{"sqlite", []string{"-run", strings.Join(alone, "|")}, haveAlone},
	} {
		fmt.Fprintf(out, "-- on %s\n", strings.ReplaceAll(run.databases, ",", " and "))
		wrong = append(wrong, c.with("TASKFLEET_TEST_DATABASES="+run.databases).goTest(ctx, out, append([]string{"-p", "3"}, run.flags...), run.packages))
	}
	return errors.Join(wrong...)
}

// onDatabases are those of packages whose tests are run on one database or another, which package storetest gives them.
func (c *checkout) onDatabases(ctx context.Context, packages []string) (those []string, err error) {
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-f", "{{.ImportPath}} {{join .TestImports \" \"}} {{join .XTestImports \" \"}}"}, packages...)...)
	list.Dir, list.Stderr = c.root, os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); slices.Contains(fields[1:], module+"/store/storetest") {
			those = append(those, fields[0])
		}
	}
	slices.SortStableFunc(those, func(a, b string) int { return place(a) - place(b) })
	return those, nil
}

// packages are those of patterns, but for what is under test/ and what is to be left out.
func (c *checkout) packages(ctx context.Context, patterns ...string) (packages []string, err error) {
	list := exec.CommandContext(ctx, "go", append([]string{"list"}, patterns...)...)
	list.Dir, list.Stderr = c.root, os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(patterns, " "), err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(name, module+"/test/") && !slices.Contains(c.without, name) {
			packages = append(packages, name)
		}
	}
	slices.SortStableFunc(packages, func(a, b string) int { return place(a) - place(b) })
	return packages, nil
}

func place(name string) int {
	if i := slices.Index(first, name); i >= 0 {
		return i
	}
	return len(first)
}

// raceTests are short ones where a test can be: those that do the same many times over. The detector sees that two
// accesses are not ordered when it has seen both, however they fell. SQLite itself, translated from C, goes without the
// detector: it shares no memory with us but what it copies, and every step of its virtual machine would be looked at,
// which takes three fifths of the time of index's tests. Only this package can: one with generic code of others in it would
// give the whole program instances, of sync.Map for example, in which the detector sees no order.
func (c *checkout) raceTests(ctx context.Context, out io.Writer) error {
	return c.with("TASKFLEET_TEST_DATABASES=sqlite", "CGO_ENABLED=1").goTest(ctx, out,
		[]string{"-p", "3", "-race", "-gcflags=modernc.org/sqlite/lib=-race=false", "-short", "-skip", strings.Join(alone, "|")}, raced)
}

// systemTests drive the built binary from outside: the official clients, and what a crash leaves. They are not cached,
// since Go does not see what they depend on.
func (c *checkout) systemTests(ctx context.Context, out io.Writer) error {
	return c.goTest(ctx, out, []string{"-count=1"}, []string{"./test/replicas", "./test/..."})
}

// goCommand runs the go command in a process group of its own, so that an interrupt ends all it started, and only once
// it has ended is the database stopped under it.
func (c *checkout) goCommand(ctx context.Context, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	if c.nice {
		cmd = exec.CommandContext(ctx, "nice", append([]string{"-n", "5", "go"}, args...)...)
	}
	cmd.Dir = c.root
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdout, cmd.Stderr = out, out
	err := runGroup(cmd)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("go %s ended with %w", args[0], exit)
	}
	return err
}

// output runs a command to its end and returns what it printed, or an error that has it.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}
