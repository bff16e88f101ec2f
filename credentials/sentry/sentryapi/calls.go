package sentryapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// A Team is whom projects belong to.
type Team struct {
	ID   string `json:"id"`
	Slug string `json:"slug"`
}

// A Project is where events go.
type Project struct {
	ID         string     `json:"id"`
	Slug       string     `json:"slug"`
	Name       string     `json:"name"`
	Platform   string     `json:"platform"` // "" if there is none
	Teams      []Team     `json:"teams"`
	FirstEvent *time.Time `json:"firstEvent"` // nil: there was none
}

// A RateLimit is how many events of a key are taken in a time. The zero one is no limit.
type RateLimit struct {
	Count  int `json:"count"`
	Window int `json:"window"` // in seconds
}

// A Key is what events are sent with.
type Key struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"` // which is its label
	Public    string     `json:"public"`
	Active    bool       `json:"isActive"`
	ProjectID int64      `json:"projectId"`
	RateLimit *RateLimit `json:"rateLimit"`
	Created   time.Time  `json:"dateCreated"` // by Sentry's clock
	DSN       struct {
		Secret string `json:"secret"`
		Public string `json:"public"`
	} `json:"dsn"`
}

// String leaves the key out, as does GoString.
func (k Key) String() string { return "Sentry key " + k.Name }

// GoString leaves the key out.
func (k Key) GoString() string { return k.String() }

// MaxKeyName is how long the name of a key can be.
const MaxKeyName = 64

// A NewProject is a project to be created.
type NewProject struct {
	Name     string `json:"name"`
	Slug     string `json:"slug"`
	Platform string `json:"platform,omitempty"`
	Alerts   bool   `json:"default_rules"` // with the alert that Sentry makes by itself
}

// A NewKey is a key to be created.
type NewKey struct {
	Name      string     `json:"name"`
	RateLimit *RateLimit `json:"rateLimit,omitempty"`
}

// A Monitor is what alerts are connected to.
type Monitor struct {
	ID        string `json:"id"`
	ProjectID string `json:"projectId"`
	Type      string `json:"type"` // error, issue_stream, …
}

// An Alert tells people of issues.
type Alert struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// A NewAlert is an alert to be created: an email to a team when an issue is new, or has
// come back.
type NewAlert struct {
	Name      string
	Monitor   string // id
	Team      string // id
	Frequency int    // minutes between emails of one issue
}

// Team finds a team.
func (c *Client) Team(ctx context.Context, slug string) (t Team, err error) {
	_, err = c.do(ctx, request{doing: "find the team " + slug, method: http.MethodGet, path: path("teams", c.organization, slug)}, &t)
	return t, err
}

// CreateTeam creates a team.
func (c *Client) CreateTeam(ctx context.Context, slug string) (t Team, err error) {
	_, err = c.do(ctx, request{doing: "create the team " + slug, method: http.MethodPost, path: path("organizations", c.organization, "teams"),
		in: map[string]string{"slug": slug, "name": slug}}, &t)
	return t, err
}

// Projects are all projects of the organization.
func (c *Client) Projects(ctx context.Context) ([]Project, error) {
	return list[Project](ctx, c, "list projects", path("organizations", c.organization, "projects"), nil)
}

// Project finds a project.
func (c *Client) Project(ctx context.Context, slug string) (p Project, err error) {
	_, err = c.do(ctx, request{doing: "find the project " + slug, method: http.MethodGet, path: path("projects", c.organization, slug)}, &p)
	return p, err
}

// CreateProject creates a project of a team.
func (c *Client) CreateProject(ctx context.Context, team string, n NewProject) (p Project, err error) {
	_, err = c.do(ctx, request{doing: "create the project " + n.Slug, method: http.MethodPost, path: path("teams", c.organization, team, "projects"), in: n}, &p)
	return p, err
}

// SetPlatform says what the events of a project come from.
func (c *Client) SetPlatform(ctx context.Context, project, platform string) error {
	_, err := c.do(ctx, request{doing: "change the project " + project, method: http.MethodPut, path: path("projects", c.organization, project),
		in: map[string]string{"platform": platform}}, nil)
	return err
}

// AddTeam gives a team access to a project.
func (c *Client) AddTeam(ctx context.Context, project, team string) error {
	_, err := c.do(ctx, request{doing: fmt.Sprintf("add the team %s to the project %s", team, project), method: http.MethodPost,
		path: path("projects", c.organization, project, "teams", team)}, nil)
	return err
}

// Keys are all keys of a project, also those that are not active.
func (c *Client) Keys(ctx context.Context, project string) ([]Key, error) {
	return list[Key](ctx, c, "list keys of the project "+project, path("projects", c.organization, project, "keys"), nil)
}

// Key finds a key.
func (c *Client) Key(ctx context.Context, project, id string) (k Key, err error) {
	_, err = c.do(ctx, request{doing: "find a key of the project " + project, method: http.MethodGet, path: path("projects", c.organization, project, "keys", id)}, &k)
	return k, err
}

// CreateKey creates a key.
func (c *Client) CreateKey(ctx context.Context, project string, n NewKey) (k Key, err error) {
	_, err = c.do(ctx, request{doing: "create a key of the project " + project, method: http.MethodPost, path: path("projects", c.organization, project, "keys"), in: n}, &k)
	return k, err
}

// SetActive has a key be taken, or not any more.
func (c *Client) SetActive(ctx context.Context, project, id string, active bool) error {
	_, err := c.changeKey(ctx, project, id, map[string]any{"isActive": active})
	return err
}

// SetRateLimit limits a key. Where the organization's plan has no such limits Sentry
// says that all went well, and does nothing; that is an error here.
func (c *Client) SetRateLimit(ctx context.Context, project, id string, limit RateLimit) error {
	k, err := c.changeKey(ctx, project, id, map[string]any{"rateLimit": limit})
	if err == nil && (k.RateLimit == nil || *k.RateLimit != limit) {
		err = fmt.Errorf("sentry: limit a key of the project %s: Sentry has left it as it was, as where the plan has no limits of keys; leave the rate limit out then", project)
	}
	return err
}

func (c *Client) changeKey(ctx context.Context, project, id string, in map[string]any) (k Key, err error) {
	_, err = c.do(ctx, request{doing: "change a key of the project " + project, method: http.MethodPut, path: path("projects", c.organization, project, "keys", id), in: in}, &k)
	return k, err
}

// DeleteKey deletes a key. That there is none is an ErrNotFound.
func (c *Client) DeleteKey(ctx context.Context, project, id string) error {
	_, err := c.do(ctx, request{doing: "delete a key of the project " + project, method: http.MethodDelete, path: path("projects", c.organization, project, "keys", id)}, nil)
	return err
}

// KeyUse tells when an error was last sent with a key within a time, to the hour; zero if
// none was. Nothing is told of what else can be sent.
// The published schema does not have this call, so a server need not.
func (c *Client) KeyUse(ctx context.Context, project, id string, within time.Duration) (time.Time, error) {
	now := time.Now()
	var hours []struct {
		At      int64 `json:"ts"`
		Total   int64 `json:"total"`
		Dropped int64 `json:"dropped"`
	}
	header, err := c.do(ctx, request{doing: "ask for the use of a key of the project " + project, method: http.MethodGet, path: path("projects", c.organization, project, "keys", id, "stats"),
		query: url.Values{"since": {strconv.FormatInt(now.Add(-within).Unix(), 10)}, "until": {strconv.FormatInt(now.Unix(), 10)}, "resolution": {"1h"}}}, &hours)
	if err != nil {
		return time.Time{}, err
	}
	var last time.Time
	for _, h := range hours {
		if h.Total+h.Dropped > 0 && time.Unix(h.At, 0).After(last) {
			last = time.Unix(h.At, 0)
		}
	}
	if last.IsZero() {
		return last, nil
	}
	if theirs, err := http.ParseTime(header.Get("Date")); err == nil { // their clock need not be right
		last = last.Add(time.Since(theirs).Truncate(time.Minute))
	}
	if end := last.Add(time.Hour); end.Before(now) { // at some time in that hour
		return end, nil
	}
	return now, nil
}

// Monitors are all monitors of a project.
func (c *Client) Monitors(ctx context.Context, project Project) ([]Monitor, error) {
	all, err := list[Monitor](ctx, c, "list monitors of the project "+project.Slug, path("organizations", c.organization, "detectors"), url.Values{"project": {project.ID}})
	return slices.DeleteFunc(all, func(m Monitor) bool { return m.ProjectID != project.ID }), err
}

// Alerts are all alerts of a project.
func (c *Client) Alerts(ctx context.Context, project Project) ([]Alert, error) {
	return list[Alert](ctx, c, "list alerts of the project "+project.Slug, path("organizations", c.organization, "workflows"), url.Values{"project": {project.ID}})
}

// CreateAlert creates an alert.
func (c *Client) CreateAlert(ctx context.Context, n NewAlert) (a Alert, err error) {
	monitor, err := strconv.ParseInt(n.Monitor, 10, 64)
	if err != nil {
		return a, fmt.Errorf("sentry: create the alert %q: the monitor has the id %q, which is no number", n.Name, n.Monitor)
	}
	condition := func(kind string) map[string]any {
		return map[string]any{"type": kind, "comparison": true, "conditionResult": true}
	}
	_, err = c.do(ctx, request{doing: fmt.Sprintf("create the alert %q", n.Name), method: http.MethodPost, path: path("organizations", c.organization, "workflows"), in: map[string]any{
		"name": n.Name, "enabled": true, "detectorIds": []int64{monitor}, "owner": "team:" + n.Team, "config": map[string]int{"frequency": n.Frequency},
		"triggers": map[string]any{"logicType": "any-short", "actions": []any{},
			"conditions": []any{condition("first_seen_event"), condition("regression_event"), condition("reappeared_event")}},
		"actionFilters": []any{map[string]any{"logicType": "all", "conditions": []any{}, "actions": []any{map[string]any{
			"type": "email", "integrationId": nil, "data": json.RawMessage("{}"), "status": "active",
			"config": map[string]any{"targetType": "team", "targetIdentifier": n.Team, "targetDisplay": nil},
		}}}},
	}}, &a)
	return a, err
}
