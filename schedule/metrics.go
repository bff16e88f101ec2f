package schedule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/store"
)

// metrics are what this replica has done. They are by kind, of which there are few.
type metrics struct {
	runs    *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	delay   *prometheus.HistogramVec
	success *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "taskfleet_schedule_runs_total",
			Help: "Runs of jobs that ended, by kind of job and state: done, failed or missed.",
		}, []string{"kind", "state"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "taskfleet_schedule_run_seconds",
			Help:    "How long the last attempt of a run took that is done or has failed.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 10), // 10 ms to 44 min
		}, []string{"kind"}),
		delay: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "taskfleet_schedule_delay_seconds",
			Help:    "How much later than it was to start the first attempt of a run began.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 10),
		}, []string{"kind"}),
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "taskfleet_schedule_last_success_timestamp_seconds",
			Help: "When a run of this kind was last done by this replica, in Unix time.",
		}, []string{"kind"}),
	}
	if r != nil {
		r.MustRegister(m.runs, m.seconds, m.delay, m.success)
	}
	return m
}

// ending counts a run that ends, if the transaction commits.
func (m *metrics) ending(tx *store.Tx, j *job, r run) {
	tx.AfterCommit(func() {
		m.runs.WithLabelValues(j.Kind, string(r.State)).Inc()
		if r.State != Missed {
			m.seconds.WithLabelValues(j.Kind).Observe(r.Ended.Sub(r.Started).Seconds())
		}
		if r.State == Done {
			m.success.WithLabelValues(j.Kind).Set(float64(r.Ended) / 1000)
		}
	})
}

// beginning counts a run that begins.
func (m *metrics) beginning(tx *store.Tx, j *job, r run) {
	if r.Attempt == 1 {
		tx.AfterCommit(func() { m.delay.WithLabelValues(j.Kind).Observe(r.Started.Sub(r.Starts).Seconds()) })
	}
}
