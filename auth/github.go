package auth

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

type githubPath struct {
	App   string `path:"appName"`
	Owner string `path:"owner"`
}

type githubRequest struct {
	Repositories []string          `json:"repositories"`
	Permissions  map[string]string `json:"permissions"`
}

type githubResponse struct {
	Token   string         `json:"token"`
	Expires timestamp.Time `json:"expires"`
}

var githubRepoToken = api.Declare(api.Spec{
	Name: "githubRepoToken", Route: "POST /github/<appName>/<owner>/repo-token",
	Scopes: scope.AllOf{scope.ForEach{For: "repoPerm", In: "repoPerms", Each: "auth:github-repo-token:<appName>/<owner>/<repoPerm>"}},
	Input:  "v1/github-repo-token-request.json#", Output: "v1/github-token-response.json#",
	Stability: api.Experimental, Category: "Github Credentials", Title: "Get a GitHub token for repositories",
	Doc: `Returns a token of a GitHub app's installation, good for some repositories of one owner and for some permissions there.
The apps are those that the deployment is configured for; the owner must have installed the app.

It takes a scope for each repository and permission: ` + "`auth:github-repo-token:<appName>/<owner>/<repository>:<permission>:<level>`" + `,
with owner and repository in lower case. Levels are compared letter by letter: though a token to ` + "`write`" + ` can also read,
the scope for ` + "`write`" + ` does not permit to ask for one to ` + "`read`" + `.

GitHub's tokens last an hour; look at ` + "`expires`" + `.`,
}, func(ctx context.Context, a *Auth, c api.Call[githubPath, githubRequest]) (r githubResponse, err error) {
	// GitHub does not tell upper from lower case in names; scopes do.
	owner := strings.ToLower(c.Path.Owner)
	var repositories []string
	for _, name := range c.Body.Repositories {
		repositories = append(repositories, strings.ToLower(name))
	}
	slices.Sort(repositories)
	repositories = slices.Compact(repositories)
	var perms []string
	for _, name := range slices.Sorted(maps.Keys(c.Body.Permissions)) {
		for _, repository := range repositories {
			perms = append(perms, repository+":"+name+":"+c.Body.Permissions[name])
		}
	}
	if err := c.Authorize(scope.Vars{"owner": owner, "repoPerms": perms}); err != nil {
		return r, err
	}
	for _, name := range append(repositories, owner, c.Path.App) {
		if len(name) > 100 {
			return r, api.Errorf(api.InputError, "The name %.100q… has more than 100 characters.", name)
		}
	}
	if a.github == nil {
		return r, unconfigured("GitHub", "apps (auth.github)")
	}
	t, err := a.github.RepoToken(ctx, c.Path.App, owner, repositories, c.Body.Permissions)
	return githubResponse{t.Text, timestamp.Of(t.Expires)}, err
})
