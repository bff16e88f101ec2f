package resource

import (
	"context"
	"encoding/json"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/workermanager"
)

// A WorkerPool is one of the provisioner's.
type WorkerPool struct {
	WorkerPoolID string
	Definition   workermanager.CreateWorkerPoolRequest
}

type poolDocument struct {
	ProviderID   string          `json:"providerId"`
	Description  string          `json:"description"`
	Owner        string          `json:"owner"`
	EmailOnError bool            `json:"emailOnError"`
	Config       json.RawMessage `json:"config"`
}

// Kind implements Resource.
func (*WorkerPool) Kind() string { return "worker pool" }

// Name implements Resource.
func (p *WorkerPool) Name() string { return p.WorkerPoolID }

// Want implements Resource.
func (p *WorkerPool) Want() any {
	d := &p.Definition
	return poolDocument{d.ProviderID, d.Description, d.Owner, d.EmailOnError, d.Config}
}

// Is implements Resource.
func (p *WorkerPool) Is(ctx context.Context, c *client.Client) (any, error) {
	is, err := missing(workermanager.New(c).WorkerPool(ctx, p.WorkerPoolID))
	if is == nil {
		return nil, err
	}
	return poolDocument{is.ProviderID, is.Description, is.Owner, is.EmailOnError, is.Config}, nil
}

// Make implements Resource.
func (p *WorkerPool) Make(ctx context.Context, c *client.Client, exists bool) (err error) {
	d := p.Definition
	if exists {
		_, err = workermanager.New(c).UpdateWorkerPool(ctx, p.WorkerPoolID, &workermanager.UpdateWorkerPoolRequest{
			ProviderID: d.ProviderID, Description: d.Description, Config: d.Config, Owner: d.Owner, EmailOnError: d.EmailOnError,
		})
	} else {
		_, err = workermanager.New(c).CreateWorkerPool(ctx, p.WorkerPoolID, &d)
	}
	return err
}
