package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/workermanager"
)

// A WorkerPool is one of the provisioner's.
type WorkerPool struct {
	WorkerPoolID string
	Definition   workermanager.CreateWorkerPoolRequest
}

type poolDocument struct {
	ProviderID   string `json:"providerId"`
	Description  string `json:"description"`
	Owner        string `json:"owner"`
	EmailOnError bool   `json:"emailOnError"`
	Config       tree   `json:"config"`
}

var poolID = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-zA-Z0-9_-]{1,38}/[a-z]([-a-z0-9]{0,36}[a-z0-9])?$`)
})

// gone is the provider of pools that are being deleted.
const gone = "null-provider"

// WorkerPools are the provisioner's. One that is being deleted is not there any more; it
// can be made anew at once.
var WorkerPools Kind = &kind[poolDocument]{
	name: "WorkerPool", noun: "worker pool", section: "workerPools",
	check: func(name string, d *poolDocument) error {
		switch {
		case !poolID().MatchString(name):
			return errors.New("the id of a worker pool is PROVISIONER/TYPE, such as local/build")
		case d.ProviderID == "" || d.ProviderID == gone:
			return fmt.Errorf("providerId is %q; it must be that of a provider of the platform, such as local or aws", d.ProviderID)
		case !strings.Contains(d.Owner, "@"):
			return fmt.Errorf("owner is %q; it must be a mail address", d.Owner)
		case !d.Config.object():
			return errors.New("config must be a mapping of names to values; the provider says what must be in it, such as maxCapacity")
		}
		return checkText("description", d.Description)
	},
	read: readPool,
	list: func(ctx context.Context, c *client.Client) (map[string]*poolDocument, error) {
		all := map[string]*poolDocument{}
		for p, err := range workermanager.New(c).ListWorkerPoolsAll(ctx, workermanager.ListWorkerPoolsOptions{}) {
			if err != nil {
				return nil, err
			}
			if d, err := describePool(&p); err != nil {
				return nil, err
			} else if d != nil {
				all[p.WorkerPoolID] = d
			}
		}
		return all, nil
	},
	write: writePool,
	remove: func(ctx context.Context, c *client.Client, name string) error {
		_, err := workermanager.New(c).DeleteWorkerPool(ctx, name)
		return err
	},
}

// describePool is nil for one that is being deleted.
func describePool(p *workermanager.WorkerPoolFull) (*poolDocument, error) {
	if p.ProviderID == gone {
		return nil, nil
	}
	d := &poolDocument{ProviderID: p.ProviderID, Description: p.Description, Owner: p.Owner, EmailOnError: p.EmailOnError}
	if err := d.Config.UnmarshalJSON(p.Config); err != nil {
		return nil, fmt.Errorf("the configuration of the worker pool %s is not JSON: %w", p.WorkerPoolID, err)
	}
	return d, nil
}

func readPool(ctx context.Context, c *client.Client, name string) (*poolDocument, error) {
	p, err := workermanager.New(c).WorkerPool(ctx, name)
	if err != nil {
		return nil, err
	}
	return describePool(p)
}

func writePool(ctx context.Context, c *client.Client, name string, d *poolDocument, exists bool) (err error) {
	in := workermanager.CreateWorkerPoolRequest{
		ProviderID: d.ProviderID, Description: d.Description, Owner: d.Owner, EmailOnError: d.EmailOnError, Config: json.RawMessage(d.Config),
	}
	if exists {
		_, err = workermanager.New(c).UpdateWorkerPool(ctx, name, &workermanager.UpdateWorkerPoolRequest{
			ProviderID: in.ProviderID, Description: in.Description, Config: in.Config, Owner: in.Owner, EmailOnError: in.EmailOnError,
		})
	} else {
		_, err = workermanager.New(c).CreateWorkerPool(ctx, name, &in)
	}
	return err
}

// Kind implements Resource.
func (*WorkerPool) Kind() string { return "worker pool" }

// Name implements Resource.
func (p *WorkerPool) Name() string { return p.WorkerPoolID }

// Want implements Resource.
func (p *WorkerPool) Want() any {
	d := &p.Definition
	return poolDocument{d.ProviderID, d.Description, d.Owner, d.EmailOnError, tree(d.Config)}
}

// Is implements Resource.
func (p *WorkerPool) Is(ctx context.Context, c *client.Client) (any, error) {
	is, err := missing(readPool(ctx, c, p.WorkerPoolID))
	if is == nil {
		return nil, err
	}
	return is, nil
}

// Make implements Resource.
func (p *WorkerPool) Make(ctx context.Context, c *client.Client, exists bool) error {
	d := p.Want().(poolDocument)
	return writePool(ctx, c, p.WorkerPoolID, &d, exists)
}
