package region

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	callers, refreshes *prometheus.CounterVec
}

func newMetrics(f *Finder, r prometheus.Registerer) *metrics {
	m := &metrics{
		callers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "taskfleet_mirror_callers_total",
			Help: "Callers whose region was looked for, by what told it: header, worker group, custom network, AWS address, or none.",
		}, []string{"by"}),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "taskfleet_mirror_networks_refreshes_total",
			Help: "Attempts to fetch AWS's list of networks, by result: new, same or error.",
		}, []string{"result"}),
	}
	for _, by := range []string{ByHeader, ByGroup, ByNetwork, ByAddress, "none"} {
		m.callers.WithLabelValues(by)
	}
	for _, result := range []string{"new", "same", "error"} {
		m.refreshes.WithLabelValues(result)
	}
	if r != nil {
		r.MustRegister(m.callers, m.refreshes,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "taskfleet_mirror_networks",
				Help: "Networks of AWS whose region is known.",
			}, func() float64 { return float64(f.current.Load().Size()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "taskfleet_mirror_networks_published_timestamp_seconds",
				Help: "When AWS published the list of its networks that is in use, in Unix time.",
			}, func() float64 { return float64(f.current.Load().list.Created.Unix()) }),
		)
	}
	return m
}

func (m *metrics) found(by string) { m.callers.WithLabelValues(cmp.Or(by, "none")).Inc() }

func (m *metrics) refreshed(fresh bool, err error) {
	switch {
	case err != nil:
		m.refreshes.WithLabelValues("error").Inc()
	case fresh:
		m.refreshes.WithLabelValues("new").Inc()
	default:
		m.refreshes.WithLabelValues("same").Inc()
	}
}
