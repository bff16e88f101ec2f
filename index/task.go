package index

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An entry is a task at a path.
type entry struct {
	Path    string          `json:"namespace"`
	TaskID  string          `json:"taskId"`
	Rank    float64         `json:"rank"`
	Data    json.RawMessage `json:"data"`
	Expires timestamp.Time  `json:"expires"`
}

const entryColumns = `path, task_id, rank, data, expires`

func scanEntry(row interface{ Scan(...any) error }) (e entry, err error) {
	err = row.Scan(&e.Path, &e.TaskID, &e.Rank, &e.Data, &e.Expires)
	return e, err
}

// queryEntries returns what it finds, never nil.
func queryEntries(tx *store.Tx, statement string, args ...any) (list []entry, err error) {
	rows, err := tx.Query(statement, args...)
	if err != nil {
		return nil, err
	}
	list = []entry{}
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, rows.Err()
}

var findTask = api.Declare(api.Spec{
	Name: "findTask", Route: "GET /task/<indexPath>", Scopes: scope.Scope("index:find-task:<indexPath>"),
	Output: "v1/indexed-task-response.json#", Stability: api.Stable, Category: "Index Service", Title: "Find a task",
	Doc: "Returns the task that is indexed at a path: of all that were the one of the highest rank, or 404 where there is none or it has expired.",
}, func(ctx context.Context, x *Index, c api.Call[indexPath, api.None]) (entry, error) {
	return x.find(ctx, c.Path.Path)
})

// find returns the task at a path.
func (x *Index) find(ctx context.Context, path string) (e entry, err error) {
	if err := checkPath("indexPath", path); err != nil {
		return e, err
	}
	err = x.db.View(ctx, func(tx *store.Tx) error {
		e, err = scanEntry(tx.QueryRow(`SELECT `+entryColumns+` FROM index_task WHERE path = $1 AND expires > $2`, path, timestamp.Now()))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return e, api.Errorf(api.ResourceNotFound, "No task is indexed at %s, or it has expired.", path)
	}
	return e, err
}

type insertTaskRequest struct {
	TaskID  string          `json:"taskId"`
	Rank    float64         `json:"rank"`
	Data    json.RawMessage `json:"data"`
	Expires timestamp.Time  `json:"expires"`
}

// maxData is how much may be kept with a task, in bytes of JSON.
const maxData = 32 << 10

var insertTask = api.Declare(api.Spec{
	Name: "insertTask", Route: "PUT /task/<namespace>", Scopes: scope.Scope("index:insert-task:<namespace>"),
	Input: "v1/insert-task-request.json#", Output: "v1/indexed-task-response.json#",
	Stability: api.Stable, Category: "Index Service", Title: "Index a task",
	Doc: `Puts a task at a path, unless a task of higher rank is there, and returns the task that is there now. So the call
succeeds also where the task was not indexed: compare ` + "`taskId`" + `. A task whose ` + "`expires`" + ` has passed is not indexed.

Tasks are indexed by themselves when they complete, if they have a route ` + "`index.<path>`" + `.`,
}, func(ctx context.Context, x *Index, c api.Call[namespacePath, insertTaskRequest]) (e entry, err error) {
	if err := checkPath("namespace", c.Path.Path); err != nil {
		return e, err
	}
	if n := len(c.Body.Data); n > maxData {
		return e, api.Errorf(api.InputError, "data has %d bytes as JSON; %d may be kept with a task. Put the rest into an artifact.", n, maxData)
	}
	given := entry{c.Path.Path, c.Body.TaskID, c.Body.Rank, c.Body.Data, c.Body.Expires}
	err = x.db.Do(ctx, func(tx *store.Tx) error {
		if err := insert(tx, []entry{given}); err != nil {
			return err
		}
		e, err = scanEntry(tx.QueryRow(`SELECT `+entryColumns+` FROM index_task WHERE path = $1 AND expires > $2`, given.Path, timestamp.Now()))
		if errors.Is(err, store.ErrNotFound) { // it has expired already
			e, err = given, nil
		}
		return err
	})
	return e, err
})

var deleteTask = api.Declare(api.Spec{
	Name: "deleteTask", Route: "DELETE /task/<namespace>", Scopes: scope.Scope("index:delete-task:<namespace>"),
	Stability: api.Stable, Category: "Index Service", Title: "Remove a task from the index",
	Doc: `Makes the path empty: tasks of lower rank that were inserted before do not come back, as they were not kept. The
namespaces above it stay until they expire. Does nothing where there is no task.`,
}, func(ctx context.Context, x *Index, c api.Call[namespacePath, api.None]) (api.None, error) {
	if err := checkPath("namespace", c.Path.Path); err != nil {
		return api.None{}, err
	}
	return api.None{}, x.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM index_task WHERE path = $1`, c.Path.Path)
		return err
	})
})

type listTasksResponse struct {
	Tasks             []entry `json:"tasks"`
	ContinuationToken string  `json:"continuationToken,omitempty"`
}

type tasksAtIndexRequest struct {
	Indexes []string `json:"indexes"`
}

// maxPaths is how many paths one call may ask for.
const maxPaths = 10_000

var findTasksAtIndex = api.Declare(api.Spec{
	Name: "findTasksAtIndex", Route: "POST /tasks/indexes", Query: []string{"continuationToken", "limit"},
	Scopes: scope.AllOf{scope.ForEach{For: "indexPath", In: "indexPaths", Each: "index:find-task:<indexPath>"}},
	Input:  "v1/list-tasks-at-index.json#", Output: "v1/list-tasks-response.json#",
	Stability: api.Experimental, Category: "Index Service", Title: "Find tasks at several paths",
	Doc: `Returns the tasks at the given paths, in that order. A path where there is none is left out, one that is given twice
counts once. At most 10,000 paths can be given. For further pages give the same paths again.`,
}, func(ctx context.Context, x *Index, c api.Call[api.None, tasksAtIndexRequest]) (out listTasksResponse, err error) {
	if n := len(c.Body.Indexes); n > maxPaths {
		return out, api.Errorf(api.InputError, "indexes has %d paths; %d are allowed in one call.", n, maxPaths)
	}
	if err := c.Authorize(scope.Vars{"indexPaths": c.Body.Indexes}); err != nil {
		return out, err
	}
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	return x.findAll(ctx, page, unique(c.Body.Indexes))
})

// findAll returns a page of the tasks at paths. Its token is the place among
// them where the next page begins.
func (x *Index) findAll(ctx context.Context, page api.Page, paths []string) (out listTasksResponse, err error) {
	skipped := 0
	if page.After != nil {
		n, err := page.Int(0)
		if err != nil {
			return out, err
		}
		skipped = int(min(max(n, 0), int64(len(paths))))
		paths = paths[skipped:]
	}
	err = x.db.View(ctx, func(tx *store.Tx) error {
		out = listTasksResponse{Tasks: []entry{}}
		now := timestamp.Now()
		// Which there are is found out first, so that not more than a page is
		// read of what is kept with them.
		there := map[string]bool{}
		rows, err := tx.Query(`SELECT path FROM index_task WHERE path IN (SELECT value FROM json_each($1)) AND expires > $2`, paths, now)
		if err != nil {
			return err
		}
		for rows.Next() {
			var path string
			if err := rows.Scan(&path); err != nil {
				return err
			}
			there[path] = true
		}
		if err := rows.Err(); err != nil {
			return err
		}
		var wanted []string
		for i, path := range paths {
			if !there[path] {
				continue
			}
			if len(wanted) == page.Limit {
				out.ContinuationToken = page.Token(strconv.Itoa(skipped + i))
				break
			}
			wanted = append(wanted, path)
		}
		found, err := queryEntries(tx, `SELECT `+entryColumns+` FROM index_task WHERE path IN (SELECT value FROM json_each($1)) AND expires > $2`, wanted, now)
		if err != nil {
			return err
		}
		at := make(map[string]entry, len(found))
		for _, e := range found {
			at[e.Path] = e
		}
		for _, path := range wanted {
			out.Tasks = append(out.Tasks, at[path]) // a View sees one moment
		}
		return nil
	})
	return out, err
}

func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
