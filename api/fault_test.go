package api

import (
	"errors"
	"strings"
	"testing"
)

// A body of many short lines is not kept in as many pieces for an error's sake.
func TestWhatIsHiddenOfALargeBodyIsBounded(t *testing.T) {
	q := &request{raw: []byte(strings.Repeat("a\n", 1<<20) + strings.Repeat("something\n", 1<<20))}
	if n := len((&fault{errors.New("it broke"), &exchange{endpoint: &endpoint{}}, q}).Hidden()); n < 500 || n > 2*mostLines {
		t.Errorf("%d texts are looked for", n)
	}
}
