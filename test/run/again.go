package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// mostAgain is how many failed tests of a run of go test are run a second time: where more fail there is a reason.
const mostAgain = 3

// goTest runs go test on what was vetted before, and on programs that nobody debugs: linking them is a third quicker so.
//
// A test that fails while everything else has the machine, and passes when it is run again, is a fault of the test or a
// rare one of what it tests. The end of the run names it, for somebody to mend; it does not keep back a change that has
// nothing to do with it. What is never tried again: a data race, a crash, a test that ran out of time, a package that does
// not build.
func (c *checkout) goTest(ctx context.Context, out io.Writer, flags, packages []string) error {
	args := append([]string{"test", "-vet=off", "-ldflags=-s -w", "-timeout", "30m"}, flags...)
	printed := &failures{}
	err := c.goCommand(ctx, io.MultiWriter(out, printed), append(slices.Clip(args), packages...)...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || ctx.Err() != nil || !printed.mayPass() {
		return err
	}
	for _, p := range printed.packages {
		fmt.Fprintf(out, "-- again, by itself: %s of %s\n", strings.Join(p.tests, ", "), p.path)
		if err := c.goCommand(ctx, out, append(slices.Clip(args), "-count=1", "-run", "^("+strings.Join(p.tests, "|")+")$", p.path)...); err != nil {
			return fmt.Errorf("%w, and so it did when what had failed was run again", err)
		}
		c.unsteady.add(p)
	}
	return nil
}

// failures finds in what go test prints which tests have failed.
type failures struct {
	rest     []byte // of a line that is not printed to its end
	tests    []string
	whole    bool // the program has come to the end of its tests: it says FAIL by itself then
	packages []failedPackage
	final    bool
}

type failedPackage struct {
	path  string
	tests []string
}

var (
	failedTest    = regexp.MustCompile(`^--- FAIL: (\w+) \(`)
	failedPath    = regexp.MustCompile(`^FAIL\t(\S+)(.*)`)
	failedForGood = regexp.MustCompile(`^(WARNING: DATA RACE|panic: |fatal error: |SIG\w+: )`)
)

func (f *failures) Write(printed []byte) (int, error) {
	f.rest = append(f.rest, printed...)
	for {
		line, rest, whole := bytes.Cut(f.rest, []byte("\n"))
		if !whole {
			return len(printed), nil
		}
		f.line(line)
		f.rest = rest
	}
}

func (f *failures) line(line []byte) {
	if failedForGood.Match(line) {
		f.final = true
	} else if m := failedTest.FindSubmatch(line); m != nil {
		f.tests = append(f.tests, string(m[1]))
	} else if string(line) == "FAIL" {
		f.whole = true
	} else if m := failedPath.FindSubmatch(line); m != nil {
		if len(f.tests) == 0 || !f.whole || bytes.Contains(m[2], []byte("[")) { // it does not build, or ended by itself
			f.final = true
		}
		f.packages = append(f.packages, failedPackage{string(m[1]), f.tests})
		f.tests, f.whole = nil, false
	}
}

// mayPass tells that what failed may be otherwise the next time.
func (f *failures) mayPass() bool {
	n := 0
	for _, p := range f.packages {
		n += len(p.tests)
	}
	return !f.final && 0 < n && n <= mostAgain
}

// unsteady are the tests that passed only when they were run again.
type unsteady struct {
	mu   sync.Mutex
	list []failedPackage
}

func (u *unsteady) add(p failedPackage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = append(u.list, p)
}

func (u *unsteady) print(out io.Writer) {
	for _, p := range u.list {
		fmt.Fprintf(out, "  passed only when run again, which is a fault to be mended: %s of %s\n", strings.Join(p.tests, ", "), p.path)
	}
}
