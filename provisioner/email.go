package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Mailer sends email.
type Mailer interface {
	Email(ctx context.Context, address, subject, markdown string) error
}

// mailPause is how long the owner of a pool is left alone after an email about
// its errors. What is wrong is often wrong with every worker, and the first says
// where to look.
const mailPause = 15 * time.Minute

// subscribeMail has the owners of pools told of errors, if they want to be.
func (p *Provisioner) subscribeMail() {
	p.events.Subscribe("provisioner.email", []event.Binding{{
		Exchange: event.Topic("worker-manager", "v1", poolError), RoutingKeyPattern: "#",
	}}, p.mailErrors)
}

func (p *Provisioner) mailErrors(ctx context.Context, list []event.Message) (mailed bool, err error) {
	for _, m := range list {
		var e errorMessage
		if err := json.Unmarshal(m.Payload, &e); err != nil {
			return mailed, fmt.Errorf("provisioner: a message of an error: %w", err)
		}
		if now().Sub(m.Created) > time.Hour || now().Sub(p.mailed[e.WorkerPoolID]) < mailPause {
			continue
		}
		sent, err := p.mailError(ctx, e)
		if err != nil {
			return mailed, err
		}
		if sent {
			p.mailed[e.WorkerPoolID] = now()
			mailed = true
		}
	}
	return mailed, nil
}

func (p *Provisioner) mailError(ctx context.Context, m errorMessage) (sent bool, err error) {
	var pool *fleet.Pool
	var found []workerPoolError
	err = p.db.View(ctx, func(tx *store.Tx) (err error) {
		if pool, err = findPool(tx, m.WorkerPoolID); err != nil {
			return err
		}
		found, err = poolErrors(tx, errorQuery{pool: m.WorkerPoolID, before: int64(timestamp.Max), errorID: m.ErrorID, limit: 1})
		return err
	})
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.ResourceNotFound {
		return false, nil // it is gone
	}
	if err != nil || len(found) == 0 || !pool.EmailOnError {
		return false, err
	}
	e := found[0]
	var b strings.Builder
	fmt.Fprintf(&b, "Worker pool `%s` reports an error of kind `%s`, at %s:\n\n**%s**\n\n", e.WorkerPoolID, e.Kind, e.Reported, e.Title)
	fmt.Fprintf(&b, "```\n%s\n```\n\n", strings.ReplaceAll(e.Description, "```", "'''"))
	if m.WorkerID != "" {
		fmt.Fprintf(&b, "Worker: `%s/%s`\n\n", m.WorkerGroup, m.WorkerID)
	}
	if m.LaunchConfigID != "" {
		fmt.Fprintf(&b, "Launch configuration: `%s`\n\n", m.LaunchConfigID)
	}
	fmt.Fprintf(&b, "All errors of the pool: `taskfleet provisioner errors %s`. Further ones are not mailed for %d minutes.\n\n", e.WorkerPoolID, int(mailPause.Minutes()))
	b.WriteString("You get this because you are the owner of the pool and its `emailOnError` is true.\n")
	return true, p.mail.Email(ctx, pool.Owner, fmt.Sprintf("Worker pool %s: %s", e.WorkerPoolID, e.Title), b.String())
}
