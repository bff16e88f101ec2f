package main

import (
	"fmt"
	"slices"
	"strings"
)

// diffContext is how many equal lines are shown around what differs.
const diffContext = 3

// An edit is a line of a comparison: ' ' in both, '-' in the first, '+' in the
// second.
type edit struct {
	kind byte
	text string
}

// compareLines says how the lines of b come from those of a, with as few
// changes as possible: a longest common subsequence by dynamic programming, of
// what is between equal beginnings and ends.
func compareLines(a, b []string) []edit {
	var edits []edit
	head := 0
	for head < min(len(a), len(b)) && a[head] == b[head] {
		edits = append(edits, edit{' ', a[head]})
		head++
	}
	tail := 0
	for tail < min(len(a), len(b))-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	end := a[len(a)-tail:]
	a, b = a[head:len(a)-tail], b[head:len(b)-tail]
	// common[i][j] is the length of the longest one of a[i:] and b[j:].
	common := make([][]int32, len(a)+1)
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			edits = append(edits, edit{' ', a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			edits = append(edits, edit{'-', a[i]})
			i++
		default:
			edits = append(edits, edit{'+', b[j]})
			j++
		}
	}
	for _, l := range end {
		edits = append(edits, edit{' ', l})
	}
	return edits
}

// unified lays a comparison out as diff -u does; nothing if there is no
// difference.
func unified(edits []edit, from, to string, b brush) string {
	shown := make([]bool, len(edits))
	for i, e := range edits {
		if e.kind != ' ' {
			for k := max(i-diffContext, 0); k <= min(i+diffContext, len(edits)-1); k++ {
				shown[k] = true
			}
		}
	}
	if !slices.Contains(shown, true) {
		return ""
	}
	var out strings.Builder
	say := func(c color, format string, args ...any) {
		out.WriteString(b.paint(c, fmt.Sprintf(format, args...)) + "\n")
	}
	say(bold, "--- %s", from)
	say(bold, "+++ %s", to)
	lineA, lineB := 1, 1
	for i, e := range edits {
		if shown[i] && (i == 0 || !shown[i-1]) {
			a, b := hunk(edits[i:], shown[i:])
			say(dim, "@@ -%d,%d +%d,%d @@", lineA, a, lineB, b)
		}
		if shown[i] {
			say(map[byte]color{'-': red, '+': green}[e.kind], "%c%s", e.kind, e.text)
		}
		if e.kind != '+' {
			lineA++
		}
		if e.kind != '-' {
			lineB++
		}
	}
	return out.String()
}

// hunk counts the lines of both sides up to the next one that is not shown.
func hunk(edits []edit, shown []bool) (a, b int) {
	for i, e := range edits {
		if !shown[i] {
			break
		}
		if e.kind != '+' {
			a++
		}
		if e.kind != '-' {
			b++
		}
	}
	return a, b
}
