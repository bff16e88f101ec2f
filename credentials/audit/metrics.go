package audit

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// latestFindings is a prometheus.Collector of what the last audit that the schedule
// has asked for has found, asked of the database when it is collected: all replicas
// tell alike.
type latestFindings struct{ a *Audit }

var (
	findingsMetric = prometheus.NewDesc("taskfleet_credentials_audit_findings", "Findings of the latest scheduled audit of credentials, by rule.", []string{"rule", "level"}, nil)
	endedMetric    = prometheus.NewDesc("taskfleet_credentials_audit_age_seconds", "How long ago the latest scheduled audit of credentials was done.", nil, nil)
)

// Describe is part of prometheus.Collector.
func (latestFindings) Describe(to chan<- *prometheus.Desc) {
	to <- findingsMetric
	to <- endedMetric
}

// collectTimeout is short as somebody waits for all metrics.
const collectTimeout = 2 * time.Second

// Collect is part of prometheus.Collector.
func (l latestFindings) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	var text string
	var ended timestamp.Time
	err := l.a.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT counts, ended FROM credential_audit WHERE state = 'done' AND by_client = '' ORDER BY created DESC LIMIT 1`).Scan(&text, &ended)
	})
	if errors.Is(err, store.ErrNotFound) {
		return
	}
	counts := map[string]int{}
	if err == nil {
		err = json.Unmarshal([]byte(text), &counts)
	}
	if err != nil {
		l.a.log.Warn("cannot tell what the latest audit of credentials has found", "err", err)
		return // the other metrics are worth having
	}
	for _, r := range rules {
		to <- prometheus.MustNewConstMetric(findingsMetric, prometheus.GaugeValue, float64(counts[r.ID]), r.ID, r.Level)
	}
	to <- prometheus.MustNewConstMetric(endedMetric, prometheus.GaugeValue, timestamp.Now().Sub(ended).Seconds())
}
