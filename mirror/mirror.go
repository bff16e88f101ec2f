// Package mirror keeps copies of artifacts, and of other things that are
// downloaded over and over, near the workers that read them.
//
// There are regions, each with a bucket. An origin (an object of one of our
// buckets, or a URL that is allowed) has at most one copy in each. Who asks for
// an origin in a region gets the copy; if it is not there yet it is made, once,
// however many ask, and they wait for it, or get the origin meanwhile, or the
// bytes while they are stored, as the route says that the origin is on (Route).
//
// # Copies
//
// A copy is a row, and is in exactly one state:
//
//	waiting   to be copied, not before it is due
//	copying   by whoever has the lease; up for grabs again when that has run out
//	present   verified, and served
//	failed    given up; asked for again once it is due
//	leaving   not served any more; its bytes are being deleted
//
// Replicas share the work: each claims as many copies as it has room for, holds
// a lease on each, and reports many at a time. One that dies is followed by
// another, which goes on with the next part of a large object.
//
// # Invariants
//
//   - What is served was verified: its size, the checksum of the store, and the
//     SHA-256 where it is known.
//   - An attempt writes to a key of its own, "copies/<…>/<id>.<token>", which
//     becomes the copy by the transaction that says present. A copier that comes
//     back from the dead spoils nothing.
//   - A row outlives its bytes: it goes after them, and what is in a bucket
//     without a row is found by the sweep.
//   - The buckets say what is in them: an object's metadata has its origin, so
//     that an index that was lost is made anew without copying (rebuild.go).
//   - What a region holds, by state, is counted in the transaction that changes
//     it (mirror_tally), so figures add up at any moment.
//
// Waiting is store.Waits; the transaction that ends a copy wakes those who wait
// for it.
package mirror

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror/region"
	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// A Region is a place where copies are kept.
type Region struct {
	Name      string // "eu-central-1"
	Bucket    *blob.Bucket
	MaxBytes  int64 // of copies, beyond which the least recently read ones go; 0: no limit
	Transfers int   // at a time, of each replica; 0 means 16
}

// An Artifact is what the mirror has to know of one to copy it.
type Artifact struct {
	TaskID      string
	RunID       int
	Name        string
	TaskQueueID string
	Size        int64 // -1: not known
	Expires     timestamp.Time
	Key         string // of its bytes in the artifact bucket
	Open        bool   // its run has not ended: it may be written again
}

// Catalog knows the artifacts in the artifact bucket.
type Catalog interface {
	// ArtifactAt returns the artifact whose bytes are under a key of the bucket.
	// Where there is none (any more) the error is an *api.Error with the code
	// ResourceNotFound or ResourceExpired.
	ArtifactAt(ctx context.Context, key string) (Artifact, error)

	// Artifacts are those of a task's latest run that are in the bucket.
	Artifacts(ctx context.Context, taskID string) ([]Artifact, error)

	// Dependencies are the tasks that a task depends on, and its queue.
	Dependencies(ctx context.Context, taskID string) (taskQueueID string, required []string, err error)
}

// Pools knows where the workers of a task queue are.
type Pools interface {
	Regions(ctx context.Context, taskQueueID string) ([]string, error)
}

// Config is what a Mirror needs.
type Config struct {
	DB      *store.DB
	Events  *event.Bus
	Keys    *seal.Keys        // of tickets for what is streamed
	Auth    api.Authenticator // asked which artifacts a caller may read; nil: the public ones
	Log     *slog.Logger
	Metrics prometheus.Registerer // may be nil
	RootURL string

	Home      string       // the region of Artifacts
	Artifacts *blob.Bucket // where the queue keeps artifacts
	Regions   []Region     // all others
	Routes    []Route      // in their order; the first that fits counts

	HTTP    *source.Client // nil: no origins but artifacts
	Finder  *region.Finder // tells in which region a caller is
	Catalog Catalog
	Pools   Pools

	Lifespan time.Duration // of copies of URLs; 0 means a day
}

// Mirror is the service.
type Mirror struct {
	db      *store.DB
	events  *event.Bus
	keys    *seal.Keys
	auth    api.Authenticator
	log     *slog.Logger
	rootURL string
	guide   *guide
	regions []*place // all but home, in the order of the configuration
	catalog Catalog
	pools   Pools
	metrics *metrics

	finds   *store.Batch[name, *Copy]
	wants   *store.Batch[[]Want, []*Copy]
	copier  *copier
	watches watches
	signed  signatures
	reads   reads

	probeLimit   time.Duration // until a bucket that does not answer is taken for away; tests wait longer
	collectLimit time.Duration // for figures, short as somebody waits for all metrics; likewise
}

// A place is a region as it is worked with.
type place struct {
	Region
	desk   *desk
	health health
	crowd  crowd
}

const defaultTransfers = 16

// New opens the mirror, creating its tables where they do not exist.
func New(ctx context.Context, c Config) (*Mirror, error) {
	if err := c.DB.Migrate(ctx, "mirror", migrations); err != nil {
		return nil, fmt.Errorf("mirror: migrate: %w", err)
	}
	guide, err := newGuide(ctx, c)
	if err != nil {
		return nil, err
	}
	m := &Mirror{
		db: c.DB, events: c.Events, keys: c.Keys, auth: c.Auth, log: c.Log, rootURL: c.RootURL, guide: guide,
		catalog: c.Catalog, pools: c.Pools, metrics: newMetrics(c.Metrics),
		probeLimit: 4 * time.Second, collectLimit: 2 * time.Second,
	}
	m.copier = newCopier(m)
	for _, r := range c.Regions {
		r.Transfers = cmp.Or(r.Transfers, defaultTransfers)
		p := &place{Region: r}
		p.desk = newDesk(m.copier, p)
		m.regions = append(m.regions, p)
	}
	m.finds = store.NewBatch(m.db.ViewOnce, findLanes, findLimit, m.findAll)
	m.wants = store.NewBatch(m.db.Do, 1, wantLimit, m.wantAll)
	if err := m.findMoved(ctx); err != nil {
		return nil, err
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(stock{m})
	}
	m.subscribeAhead(c.Events)
	return m, nil
}

// region is the place of that name; nil: there is none.
func (m *Mirror) region(name string) *place {
	for _, p := range m.regions {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Loops are the work that goes on beside the calls.
func (m *Mirror) Loops() []loop.Loop {
	return append([]loop.Loop{
		{
			Name: "mirror.copy", Doc: "Makes the copies that are wanted.",
			When: loop.Every(fallback), Wake: m.db.Waits().Signal(topicWork), Pass: m.copier.shift, Limit: shiftLimit, EveryReplica: true,
		},
		{
			Name: "mirror.reads", Doc: "Writes down which copies were read, so that the others go first.",
			When: loop.Every(readsEvery), Pass: m.saveReads, EveryReplica: true,
		},
		{
			Name: "mirror.health", Doc: "Asks the regions' buckets whether they answer, so that nobody is sent to one that does not.",
			When: loop.Every(probeEvery), Pass: m.probe, EveryReplica: true,
		},
	}, m.lifeLoops()...)
}

// fallback is how often is looked for what nobody was woken for.
const fallback = 10 * time.Second
