package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// A Provider brings workers into being, sees what became of them and ends
// them: processes on this machine, instances in a cloud. It decides nothing;
// how many workers there should be, and which of them are to go, is the
// Service's business.
//
// The Service calls a provider from one reconcile pass at a time, but for
// several pools at once. It writes a worker's row before Start and takes it
// away after Stop(Now), so a provider's world and the table can only differ in
// two ways, and both are put right by the next pass: a row without a worker is
// closed, a worker without a row is ended.
//
// Package providertest holds every provider to what is said here.
type Provider interface {
	// Type is the kind of provider, as listProviders shows it.
	Type() string

	// Check says what is wrong with a pool's configuration and how to put it
	// right, before the configuration is stored.
	Check(config json.RawMessage) error

	// Start begins one worker and returns without waiting for it to register.
	// Repeating an order whose worker is alive changes nothing. After an error
	// the worker may or may not exist; the Service then calls Stop(Now).
	Start(context.Context, Order) error

	// Workers lists everything that Start ever began, by this process or by
	// one before it, and that Stop(Now) has not yet cleared away.
	Workers(context.Context) ([]Sighting, error)

	// Stop ends a worker. Stopping one that does not exist is no error.
	Stop(context.Context, Ref, Manner) error

	// Notify has the provider call f whenever Workers would answer differently
	// for a reason other than a call of the Service, such as a death. It may
	// call late or too often, but not never; f is quick and may be called by
	// several goroutines at once. A provider that cannot tell does nothing.
	Notify(f func())
}

// ErrClosing is what Start returns when the server is about to end. It is no
// failure.
var ErrClosing = errors.New("the server is stopping and starts no workers any more")

// A Ref names a worker. The group and id are unique within the pool.
type Ref struct {
	WorkerPoolID, WorkerGroup, WorkerID string
}

func (r Ref) String() string {
	return fmt.Sprintf("%s/%s/%s", r.WorkerPoolID, r.WorkerGroup, r.WorkerID)
}

// An Order asks a provider for one worker.
type Order struct {
	Ref
	ProviderID string
	Token      string          // proves to registerWorker, once, that the caller is this worker
	Config     json.RawMessage // the pool's
}

// A Manner is how a worker is ended.
type Manner int

const (
	// Gracefully asks the worker to hand back its tasks and end, and returns
	// without waiting for that.
	Gracefully Manner = iota
	// Now ends the worker and every process of its tasks, and clears away what
	// is left of it. When it has returned without error nothing of the worker
	// runs, and Workers does not list it.
	Now
)

// A Sighting is what a provider knows of one worker.
type Sighting struct {
	Ref
	State  Life
	Detail string // of a worker that ended: how, and what it last said; for people
}

// A Life is the state of a worker as its provider sees it.
type Life int

const (
	Alive  Life = iota
	Exited      // ended by itself, successfully
	Failed      // ended in failure: by an error, by a crash, killed by somebody else
	Lost        // ended, and how says nothing about it: nobody saw it, or it was asked to
)

func (l Life) String() string { return [...]string{"alive", "exited", "failed", "lost"}[l] }
