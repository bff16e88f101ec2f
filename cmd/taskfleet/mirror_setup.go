//go:build !agent

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/mirror/region"
	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/provisioner"
	"github.com/taskfleet/taskfleet/queue"
)

// fill puts what is configured into the configuration of the mirror. The artifact
// bucket is at s3, which the buckets of regions are beside that have no place of
// their own.
func (p *mirrorPlan) fill(ctx context.Context, c Config, s3 blob.Config, to *mirror.Config) error {
	to.Home, to.Routes, to.Lifespan = p.home, p.routes, p.lifespan
	for _, w := range p.warnings {
		to.Log.Warn("the configuration has something of no use", "err", w)
	}
	for _, r := range p.regions {
		where := s3
		if !r.here {
			where = blob.Config{
				Endpoint: r.Endpoint, Region: cmp.Or(r.Region, r.Name), PathStyle: r.PathStyle, AccessKeyID: r.AccessKeyID, SecretAccessKey: r.SecretAccessKey,
			}
			if where.AccessKeyID == "" && !c.S3.embedded() {
				// The store copies from bucket to bucket by itself only where one key
				// is good for both.
				where.Keys = s3.Keys
			}
		}
		s, err := blob.Open(ctx, where)
		if err != nil {
			return fmt.Errorf("mirror: region %s: %w", r.Name, err)
		}
		to.Regions = append(to.Regions, mirror.Region{Name: r.Name, Bucket: s.Bucket(r.Bucket), MaxBytes: r.maxBytes, Transfers: r.Transfers})
	}
	var err error
	if len(p.allow) > 0 {
		if to.HTTP, err = source.New(source.Config{Allow: p.allow, Addresses: p.private}); err != nil {
			return fmt.Errorf("mirror: %w", err)
		}
	}
	to.Finder, err = region.New(region.Config{
		Regions: append(p.names(), p.home), Networks: p.networks, TrustedProxies: p.proxies, Source: p.ranges, Log: to.Log, Metrics: to.Metrics,
	})
	return err
}

// A mirroring is the mirror with what it needs around it.
type mirroring struct {
	mirror *mirror.Mirror
	finder *region.Finder
}

// openMirror starts the mirror; nil where none is configured.
func (p *platform) openMirror(ctx context.Context, c Config, s3 blob.Config, conf mirror.Config) (*mirroring, error) {
	plan := c.readMirror(func(string, string, ...any) {}) // checked
	if plan == nil {
		return nil, nil
	}
	if err := plan.fill(ctx, c, s3, &conf); err != nil {
		return nil, err
	}
	if conf.HTTP != nil {
		p.closers = append(p.closers, func() error { conf.HTTP.Close(); return nil })
	}
	m, err := mirror.New(ctx, conf)
	if err != nil {
		return nil, err
	}
	// A region that cannot be reached keeps nobody from what is elsewhere. The mirror
	// makes its bucket later.
	if err := ensureBuckets(ctx, conf.Regions); err != nil {
		conf.Log.Error("not all buckets of the mirror can be reached; nothing is copied there until they can", "err", err)
	}
	return &mirroring{m, conf.Finder}, nil
}

// Loops are the work of the mirror, and of what is around it.
func (m *mirroring) Loops() []loop.Loop {
	if m == nil {
		return nil
	}
	return append(m.mirror.Loops(), m.finder.Loops()...)
}

// bucketLimit is how long a store may take to say that it has a bucket.
const bucketLimit = 10 * time.Second

// ensureBuckets makes those buckets of regions that do not exist yet.
func ensureBuckets(ctx context.Context, regions []mirror.Region) error {
	ctx, cancel := context.WithTimeout(ctx, bucketLimit)
	defer cancel()
	failed := make([]error, len(regions))
	var all sync.WaitGroup
	for i, r := range regions {
		all.Go(func() {
			if err := r.Bucket.Ensure(ctx); err != nil {
				failed[i] = fmt.Errorf("the mirror's bucket in %s: %w", r.Name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

// nearby has the queue send readers to copies. The mirror is put in when it is
// there: it needs the queue itself.
type nearby struct{ mirror *mirror.Mirror }

// Near is part of queue.Nearby.
func (n *nearby) Near(ctx context.Context, r *http.Request, clientID string, a queue.StoredArtifact) (string, error) {
	return n.mirror.Near(ctx, r, clientID, mirrored(a), a.URL)
}

func mirrored(a queue.StoredArtifact) mirror.Artifact {
	return mirror.Artifact{
		TaskID: a.TaskID, RunID: a.RunID, Name: a.Name, TaskQueueID: a.TaskQueueID,
		Size: a.Size, Expires: a.Expires, Key: a.Key, Open: a.Open,
	}
}

// catalog is the queue as the mirror wants it.
type catalog struct{ queue *queue.Queue }

// What is copied ahead of time for a task is bounded by the mirror; more than
// this is not even read.
const mostArtifacts, mostDependencies = 2000, 1000

func (c catalog) ArtifactAt(ctx context.Context, key string) (mirror.Artifact, error) {
	a, err := c.queue.ArtifactAt(ctx, key)
	return mirrored(a), err
}

func (c catalog) Artifacts(ctx context.Context, taskID string) (list []mirror.Artifact, err error) {
	stored, err := c.queue.StoredArtifacts(ctx, taskID, mostArtifacts)
	for _, a := range stored {
		list = append(list, mirrored(a))
	}
	return list, err
}

func (c catalog) Dependencies(ctx context.Context, taskID string) (taskQueueID string, required []string, err error) {
	return c.queue.Dependencies(ctx, taskID, mostDependencies)
}

var (
	_ queue.Nearby   = (*nearby)(nil)
	_ mirror.Catalog = catalog{}
	_ mirror.Pools   = (*provisioner.Provisioner)(nil)
)

// withLegacy serves the URLs that clients of the mirror of 2016 have, beside the
// rest. No ServeMux is asked for these, as it would take the URL that they end with
// for a path to be cleaned.
func withLegacy(legacy, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.EscapedPath(), "/v1/") {
			legacy.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})
}

// describeMirror is a line about it for config check.
func describeMirror(p *mirrorPlan) string {
	if p == nil {
		return "none"
	}
	var list []string
	for _, r := range p.regions {
		at := "the gateway inside the process"
		if !r.here {
			at = cmp.Or(r.Endpoint, "S3")
		}
		list = append(list, fmt.Sprintf("%s (bucket %s on %s)", r.Name, r.Bucket, at))
	}
	return fmt.Sprintf("of %s in %s", p.home, strings.Join(list, ", "))
}
