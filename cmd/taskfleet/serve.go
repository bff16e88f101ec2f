//go:build !agent

package main

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/gateway"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/acme"
	"github.com/taskfleet/taskfleet/credentials/audit"
	"github.com/taskfleet/taskfleet/credentials/sentry"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/hooks"
	"github.com/taskfleet/taskfleet/index"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/monitor"
	"github.com/taskfleet/taskfleet/notify"
	"github.com/taskfleet/taskfleet/object"
	"github.com/taskfleet/taskfleet/provisioner"
	"github.com/taskfleet/taskfleet/provisioner/local"
	"github.com/taskfleet/taskfleet/purgecache"
	"github.com/taskfleet/taskfleet/queue"
	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/secrets"
	"github.com/taskfleet/taskfleet/store"
)

// The clients that the platform acts as.
const (
	rootClient        = "static/taskcluster/root"
	queueClient       = "static/taskcluster/queue"
	provisionerClient = "static/taskcluster/worker-manager"
	hooksClient       = "static/taskcluster/hooks"
	indexClient       = "static/taskcluster/index"
)

// anonymousScopes are what anybody may do on a new deployment: read what is
// not private. Worker pools are, as their configuration can name proxies and
// the like. These are the scopes of the role "anonymous", which operators
// change as they like.
var anonymousScopes = []string{
	"auth:current-scopes", "auth:expand-scopes", "auth:get-client:*", "auth:get-role:*", "auth:list-clients", "auth:list-roles",
	"events:connect",
	"hooks:get:*", "hooks:list-hooks:*", "hooks:list-last-fires:*", "hooks:status:*",
	"index:find-task:*", "index:list-namespaces:*", "index:list-tasks:*",
	"loops:list",
	"purge-cache:all-purge-requests", "purge-cache:purge-requests:*",
	"queue:claimed-count:*", "queue:claimed-list:*", "queue:get-artifact:public/*", "queue:get-provisioner:*", "queue:get-task:*",
	"queue:get-task-queue:*", "queue:get-worker:*", "queue:get-worker-type:*", "queue:list-artifacts:*",
	"queue:list-dependent-tasks:*", "queue:list-provisioners", "queue:list-task-group:*", "queue:list-task-queues",
	"queue:list-worker-types:*", "queue:list-workers:*", "queue:pending-count:*", "queue:pending-list:*", "queue:status:*",
	"worker-manager:get-worker:*", "worker-manager:list-providers", "worker-manager:list-workers:*",
}

// A platform is everything in one process.
type platform struct {
	RootURL string
	Root    cred.Credentials // may do everything
	Data    string

	log     *slog.Logger
	http    *http.Server
	workers *local.Provider

	background []func(context.Context) // of providers
	keys       *platformKeys           // its own
	again      *reload                 // credentials that change while all of this runs
	sentry     *sentry.Sentry          // whose projects and keys are kept; nil without one
	acme       *acme.Kind              // answers challenges of certificate authorities
	runner     *loop.Runner
	closers    []func() error // in the order of opening

	stopCalls context.CancelFunc // ends the calls under way, above all those that wait
	stopLoops context.CancelFunc
	running   sync.WaitGroup
	failed    chan error
}

// startPlatform starts everything and returns when the API answers. What was
// opened before a failure is closed again.
func startPlatform(ctx context.Context, c Config, log *slog.Logger) (_ *platform, err error) {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	errorsTo := monitor.New(monitor.Config{
		Release: buildVersion().release(), Environment: c.Sentry.Environment, ServerName: c.Sentry.ServerName, Rate: c.Sentry.Rate, Metrics: metrics,
	})
	log = slog.New(errorsTo.Handler(log.Handler()))
	p := &platform{Data: c.Data, log: log, failed: make(chan error, 4), stopCalls: func() {}, stopLoops: func() {}, again: newReload()}
	p.again.hide = errorsTo.Hide
	p.closers = append(p.closers, errorsTo.Close) // what the end of all others says goes there, too
	defer func() {
		if err != nil && ctx.Err() == nil { // whoever starts the platform prints it
			slog.New(errorsTo.Handler(slog.DiscardHandler)).Error("the platform does not start", "err", err)
		}
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, fmt.Errorf("creating the data directory: %w", err)
	}
	unlock, err := lockData(c.Data)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, unlock)
	own, err := openSecrets(c)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.again.readDatabaseFile(&c), p.again.readBrokerFile(&c)); err != nil {
		return nil, err
	}
	if err := c.openSentry(errorsTo, p.again, own); err != nil {
		return nil, err
	}
	rootKeys, err := c.sealKeys(ctx, own)
	if err != nil {
		return nil, err
	}

	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w. Is another server running there? --listen takes another address", c.Listen, err)
	}
	p.closers = append(p.closers, ignoreClosed(listener.Close))
	p.RootURL = cmp.Or(c.RootURL, "http://"+listener.Addr().String())
	p.Root = cred.Credentials{ClientID: rootClient, AccessToken: own.RootToken}

	db, err := store.Open(ctx, c.Database)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, db.Close)
	p.again.takeDatabase(c, db)
	if p.keys, err = openKeys(ctx, c, db, rootKeys, log); err != nil {
		return nil, err
	}
	keys := p.keys.seal
	artifacts, s3, err := p.openArtifacts(ctx, c, own)
	if err != nil {
		return nil, err
	}

	bus, err := event.New(ctx, db, log)
	if err != nil {
		return nil, err
	}
	metrics.MustRegister(bus)
	authConfig := auth.Config{DB: db, Events: bus, Keys: keys, Log: log, Anonymous: anonymousScopes, Static: staticClients(c, own)}
	if err := c.Auth.fill(&authConfig); err != nil {
		return nil, err
	}
	if p.sentry, err = p.openSentryKeys(ctx, c, db, keys, errorsTo, log); err != nil {
		return nil, err
	}
	if p.sentry != nil {
		authConfig.Sentry = sentryDSNs{p.sentry}
	}
	a, err := auth.New(ctx, authConfig)
	if err != nil {
		return nil, err
	}
	objects, err := object.New(ctx, object.Config{DB: db, Bucket: artifacts, Log: log})
	if err != nil {
		return nil, err
	}
	var near *nearby
	queueConfig := queue.Config{
		DB: db, Events: bus, Artifacts: artifacts, Mint: a.Issuer(queueClient), Log: log, Metrics: metrics,
		// A task that becomes pending has the provisioner look at its pools, on
		// whichever replica it runs.
		Demanded: func(tx *store.Tx, _ string) { tx.Wake(provisioner.TopicDemand, 1) },
		Objects:  objects,
	}
	if c.Mirror != nil {
		near = &nearby{}
		queueConfig.Nearby = near
	}
	q, err := queue.New(ctx, queueConfig)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, func() error {
		end, cancel := context.WithTimeout(context.Background(), 15*time.Second) // a disk may be slow
		defer cancel()
		return q.Close(end)
	})
	notifyConfig := notify.Config{DB: db, Events: bus, Tasks: q, RootURL: p.RootURL, Log: log, Metrics: metrics}
	if err := c.Notify.fill(ctx, &notifyConfig); err != nil {
		return nil, err
	}
	notifier, err := notify.New(ctx, notifyConfig)
	if err != nil {
		return nil, err
	}
	providers, err := p.openProviders(ctx, c)
	if err != nil {
		return nil, err
	}
	prov, err := provisioner.New(ctx, provisioner.Config{
		DB: db, Events: bus, Providers: providers,
		Queue: &workforce{queue: q}, Mint: a.Issuer(provisionerClient), Mail: notifier, Audit: a, Log: log, Metrics: metrics,
	})
	if err != nil {
		return nil, err
	}
	copies, err := p.openMirror(ctx, c, s3, mirror.Config{
		DB: db, Events: bus, Keys: keys, Auth: a, Log: log, Metrics: metrics, RootURL: p.RootURL,
		Artifacts: artifacts, Catalog: catalog{q}, Pools: prov,
	})
	if err != nil {
		return nil, err
	}
	subscribeTally(bus, prov)
	learner, err := newLearner(ctx, bus, prov)
	if err != nil {
		return nil, err
	}

	acting := &inside{}
	asHooks, err := acting.client(p.RootURL, cred.Credentials{ClientID: hooksClient, AccessToken: own.tokenFor(hooksClient)})
	if err != nil {
		return nil, err
	}
	hook, err := hooks.New(ctx, hooks.Config{
		DB: db, Events: bus, Keys: keys, Tasks: hookTasks{asHooks}, States: hookTasks{asHooks}, Mail: notifier, Audit: a, Log: log,
	})
	if err != nil {
		return nil, err
	}
	times, err := openSchedule(ctx, c.Data, schedule.Config{DB: db, Events: bus, Log: log, Metrics: metrics}, hook, func() []loop.Status { return p.runner.Status() })
	if err != nil {
		return nil, err
	}
	idx, err := index.New(ctx, index.Config{
		DB: db, Events: bus, Tasks: q, Artifacts: artifactURLs{a.Issuer(indexClient), indexClient, p.RootURL}, Auth: a, RootURL: p.RootURL, Log: log,
	})
	if err != nil {
		return nil, err
	}
	sealed, err := secrets.New(ctx, secrets.Config{DB: db, Keys: keys, Audit: a, Log: log})
	if err != nil {
		return nil, err
	}
	broker, err := c.openBroker(bus, log)
	if err != nil {
		return nil, err
	}
	if broker != nil {
		p.closers = append(p.closers, broker.Close)
		p.again.takeServer("rabbitmq", c.RabbitMQ.URLFile, broker.Login)
	}
	p.keys.act(hooksClient, asHooks)
	if err := p.keys.serveClients(ctx, a, own, p.RootURL, acting); err != nil {
		return nil, err
	}
	rotating, err := p.openCredentials(ctx, c, own, acting, a, credentials.Config{DB: db, Events: bus, Keys: keys, Log: log, Metrics: metrics, Schedule: times, Audit: a})
	if err != nil {
		return nil, err
	}
	audits, err := c.CredentialsAudit.openAudit(ctx, times, audit.Config{
		DB: db, Events: bus, Log: log, Metrics: metrics, Clients: auditedClients{a}, Credentials: rotating, Secrets: sealed, Logs: taskLogs{q, objects, artifacts},
	})
	if err != nil {
		return nil, err
	}
	if err := c.Infra.openInfra(ctx, times, newInfraWatch(notifier, log)); err != nil {
		return nil, err
	}
	purge, err := purgecache.New(ctx, purgecache.Config{DB: db, Log: log})
	if err != nil {
		return nil, err
	}

	lease := loop.Lease(loop.Alone)
	if !strings.HasPrefix(c.Database, "sqlite:") {
		replica, err := replicaID(c.Data)
		if err != nil {
			return nil, fmt.Errorf("naming this replica: %w", err)
		}
		lease = db.Lease(replica)
	}
	p.runner = loop.NewRunner(log, lease, metrics)
	var server *api.Server
	other := withChallenges(p.acme, metricsHandler(metrics, c))
	if copies != nil {
		again := func(w http.ResponseWriter, r *http.Request) { server.ServeHTTP(w, r) }
		other = withLegacy(mirror.Legacy(http.HandlerFunc(again)), other)
	}
	server = api.NewServer(api.Options{
		RootURL: p.RootURL, Auth: a, Log: log, Metrics: metrics, Version: api.Version(buildVersion()), Other: other,
		CheckOutput: os.Getenv("TASKFLEET_CHECK_OUTPUT") == "true",
	})
	if err := errors.Join(
		api.Mount(server, auth.API, a), api.Mount(server, queue.API, q), api.Mount(server, provisioner.API, prov),
		api.Mount(server, provisioner.Operations, prov),
		api.Mount(server, event.API, bus), api.Mount(server, loop.API, p.runner),
		api.Mount(server, hooks.API, hook), api.Mount(server, index.API, idx), api.Mount(server, secrets.API, sealed),
		api.Mount(server, purgecache.API, purge), api.Mount(server, object.API, objects), api.Mount(server, notify.API, notifier),
		api.Mount(server, credentials.API, rotating), api.Mount(server, audit.API, audits),
		api.Mount(server, schedule.API, times),
	); err != nil {
		return nil, err
	}
	acting.api = server
	var handler http.Handler = server
	if copies != nil {
		near.mirror, handler = copies.mirror, mirror.Legible(server)
		if err := api.Mount(server, mirror.API, copies.mirror); err != nil {
			return nil, err
		}
	}
	if err := writePrivate(filepath.Join(c.Data, "credentials.json"), map[string]string{
		"rootUrl": p.RootURL, "clientId": p.Root.ClientID, "accessToken": p.Root.AccessToken,
	}); err != nil {
		return nil, err
	}
	work, err := c.sentryLoops(errorsTo, acting, p.RootURL, own)
	if err != nil {
		return nil, err
	}
	work = slices.Concat(work, p.again.Loops(), bus.Loops())
	if broker != nil {
		work = append(work, broker.Loops()...)
	}
	p.run(db, listener, handler, p.keys.loops(slices.Concat(work, a.Loops(), q.Loops(), prov.Loops(), []loop.Loop{learner.loop()},
		hook.Loops(), idx.Loops(), sealed.Loops(), purge.Loops(), objects.Loops(), notifier.Loops(), copies.Loops(), rotating.Loops(), p.acme.Loops(), audits.Loops(), p.sentry.Loops(), times.Loops())))
	log.Info("taskfleet is up", "rootUrl", p.RootURL, "data", c.Data)
	return p, nil
}

// staticClients are the platform's own and those of the configuration.
func staticClients(c Config, own secretsFile) []auth.StaticClient {
	all := []string{"*"}
	list := []auth.StaticClient{
		{ClientID: rootClient, AccessToken: own.RootToken, Scopes: all, Description: "The operator's client, made at the first start."},
		{ClientID: queueClient, AccessToken: own.QueueToken, Scopes: all, Description: "Issues the credentials of tasks."},
		{ClientID: provisionerClient, AccessToken: own.ProvisionerToken, Scopes: all, Description: "Issues the credentials of workers."},
		{ClientID: hooksClient, AccessToken: own.tokenFor(hooksClient), Scopes: all, Description: "Creates the tasks of hooks, with the scopes of each hook alone."},
		{ClientID: credentialsClient, AccessToken: own.tokenFor(credentialsClient), Scopes: []string{"secrets:set:*", "notify:email:*"}, Description: "Sets the secrets that rotations of credentials publish, and asks people for those that they make."},
		{ClientID: indexClient, AccessToken: own.tokenFor(indexClient), Scopes: []string{"queue:get-artifact:*"}, Description: "Signs the URLs of indexed artifacts."},
	}
	if c.Sentry.Project != "" {
		list = append(list, auth.StaticClient{ClientID: monitorClient, AccessToken: own.tokenFor(monitorClient), Scopes: []string{"auth:sentry:" + c.Sentry.Project}, Description: "Asks where the platform's own errors are to be sent to."})
	}
	for _, s := range c.Clients {
		list = append(list, auth.StaticClient(s))
	}
	return list
}

// run starts what goes on until the platform is stopped.
func (p *platform) run(db *store.DB, l net.Listener, h http.Handler, work []loop.Loop) {
	calls, stopCalls := context.WithCancel(context.Background())
	loops, stopLoops := context.WithCancel(context.Background())
	p.stopCalls, p.stopLoops = stopCalls, stopLoops
	p.http = &http.Server{
		Handler: h, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 3 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return calls },
	}
	background := func(what string, f func() error) {
		p.running.Go(func() {
			if err := f(); err != nil {
				p.log.Error(what+" ended", "err", err)
				p.failed <- fmt.Errorf("%s ended: %w", what, err)
			}
		})
	}
	background("the API", func() error {
		if err := p.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	background("background work", func() error { return p.runner.Run(loops, work...) })
	for _, f := range p.background {
		p.running.Go(func() { f(loops) })
	}
	background("listening to other replicas", func() error { return db.Listen(loops) })
}

// Done receives an error if the platform ends by itself.
func (p *platform) Done() <-chan error { return p.failed }

// Stop ends the platform in good order: workers first, while the API still
// takes their reports, then the API, then the loops.
func (p *platform) Stop(ctx context.Context) error {
	err := p.workers.StopAll(ctx)
	if err != nil {
		err = fmt.Errorf("stopping the workers: %w", err)
	}
	// Calls under way may end, those that wait for something are sent off.
	waiting := time.AfterFunc(time.Second, p.stopCalls)
	defer waiting.Stop()
	defer p.stopCalls()
	end, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if e := p.http.Shutdown(end); e != nil {
		err = errors.Join(err, fmt.Errorf("stopping the API: %w", e), p.http.Close())
	}
	p.stopLoops()
	p.running.Wait()
	return errors.Join(err, p.close())
}

func (p *platform) close() (err error) {
	for _, f := range slices.Backward(p.closers) {
		err = errors.Join(err, f())
	}
	p.closers = nil
	return err
}

func ignoreClosed(f func() error) func() error {
	return func() error {
		if err := f(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// openArtifacts opens the bucket for artifacts: on S3, or on a gateway that
// this process runs. It also returns where that is.
func (p *platform) openArtifacts(ctx context.Context, c Config, own secretsFile) (*blob.Bucket, blob.Config, error) {
	where := blob.Config{
		Endpoint: c.S3.Endpoint, Region: c.S3.Region, PathStyle: c.S3.PathStyle,
		AccessKeyID: c.S3.AccessKeyID, SecretAccessKey: c.S3.SecretAccessKey,
	}
	if c.S3.embedded() {
		g, err := p.startGateway(ctx, c, own)
		if err != nil {
			return nil, where, err
		}
		p.closers = append(p.closers, g.Close)
		where = g.Blob()
	} else {
		keys, err := p.again.openS3Keys(c)
		if err != nil {
			return nil, where, err
		}
		where.AccessKeyID, where.SecretAccessKey, where.Keys = "", "", keys
		p.again.takeS3(c, where, keys)
	}
	s, err := blob.Open(ctx, where)
	if err != nil {
		return nil, where, err
	}
	b := s.Bucket(c.S3.Bucket)
	return b, where, b.Ensure(ctx)
}

// startGateway starts the S3 gateway on the address it had the last time, so
// that URLs that were handed out stay good over a restart. Only where that is
// taken does it move.
func (p *platform) startGateway(ctx context.Context, c Config, own secretsFile) (*gateway.Gateway, error) {
	note := filepath.Join(c.Data, "s3-address")
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, err
	}
	conf := gateway.Config{
		Directory: filepath.Join(c.Data, "s3"), Listen: net.JoinHostPort(host, "0"),
		AccessKeyID: "taskfleet", SecretAccessKey: own.S3Secret, Log: p.log,
	}
	if text, err := os.ReadFile(note); err == nil {
		before := conf
		before.Listen = strings.TrimSpace(string(text))
		g, err := gateway.Start(ctx, before)
		if err == nil {
			return g, nil
		}
		p.log.Warn("the S3 gateway cannot have its former address; artifact URLs handed out before are void", "address", before.Listen, "err", err)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading where the S3 gateway listens: %w", err)
	}
	g, err := gateway.Start(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("starting the S3 gateway: %w", err)
	}
	if err := os.WriteFile(note, []byte(g.Addr()+"\n"), 0o600); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// metricsHandler serves /metrics for Prometheus: to anybody where only this
// machine can ask, otherwise to those with the token.
func metricsHandler(r *prometheus.Registry, c Config) http.Handler {
	host, _, _ := net.SplitHostPort(c.Listen)
	mux := http.NewServeMux()
	serve := promhttp.HandlerFor(r, promhttp.HandlerOpts{})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch {
		case c.MetricsToken == "" && !loopback(host):
			http.Error(w, "metrics are off: set metricsToken in the server's configuration", http.StatusForbidden)
		case c.MetricsToken != "" && subtle.ConstantTimeCompare([]byte(given), []byte(c.MetricsToken)) != 1:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "metrics need the configured bearer token", http.StatusUnauthorized)
		default:
			serve.ServeHTTP(w, r)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error":"Not found"}`)
	})
	return mux
}

// platformCommands are those that need the platform in the binary.
func platformCommands() []*cobra.Command {
	return append(deploymentCommands(), newUpCommand(), newServeCommand(), newConfigCommand(), newKeysCommand(), newDatabaseCommand(), infraCommand())
}

func newServeCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the platform until it is told to stop",
		Long: "Runs the whole platform in this process. SIGTERM and Ctrl-C stop it in good order: workers are drained first. A second one ends it at once.\n\n" + configDoc,
		Example: `  taskfleet serve
  taskfleet serve --listen 127.0.0.1:9000 --data /var/lib/taskfleet
  taskfleet serve --config taskfleet.yml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			tuneMemory()
			log := c.logger(os.Stderr)
			takeStandardLog(log)
			p, err := startPlatform(cmd.Context(), c, log)
			if err != nil {
				return err
			}
			select {
			case <-cmd.Context().Done():
			case err = <-p.Done():
			}
			end, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			return errors.Join(err, p.Stop(end))
		},
	}
	flags.add(cmd.Flags())
	return cmd
}
