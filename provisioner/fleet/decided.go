package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Decided is a decision with what it was made of, as it is kept for
// explanations.
type Decided struct {
	At       timestamp.Time  `json:"at"`
	Policy   string          `json:"policy"`
	Inputs   Measured        `json:"inputs"`
	Decision sizing.Decision `json:"decision"`
	Started  int64           `json:"started"` // capacity that was asked for; less than decided where the provider or a breaker held it back
}

// Measured is what a decision was made of, in numbers.
type Measured struct {
	sizing.Settings
	Pending       int64          `json:"pending"`
	OldestPending timestamp.Time `json:"oldestPending,omitempty"`
	Claimed       int64          `json:"claimed"`
	Known         int64          `json:"known"` // tasks that become pending before long
	Working       int64          `json:"working"`
	Spare         int64          `json:"spare"`
	Idle          int64          `json:"idle"`
	Booting       int64          `json:"booting"`
	Stopping      int64          `json:"stopping"`
}

// note keeps a decision that does something, and others as long as they change,
// one a minute; and now and then what was learnt.
func (p *pass) note(ctx context.Context, o *Pool, m *memory, policy string, in sizing.Inputs, d sizing.Decision, started int64) error {
	if err := p.keep(ctx, o, m); err != nil {
		return fmt.Errorf("keeping what was learnt: %w", err)
	}
	does := started > 0 || len(d.Drain) > 0
	told := d.Reason + strconv.FormatInt(started, 10)
	if !does && (told == m.told || p.now >= m.toldAt && p.now.Sub(m.toldAt) < time.Minute) {
		return nil
	}
	x := Decided{At: p.now, Policy: policy, Decision: d, Started: started, Inputs: Measured{
		Settings: in.Settings, Pending: in.Pending, OldestPending: in.OldestPending, Working: in.Working, Spare: in.Spare, Stopping: in.Stopping,
	}}
	for _, r := range in.Running {
		x.Inputs.Claimed += max(r.Count, 1)
	}
	for _, k := range in.Known {
		x.Inputs.Known += max(k.Count, 1)
	}
	for _, i := range in.Idle {
		x.Inputs.Idle += i.Capacity
	}
	for _, b := range in.Booting {
		x.Inputs.Booting += b.Capacity
	}
	if err := p.Book.Decided(ctx, p.now, o, x); err != nil {
		return fmt.Errorf("keeping the decision: %w", err)
	}
	m.told, m.toldAt = told, p.now
	return nil
}

// keep keeps what was learnt about a pool, now and then.
func (p *pass) keep(ctx context.Context, o *Pool, m *memory) error {
	m.mu.Lock()
	if !m.dirty || p.now >= m.kept && p.now.Sub(m.kept) < p.KeepEvery {
		m.mu.Unlock()
		return nil
	}
	text, err := json.Marshal(&m.stats)
	m.dirty, m.kept = false, p.now
	m.mu.Unlock()
	if err == nil {
		err = p.Book.Learnt(ctx, p.now, o, text)
	}
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.dirty = true
		return err
	}
	m.text = text
	return nil
}
