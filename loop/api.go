package loop

import (
	"context"
	"embed"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
)

//go:embed schemas/*.yml
var schemaFiles embed.FS

type listLoopsResponse struct {
	Loops []Status `json:"loops"`
}

// API shows a Runner's loops under /api/loops/v1/.
var API = api.Service[*Runner]{
	Name: "loops", Version: "v1", Title: "Loops", Doc: "What the platform does by itself, and how it fares.",
	Schemas: api.Folder(schemaFiles, "schemas"),
	Methods: []api.Method[*Runner]{api.Declare(api.Spec{
		Name: "listLoops", Route: "GET /loops", Scopes: scope.Scope("loops:list"), Output: "v1/list-loops-response.json#",
		Stability: api.Experimental, Category: "Monitoring", Title: "List loops",
		Doc: "Lists the loops of the process that answers, with the time and the outcome of their last pass. A loop that another replica runs is *held elsewhere*.",
	}, func(_ context.Context, r *Runner, _ api.Call[api.None, api.None]) (listLoopsResponse, error) {
		return listLoopsResponse{r.Status()}, nil
	})},
}
