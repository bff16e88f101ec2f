package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// A Cloud is a provider in memory. Its machines take time to boot and then do
// what Behave says; they outlive the provisioner that started them.
type Cloud struct {
	Boot   time.Duration
	Behave func(ctx context.Context, term <-chan struct{}, o Order) error // until ctx ends; nil: exits by itself

	mu       sync.Mutex
	machines map[Ref]*machine
	launched map[Ref]int // how often each was started: once
	most     int         // machines alive at the same time
	hangs    bool        // Start does not return
	refuse   error       // Start fails
	blind    error       // Workers fails
	notify   func()
	running  sync.WaitGroup
}

type machine struct {
	order Order
	kill  context.CancelFunc
	term  chan struct{}
	asked bool
	life  Life
	words string
	ended chan struct{}
}

func NewCloud(t testing.TB, boot time.Duration, behave func(context.Context, <-chan struct{}, Order) error) *Cloud {
	c := &Cloud{
		Boot: boot, Behave: behave,
		machines: map[Ref]*machine{}, launched: map[Ref]int{}, notify: func() {},
	}
	t.Cleanup(func() {
		c.mu.Lock()
		for _, m := range c.machines {
			m.kill()
		}
		c.mu.Unlock()
		c.running.Wait()
	})
	return c
}

func (c *Cloud) Type() string { return "cloud" }

func (c *Cloud) Check(config json.RawMessage) error {
	var fields struct {
		Image string `json:"image"`
	}
	if err := json.Unmarshal(config, &fields); err != nil {
		return err
	}
	if fields.Image == "missing" {
		return errors.New("config.image names no image")
	}
	return nil
}

func (c *Cloud) Notify(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notify = f
}

func (c *Cloud) Start(ctx context.Context, o Order) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.hangs:
		c.mu.Unlock()
		<-ctx.Done()
		c.mu.Lock()
		return ctx.Err()
	case c.refuse != nil:
		return c.refuse
	}
	if m := c.machines[o.Ref]; m != nil && m.life == Alive {
		return nil
	}
	ctx, kill := context.WithCancel(context.Background())
	m := &machine{order: o, kill: kill, term: make(chan struct{}), ended: make(chan struct{})}
	c.machines[o.Ref] = m
	c.launched[o.Ref]++
	c.most = max(c.most, c.alive())
	c.running.Go(func() {
		select {
		case <-time.After(c.Boot):
		case <-m.term:
		case <-ctx.Done():
		}
		err := ctx.Err()
		if err == nil {
			err = c.Behave(ctx, m.term, o)
		}
		kill()
		c.mu.Lock()
		m.life, m.words = Exited, "it shut down"
		if err != nil {
			m.life, m.words = Failed, fmt.Sprintf("it crashed: %v", err)
		}
		f := c.notify
		c.mu.Unlock()
		close(m.ended)
		f()
	})
	return nil
}

func (c *Cloud) Workers(context.Context) ([]Sighting, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blind != nil {
		return nil, c.blind
	}
	var list []Sighting
	for ref, m := range c.machines {
		list = append(list, Sighting{ref, m.life, m.words})
	}
	return list, nil
}

func (c *Cloud) Stop(ctx context.Context, r Ref, how Manner) error {
	c.mu.Lock()
	m := c.machines[r]
	if m == nil {
		c.mu.Unlock()
		return nil
	}
	if how == Gracefully {
		if !m.asked {
			m.asked = true
			close(m.term)
		}
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	m.kill()
	select {
	case <-m.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.machines, r)
	return nil
}

// Kill ends a machine as a fault of its own would.
func (c *Cloud) Kill(r Ref) {
	c.mu.Lock()
	m := c.machines[r]
	c.mu.Unlock()
	m.kill()
	<-m.ended
}

func (c *Cloud) alive() (n int) {
	for _, m := range c.machines {
		if m.life == Alive {
			n++
		}
	}
	return n
}

// Alive counts the machines that run.
func (c *Cloud) Alive() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alive()
}

// Launches counts the machines that were ever started.
func (c *Cloud) Launches() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.launched)
}
