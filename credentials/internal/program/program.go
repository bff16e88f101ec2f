// Package program runs the programs that operators bring: hooks that mint, and
// commands that consume. Documents pass by stdin and stdout; nothing secret is an
// argument or in the environment, where other users of a machine can see it.
package program

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// MaxOutput is how much a program may write to stdout, in bytes.
const MaxOutput = 1 << 20

const (
	maxError = 4 << 10         // of stderr, in bytes
	killWait = 2 * time.Second // for what a killed program has left behind
)

// An Exit is that of a program which did not end with 0.
type Exit struct {
	Code  int    // -1 if it was killed
	Words string // the last of what it has written to stderr
}

func (e *Exit) Error() string {
	text := fmt.Sprintf("the program ended with code %d", e.Code)
	if e.Code < 0 {
		text = "the program was ended by a signal"
	}
	if e.Words != "" {
		text += ": " + e.Words
	}
	return text
}

// Run runs a program with a document on its stdin, for at most the limit, and
// returns what it has written to stdout. What it says on stderr is part of the
// error, scrubbed of the texts in the documents that are secrets.
func Run(ctx context.Context, argv []string, limit time.Duration, in []byte, secrets ...json.RawMessage) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(limited, argv[0], argv[1:]...)
	// Not the server's own environment, in which there may be secrets of its own.
	cmd.Env = []string{"PATH=" + cmp.Or(os.Getenv("PATH"), "/usr/local/bin:/usr/bin:/bin"), "HOME=" + os.Getenv("HOME"), "LANG=C.UTF-8", "TMPDIR=" + os.TempDir()}
	cmd.Stdin = bytes.NewReader(in)
	out, words := &bounded{limit: MaxOutput}, &tail{limit: maxError + maxPrinted}
	cmd.Stdout, cmd.Stderr = out, words
	cmd.WaitDelay = killWait
	ownGroup(cmd)
	err := cmd.Run()
	said := func() string {
		var texts []string
		for _, s := range append(secrets, out.kept) {
			texts = append(texts, textsOf(s)...)
		}
		return words.end(maxError, texts)
	}
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case limited.Err() != nil:
		return nil, fmt.Errorf("the program %s took longer than %s and was ended", argv[0], limit)
	case out.over:
		return nil, fmt.Errorf("the program %s has written more than %d bytes to stdout", argv[0], MaxOutput)
	case ended:
		return out.kept, &Exit{exit.ExitCode(), said()}
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, fmt.Errorf("running the program: %w", err)
	}
	return out.kept, nil
}

// A bounded keeps so much and no more.
type bounded struct {
	kept  []byte
	limit int
	over  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.kept)+len(p) > b.limit {
		b.over = true
	} else {
		b.kept = append(b.kept, p...)
	}
	return len(p), nil
}

// A tail keeps the last of what is written: so many bytes, and for a while twice that.
type tail struct {
	kept  []byte
	limit int
	cut   bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*t.limit {
		t.kept, t.cut = append([]byte(nil), t.kept[len(t.kept)-t.limit:]...), true
	}
	return len(p), nil
}

// end is the last of it without the texts. Those are looked for before it is cut, as
// of one that is cut through there would be a rest that is found no more.
func (t *tail) end(limit int, texts []string) string {
	longest := 0
	for _, s := range texts {
		longest = max(longest, min(len(s)*growth, maxPrinted))
	}
	last := t.kept[max(0, len(t.kept)-limit-longest):]
	from := max(0, len(last)-limit)
	said := strings.TrimSpace(strings.ToValidUTF8(scrubbed(string(last), texts, from), "?"))
	if from > 0 || t.cut {
		said = "…" + said
	}
	return said
}
