package purgecache

import "github.com/taskfleet/taskfleet/api"

// API is the service under /api/purge-cache/v1/.
var API = api.Service[*PurgeCache]{
	Name: "purge-cache", Version: "v1", Title: "Purge cache",
	Doc:     "tells workers which caches they must not use any more.",
	Schemas: subFS(schemaFiles, "schemas"),
	Params:  map[string]string{},
	Methods: []api.Method[*PurgeCache]{},
}
