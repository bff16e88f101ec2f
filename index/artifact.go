package index

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
)

// A redirect sends the caller on to where an artifact is.
type redirect struct {
	URL string `json:"url"`
}

// Status is that of a redirect to be followed by GET.
func (redirect) Status() int { return http.StatusSeeOther }

// Header says where to.
func (r redirect) Header() map[string]string { return map[string]string{"Location": r.URL} }

type indexedArtifactPath struct {
	Path string `path:"indexPath"`
	Name string `path:"name"`
}

var findArtifactFromTask = api.Declare(api.Spec{
	Name: "findArtifactFromTask", Route: "GET /task/<indexPath>/artifacts/<name...>", Scopes: scope.Scope(artifactScope + "<name>"),
	Stability: api.Stable, Category: "Index Service", Title: "Get an artifact of an indexed task",
	Doc: `Answers 303 with the URL of an artifact of the latest run of the task at a path, or 404 where no task is indexed there.
Where anybody may read the artifact, the URL is the queue's, as it is; otherwise it is signed, and good for a quarter
of an hour.

From one call to the next another task may come to the path. Files that belong together are either one artifact, or
fetched by a path that stands for one task only: one with a revision in it, say.`,
}, func(ctx context.Context, x *Index, c api.Call[indexedArtifactPath, api.None]) (api.Reply, error) {
	e, err := x.find(ctx, c.Path.Path)
	if err != nil {
		return nil, err
	}
	path := "/api/queue/v1/task/" + e.TaskID + "/artifacts/" + url.PathEscape(c.Path.Name)
	anybody, err := x.auth.Authenticate(ctx, api.Credential{Method: http.MethodGet, Resource: path, Host: c.HTTP.Host})
	if err != nil {
		return nil, fmt.Errorf("index: what anybody may do: %w", err)
	}
	if anybody.Scopes.Has(artifactScope + c.Path.Name) {
		return redirect{x.rootURL + path}, nil
	}
	signed, err := x.artifacts.SignedURL(ctx, path, readable(c.Caller().Scopes, c.Path.Name))
	if err != nil {
		return nil, fmt.Errorf("index: sign the URL of an artifact of %s: %w", e.TaskID, err)
	}
	return redirect{signed}, nil
})

const (
	artifactScope = "queue:get-artifact:"

	// A URL holds only so much.
	maxSignedScopes = 20
	maxSignedText   = 2000
)

// readable is what of a caller's scopes a URL to the artifact name is signed
// with. It is no more than the caller has: an artifact can be a link to others,
// which the queue follows as far as whoever asks may read them. It is no less,
// as long as it fits into a URL.
func readable(have scope.Set, name string) []string {
	var list []string
	for _, s := range have {
		switch {
		case scope.Grants(s, artifactScope+"*"):
			return []string{artifactScope + "*"}
		case strings.HasPrefix(s, artifactScope):
			list = append(list, s)
		}
	}
	if len(list) > maxSignedScopes || len(strings.Join(list, "")) > maxSignedText {
		return []string{artifactScope + name}
	}
	return list
}
