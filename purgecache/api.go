package purgecache

import "github.com/taskfleet/taskfleet/api"

// API is the service under /api/purge-cache/v1/.
var API = api.Service[*PurgeCache]{
	Name: "purge-cache", Version: "v1", Title: "Purge cache",
	Doc: `Tells workers which caches they must not use any more.

Whoever finds a cache broken asks for it to be purged. Workers ask before they start a task, and throw away every
cache of the named ones that was made before the time in the answer.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"workerPoolId": `^[A-Za-z0-9_-]{1,38}/[A-Za-z0-9_-]{1,38}$`,
		"since":        `^.{1,64}$`,
	},
	Methods: []api.Method[*PurgeCache]{purgeCache, allPurgeRequests, purgeRequests},
}
