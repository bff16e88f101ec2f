package index

import (
	"strings"

	"github.com/taskfleet/taskfleet/api"
)

// A path is words of these characters with dots in between.
const pathPattern = `^([a-zA-Z0-9_!~*'()%-]+\.)*[a-zA-Z0-9_!~*'()%-]+$`

// maxPath is how long a path may be, and with it how deep.
const maxPath = 255

// API is the service under /api/index/v1/.
var API = api.Service[*Index]{
	Name: "index", Version: "v1", Title: "Index",
	Doc: `Finds tasks by names that stay the same from one task to the next.

A task with a route ` + "`index.<path>`" + ` is found under that path as soon as it has completed, unless a task of higher
rank is there. A path is words with dots in between, such as ` + "`project.linux.opt.latest`" + `, and at most 255 characters
long; it has no slashes.

How a task is indexed stands in its ` + "`extra.index`" + `: ` + "`rank`" + ` (a number, 0 if left out), ` + "`data`" + ` (an object for
whoever finds the task) and ` + "`expires`" + ` (that of the task, if left out).`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"indexPath": pathPattern,
		"namespace": "^$|" + pathPattern, // empty at the top, in routes that allow it
		"name":      `^[^\x00-\x1f\x7f]+$`,
	},
	Methods: []api.Method[*Index]{
		findTask, findTasksAtIndex, listNamespaces, listTasks, insertTask, deleteTask, findArtifactFromTask,
		listNamespacesPost, listTasksPost,
	},
}

type indexPath struct {
	Path string `path:"indexPath"`
}

type namespacePath struct {
	Path string `path:"namespace"`
}

// checkPath refuses what the pattern of a URL parameter cannot.
func checkPath(param, path string) error {
	if len(path) > maxPath {
		return api.Errorf(api.InvalidRequestArguments, "The URL parameter %s has %d characters; a path may have %d.", param, len(path), maxPath)
	}
	return nil
}

// parent is a path without its last word, "" for one word alone.
func parent(path string) string { return path[:max(strings.LastIndexByte(path, '.'), 0)] }

// name is the last word of a path.
func name(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
