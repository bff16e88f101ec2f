package secrets

import "github.com/taskfleet/taskfleet/api"

// API is the service under /api/secrets/v1/.
var API = api.Service[*Secrets]{
	Name: "secrets", Version: "v1", Title: "Secrets",
	Doc:     "keeps small secrets, encrypted.",
	Schemas: subFS(schemaFiles, "schemas"),
	Params:  map[string]string{},
	Methods: []api.Method[*Secrets]{},
}
