package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Role has scopes, which it gives to whoever may assume it.
type Role struct {
	RoleID      string
	Description string
	Scopes      []string
}

type roleDocument struct {
	Description string   `json:"description"`
	Scopes      []string `json:"scopes"`
}

// Roles are those that people define.
var Roles Kind = &kind[roleDocument]{
	name: "Role", noun: "role", section: "roles",
	check: func(name string, d *roleDocument) error {
		d.Scopes = sorted(d.Scopes)
		return errors.Join(checkID(name), checkScopes(d.Scopes), checkText("description", d.Description))
	},
	read: readRole,
	list: func(ctx context.Context, c *client.Client) (map[string]*roleDocument, error) {
		all := map[string]*roleDocument{}
		for r, err := range auth.New(c).ListRoles2All(ctx, auth.ListRoles2Options{Limit: page}) {
			if err != nil {
				return nil, err
			}
			all[r.RoleID] = &roleDocument{r.Description, sorted(r.Scopes)}
		}
		return all, nil
	},
	write: func(ctx context.Context, c *client.Client, name string, d *roleDocument, exists bool) error {
		return makeRole(ctx, c, name, d.Description, d.Scopes, exists)
	},
	remove: func(ctx context.Context, c *client.Client, name string) error {
		return auth.New(c).DeleteRole(ctx, name)
	},
}

func readRole(ctx context.Context, c *client.Client, name string) (*roleDocument, error) {
	is, err := auth.New(c).Role(ctx, name)
	if err != nil {
		return nil, err
	}
	return &roleDocument{is.Description, sorted(is.Scopes)}, nil
}

// page is how many things a call lists.
const page = 1000

// Limits of the platform, so that what breaks them is told before anything is done.
const (
	longestID   = 1024
	longestText = 10240
	mostScopes  = 10_000
)

// checkID tells whether the platform takes it as the id of a role.
func checkID(id string) error {
	if id == "" || len(id) > longestID || !scope.Valid(id) {
		return fmt.Errorf("the id of a role has 1 to %d printable ASCII characters", longestID)
	}
	return nil
}

func checkScopes(scopes []string) error {
	if len(scopes) > mostScopes {
		return fmt.Errorf("it has %d scopes; %d are the most", len(scopes), mostScopes)
	}
	for _, s := range scopes {
		if !scope.Valid(s) {
			return fmt.Errorf("scopes has %.100q; scopes are of printable ASCII characters", s)
		}
	}
	return nil
}

func checkText(what, text string) error {
	if len(text) > longestText {
		return fmt.Errorf("%s has %d bytes; %d are the most", what, len(text), longestText)
	}
	return nil
}

// Kind implements Resource.
func (*Role) Kind() string { return "role" }

// Name implements Resource.
func (r *Role) Name() string { return r.RoleID }

// Want implements Resource.
func (r *Role) Want() any { return roleDocument{r.Description, sorted(r.Scopes)} }

// Is implements Resource.
func (r *Role) Is(ctx context.Context, c *client.Client) (any, error) {
	is, err := missing(readRole(ctx, c, r.RoleID))
	if is == nil {
		return nil, err
	}
	return is, nil
}

// Make implements Resource.
func (r *Role) Make(ctx context.Context, c *client.Client, exists bool) error {
	return makeRole(ctx, c, r.RoleID, r.Description, sorted(r.Scopes), exists)
}

func makeRole(ctx context.Context, c *client.Client, id, description string, scopes []string, exists bool) (err error) {
	in := &auth.CreateRoleRequest{Description: description, Scopes: scopes}
	if exists {
		_, err = auth.New(c).UpdateRole(ctx, id, in)
	} else {
		_, err = auth.New(c).CreateRole(ctx, id, in)
	}
	return err
}

// sorted is scopes in order, each once: that is how the platform keeps them.
func sorted(scopes []string) []string {
	return append([]string{}, slices.Compact(slices.Sorted(slices.Values(scopes)))...)
}

// A Grant is scopes that a role of somebody else's should have besides those that it
// has. The role is made if it is not there.
type Grant struct {
	RoleID      string
	Description string // of the role, if it is made
	Scopes      []string
}

// Kind implements Resource.
func (*Grant) Kind() string { return "grant" }

// Name implements Resource.
func (g *Grant) Name() string { return g.RoleID }

type grantDocument struct {
	Scopes []string `json:"scopes"`
}

// Want implements Resource.
func (g *Grant) Want() any { return grantDocument{sorted(g.Scopes)} }

// Is implements Resource: it tells of the scopes that are granted only.
func (g *Grant) Is(ctx context.Context, c *client.Client) (any, error) {
	is, err := missing(auth.New(c).Role(ctx, g.RoleID))
	if is == nil {
		return nil, err
	}
	has := []string{}
	for _, scope := range sorted(g.Scopes) {
		if slices.Contains(is.Scopes, scope) {
			has = append(has, scope)
		}
	}
	return grantDocument{has}, nil
}

// Make implements Resource.
func (g *Grant) Make(ctx context.Context, c *client.Client, exists bool) error {
	if !exists {
		return makeRole(ctx, c, g.RoleID, g.Description, sorted(g.Scopes), false)
	}
	// As it is now: what others have added since the plan stays. The call cannot be told what it goes by, so of two at the
	// same moment one is lost, which the next plan shows.
	is, err := missing(auth.New(c).Role(ctx, g.RoleID))
	if err != nil {
		return err
	}
	if is == nil {
		return errGone
	}
	return makeRole(ctx, c, g.RoleID, is.Description, sorted(append(g.Scopes, is.Scopes...)), true)
}

// A Client is one of the platform's. Its access token is no concern of it, but for
// those who are told it in a secret: see TokenSecret.
type Client struct {
	ClientID           string
	Description        string
	Scopes             []string
	Expires            timestamp.Time
	DeleteOnExpiration bool

	token   string // if it was made just now
	rotated timestamp.Time
}

type clientDocument struct {
	Description        string         `json:"description"`
	Scopes             []string       `json:"scopes"`
	Expires            timestamp.Time `json:"expires"`
	DeleteOnExpiration bool           `json:"deleteOnExpiration"`
	Disabled           *bool          `json:"disabled,omitempty"` // nil: as it is
}

// static is how the ids of clients begin that the configuration of a platform defines.
const static = "static/"

// Clients are those that people define. Access tokens are no part of them: that of a client
// that is made is known to nobody, so whoever is to act as it gets one by resetAccessToken.
//
// To disable a client is an act of emergency, which a definition that does not speak of it
// leaves alone.
var Clients Kind = &kind[clientDocument]{
	name: "Client", noun: "client", section: "clients",
	check: func(name string, d *clientDocument) error {
		d.Scopes = sorted(d.Scopes)
		if d.Expires.IsZero() {
			d.Expires = never
		}
		switch {
		case !cred.ValidClientID(name):
			return fmt.Errorf("ids of clients match %s", cred.ClientIDPattern)
		case strings.HasPrefix(name, static):
			return errors.New("clients whose ids begin with static/ are defined by the configuration of the platform: leave it out here")
		}
		return errors.Join(checkScopes(d.Scopes), checkText("description", d.Description))
	},
	read: readClient,
	list: func(ctx context.Context, c *client.Client) (map[string]*clientDocument, error) {
		all := map[string]*clientDocument{}
		for x, err := range auth.New(c).ListClientsAll(ctx, auth.ListClientsOptions{Limit: page}) {
			if err != nil {
				return nil, err
			}
			if !strings.HasPrefix(x.ClientID, static) {
				all[x.ClientID] = asDocument(&x)
			}
		}
		return all, nil
	},
	write: func(ctx context.Context, c *client.Client, name string, d *clientDocument, exists bool) error {
		if _, err := writeClient(ctx, c, name, d, exists); err != nil || d.Disabled == nil {
			return err
		}
		set := auth.New(c).EnableClient
		if *d.Disabled {
			set = auth.New(c).DisableClient
		}
		_, err := set(ctx, name)
		return err
	},
	remove: func(ctx context.Context, c *client.Client, name string) error {
		if isCaller(c, name) {
			return errors.New("it is the client that does this, which does not delete itself: use another one")
		}
		return auth.New(c).DeleteClient(ctx, name)
	},
	complete: func(want, is *clientDocument) {
		if want.Disabled == nil {
			want.Disabled = is.Disabled
		}
	},
	usual: func(d *clientDocument) {
		if d.Disabled != nil && !*d.Disabled {
			d.Disabled = nil
		}
		if d.Expires == never {
			d.Expires = 0
		}
	},
}

// isCaller tells whether the credentials that are used are the client's, or temporary ones of its.
func isCaller(c *client.Client, id string) bool {
	with := c.Credentials()
	var certificate cred.Certificate
	if with.Certificate != "" {
		_ = json.Unmarshal([]byte(with.Certificate), &certificate) // else the platform refuses it
	}
	return id == with.ClientID || id == certificate.Issuer
}

// never is when what never expires does.
var never = timestamp.Of(time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC))

func asDocument(x *auth.GetClientResponse) *clientDocument {
	return &clientDocument{x.Description, sorted(x.Scopes), x.Expires, x.DeleteOnExpiration, &x.Disabled}
}

func readClient(ctx context.Context, c *client.Client, name string) (*clientDocument, error) {
	is, err := auth.New(c).Client(ctx, name)
	if err != nil {
		return nil, err
	}
	return asDocument(is), nil
}

// writeClient creates or changes a client. What it returns has the token of one that was created.
func writeClient(ctx context.Context, c *client.Client, name string, d *clientDocument, exists bool) (*auth.CreateClientResponse, error) {
	in := &auth.CreateClientRequest{Description: d.Description, Scopes: d.Scopes, Expires: d.Expires, DeleteOnExpiration: d.DeleteOnExpiration}
	if exists {
		_, err := auth.New(c).UpdateClient(ctx, name, in)
		return nil, err
	}
	return auth.New(c).CreateClient(ctx, name, in)
}

// Kind implements Resource.
func (*Client) Kind() string { return "client" }

// Name implements Resource.
func (x *Client) Name() string { return x.ClientID }

// Want implements Resource.
func (x *Client) Want() any {
	return clientDocument{x.Description, sorted(x.Scopes), x.Expires, x.DeleteOnExpiration, nil}
}

// Is implements Resource.
func (x *Client) Is(ctx context.Context, c *client.Client) (any, error) {
	is, err := missing(readClient(ctx, c, x.ClientID))
	if is == nil {
		return nil, err
	}
	is.Disabled = nil
	return is, nil
}

// Make implements Resource.
func (x *Client) Make(ctx context.Context, c *client.Client, exists bool) error {
	d := x.Want().(clientDocument)
	made, err := writeClient(ctx, c, x.ClientID, &d, exists)
	if made != nil && err == nil {
		x.token, x.rotated = made.AccessToken, made.LastRotated
	}
	return err
}
