package object

import (
	"context"
	"mime"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

type startDownloadRequest struct {
	Accept struct {
		Simple bool `json:"simple"`
		GetURL bool `json:"getUrl"`
	} `json:"acceptDownloadMethods"`
}

type simple struct {
	Method string `json:"method"`
	URL    string `json:"url"`
}

type getURL struct {
	simple
	Expires timestamp.Time    `json:"expires"`
	Hashes  map[string]string `json:"hashes"`
}

// noMatchingMethod is the reply to a caller that knows no way to download that
// there is.
type noMatchingMethod struct {
	Code        string      `json:"code"`
	Message     string      `json:"message"`
	RequestInfo requestInfo `json:"requestInfo"`
}

type requestInfo struct {
	Method  string         `json:"method"`
	Params  path           `json:"params"`
	Payload struct{}       `json:"payload"`
	Time    timestamp.Time `json:"time"`
}

// Status is "not acceptable".
func (noMatchingMethod) Status() int { return 406 }

// Header has nothing to add.
func (noMatchingMethod) Header() map[string]string { return nil }

var startDownload = api.Declare(api.Spec{
	Name: "startDownload", Route: "PUT /start-download/<name...>",
	Scopes: scope.Scope("object:download:<name>"),
	Input:  "v1/download-object-request.json#", Output: "v1/download-object-response.json#",
	Stability: api.Stable, Category: "Download", Title: "Begin the download of an object",
	Doc: `Says where to get the bytes of an object. Of the methods that the caller accepts, ` + "`getUrl`" + `, which comes with
hashes, is preferred to ` + "`simple`" + `. If it accepts none, the reply is 406.`,
}, func(ctx context.Context, o *Objects, c api.Call[path, startDownloadRequest]) (any, error) {
	r, err := o.find(ctx, c.Path.Name)
	if err != nil {
		return nil, err
	}
	accept := c.Body.Accept
	if !accept.GetURL && !accept.Simple {
		return noMatchingMethod{
			Code: "NoMatchingMethod", Message: "None of the methods that the caller accepts is available. Accept getUrl or simple.",
			RequestInfo: requestInfo{Method: "startDownload", Params: c.Path, Time: timestamp.Now()},
		}, nil
	}
	expires := timestamp.Now().Add(getURLLife)
	url, err := o.sign(ctx, r, getURLLife)
	if err != nil {
		return nil, err
	}
	if accept.GetURL {
		return getURL{simple{"getUrl", url}, expires, r.Hashes}, nil
	}
	return simple{"simple", url}, nil
})

// find reads an object that can be downloaded.
func (o *Objects) find(ctx context.Context, name string) (*record, error) {
	r, err := o.read(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return nil, api.Errorf(api.ResourceNotFound, "There is no object %q.", name)
	case !r.Finished:
		return nil, api.Errorf(api.ResourceNotFound, "There is no object %q yet: its upload is not finished.", name)
	case r.ended():
		return nil, api.Errorf(api.ResourceNotFound, "There is no object %q any more: it expired at %s.", name, r.Expires)
	}
	return r, nil
}

// sign makes a URL to download from. What can hold scripts is saved, not shown,
// since what somebody has uploaded must not run them where the bucket is.
func (o *Objects) sign(ctx context.Context, r *record, life time.Duration) (string, error) {
	var h blob.Headers
	if t, _, _ := mime.ParseMediaType(r.ContentType); t == "text/html" || t == "application/xhtml+xml" || t == "image/svg+xml" {
		h.ContentDisposition = "attachment"
	}
	return o.bucket.PresignGet(ctx, r.Key, life, h)
}

type objectResponse struct {
	ProjectID string            `json:"projectId"`
	Expires   timestamp.Time    `json:"expires"`
	Hashes    map[string]string `json:"hashes"`
}

var object = api.Declare(api.Spec{
	Name: "object", Route: "GET /metadata/<name...>",
	Scopes: scope.Scope("object:download:<name>"), Output: "v1/get-object-response.json#",
	Stability: api.Stable, Category: "Objects", Title: "Describe an object",
	Doc: "Returns what is known of an object. Use `startDownload` to get its bytes.",
}, func(ctx context.Context, o *Objects, c api.Call[path, api.None]) (out objectResponse, err error) {
	r, err := o.find(ctx, c.Path.Name)
	if err != nil {
		return out, err
	}
	return objectResponse{r.ProjectID, r.Expires, r.Hashes}, nil
})

// located is where an object is: the reply of download.
type located struct {
	URL string `json:"url"`
}

// Status sends the caller on to the bytes.
func (located) Status() int { return 303 }

// Header is for those who follow redirects.
func (l located) Header() map[string]string { return map[string]string{"Location": l.URL} }

var download = api.Declare(api.Spec{
	Name: "download", Route: "GET /download/<name...>",
	Scopes:    scope.Scope("object:download:<name>"),
	Stability: api.Stable, Category: "Download", Title: "Download an object",
	Doc: `Redirects to the bytes of an object, for browsers, curl and the like; a ` + "`bewit`" + ` in the query can stand for
credentials. Clients that can do more use ` + "`startDownload`" + `, which tells the hashes, too.`,
}, func(ctx context.Context, o *Objects, c api.Call[path, api.None]) (out located, err error) {
	out.URL, err = o.URL(ctx, c.Path.Name, getURLLife)
	return out, err
})
