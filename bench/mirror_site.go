//go:build !agent

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/gateway"
	"github.com/taskfleet/taskfleet/client"
	calls "github.com/taskfleet/taskfleet/client/mirror"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/mirror/region"
	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A mirrorSite is where mirrors are measured: a gateway with the originals, which
// are the artifacts of a task that there is not, and another.
type mirrorSite struct {
	MirrorOptions
	report MirrorReport
	log    *slog.Logger

	gather, limit time.Duration // until all wait, and of those who wait in vain; tests shorten these
	warm, copies  int           // redirects that are not measured, and copies that they lead to

	home, away *side
	originals  *blob.Bucket
	taskID     string
	serial     int // of buckets and databases
}

// A side is a gateway, and a client of it.
type side struct {
	gateway *gateway.Gateway
	config  blob.Config
	store   *blob.Store
}

func newMirrorSite(ctx context.Context, o MirrorOptions) (m *mirrorSite, err error) {
	m = &mirrorSite{
		MirrorOptions: o, log: slog.New(slog.DiscardHandler), taskID: slugid.New(),
		gather: 2 * time.Second, limit: 2 * time.Second, warm: 2 * o.Rate, copies: 1000,
		report: MirrorReport{Processors: runtime.GOMAXPROCS(0), Transfers: o.Transfers, Rounds: o.Rounds, LeftOut: []string{}},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.home, err = m.openSide(ctx, "home"); err != nil {
		return m, err
	}
	if m.away, err = m.openSide(ctx, "away"); err != nil {
		return m, err
	}
	m.originals = m.home.store.Bucket("originals")
	return m, m.originals.Ensure(ctx)
}

func (m *mirrorSite) openSide(ctx context.Context, name string) (*side, error) {
	g, err := gateway.Start(ctx, gateway.Config{
		Directory: filepath.Join(m.Directory, name), Listen: "127.0.0.1:0", AccessKeyID: name, SecretAccessKey: slugid.Token(), Log: m.log,
	})
	if err != nil {
		return nil, err
	}
	s := &side{gateway: g, config: g.Blob()}
	s.store, err = blob.Open(ctx, s.config)
	return s, err
}

func (m *mirrorSite) close() (err error) {
	for _, s := range []*side{m.home, m.away} {
		if s != nil {
			err = errors.Join(err, s.gateway.Close())
		}
	}
	return err
}

// next is a name that nothing has had yet.
func (m *mirrorSite) next() string {
	m.serial++
	return fmt.Sprintf("bench-%d", m.serial)
}

// bucket makes a new one.
func (m *mirrorSite) bucket(ctx context.Context, on *side) (*blob.Bucket, error) {
	b := on.store.Bucket(m.next())
	return b, b.Ensure(ctx)
}

// clear deletes what is in a bucket, if it is much: the rest goes at the end.
func (m *mirrorSite) clear(ctx context.Context, b *blob.Bucket, size int64) error {
	if size < 1<<20 {
		return nil
	}
	var keys []string
	for o, err := range b.List(ctx, "") {
		if err != nil {
			return err
		}
		keys = append(keys, o.Key)
	}
	return b.Delete(ctx, keys...)
}

// keys are those of n originals of a size.
func (m *mirrorSite) keys(size int64, n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprintf("%s/0/public/%d/%d", m.taskID, size, i))
	}
	return keys
}

// seed writes originals.
func (m *mirrorSite) seed(ctx context.Context, keys []string, size int64) error {
	return m.each(ctx, keys, func(ctx context.Context, key string) error {
		noise := rand.NewChaCha8([32]byte{byte(size), byte(len(key)), key[len(key)-1]})
		_, err := m.originals.Put(ctx, key, io.LimitReader(noise, size), blob.Headers{ContentType: "application/octet-stream"})
		return err
	})
}

// each calls f for the keys, for as many at a time as the mirror has transfers.
func (m *mirrorSite) each(ctx context.Context, keys []string, f func(context.Context, string) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan string)
	var all sync.WaitGroup
	for range m.Transfers {
		all.Go(func() {
			for key := range next {
				if err := f(ctx, key); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for _, key := range keys {
		select {
		case next <- key:
		case <-ctx.Done():
		}
	}
	close(next)
	all.Wait()
	return context.Cause(ctx)
}

// A mirrorStand is a mirror with one region, a new database and an HTTP server.
type mirrorStand struct {
	client  *calls.Client
	address string
	region  string
	closers []func() error
}

// stand sets one up. Urls are the rules for what may be copied beside artifacts.
func (m *mirrorSite) stand(ctx context.Context, target *blob.Bucket, urls []string, routes ...mirror.Route) (s *mirrorStand, err error) {
	s = &mirrorStand{region: target.Name()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	file := filepath.Join(m.Directory, m.next())
	db, err := store.Open(ctx, "sqlite:"+file)
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, db.Close)
	bus, err := event.New(ctx, db, m.log)
	if err != nil {
		return s, err
	}
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		return s, err
	}
	root := cred.Credentials{ClientID: "static/bench/root", AccessToken: slugid.Token()}
	a, err := auth.New(ctx, auth.Config{
		DB: db, Events: bus, Keys: keys, Log: m.log, Anonymous: []string{"queue:get-artifact:public/*"},
		Static: []auth.StaticClient{{ClientID: root.ClientID, AccessToken: root.AccessToken, Description: "Measures.", Scopes: []string{"*"}}},
	})
	if err != nil {
		return s, err
	}
	fetcher, err := source.New(source.Config{Allow: urls, Addresses: []string{"127.0.0.0/8"}})
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, func() error { fetcher.Close(); return nil })
	finder, err := region.New(region.Config{Regions: []string{"home", s.region}, Log: m.log})
	if err != nil {
		return s, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, func() error { l.Close(); return nil })
	s.address = l.Addr().String()
	rootURL := "http://" + s.address
	metrics := prometheus.NewRegistry()
	service, err := mirror.New(ctx, mirror.Config{
		DB: db, Events: bus, Keys: keys, Auth: a, Log: m.log, Metrics: metrics, RootURL: rootURL,
		Home: "home", Artifacts: m.originals, Regions: []mirror.Region{{Name: s.region, Bucket: target, Transfers: m.Transfers}}, Routes: routes,
		HTTP: fetcher, Finder: finder, Catalog: artifacts{}, Pools: nowhere{},
	})
	if err != nil {
		return s, err
	}
	server := api.NewServer(api.Options{RootURL: rootURL, Auth: a, Log: m.log, Metrics: metrics})
	if err := api.Mount(server, mirror.API, service); err != nil {
		return s, err
	}
	core, err := client.New(client.Options{RootURL: rootURL, Credentials: root, Retry: client.Retry{For: -1}})
	if err != nil {
		return s, err
	}
	s.client = calls.New(core)
	s.run(l, server, append(service.Loops(), bus.Loops()...), loop.NewRunner(m.log, loop.Alone, metrics))
	return s, nil
}

// run serves, and has the loops run.
func (s *mirrorStand) run(l net.Listener, h http.Handler, loops []loop.Loop, runner *loop.Runner) {
	ctx, stop := context.WithCancel(context.Background())
	web := &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }}
	var all sync.WaitGroup
	var failed error
	all.Go(func() { web.Serve(l) })
	all.Go(func() { failed = runner.Run(ctx, loops...) })
	s.closers = append(s.closers, func() error {
		stop()
		err := web.Close()
		all.Wait()
		return errors.Join(err, failed)
	})
}

func (s *mirrorStand) close() (err error) {
	for _, f := range slices.Backward(s.closers) {
		err = errors.Join(err, f())
	}
	s.closers = nil
	return err
}

// artifacts is the queue of the site. All keys are those of artifacts, with the
// size in them: workers announce it.
type artifacts struct{}

func (artifacts) ArtifactAt(_ context.Context, key string) (mirror.Artifact, error) {
	parts := strings.SplitN(key, "/", 3)
	var size int64
	if _, err := fmt.Sscanf(parts[len(parts)-1], "public/%d/", &size); err != nil {
		return mirror.Artifact{}, api.Errorf(api.ResourceNotFound, "There is no artifact under the key %q.", key)
	}
	return mirror.Artifact{
		TaskID: parts[0], Name: parts[2], TaskQueueID: "bench/bench", Size: size, Expires: timestamp.Now().Add(24 * time.Hour), Key: key,
	}, nil
}

func (artifacts) Artifacts(context.Context, string) ([]mirror.Artifact, error) { return nil, nil }

func (artifacts) Dependencies(context.Context, string) (string, []string, error) {
	return "bench/bench", nil, nil
}

// nowhere is where the workers are.
type nowhere struct{}

func (nowhere) Regions(context.Context, string) ([]string, error) { return nil, nil }

// patience is how long a mirror may show no progress.
const patience = 2 * time.Minute

// copy has copies made of artifacts, and returns when all are there.
func (s *mirrorStand) copy(ctx context.Context, bucket string, keys []string) error {
	const atOnce = 200 // the first of them begin while the others are asked for
	for some := range slices.Chunk(keys, atOnce) {
		order := &calls.WantCopiesRequest{Region: s.region}
		for _, key := range some {
			order.Copies = append(order.Copies, calls.WantCopiesRequestCopy{URL: "s3://" + bucket + "/" + key})
		}
		if _, err := s.client.WantCopies(ctx, order); err != nil {
			return err
		}
	}
	start, moved, before := time.Now(), time.Now(), 0
	for {
		now, err := s.client.Status(ctx)
		if err != nil {
			return err
		}
		if len(now.Regions) != 1 {
			return fmt.Errorf("the mirror has %d regions, not 1", len(now.Regions))
		}
		r := now.Regions[0]
		present := int(r.States.Present.Objects)
		switch {
		case present == len(keys):
			return nil
		case len(r.Errors) > 0:
			return fmt.Errorf("the mirror cannot copy: %s", r.Errors[0].Error)
		case present > before:
			before, moved = present, time.Now()
		case time.Since(moved) > patience:
			return fmt.Errorf("the mirror has made %d of %d copies, and none in %s", present, len(keys), patience)
		}
		// Asking costs the mirror something: the nearer the end, the more often.
		wait := 20 * time.Millisecond
		if present > 0 {
			wait = time.Since(start) / time.Duration(present) * time.Duration(len(keys)-present) / 3
		}
		select {
		case <-time.After(min(max(wait, 4*time.Millisecond), 200*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
