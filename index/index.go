// Package index finds tasks by names that stay the same from one task to the
// next.
//
// A name is a path of words with dots between them,
// "project.linux.opt.latest". At each path there is at most one task: the one
// of the highest rank, and of those with equal rank the one inserted last. A
// task gets there through a route "index.<path>" when it completes, or by
// insertTask.
//
// Which task stays is decided by the statement that writes it, so it does not
// matter how many are inserted at one path at the same time, and on which
// replicas. A task that has expired is as good as none: nobody finds it, and
// any other takes its place.
//
// The parents of a path are namespaces, which can be listed. They expire no
// sooner than what is below them; to the day, not to the millisecond, since all
// that is inserted shares the namespaces at the top, and would wait in line to
// write them.
//
// Tables are written in the order progress, tasks, namespaces, each by path, so
// that transactions wait for each other but never in a circle.
//
// What completed tasks say (follow) is taken in exactly once, not at least
// once: the position of the last message is written along with what came of it.
// Otherwise a message that comes again could put an old task back over a newer
// one of equal rank, or over a deletion.
package index

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// Tasks knows the definitions of tasks.
type Tasks interface {
	// Definition returns a task as it was created. Where there is no such task
	// (any more), the error is an *api.Error with the code ResourceNotFound.
	Definition(ctx context.Context, taskID string) (json.RawMessage, error)
}

// Artifacts gives access to artifacts that not everybody may read.
type Artifacts interface {
	// SignedURL returns the URL of a path below the root URL, for somebody who
	// has no credentials: it is good for a quarter of an hour, for GET and HEAD,
	// and with these scopes only.
	SignedURL(ctx context.Context, path string, scopes []string) (string, error)
}

// Config is what an Index needs.
type Config struct {
	DB        *store.DB
	Events    *event.Bus
	Tasks     Tasks
	Artifacts Artifacts
	Auth      api.Authenticator // asked what callers without credentials may do
	RootURL   string            // "https://tasks.example.com", without a slash at the end
	Log       *slog.Logger
}

// An Index is the tasks of a deployment, by name.
type Index struct {
	db        *store.DB
	tasks     Tasks
	artifacts Artifacts
	auth      api.Authenticator
	rootURL   string
	log       *slog.Logger
}

// New returns the index, creating its tables where they do not exist, and
// subscribes it to the tasks that complete.
func New(ctx context.Context, c Config) (*Index, error) {
	if err := c.DB.Migrate(ctx, "index", migrations); err != nil {
		return nil, fmt.Errorf("index: migrate: %w", err)
	}
	x := &Index{db: c.DB, tasks: c.Tasks, artifacts: c.Artifacts, auth: c.Auth, rootURL: c.RootURL, log: c.Log}
	c.Events.Subscribe("index", []event.Binding{{Exchange: topicCompleted, RoutingKeyPattern: routePrefix + "#"}}, x.follow)
	return x, nil
}

// Loops are the index's background work.
func (x *Index) Loops() []loop.Loop {
	return []loop.Loop{{
		Name: "index.expiry", Doc: "Deletes indexed tasks and namespaces past their expiry.",
		When: loop.Every(10 * time.Minute), Pass: x.expire,
	}}
}

const batch = 1000

// expire is one pass of the loop index.expiry. What somebody is writing at the
// moment is left for later.
func (x *Index) expire(ctx context.Context) (more bool, err error) {
	err = x.db.Do(ctx, func(tx *store.Tx) error {
		more = false
		for _, statement := range []string{
			`DELETE FROM index_task WHERE expires <= $1 AND path IN (
			   SELECT path FROM index_task WHERE expires <= $1 ORDER BY expires LIMIT $2 /*skip locked*/)`,
			`DELETE FROM index_namespace WHERE expires <= $1 AND path IN (
			   SELECT path FROM index_namespace WHERE expires <= $1 ORDER BY expires LIMIT $2 /*skip locked*/)`,
		} {
			n, err := tx.Exec(statement, timestamp.Now(), batch)
			if err != nil {
				return err
			}
			more = more || n == batch
		}
		return nil
	})
	return more, err
}
