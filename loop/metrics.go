package loop

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// collectors are the metrics of all loops.
type collectors struct {
	passes  *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	success *prometheus.GaugeVec
	held    *prometheus.GaugeVec
}

func newCollectors(registerer prometheus.Registerer) *collectors {
	c := &collectors{
		passes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "taskfleet_loop_passes_total",
			Help: "Passes of a background loop that ended, by result: ok or error.",
		}, []string{"loop", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "taskfleet_loop_pass_seconds",
			Help:    "How long passes of a background loop took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10), // 1 ms to 4 min
		}, []string{"loop"}),
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "taskfleet_loop_last_success_timestamp_seconds",
			Help: "When a pass of a background loop last succeeded on this replica, in Unix time.",
		}, []string{"loop"}),
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "taskfleet_loop_held",
			Help: "1 on the replica that runs the background loop, 0 on the others.",
		}, []string{"loop"}),
	}
	registerer.MustRegister(c.passes, c.seconds, c.success, c.held)
	return c
}

// metrics are those of one loop.
type metrics struct {
	ok, failed prometheus.Counter
	seconds    prometheus.Observer
	success    prometheus.Gauge
	held       prometheus.Gauge
}

// of makes the metrics of a loop show up, from zero on.
func (c *collectors) of(loop string) *metrics {
	m := &metrics{
		ok:      c.passes.WithLabelValues(loop, "ok"),
		failed:  c.passes.WithLabelValues(loop, "error"),
		seconds: c.seconds.WithLabelValues(loop),
		success: c.success.WithLabelValues(loop),
		held:    c.held.WithLabelValues(loop),
	}
	m.held.Set(0)
	return m
}

func (m *metrics) pass(took time.Duration, err error) {
	m.seconds.Observe(took.Seconds())
	if err != nil {
		m.failed.Inc()
		return
	}
	m.ok.Inc()
	m.success.Set(float64(time.Now().UnixMilli()) / 1000)
}
