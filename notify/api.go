package notify

import "github.com/taskfleet/taskfleet/api"

// API is the service under /api/notify/v1/.
var API = api.Service[*Notify]{
	Name: "notify", Version: "v1", Title: "Notify",
	Doc:     "sends messages to people and machines.",
	Schemas: subFS(schemaFiles, "schemas"),
	Params:  map[string]string{},
	Methods: []api.Method[*Notify]{},
}
