package provisioner

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// The published bounds of texts, in characters, and ours of what a worker
// reports besides, in bytes.
const (
	longestTitle       = 128
	longestDescription = 10240
	longestExtra       = 256 << 10
)

// record writes a complaint about a pool and announces it.
func (p *Provisioner) record(tx *store.Tx, o *fleet.Pool, c fleet.Complaint) (*workerPoolError, error) {
	ref, launchConfigID := fleet.Ref{WorkerPoolID: o.ID}, c.LaunchConfigID
	extra := maps.Clone(c.Extra)
	if extra == nil {
		extra = map[string]any{}
	}
	if w := c.Worker; w != nil {
		ref, launchConfigID = w.Ref, w.LaunchConfigID
		extra["workerGroup"], extra["workerId"] = w.WorkerGroup, w.WorkerID
	}
	text, err := json.Marshal(extra)
	if err != nil {
		return nil, fmt.Errorf("provisioner: recording an error of pool %s: %w", o.ID, err)
	}
	e := &workerPoolError{
		WorkerPoolID: o.ID, ErrorID: slugid.New(), Reported: now(), Kind: c.Kind,
		Title: shorten(c.Title, longestTitle), Description: shorten(c.Description, longestDescription),
		Extra: text, LaunchConfigID: launchConfigID,
	}
	if _, err := tx.Exec(`
		INSERT INTO worker_pool_error (error_id, worker_pool_id, launch_config_id, reported, kind, title, description, extra)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.ErrorID, e.WorkerPoolID, e.LaunchConfigID, e.Reported, e.Kind, e.Title, e.Description, e.Extra); err != nil {
		return nil, err
	}
	tx.AfterCommit(func() { p.metrics.failed(o.ID, c.Kind) })
	return e, p.send(tx, poolError, o.ProviderID, ref, launchConfigID, errorMessage{
		WorkerPoolID: o.ID, ProviderID: o.ProviderID, ErrorID: e.ErrorID, Kind: e.Kind, Title: e.Title, Timestamp: e.Reported,
		LaunchConfigID: launchConfigID, WorkerGroup: ref.WorkerGroup, WorkerID: ref.WorkerID,
	})
}

// shorten cuts s to at most n characters.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
