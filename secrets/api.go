package secrets

import "github.com/taskfleet/taskfleet/api"

// API is the service under /api/secrets/v1/.
var API = api.Service[*Secrets]{
	Name: "secrets", Version: "v1", Title: "Secrets",
	Doc: `Keeps small secrets, such as passwords, tokens and worker configuration: JSON objects under names. What a caller may
read and write is a matter of scopes, which can end in a star, so names are best chosen as paths.

Values are encrypted at rest. A secret has an expiry, after which it cannot be read any more.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"name": `^[^\x00-\x1f\x7f]+$`,
	},
	Methods: []api.Method[*Secrets]{set, remove, get, list},
}
