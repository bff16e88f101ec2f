package worker

import (
	"log/slog"
	"strings"
	"testing"
)

func TestTheTailIsTheLastWholeLines(t *testing.T) {
	tail := newTail(slog.New(slog.DiscardHandler))
	if tail.String() != "" {
		t.Errorf("without a line it is %q", tail)
	}
	tail.log.Info("first")
	if got := tail.String(); !strings.HasSuffix(got, "msg=first\n") {
		t.Errorf("with one line it is %q", got)
	}
	for n := range 10_000 {
		tail.log.Info("further", "n", n)
	}
	got := tail.String()
	if len(got) > longestTail || len(got) < longestTail-100 || !strings.HasPrefix(got, "time=") || !strings.HasSuffix(got, "n=9999\n") {
		t.Errorf("it has %d bytes, from %q to %q", len(got), got[:50], got[len(got)-50:])
	}
	if len(tail.lines) > 2*longestTail {
		t.Errorf("it keeps %d bytes", len(tail.lines))
	}
	tail.log.Info(strings.Repeat("x", 3*longestTail))
	if got := tail.String(); len(got) > longestTail {
		t.Errorf("a line that is too long makes %d bytes of it", len(got))
	}
}
