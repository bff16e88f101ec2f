package resource

import (
	"context"
	"slices"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
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

// Kind implements Resource.
func (*Role) Kind() string { return "role" }

// Name implements Resource.
func (r *Role) Name() string { return r.RoleID }

// Want implements Resource.
func (r *Role) Want() any { return roleDocument{r.Description, sorted(r.Scopes)} }

// Is implements Resource.
func (r *Role) Is(ctx context.Context, c *client.Client) (any, error) {
	is, err := missing(auth.New(c).Role(ctx, r.RoleID))
	if is == nil {
		return nil, err
	}
	return roleDocument{is.Description, sorted(is.Scopes)}, nil
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
	return slices.Compact(slices.Sorted(slices.Values(scopes)))
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
	// As it is now: what others have added in the meantime stays.
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
}

// Kind implements Resource.
func (*Client) Kind() string { return "client" }

// Name implements Resource.
func (x *Client) Name() string { return x.ClientID }

// Want implements Resource.
func (x *Client) Want() any {
	return clientDocument{x.Description, sorted(x.Scopes), x.Expires, x.DeleteOnExpiration}
}

// Is implements Resource.
func (x *Client) Is(ctx context.Context, c *client.Client) (any, error) {
	is, err := missing(auth.New(c).Client(ctx, x.ClientID))
	if is == nil {
		return nil, err
	}
	return clientDocument{is.Description, sorted(is.Scopes), is.Expires, is.DeleteOnExpiration}, nil
}

// Make implements Resource.
func (x *Client) Make(ctx context.Context, c *client.Client, exists bool) error {
	in := &auth.CreateClientRequest{Description: x.Description, Scopes: sorted(x.Scopes), Expires: x.Expires, DeleteOnExpiration: x.DeleteOnExpiration}
	if exists {
		_, err := auth.New(c).UpdateClient(ctx, x.ClientID, in)
		return err
	}
	made, err := auth.New(c).CreateClient(ctx, x.ClientID, in)
	if err == nil {
		x.token, x.rotated = made.AccessToken, made.LastRotated
	}
	return err
}
