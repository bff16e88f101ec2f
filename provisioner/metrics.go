package provisioner

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/sizing"
)

// metrics are the figures of each pool, as the last pass found them.
type metrics struct {
	pending, claimed, desired *prometheus.GaugeVec
	oldest, most, cost        *prometheus.GaugeVec
	workers                   *prometheus.GaugeVec // by state
	starts, failures          *prometheus.CounterVec
	interruptions             *prometheus.CounterVec
	errors                    *prometheus.CounterVec // by kind

	mu    sync.Mutex
	shown map[string]bool // pools
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "taskfleet_pool_" + name, Help: help}, append([]string{"pool"}, labels...))
		r.MustRegister(g)
		return g
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "taskfleet_pool_" + name, Help: help}, append([]string{"pool"}, labels...))
		r.MustRegister(c)
		return c
	}
	return &metrics{
		pending:       gauge("pending_tasks", "Tasks of the pool that wait for a worker."),
		claimed:       gauge("claimed_tasks", "Tasks of the pool that run."),
		desired:       gauge("desired_capacity", "Tasks that the pool should be able to run at once."),
		oldest:        gauge("oldest_pending_seconds", "How long the task of the pool has waited for a worker that has waited longest; 0: none waits."),
		most:          gauge("max_capacity", "Tasks that the pool may run at once at most."),
		cost:          gauge("cost_per_hour_dollars", "What the workers of the pool cost an hour, at the prices at which they were bought. Those without a price are left out."),
		workers:       gauge("workers", "Workers of the pool by state.", "state"),
		starts:        counter("starts_total", "Workers that the pool's provider started."),
		failures:      counter("failed_starts_total", "Workers that could not be started, or ended before they had proven to work."),
		interruptions: counter("interruptions_total", "Workers of which the provider said that it takes them away, such as spot instances."),
		errors:        counter("errors_total", "Errors of the pool that were written down, by kind; reported: those of workers.", "kind"),
		shown:         map[string]bool{},
	}
}

func (m *metrics) show(o *fleet.Pool, live []*fleet.Worker, in sizing.Inputs, d sizing.Decision) {
	count, price := map[string]int{}, int64(0)
	for _, w := range live {
		count[w.State]++
		price += w.Price
	}
	waited := time.Duration(0)
	if !in.OldestPending.IsZero() {
		waited = max(in.Now.Sub(in.OldestPending), 0)
	}
	m.pending.WithLabelValues(o.ID).Set(float64(in.Pending))
	var claimed int64
	for _, r := range in.Running {
		claimed += max(r.Count, 1)
	}
	capacity := in.Working // when it was decided
	for _, w := range in.Idle {
		capacity += w.Capacity
	}
	for _, w := range in.Booting {
		capacity += w.Capacity
	}
	m.claimed.WithLabelValues(o.ID).Set(float64(claimed))
	m.desired.WithLabelValues(o.ID).Set(float64(capacity + d.Start))
	m.oldest.WithLabelValues(o.ID).Set(waited.Seconds())
	m.most.WithLabelValues(o.ID).Set(float64(in.Max - in.Max%max(in.CapacityPerWorker, 1))) // the rest is not enough for a worker
	m.cost.WithLabelValues(o.ID).Set(dollars(price))
	for _, state := range []string{fleet.Requested, fleet.Running, fleet.Stopping} {
		m.workers.WithLabelValues(o.ID, state).Set(float64(count[state]))
	}
	m.starts.WithLabelValues(o.ID)
	m.failures.WithLabelValues(o.ID)
	m.interruptions.WithLabelValues(o.ID)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shown[o.ID] = true
}

// count counts starts.
func (m *metrics) count(pool string, started, failed int) {
	m.starts.WithLabelValues(pool).Add(float64(started))
	m.failures.WithLabelValues(pool).Add(float64(failed))
}

// interrupted counts a worker that is taken away.
func (m *metrics) interrupted(pool string) { m.interruptions.WithLabelValues(pool).Inc() }

// failed counts an error that is written down. Workers call their errors what they like.
func (m *metrics) failed(pool, kind string) {
	if !slices.Contains(fleet.ComplaintKinds, kind) {
		kind = "reported"
	}
	m.errors.WithLabelValues(pool, kind).Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shown[pool] = true // on a replica that does not look after pools, too
}

// forget drops the figures of pools that are gone.
func (m *metrics) forget(pools []*fleet.Pool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := map[string]bool{}
	for _, o := range pools {
		left[o.ID] = true
	}
	for id := range m.shown {
		if left[id] {
			continue
		}
		delete(m.shown, id)
		of := prometheus.Labels{"pool": id}
		for _, v := range []interface{ DeletePartialMatch(prometheus.Labels) int }{m.pending, m.claimed, m.desired, m.oldest, m.most, m.cost, m.workers, m.starts, m.failures, m.interruptions, m.errors} {
			v.DeletePartialMatch(of)
		}
	}
}
