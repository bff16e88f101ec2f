package event

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestHowFarBehindSubscribersAreIsMeasured(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		b.Subscribe("able", nil, func(context.Context, []Message) (bool, error) { return false, nil })
		b.Subscribe("unable", nil, func(context.Context, []Message) (bool, error) { return false, errors.New("no") })
		runLoops(t, b)
		synctest.Wait()
		for i := range 3 {
			publish(t, db, b, fmt.Sprintf("a.%d", i))
		}
		time.Sleep(time.Minute)
		metrics := prometheus.NewPedanticRegistry()
		metrics.MustRegister(b)
		families, err := metrics.Gather()
		if err != nil || len(families) != 1 || families[0].GetName() != "taskfleet_event_lag" {
			t.Fatalf("%v, %v", families, err)
		}
		got := ""
		for _, m := range families[0].GetMetric() {
			got += fmt.Sprint(m.GetLabel()[0].GetValue(), " ", m.GetGauge().GetValue(), "; ")
		}
		if got != "able 0; unable 3; " {
			t.Errorf("lags are %s", got)
		}
	})
}
