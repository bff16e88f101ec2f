// Package graph is task graphs as people write them: files that are read into
// task definitions, submitted as one group, and followed to their end.
//
// A graph file is YAML. It has parameters, defaults for all tasks, and tasks by
// label, which depend on each other by label:
//
//	parameters:
//	  target:
//	    description: What to build
//	    default: all
//	defaults:
//	  queue: local/build
//	  owner: build@example.com
//	  source: https://example.com/project/graph.yml
//	  deadline: 2 hours
//	tasks:
//	  build:
//	    command: [[make, "${target}"]]
//	    artifacts:
//	      public/app.tar.gz: out/app.tar.gz
//	  test-${n}:
//	    each: {n: 1..4}
//	    dependencies: [build]
//	    mounts:
//	      - {directory: app, format: tar.gz, content: {artifact: public/app.tar.gz, taskId: "${task:build}"}}
//	    command: [[app/test, --shard, "${n}/4"]]
//	  report:
//	    dependencies: ["test-*"]
//	    requires: all-resolved
//	    command: [[echo, done]]
//
// # Reading
//
// Load and Parse have no effect and give the same answer for the same input:
// clock, task ids and the little that is asked of the machine come in by
// Options. All mistakes are reported at once, each with its place and what to
// do about it; a field that nobody knows is a mistake, since the alternative is
// a setting that silently does nothing. What comes out is what the queue's
// createTask takes, dependencies before those who need them, so that submitting
// is walking a list. Short forms (deadline: 2 hours) are for people; a payload
// of any other worker can be given as it is, in payload.
//
// Strings may hold ${parameter}, ${task:label} (the task's id), ${group} and,
// within a parameter's default, ${repository}, ${directory}, ${executable},
// ${env:NAME} and ${go:NAME} (what go env says, nothing where there is no Go), so that whatever a graph takes from the machine it is submitted
// from can be read at its top and replaced with --param. $${ stands for ${.
// A value without quotes is read again after substitution, so it can become a
// number; one in quotes stays a string.
//
// # Submitting and watching
//
// Submit creates each task after its dependencies, several at a time. Task ids
// are chosen when the graph is read, and creating a task twice does no harm,
// so a broken connection costs a repetition and nothing else. Watch follows the
// stream of events where the deployment has one and asks from time to time
// where not; both feed the same monotonic picture, Progress, in which a late
// message cannot undo what is known already.
package graph

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/slugid"
)

// A Graph is tasks that belong together, ready to be created.
type Graph struct {
	Name        string
	Description string
	GroupID     string
	Parameters  []Parameter // as they were declared, with the values that were used
	Tasks       []Task      // dependencies before those who need them
}

// A Task is one task of a graph.
type Task struct {
	Label        string
	ID           string
	Dependencies []string // labels
	Definition   queue.CreateTaskRequest
}

// A Parameter is a value that a file leaves to whoever uses it.
type Parameter struct {
	Name        string
	Description string
	Value       string
}

// Options are what reading a file depends on beside its text. The zero Options
// are what a command needs: this machine, now, random ids.
type Options struct {
	Parameters map[string]string // values for the file's parameters

	Now   time.Time     // when the tasks are said to be made; default: now
	NewID func() string // makes task ids and the group's; default: slugid.New

	// The rest is for defaults of parameters.
	Repository string                       // for ${repository}; Load finds it
	Directory  string                       // for ${directory}; Load fills it in
	Executable string                       // for ${executable}; default: the running program
	Env        func(name string) string     // for ${env:NAME}; default: os.Getenv
	Go         func(string) (string, error) // for ${go:NAME}; default: what go env says
}

func (o Options) withDefaults() Options {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if o.NewID == nil {
		o.NewID = slugid.New
	}
	if o.Executable == "" {
		// Without an answer ${executable} is an error where it is used.
		o.Executable, _ = os.Executable()
	}
	if o.Env == nil {
		o.Env = os.Getenv
	}
	if o.Go == nil {
		o.Go = goEnv
	}
	return o
}

// FileName is what a graph is called in a directory of its own.
const FileName = "graph.yml"

const maxFile = 4 << 20

// Load reads the graph in a file, or in the graph.yml of a directory.
func Load(path string, o Options) (*Graph, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, FileName)
	}
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no graph at %s: give a graph file, or a directory that has a %s", path, FileName)
	} else if err != nil {
		return nil, err
	}
	if o, err = o.at(path); err != nil {
		return nil, err
	}
	return Parse(path, text, o)
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s has %d bytes; at most %d are read", path, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}

// at fills in where the file is.
func (o Options) at(path string) (Options, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return o, err
	}
	if o.Directory == "" {
		o.Directory = filepath.Dir(absolute)
	}
	if o.Repository == "" {
		o.Repository = repositoryOf(o.Directory)
	}
	return o, nil
}

// repositoryOf is the nearest directory at or above dir that is the root of a
// checkout, or of a Go module where nobody used git; dir itself if there is
// none.
func repositoryOf(dir string) string {
	for _, mark := range []string{".git", "go.mod"} {
		for d := dir; ; d = filepath.Dir(d) {
			if _, err := os.Stat(filepath.Join(d, mark)); err == nil {
				return d
			}
			if d == filepath.Dir(d) {
				break
			}
		}
	}
	return dir
}

// Task returns the task of that label, nil if there is none.
func (g *Graph) Task(label string) *Task {
	for i := range g.Tasks {
		if g.Tasks[i].Label == label {
			return &g.Tasks[i]
		}
	}
	return nil
}

// Queues are the task queues that the graph uses, each once.
func (g *Graph) Queues() (list []string) {
	seen := map[string]bool{}
	for _, t := range g.Tasks {
		if q := t.Definition.TaskQueueID; !seen[q] {
			seen[q] = true
			list = append(list, q)
		}
	}
	return list
}
