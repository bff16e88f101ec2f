package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"github.com/taskfleet/taskfleet/stacks/monitoring/monitoringtest"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

const ofOrganisation = "token-of-the-organisation"

// A world is SignalFx, and what an environment knows of it.
type world struct {
	*monitoringtest.SignalFx
	t      *testing.T
	config Config
	kinds  map[string]provider.Kind
	states map[Ref]json.RawMessage
}

func newWorld(t *testing.T, environment string, s SignalFx) *world {
	t.Helper()
	t.Setenv("TEST_SFX_TOKEN", ofOrganisation)
	w := &world{SignalFx: monitoringtest.New(ofOrganisation), t: t, states: map[Ref]json.RawMessage{}}
	s.Realm, s.TokenFrom = "eu0", Source{Env: "TEST_SFX_TOKEN"}
	w.config = Config{SignalFx: &s}
	w.kinds = w.of(environment)
	return w
}

// of are the kinds for an environment of the same organisation.
func (w *world) of(environment string) map[string]provider.Kind {
	w.t.Helper()
	list, err := w.config.Kinds(environment, w.SignalFx)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]provider.Kind{}
	for _, k := range list {
		out[k.Token()] = k
	}
	return out
}

// same tells that two documents say the same.
func same(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// bring has a thing be there, in the steps of the provider, and says what was done.
func (w *world) bring(ctx context.Context, token, name, spec string) (done string, err error) {
	k, ref := w.kinds[token], Ref{token, name}
	normal, err := k.Normal(name, json.RawMessage(spec))
	if err != nil {
		return "", err
	}
	if state := w.states[ref]; state != nil {
		want, err := k.Complete(normal, state)
		if err != nil || same(want, state) {
			return "", err
		}
		next, err := k.Update(ctx, name, state, normal)
		if next != nil {
			w.states[ref] = next
		}
		return "updated", err
	}
	is, err := k.Read(ctx, name, normal)
	if err != nil {
		return "", err
	}
	if is == nil {
		is, err = k.Create(ctx, name, normal)
		if is != nil {
			w.states[ref] = is
		}
		return "created", err
	}
	if want, err := k.Complete(normal, is); err != nil || !same(want, is) {
		return "", fmt.Errorf("%s is there already, and differs: %w", name, err)
	}
	w.states[ref] = is
	return "adopted", nil
}

// drifted reads a thing again, and tells what differs from what is wanted.
func (w *world) drifted(token, name, spec string) (before, after string) {
	w.t.Helper()
	k, ref := w.kinds[token], Ref{token, name}
	normal, err := k.Normal(name, json.RawMessage(spec))
	if err != nil {
		w.t.Fatal(err)
	}
	state, err := k.Read(w.t.Context(), name, w.states[ref])
	if err != nil {
		w.t.Fatal(err)
	}
	if w.states[ref] = state; state == nil {
		return "", "gone"
	}
	want, err := k.Complete(normal, state)
	if err != nil {
		w.t.Fatal(err)
	}
	if same(want, state) {
		return "", ""
	}
	return string(want), string(state)
}

func (w *world) want(token, name, spec, done string) {
	w.t.Helper()
	got, err := w.bring(w.t.Context(), token, name, spec)
	if err != nil || got != done {
		w.t.Fatalf("%s %s: %q, %v; want %q", token, name, got, err, done)
	}
}

const (
	group    = `{"description":"what to look at","teams":["T2","T1"]}`
	pending  = `{"kind":"time","program":"data('taskfleet_pool_pending_tasks').publish('A')","description":"by pool","range":"120m","axis":{"min":0,"label":"tasks"},"series":[{"label":"A","name":"waiting"}]}`
	single   = `{"kind":"single","program":"data('taskfleet_pool_claimed_tasks').sum().publish(label='A')"}`
	board    = `{"group":"Fleet","charts":[{"chart":"Pending","row":0,"column":0,"width":6,"height":1},{"chart":"Running","row":0,"column":6,"width":6,"height":1}],"variables":[{"property":"pool"}]}`
	alarm    = `{"program":"detect(when(data('taskfleet_event_lag') > 5)).publish('behind')","rules":[{"label":"behind","severity":"Major","description":"it is","tip":"look","runbook":"https://example.com/lag","notifications":[{"type":"Opsgenie","credentialId":"C1"},{"type":"Email","email":"ops@example.com"}]}],"teams":["T1"]}`
	sendings = `{"description":"of the collector","datapointsPerMinute":5000,"notifications":[{"type":"Email","email":"ops@example.com"}]}`
)

// all are one of each kind, in an order in which they can be made.
var all = []struct{ token, name, spec string }{
	{TokenGroup, "Fleet", group}, {TokenChart, "Pending", pending}, {TokenChart, "Running", single},
	{TokenDashboard, "Queue", board}, {TokenDetector, "Lag", alarm}, {TokenToken, "collector", sendings},
}

func (w *world) count() string {
	return fmt.Sprint(len(w.Objects("dashboardgroup")), len(w.Objects("chart")), len(w.Objects("dashboard")), len(w.Objects("detector")), len(w.Tokens().Tokens()))
}
