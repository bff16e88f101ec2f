package mirror

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// metrics are what this replica has done. What there is, which all replicas tell
// alike, is a stock.
type metrics struct {
	attempts *prometheus.CounterVec   // by region and result
	copied   *prometheus.CounterVec   // bytes, by region
	seconds  *prometheus.HistogramVec // by region
	answers  *prometheus.CounterVec   // by region and outcome
	removed  *prometheus.CounterVec   // by region and reason
	scrubbed *prometheus.CounterVec   // bytes, by region
	found    *prometheus.CounterVec   // by the scrubber and the sweep: by region and what
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "taskfleet_mirror_" + name, Help: help}, append([]string{"region"}, labels...))
	}
	m := &metrics{
		attempts: counter("attempts_total", "Attempts to copy that ended, by result: present, again (it will be tried again) or failed (given up).", "result"),
		copied:   counter("copied_bytes_total", "Bytes of copies that were made."),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "taskfleet_mirror_copy_seconds",
			Help:    "How long attempts took that made a copy.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 10), // 10 ms to 44 min
		}, []string{"region"}),
		answers:  counter("answers_total", "What callers were told that asked for a copy: copy, stream (the bytes meanwhile), refused, or why they got the origin: off (no copy is made), behind (it is made meanwhile), late, failed, leaving or away (its bucket does not answer).", "outcome"),
		removed:  counter("removed_total", "Copies that went, by reason: expired, unread, failed or purged.", "reason"),
		scrubbed: counter("scrubbed_bytes_total", "Bytes of copies that were read again to compare them."),
		found:    counter("found_total", "What differed between index and bucket: adopted, missing, changed, outdated (the origin was written again), orphan (an object) or upload.", "what"),
	}
	if r != nil {
		r.MustRegister(m.attempts, m.copied, m.seconds, m.answers, m.removed, m.scrubbed, m.found)
	}
	return m
}

// present counts an attempt that made a copy.
func (m *metrics) present(region string, bytes int64, took time.Duration) {
	m.attempts.WithLabelValues(region, "present").Inc()
	m.copied.WithLabelValues(region).Add(float64(bytes))
	m.seconds.WithLabelValues(region).Observe(took.Seconds())
}

// failure counts an attempt that made none.
func (m *metrics) failure(region string, final bool) {
	result := "again"
	if final {
		result = "failed"
	}
	m.attempts.WithLabelValues(region, result).Inc()
}

// answer counts what a caller was told. The region is a configured one or "".
func (m *metrics) answer(region, outcome string) { m.answers.WithLabelValues(region, outcome).Inc() }

// A stock is a prometheus.Collector of what there is: copies and bytes by state,
// and for how long the oldest has been waiting. It is asked of the database when
// it is collected, in one moment, so it is the same on every replica, and what is
// in one state is in no other.
type stock struct{ m *Mirror }

var (
	objectsMetric = prometheus.NewDesc("taskfleet_mirror_objects", "Copies, by region and state.", []string{"region", "state"}, nil)
	bytesMetric   = prometheus.NewDesc("taskfleet_mirror_bytes", "Bytes of copies, by region and state, where their size is known.", []string{"region", "state"}, nil)
	waitingMetric = prometheus.NewDesc("taskfleet_mirror_waiting_seconds", "For how long the copy that has been waiting for longest has been; 0 where none waits.", []string{"region"}, nil)
	leavingMetric = prometheus.NewDesc("taskfleet_mirror_leaving_seconds", "For how long the copy has been leaving that has for longest, as its bytes cannot be deleted, say; 0 where none is.", []string{"region"}, nil)
	upMetric      = prometheus.NewDesc("taskfleet_mirror_region_up", "Whether this replica sends readers to the region's bucket: 1, or 0 where it does not answer, or is another than before and not swept yet.", []string{"region"}, nil)
	limitMetric   = prometheus.NewDesc("taskfleet_mirror_limit_bytes", "Bytes of copies beyond which unread ones go; 0 means no limit.", []string{"region"}, nil)
)

// Describe is part of prometheus.Collector.
func (s stock) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{objectsMetric, bytesMetric, waitingMetric, leavingMetric, limitMetric, upMetric} {
		to <- d
	}
}

// Collect is part of prometheus.Collector.
func (s stock) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), s.m.collectLimit)
	defer cancel()
	list, err := s.m.stock(ctx)
	if err != nil {
		s.m.log.Warn("cannot tell what copies there are", "err", err)
		return // the other metrics are worth having
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, r := range list {
		for _, state := range states {
			gauge(objectsMetric, float64(r.objects[state]), r.region, string(state))
			gauge(bytesMetric, float64(r.bytes[state]), r.region, string(state))
		}
		gauge(waitingMetric, age(r.oldest).Seconds(), r.region)
		gauge(leavingMetric, age(r.leaving).Seconds(), r.region)
		gauge(limitMetric, float64(r.limit), r.region)
		up := 1.0
		if s.m.away(r.region) != "" {
			up = 0
		}
		gauge(upMetric, up, r.region)
	}
}

var states = []State{Waiting, Copying, Present, Failed, Leaving}

// A holding is what a region has.
type holding struct {
	region  string
	limit   int64
	objects map[State]int64
	bytes   map[State]int64
	oldest  timestamp.Time // since when the one waits that has for longest; zero if none does
	leaving timestamp.Time // likewise
}

// age is for how long something has been going on.
func age(since timestamp.Time) time.Duration {
	if since.IsZero() {
		return 0
	}
	return max(0, timestamp.Now().Sub(since))
}

// backlog is what is still to be copied.
func (h *holding) backlog() (objects, bytes int64) {
	return h.objects[Waiting] + h.objects[Copying], h.bytes[Waiting] + h.bytes[Copying]
}

// stock is what each region has, in the order of the configuration, at one moment.
func (m *Mirror) stock(ctx context.Context) (list []*holding, err error) {
	err = m.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		by := map[string]*holding{}
		var each, regions [][]any
		for _, r := range m.regions {
			h := &holding{region: r.Name, limit: r.MaxBytes, objects: map[State]int64{}, bytes: map[State]int64{}}
			list, by[r.Name] = append(list, h), h
			regions = append(regions, []any{r.Name})
			for p := Bulk; p <= Waited; p++ { // as the index has them
				for k := range kinds {
					each = append(each, []any{r.Name, k, p})
				}
			}
		}
		rows, err := tx.Query(`SELECT region, state, objects, bytes FROM mirror_tally`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var region string
			var state State
			var objects, bytes int64
			if err := rows.Scan(&region, &state, &objects, &bytes); err != nil {
				return err
			}
			if h := by[region]; h != nil { // not one that was taken out of the configuration
				h.objects[state], h.bytes[state] = objects, bytes
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		oldest := func(of func(*holding) *timestamp.Time) func(int, store.Scanner) error {
			return func(_ int, row store.Scanner) error {
				var region string
				var since timestamp.Time
				if err := row.Scan(&region, &since); err != nil {
					return err
				}
				if is := of(by[region]); is.IsZero() || since < *is {
					*is = since
				}
				return nil
			}
		}
		if err := tx.QueryEach(`
			SELECT region, requested FROM mirror_copy
			 WHERE state = 'waiting' AND region = $1 AND lane = $2 AND priority = $3 ORDER BY requested LIMIT 1`,
			each, oldest(func(h *holding) *timestamp.Time { return &h.oldest })); err != nil {
			return err
		}
		return tx.QueryEach(`SELECT region, requested FROM mirror_copy WHERE state = 'leaving' AND region = $1 ORDER BY requested LIMIT 1`,
			regions, oldest(func(h *holding) *timestamp.Time { return &h.leaving }))
	})
	return list, err
}
