//go:build !agent

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/client"
	clientqueue "github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
)

// hookTasks creates the tasks of hooks by the API, from inside, with the scopes
// of each hook alone.
type hookTasks struct{ client *client.Client }

func (h hookTasks) CreateTask(ctx context.Context, group, id, taskID string, definition json.RawMessage) (json.RawMessage, error) {
	as := h.client.WithCredentials(h.client.Credentials(), []string{"assume:hook-id:" + group + "/" + id})
	var out struct {
		Status json.RawMessage `json:"status"`
	}
	err := as.Do(ctx, client.Request{
		Name: "queue.createTask", Verb: http.MethodPut, Route: "/api/queue/v1/task/<taskId>", Args: []string{taskID}, In: definition,
	}, &out)
	return out.Status, forCaller(err)
}

func (h hookTasks) TaskStates(ctx context.Context, taskIDs []string) (map[string]string, error) {
	states := map[string]string{}
	for s, err := range clientqueue.New(h.client).StatusesAll(ctx, &clientqueue.TasksRequest{TaskIDs: taskIDs}, clientqueue.StatusesOptions{}) {
		if err != nil {
			return nil, err
		}
		states[s.TaskID] = string(s.Status.State)
	}
	return states, nil
}

// forCaller makes of a refusal by the API one that may be shown to whoever the
// call was made for.
func forCaller(err error) error {
	if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode < 500 && e.Code != "" {
		return &api.Error{Code: api.Code(e.Code), Message: e.Message}
	}
	return err
}

// artifactURLs signs URLs in the name of a client.
type artifactURLs struct {
	issuer  auth.Issuer
	client  string
	rootURL string
}

// artifactURLLife is how long such a URL is good.
const artifactURLLife = 15 * time.Minute

func (a artifactURLs) SignedURL(ctx context.Context, path string, scopes []string) (string, error) {
	expiry := time.Now().Add(artifactURLLife)
	creds, err := a.issuer.Mint(ctx, a.client, scopes, expiry)
	if err != nil {
		return "", err
	}
	return cred.SignURL(a.rootURL+path, creds, expiry, nil)
}
