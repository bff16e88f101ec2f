package object

import "github.com/taskfleet/taskfleet/api"

// API is the service under /api/object/v1/.
var API = api.Service[*Objects]{
	Name: "object", Version: "v1", Title: "Objects",
	Doc: `Keeps data of any size under names, until it expires. What is there under a name does not change.

The bytes go to and come from an S3 store directly. A caller says which ways to upload or download it knows, and is told
the one to use.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"name":      `^[\x20-\x7e]+$`,
		"projectId": `^([a-zA-Z0-9._/-]*)$`,
	},
	Methods: []api.Method[*Objects]{createUpload, finishUpload, startDownload, object, download},
}

type path struct {
	Name string `path:"name" json:"name"`
}
