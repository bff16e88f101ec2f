// Package project is what a project is on a platform: namespaces of its own for
// clients, roles, worker pools, hooks, secrets and the index, somebody who may do
// everything in these, and what is in them to begin with. One file says all of it.
//
// The namespaces are those that deployments of Taskcluster use:
//
//	clients       project/NAME/…       worker pools  proj-NAME/…
//	roles         project:NAME:…       hooks         project-NAME/…
//	secrets       project/NAME/…       index         project.NAME.…
package project

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Project is what a file says of one.
type Project struct {
	Project     string            `yaml:"project"` // its name
	Description string            `yaml:"description"`
	Owner       string            `yaml:"owner"`   // a mail address
	Admins      []string          `yaml:"admins"`  // roles that may do everything in the namespaces
	Roles       map[string]Role   `yaml:"roles"`   // by what comes after project:NAME:
	Clients     map[string]Client `yaml:"clients"` // by what comes after project/NAME/
	Pools       map[string]Pool   `yaml:"pools"`   // by what comes after proj-NAME/
	Secrets     []string          `yaml:"secrets"` // by what comes after project/NAME/
	Grants      []Grant           `yaml:"grants"`
	Sentry      *Sentry           `yaml:"sentry"`   // a project of that name at Sentry; none if it is not given
	SignalFx    *SignalFx         `yaml:"signalfx"` // what it has at SignalFx
}

// A Role is one of the project's.
type Role struct {
	Description string   `yaml:"description"`
	Scopes      []string `yaml:"scopes"`
}

// A Client is one of the project's.
type Client struct {
	Description string   `yaml:"description"`
	Scopes      []string `yaml:"scopes"`
	Expires     string   `yaml:"expires"` // RFC 3339, or a date; never if empty
	// Secret is that of the project in which whoever acts as the client finds its
	// credentials, by what comes after project/NAME/.
	Secret string `yaml:"secret"`
}

// A Pool is a worker pool of the project.
type Pool struct {
	ProviderID   string         `yaml:"providerId"`
	Description  string         `yaml:"description"`
	Owner        string         `yaml:"owner"` // that of the project if empty
	EmailOnError bool           `yaml:"emailOnError"`
	Config       map[string]any `yaml:"config"`
}

// A Grant gives scopes to roles that need not be the project's, besides those that
// they have.
type Grant struct {
	To     []string `yaml:"to"` // roles
	Scopes []string `yaml:"scopes"`
}

// Sentry is what a project at Sentry is like. What is left out is as the platform has it.
type Sentry struct {
	Team       string     `yaml:"team" json:"team,omitempty"`
	Platform   string     `yaml:"platform" json:"platform,omitempty"`
	RateLimit  *RateLimit `yaml:"rateLimit" json:"rateLimit,omitempty"` // of each key
	AlertEvery string     `yaml:"alertEvery" json:"alertEvery,omitempty"`
}

// A RateLimit is how many events are taken in how many seconds.
type RateLimit struct {
	Count  int `yaml:"count" json:"count"`
	Window int `yaml:"window" json:"window"`
}

// SignalFx is what a project has there. What has no name is not made.
type SignalFx struct {
	Team             string `yaml:"team" json:"team,omitempty"`
	TeamDescription  string `yaml:"teamDescription" json:"teamDescription,omitempty"`
	Group            string `yaml:"group" json:"group,omitempty"` // of dashboards
	GroupDescription string `yaml:"groupDescription" json:"groupDescription,omitempty"`
	Token            string `yaml:"token" json:"token,omitempty"` // its name
}

var (
	namePattern = regexp.MustCompile(`^[a-z](-?[a-z0-9])*$`)
	partPattern = regexp.MustCompile(`^[a-zA-Z0-9_-]+([/:.][a-zA-Z0-9_-]+)*$`)
	poolPattern = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,36}[a-z0-9])?$`)
)

// maxName has proj-NAME be the first part of a worker pool's id.
const maxName = 33

// Never is when what never expires does.
var Never = timestamp.Of(time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC))

// Parse reads a file. Its name is for messages.
func Parse(file string, text []byte) (*Project, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var p Project
	if err := d.Decode(&p); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s is empty; it must say at least: project: NAME", file)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %s", file, strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), " in type project.", " in a "))
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s has more than one document; a file is one project", file)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("%s:\n%w", file, err)
	}
	return &p, nil
}

func (p *Project) check() error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if !namePattern.MatchString(p.Project) || len(p.Project) > maxName {
		bad("project is %q; it must be a name of lower-case letters, digits and hyphens between, up to %d", p.Project, maxName)
	}
	if !strings.Contains(p.Owner, "@") {
		bad("owner is %q; it must be a mail address", p.Owner)
	}
	scopes := func(of string, list []string) {
		for _, s := range list {
			if !scope.Valid(s) {
				bad("%s has the scope %q; scopes are of printable ASCII characters", of, s)
			}
		}
	}
	for i, role := range p.Admins {
		if !validRole(role) {
			bad("admins[%d] is %q; it must be the id of a role, such as github-team:org/team", i, role)
		}
	}
	for _, name := range sortedKeys(p.Roles) {
		if !validRole("project:x:" + name) {
			bad("roles: %q is no part of the id of a role", name)
		}
		scopes("roles."+name, p.Roles[name].Scopes)
	}
	for _, name := range sortedKeys(p.Clients) {
		x := p.Clients[name]
		if !partPattern.MatchString(name) || !cred.ValidClientID("project/x/"+name) {
			bad("clients: %q is no part of the id of a client", name)
		}
		scopes("clients."+name, x.Scopes)
		if _, err := expiry(x.Expires); err != nil {
			bad("clients.%s.expires is %q; it must be a date such as 2027-12-31, or a time such as 2027-12-31T12:00:00Z", name, x.Expires)
		}
		if x.Secret != "" && !partPattern.MatchString(x.Secret) {
			bad("clients.%s.secret is %q; it must be a name of letters, digits, - and _, with / between", name, x.Secret)
		}
	}
	for _, name := range sortedKeys(p.Pools) {
		if !poolPattern.MatchString(name) {
			bad("pools: %q must be lower-case letters, digits and hyphens between, up to 38", name)
		}
		if p.Pools[name].ProviderID == "" {
			bad("pools.%s has no providerId", name)
		}
		if p.Pools[name].Config == nil {
			bad("pools.%s has no config; its provider says what must be in it, such as maxCapacity", name)
		}
	}
	taken := map[string]string{}
	for i, name := range p.Secrets {
		if !partPattern.MatchString(name) {
			bad("secrets[%d] is %q; it must be a name of letters, digits, - and _, with / between", i, name)
		}
		if taken[name] != "" {
			bad("secrets: %s is there twice", name)
		}
		taken[name] = "secrets"
	}
	for _, name := range sortedKeys(p.Clients) {
		if s := p.Clients[name].Secret; s != "" {
			if by := taken[s]; by != "" {
				bad("clients.%s.secret is %s, which is in %s as well", name, s, by)
			}
			taken[s] = "clients." + name
		}
	}
	for i, g := range p.Grants {
		if len(g.To) == 0 || len(g.Scopes) == 0 {
			bad("grants[%d] needs both: to, which is roles, and scopes", i)
		}
		for _, role := range g.To {
			if !validRole(role) {
				bad("grants[%d].to has %q; it must be the id of a role", i, role)
			}
		}
		scopes(fmt.Sprintf("grants[%d]", i), g.Scopes)
	}
	return errors.Join(wrong...)
}

// validRole tells whether the platform takes it as the id of a role.
func validRole(id string) bool { return id != "" && scope.Valid(id) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func expiry(text string) (t timestamp.Time, err error) {
	if text == "" {
		return Never, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return timestamp.Of(day), nil
	}
	return t, t.UnmarshalText([]byte(text))
}

// AdminRole is who may do everything in the namespaces.
func (p *Project) AdminRole() string { return "project-admin:" + p.Project }

// Resources is all that the project consists of on the platform, in the order in
// which it can be made.
func (p *Project) Resources() ([]resource.Resource, error) {
	n := p.Project
	made := func(what string) string {
		return strings.TrimSpace(what + "\n\nFrom the definition of the project " + n + "; " + p.Owner + " answers for it.")
	}
	all := []resource.Resource{&resource.Role{
		RoleID: p.AdminRole(), Description: made("May do everything in the namespaces of the project " + n + ". " + p.Description), Scopes: adminScopes(n),
	}}
	for _, name := range sortedKeys(p.Roles) {
		r := p.Roles[name]
		all = append(all, &resource.Role{RoleID: "project:" + n + ":" + name, Description: made(r.Description), Scopes: r.Scopes})
	}
	grants, order := map[string]*resource.Grant{}, []string{}
	grant := func(to string, scopes ...string) {
		if grants[to] == nil {
			grants[to] = &resource.Grant{RoleID: to, Description: made("")}
			order = append(order, to)
		}
		grants[to].Scopes = append(grants[to].Scopes, scopes...)
	}
	for _, admin := range p.Admins {
		grant(admin, "assume:"+p.AdminRole())
	}
	for _, g := range p.Grants {
		for _, to := range g.To {
			grant(to, g.Scopes...)
		}
	}
	for _, to := range order {
		// Who is given less by the one than by the other would be changed each time.
		if slices.ContainsFunc(all, func(r resource.Resource) bool { return r.Kind() == "role" && r.Name() == to }) {
			return nil, fmt.Errorf("admins or grants: %s is a role that is defined here: give it the scopes there", to)
		}
		all = append(all, grants[to])
	}
	names := &resource.SecretNames{Prefix: "project/" + n + "/"}
	for _, name := range sortedKeys(p.Clients) {
		x := p.Clients[name]
		expires, err := expiry(x.Expires)
		if err != nil {
			return nil, err
		}
		c := &resource.Client{ClientID: "project/" + n + "/" + name, Description: made(x.Description), Scopes: x.Scopes, Expires: expires}
		all = append(all, c)
		if x.Secret != "" && expires > timestamp.Now() { // the secret is gone with the client, and would be made each time
			all = append(all, &resource.TokenSecret{SecretName: "project/" + n + "/" + x.Secret, Client: c, Expires: expires, Names: names})
		}
	}
	for _, name := range p.Secrets {
		all = append(all, &resource.Secret{SecretName: "project/" + n + "/" + name, Expires: Never, Names: names})
	}
	for _, name := range sortedKeys(p.Pools) {
		d := p.Pools[name]
		config, err := json.Marshal(d.Config)
		if err != nil {
			return nil, fmt.Errorf("pools.%s.config cannot be said in JSON: %w", name, err)
		}
		owner := d.Owner
		if owner == "" {
			owner = p.Owner
		}
		all = append(all, &resource.WorkerPool{WorkerPoolID: "proj-" + n + "/" + name, Definition: workermanager.CreateWorkerPoolRequest{
			ProviderID: d.ProviderID, Description: made(d.Description), Owner: owner, EmailOnError: d.EmailOnError, Config: config,
		}})
	}
	elsewhere := func(service string, spec any) error {
		text, err := json.Marshal(spec)
		all = append(all, &resource.Elsewhere{Service: service, Project: n, Spec: text})
		return err
	}
	var err error
	if p.Sentry != nil {
		err = elsewhere("sentry", p.Sentry)
	}
	if p.SignalFx != nil {
		err = errors.Join(err, elsewhere("signalfx", p.SignalFx))
	}
	return all, err
}

// adminScopes are all that can be done in the namespaces of a project.
func adminScopes(n string) (scopes []string) {
	add := func(format string, verbs ...string) {
		for _, verb := range verbs {
			scopes = append(scopes, strings.ReplaceAll(strings.Replace(format, "VERB", verb, 1), "NAME", n))
		}
	}
	add("auth:VERB-client:project/NAME/*", "create", "update", "delete", "enable", "disable")
	add("auth:VERB:project/NAME/*", "reset-access-token")
	add("auth:VERB-role:project:NAME:*", "create", "update", "delete")
	add("auth:VERB-role:hook-id:project-NAME/*", "create", "update", "delete")
	add("assume:VERB", "project:NAME:*", "hook-id:project-NAME/*")
	add("hooks:VERB:project-NAME/*", "modify-hook", "trigger-hook", "get-trigger-token", "reset-trigger-token")
	add("index:VERB:project.NAME.*", "insert-task", "delete-task")
	add("secrets:VERB:project/NAME/*", "get", "set")
	add("worker-manager:VERB:proj-NAME/*", "manage-worker-pool", "create-worker", "remove-worker")
	add("queue:VERB", "create-task:highest:proj-NAME/*", "create-task:project:NAME", "scheduler-id:project-NAME",
		"cancel-task-group:project-NAME/*", "seal-task-group:project-NAME/*", "route:index.project.NAME.*", "get-artifact:project/NAME/*", "quarantine-worker:proj-NAME/*")
	add("purge-cache:VERB", "proj-NAME/*")
	add("auth:sentry:VERB", "NAME")
	return scopes
}
