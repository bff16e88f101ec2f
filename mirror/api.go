package mirror

import (
	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/timestamp"
)

// API is the service under /api/mirror/v1/.
var API = api.Service[*Mirror]{
	Name: "mirror", Version: "v1", Title: "Mirror",
	Doc: `Keeps copies of artifacts, and of other things that are downloaded over and over, near those who read them.

There are regions, each with a bucket. Who asks for something in a region gets the copy that is there; if there is none
yet it is made, once, however many ask. The queue's ` + "`getArtifact`" + ` asks the mirror by itself, for whoever is in a region:
this API is for what else is to be downloaded, and for those who run the mirror.

What is copied is an *origin*: an artifact, or what is at a URL that the deployment allows. A URL in the path of a method is
one segment of it, percent-encoded as a whole (` + "`https%3A%2F%2Fexample.com%2Ffile`" + `, which is what encodeURIComponent
makes). An artifact goes by any of the URLs of its bucket, by ` + "`s3://<bucket>/<key>`" + `, or by that of the queue's
` + "`getArtifact`" + ` with a run.

No reply but a redirect shows the query of a URL, since that may be a signature.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"service": `^[A-Za-z0-9._-]{1,100}$`,
		"region":  `^[A-Za-z0-9._-]{1,100}$`,
		"url":     `^[^\x00]+$`,
		"id":      `^[0-9a-f]{64}$`,
		"state":   `^(waiting|copying|present|failed|leaving)$`,
		"prefix":  `^[^\x00]+$`,
		"ticket":  `^[A-Za-z0-9._-]+$`,
	},
	Methods: []api.Method[*Mirror]{
		redirect, purge, status, listCopies, wantCopies, findCopy, purgeCopy, pinCopy, unpinCopy, verifyCopy, listRoutes, explain, stream,
	},
	Exchanges: []api.Exchange{copyPresent, copyFailed, copyGone},
}

// A view is what callers are told of a copy.
type view struct {
	Region    string         `json:"region"`
	ID        string         `json:"id"`
	Origin    string         `json:"origin"`
	State     State          `json:"state"`
	Pinned    bool           `json:"pinned"`
	Size      *int64         `json:"size,omitempty"`
	Done      int64          `json:"done"`
	SHA256    string         `json:"sha256,omitempty"`
	Requested timestamp.Time `json:"requested"`
	Due       timestamp.Time `json:"due,omitempty"`
	Attempts  int            `json:"attempts"`
	Error     string         `json:"error,omitempty"`
	Expires   timestamp.Time `json:"expires"`
	Read      timestamp.Time `json:"read,omitempty"`
	Verified  timestamp.Time `json:"verified,omitempty"`
}

func (c *Copy) view() view {
	v := view{
		Region: c.Region, ID: c.ID, Origin: c.Origin.public(), State: c.State, Pinned: c.Pinned, Done: c.Done, SHA256: c.SHA256,
		Requested: c.Requested, Attempts: c.Attempts, Error: c.Error, Expires: c.Expires, Read: c.Read, Verified: c.Verified,
	}
	if c.Size >= 0 {
		v.Size = &c.Size
	}
	switch c.State {
	case Present:
		v.Done = c.bytes()
	case Waiting, Failed:
		v.Due = c.Due
	}
	return v
}
