package credentials

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// metrics are the rotations that this replica has ended. How credentials are, which
// all replicas tell alike, is a stock.
type metrics struct{ rotations *prometheus.CounterVec }

func newMetrics(r prometheus.Registerer, c *Credentials) *metrics {
	m := &metrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "taskfleet_credentials_rotations_total", Help: "Rotations that ended, by credential and result: done or failed.",
	}, []string{"credential", "result"})}
	if r != nil {
		r.MustRegister(m.rotations, stock{c})
	}
	return m
}

func (m *metrics) ended(name, result string) { m.rotations.WithLabelValues(name, result).Inc() }

// A stock is a prometheus.Collector of how the credentials are, asked of the
// database when it is collected.
type stock struct{ c *Credentials }

var (
	ageMetric      = prometheus.NewDesc("taskfleet_credentials_age_seconds", "For how long the current version of a credential has been in use.", []string{"credential"}, nil)
	nextMetric     = prometheus.NewDesc("taskfleet_credentials_next_seconds", "In how long a credential is rotated by itself; less than 0 if that is late.", []string{"credential"}, nil)
	failuresMetric = prometheus.NewDesc("taskfleet_credentials_failures", "Rotations of a credential that have failed in a row.", []string{"credential"}, nil)
	stateMetric    = prometheus.NewDesc("taskfleet_credentials_state", "1 for the state that a credential is in.", []string{"credential", "state"}, nil)
)

// Describe is part of prometheus.Collector.
func (s stock) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{ageMetric, nextMetric, failuresMetric, stateMetric} {
		to <- d
	}
}

// collectTimeout is short as somebody waits for all metrics.
const collectTimeout = 2 * time.Second

// Collect is part of prometheus.Collector.
func (s stock) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	var list []*view
	if err := s.c.db.View(ctx, func(tx *store.Tx) (err error) { list, err = s.c.views(tx); return err }); err != nil {
		s.c.log.Warn("cannot tell how the credentials are", "err", err)
		return // the other metrics are worth having
	}
	now := timestamp.Now()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, v := range list {
		if !v.Since.IsZero() {
			gauge(ageMetric, now.Sub(v.Since).Seconds(), v.Name)
		}
		if !v.Next.IsZero() {
			gauge(nextMetric, v.Next.Sub(now).Seconds(), v.Name)
		}
		gauge(failuresMetric, float64(v.Failures), v.Name)
		gauge(stateMetric, 1, v.Name, string(v.State))
	}
}
