package index

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"regexp"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

type namespace struct {
	Path    string         `json:"namespace"`
	Name    string         `json:"name"`
	Expires timestamp.Time `json:"expires"`
}

type listNamespacesResponse struct {
	Namespaces        []namespace `json:"namespaces"`
	ContinuationToken string      `json:"continuationToken,omitempty"`
}

const (
	listNamespacesDoc = `Lists the namespaces directly below a namespace, or at the top if none is given, in the order of their names: the parents of all indexed tasks. A
namespace can outlast the last task in it, by a day at the most.`
	listTasksDoc = `Lists the tasks directly below a namespace, or at the top if none is given, in the order of their names, without those in namespaces further down.
It is meant for people who look around: a program knows the paths it wants.`
	postDoc = ` This is the list by POST, for old clients; new ones use GET.`
)

var paging = []string{"continuationToken", "limit"}

var listNamespaces = api.Declare(api.Spec{
	Name: "listNamespaces", Route: "GET /namespaces/<namespace...?>", Query: paging,
	Scopes: scope.Scope("index:list-namespaces:<namespace>"), Output: "v1/list-namespaces-response.json#",
	Stability: api.Stable, Category: "Index Service", Title: "List namespaces", Doc: listNamespacesDoc,
}, func(ctx context.Context, x *Index, c api.Call[namespacePath, api.None]) (out listNamespacesResponse, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	return x.namespaces(ctx, c.Path.Path, page)
})

var listNamespacesPost = api.Declare(api.Spec{
	Unpublished: true, Name: "listNamespacesPost", Route: "POST /namespaces/<namespace...?>", Scopes: scope.Scope("index:list-namespaces:<namespace>"),
	Input: "v1/list-namespaces-request.json#", Output: "v1/list-namespaces-response.json#",
	Stability: api.Deprecated, Category: "Index Service", Title: "List namespaces", Doc: listNamespacesDoc + postDoc,
}, func(ctx context.Context, x *Index, c api.Call[namespacePath, listRequest]) (out listNamespacesResponse, err error) {
	page, err := c.Body.page()
	if err != nil {
		return out, err
	}
	return x.namespaces(ctx, c.Path.Path, page)
})

var listTasks = api.Declare(api.Spec{
	Name: "listTasks", Route: "GET /tasks/<namespace...?>", Query: paging,
	Scopes: scope.Scope("index:list-tasks:<namespace>"), Output: "v1/list-tasks-response.json#",
	Stability: api.Stable, Category: "Index Service", Title: "List tasks", Doc: listTasksDoc,
}, func(ctx context.Context, x *Index, c api.Call[namespacePath, api.None]) (out listTasksResponse, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	return x.tasksIn(ctx, c.Path.Path, page)
})

var listTasksPost = api.Declare(api.Spec{
	Unpublished: true, Name: "listTasksPost", Route: "POST /tasks/<namespace...?>", Scopes: scope.Scope("index:list-tasks:<namespace>"),
	Input: "v1/list-namespaces-request.json#", Output: "v1/list-tasks-response.json#",
	Stability: api.Deprecated, Category: "Index Service", Title: "List tasks", Doc: listTasksDoc + postDoc,
}, func(ctx context.Context, x *Index, c api.Call[namespacePath, listRequest]) (out listTasksResponse, err error) {
	page, err := c.Body.page()
	if err != nil {
		return out, err
	}
	return x.tasksIn(ctx, c.Path.Path, page)
})

// listRequest says by POST which page is wanted.
type listRequest struct {
	ContinuationToken string `json:"continuationToken"`
	Limit             int    `json:"limit"`
}

var validPath = regexp.MustCompile(pathPattern)

func (r listRequest) page() (api.Page, error) {
	p := api.Page{Limit: r.Limit}
	if r.ContinuationToken == "" {
		return p, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(r.ContinuationToken)
	if err == nil {
		err = json.Unmarshal(b, &p.After)
	}
	if err != nil || len(p.After) != 1 || !validPath.MatchString(p.After[0]) {
		return p, api.Errorf(api.InputError, "continuationToken is not one that this method returned; leave it out to start over")
	}
	return p, nil
}

// namespaces returns a page of the namespaces directly below path, "" for those
// at the top. Its token is the path of the last one.
func (x *Index) namespaces(ctx context.Context, path string, page api.Page) (out listNamespacesResponse, err error) {
	if err := checkPath("namespace", path); err != nil {
		return out, err
	}
	err = x.db.View(ctx, func(tx *store.Tx) error {
		out = listNamespacesResponse{Namespaces: []namespace{}}
		rows, err := tx.Query(`
			SELECT path, expires FROM index_namespace WHERE parent = $1 AND path > $2 AND expires > $3 ORDER BY path LIMIT $4`,
			path, page.Text(0), timestamp.Now(), page.Limit+1)
		if err != nil {
			return err
		}
		for rows.Next() {
			var n namespace
			if err := rows.Scan(&n.Path, &n.Expires); err != nil {
				return err
			}
			n.Name = name(n.Path)
			out.Namespaces = append(out.Namespaces, n)
		}
		if len(out.Namespaces) > page.Limit {
			out.Namespaces = out.Namespaces[:page.Limit]
			out.ContinuationToken = page.Token(out.Namespaces[page.Limit-1].Path)
		}
		return rows.Err()
	})
	return out, err
}

// tasksIn returns a page of the tasks directly below path, likewise.
func (x *Index) tasksIn(ctx context.Context, path string, page api.Page) (out listTasksResponse, err error) {
	if err := checkPath("namespace", path); err != nil {
		return out, err
	}
	err = x.db.View(ctx, func(tx *store.Tx) error {
		out = listTasksResponse{}
		out.Tasks, err = queryEntries(tx, `
			SELECT `+entryColumns+` FROM index_task WHERE parent = $1 AND path > $2 AND expires > $3 ORDER BY path LIMIT $4`,
			path, page.Text(0), timestamp.Now(), page.Limit+1)
		if len(out.Tasks) > page.Limit {
			out.Tasks = out.Tasks[:page.Limit]
			out.ContinuationToken = page.Token(out.Tasks[page.Limit-1].Path)
		}
		return err
	})
	return out, err
}
