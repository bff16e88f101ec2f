package index

import "github.com/taskfleet/taskfleet/api"

// API is the service under /api/index/v1/.
var API = api.Service[*Index]{
	Name: "index", Version: "v1", Title: "Index",
	Doc:     "finds tasks by names that stay the same from one task to the next.",
	Schemas: subFS(schemaFiles, "schemas"),
	Params:  map[string]string{},
	Methods: []api.Method[*Index]{},
}
