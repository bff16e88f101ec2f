package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/resource"
)

// A resourcesResult is what diff and apply print for programs.
type resourcesResult struct {
	Create  int                `json:"create"`
	Update  int                `json:"update"`
	Delete  int                `json:"delete"`
	Same    int                `json:"same"`
	Changes []resource.Change  `json:"changes"`
	Done    []string           `json:"done,omitempty"` // by apply, as KIND=NAME
	Failed  []resourcesFailure `json:"failed,omitempty"`
	Left    []string           `json:"left,omitempty"` // not tried
}

type resourcesFailure struct {
	ID    string `json:"id"`
	Error string `json:"error"`
}

func newResourcesResult(d *resource.Diff) resourcesResult {
	return resourcesResult{
		Create: d.Count(resource.Create), Update: d.Count(resource.Update), Delete: d.Count(resource.Delete), Same: d.Same,
		Changes: append([]resource.Change{}, d.Changes...),
	}
}

// inventory words how many definitions of each kind there are.
func inventory(set *resource.Set) string {
	var parts []string
	for _, k := range resource.Kinds() {
		switch n := len(set.Only(k).Definitions); n {
		case 0:
		case 1:
			parts = append(parts, "1 "+k.Noun())
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n, resource.Plural(k)))
		}
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// mostCompared is how many pairs of lines are compared for the shortest difference.
const mostCompared = 4_000_000

// printResources lays differences out: what is new and what goes as a whole, what changes as a diff.
func printResources(out io.Writer, where string, d *resource.Diff) error {
	if len(d.Changes) == 0 {
		_, err := fmt.Fprintf(out, "%s is as the files say: %s\n", where, plural(d.Same, "resource"))
		return err
	}
	b := brushFor(out)
	var text strings.Builder
	for _, x := range d.Changes {
		before, err := documentLines(x.Before)
		if err != nil {
			return err
		}
		after, err := documentLines(x.After)
		if err != nil {
			return err
		}
		switch id := plain.Line(x.ID); x.Action {
		case resource.Create:
			text.WriteString(b.paint(bold, "+ "+id) + "\n")
			for _, line := range after {
				text.WriteString(b.paint(green, "    "+line) + "\n")
			}
		case resource.Delete:
			text.WriteString(b.paint(red, "- "+id) + "\n")
			for _, line := range before {
				text.WriteString(b.paint(red, "    "+line) + "\n")
			}
		default:
			text.WriteString(b.paint(bold, "~ "+id) + "\n")
			edits := wholeEdits(before, after)
			if len(before)*len(after) <= mostCompared {
				edits = compareLines(before, after)
			}
			lines := strings.SplitAfter(unified(edits, "", "", b), "\n")
			if len(lines) < 3 {
				text.WriteString("    (what differs is characters that are not shown; --json has them)\n")
				continue
			}
			// The names of both sides are above.
			for _, line := range lines[2:] {
				if line != "" {
					text.WriteString("  " + line)
				}
			}
		}
	}
	fmt.Fprintf(&text, "\n%s: %d to create, %d to change, ", where, d.Count(resource.Create), d.Count(resource.Update))
	gone := fmt.Sprintf("%d to delete", d.Count(resource.Delete))
	if d.Count(resource.Delete) > 0 {
		gone = b.paint(red, gone)
	}
	fmt.Fprintf(&text, "%s, %d as they should be\n", gone, d.Same)
	_, err := io.WriteString(out, text.String())
	return err
}

// wholeEdits has all of a go, and all of b come.
func wholeEdits(a, b []string) (edits []edit) {
	for _, line := range a {
		edits = append(edits, edit{'-', line})
	}
	for _, line := range b {
		edits = append(edits, edit{'+', line})
	}
	return edits
}

// documentLines is a document as a terminal may see it.
func documentLines(document []byte) ([]string, error) {
	if len(document) == 0 {
		return nil, nil
	}
	lines, err := resource.YAML(document)
	for i, line := range lines {
		lines[i] = plain.Line(line)
	}
	return lines, err
}
