package provisioner

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A complaint is something that is wrong with a pool, to be recorded as a
// worker pool error for the people who look after it.
type complaint struct {
	kind        string // for programs: "start-failed"
	title       string
	description string
	extra       map[string]any
	at          timestamp.Time
}

// What goes wrong.
const (
	kindStart        = "start-failed"         // the provider could not start a worker
	kindRegistration = "registration-failed"  // a worker ended, or was ended, without having registered
	kindDied         = "worker-failed"        // a worker that had registered ended in failure
	kindExpired      = "registration-expired" // a worker did not register again in time
	kindPool         = "pool-failed"          // nothing could be done for the pool
)

// The published bounds.
const (
	longestTitle       = 128
	longestDescription = 10240
)

// record writes a complaint about a pool and announces it; w is the worker it
// is about, or nil.
func (p *Provisioner) record(tx *store.Tx, o *pool, w *worker, c complaint) (*workerPoolError, error) {
	ref, launchConfigID := Ref{WorkerPoolID: o.id}, ""
	extra := maps.Clone(c.extra)
	if extra == nil {
		extra = map[string]any{}
	}
	if w != nil {
		ref, launchConfigID = w.Ref, w.launchConfigID
		extra["workerGroup"], extra["workerId"] = w.WorkerGroup, w.WorkerID
	}
	text, err := json.Marshal(extra)
	if err != nil {
		return nil, fmt.Errorf("provisioner: recording an error of pool %s: %w", o.id, err)
	}
	e := &workerPoolError{
		WorkerPoolID: o.id, ErrorID: slugid.New(), Reported: now(), Kind: c.kind,
		Title: shorten(c.title, longestTitle), Description: shorten(c.description, longestDescription),
		Extra: text, LaunchConfigID: launchConfigID,
	}
	if _, err := tx.Exec(`
		INSERT INTO worker_pool_error (error_id, worker_pool_id, launch_config_id, reported, kind, title, description, extra)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.ErrorID, e.WorkerPoolID, e.LaunchConfigID, e.Reported, e.Kind, e.Title, e.Description, e.Extra); err != nil {
		return nil, err
	}
	return e, p.send(tx, poolError, o.providerID, ref, launchConfigID, errorMessage{
		WorkerPoolID: o.id, ProviderID: o.providerID, ErrorID: e.ErrorID, Kind: e.Kind, Title: e.Title, Timestamp: e.Reported,
		LaunchConfigID: launchConfigID, WorkerGroup: ref.WorkerGroup, WorkerID: ref.WorkerID,
	})
}

// How long a pool's lasting trouble is not recorded again, and neither is other
// trouble of the pool as a whole.
const (
	sayAgain = 10 * time.Minute
	sayOther = time.Minute
)

// complain records that a pass could do nothing for a pool. As the next pass
// will not do better, the same complaint is not repeated for a while.
func (p *Provisioner) complain(ctx context.Context, o *pool, cause error) {
	p.log.Error("a worker pool could not be reconciled", "pool", o.id, "error", cause)
	c := complaint{
		kind: kindPool, title: "The pool could not be looked after",
		description: fmt.Sprintf("%v. Other pools are not affected; it is tried again every %v.", cause, interval), at: now(),
	}
	p.mu.Lock()
	last := p.said[o.id]
	p.mu.Unlock()
	if since := c.at.Sub(last.at); since < sayOther || since < sayAgain && last.description == c.description {
		return
	}
	if err := p.db.Do(ctx, func(tx *store.Tx) error {
		_, err := p.record(tx, o, nil, c)
		return err
	}); err != nil {
		p.log.Error("the error of a worker pool could not be recorded", "pool", o.id, "error", err)
		return
	}
	p.mu.Lock()
	p.said[o.id] = c
	p.mu.Unlock()
}

// shorten cuts s to at most n characters.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
