package hooks

import "github.com/taskfleet/taskfleet/api"

// API is the service under /api/hooks/v1/.
var API = api.Service[*Hooks]{
	Name: "hooks", Version: "v1", Title: "Hooks",
	Doc:     "creates tasks on schedules, on messages and on request.",
	Schemas: subFS(schemaFiles, "schemas"),
	Params:  map[string]string{},
	Methods: []api.Method[*Hooks]{},
}
