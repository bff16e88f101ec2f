package event

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/store"
)

// Describe and Collect make a Bus a prometheus.Collector of how many messages
// each subscriber has still to read. That is asked of the database, so every
// replica tells the same, and a cursor that is written once a second is up to a
// second late.
func (b *Bus) Describe(to chan<- *prometheus.Desc) { to <- lagMetric }

var lagMetric = prometheus.NewDesc("taskfleet_event_lag", "Messages that a subscriber has still to read.", []string{"subscriber"}, nil)

// collectTimeout is short as somebody waits for all metrics.
const collectTimeout = 2 * time.Second

// Collect is described with Describe.
func (b *Bus) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	lags, err := b.lags(ctx)
	if err != nil {
		b.log.Warn("cannot tell how far subscribers are", "err", err)
		return // the other metrics are worth having
	}
	for name, lag := range lags {
		to <- prometheus.MustNewConstMetric(lagMetric, prometheus.GaugeValue, float64(lag), name)
	}
}

func (b *Bus) lags(ctx context.Context) (lags map[string]int64, err error) {
	names := []string{}
	for _, s := range b.subscribers {
		names = append(names, s.name)
	}
	err = b.db.ViewOnce(ctx, func(tx *store.Tx) error {
		lags = map[string]int64{}
		rows, err := tx.Query(`
			SELECT c.name, h.position - c.position FROM event_head AS h, event_cursor AS c
			 WHERE h.name = 'head' AND c.name IN (SELECT value FROM json_each($1))`, names)
		if err != nil {
			return err
		}
		for rows.Next() {
			var name string
			var lag int64
			if err := rows.Scan(&name, &lag); err != nil {
				return err
			}
			lags[name] = lag
		}
		return rows.Err()
	})
	return lags, err
}
