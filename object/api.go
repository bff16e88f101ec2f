package object

import "github.com/taskfleet/taskfleet/api"

// API is the service under /api/object/v1/.
var API = api.Service[*Objects]{
	Name: "object", Version: "v1", Title: "Objects",
	Doc:     "keeps named, immutable data.",
	Schemas: subFS(schemaFiles, "schemas"),
	Params:  map[string]string{},
	Methods: []api.Method[*Objects]{},
}
