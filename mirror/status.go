package mirror

import (
	"context"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A statusReport is how all regions are.
type statusReport struct {
	At      timestamp.Time `json:"at"`
	Home    string         `json:"home"`
	Regions []regionStatus `json:"regions"`
}

type regionStatus struct {
	Region    string        `json:"region"`
	Bucket    string        `json:"bucket"`
	Away      bool          `json:"away"`             // it does not answer this replica
	Unsure    bool          `json:"unsure"`           // it is another than before
	Reason    string        `json:"reason,omitempty"` // why readers get the origin
	Limit     int64         `json:"limit,omitempty"`  // of bytes
	Transfers int           `json:"transfers"`
	States    map[State]Sum `json:"states"`
	Backlog   Sum           `json:"backlog"`

	// Since when the copy waits that has for longest.
	OldestWaiting timestamp.Time `json:"oldestWaiting,omitempty"`
	WaitingFor    float64        `json:"waitingFor"` // seconds

	// The same of copies whose bytes are to be deleted.
	OldestLeaving timestamp.Time `json:"oldestLeaving,omitempty"`
	LeavingFor    float64        `json:"leavingFor"`

	Rate   rate      `json:"rate"`
	Errors []failing `json:"errors"`
}

// A rate is what was copied lately, and how fast.
type rate struct {
	Seconds          float64 `json:"seconds"`
	Objects          int64   `json:"objects"`
	Bytes            int64   `json:"bytes"`
	ObjectsPerSecond float64 `json:"objectsPerSecond"`
	BytesPerSecond   float64 `json:"bytesPerSecond"`
}

// A failing is a copy of which the last attempt failed.
type failing struct {
	ID       string         `json:"id"`
	Origin   string         `json:"origin"`
	State    State          `json:"state"`
	Attempts int            `json:"attempts"`
	Due      timestamp.Time `json:"due"`
	Error    string         `json:"error"`
}

const (
	rateOver   = 5 * time.Minute
	someErrors = 10 // of a region, and as many of deleting
)

var status = api.Declare(api.Spec{
	Name: "status", Route: "GET /status", Scopes: scope.Scope("mirror:status"), Output: "v1/status-response.json#",
	Stability: api.Experimental, Category: "Operations", Title: "Status of all regions",
	Doc: `Says for each region how many copies are in which state and what they hold, what is still to be copied and for how long the
oldest of that has been waiting, how fast copies were made in the last five minutes, and which ones fail: to be made, or to be
deleted. Where readers get the origin instead of copies it says why. Each copy is in one state, and all are counted at one moment.`,
}, func(ctx context.Context, m *Mirror, _ api.Call[api.None, api.None]) (out statusReport, err error) {
	stock, err := m.stock(ctx)
	if err != nil {
		return out, err
	}
	out = statusReport{At: timestamp.Now(), Home: m.guide.home, Regions: []regionStatus{}}
	for _, h := range stock {
		out.Regions = append(out.Regions, m.regionStatus(h))
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		for i := range out.Regions {
			if err := out.Regions[i].addMoves(tx, out.At); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		m.addReasons(ctx, out.Regions)
	}
	return out, err
})

// addReasons adds why readers are not sent to copies in a region, or do not wait for
// them. A bucket that is away is asked what it is that it fails by.
func (m *Mirror) addReasons(ctx context.Context, list []regionStatus) {
	var asked sync.WaitGroup
	for i := range list {
		r := &list[i]
		r.Reason = m.trouble(r.Region)
		if !r.Away {
			continue
		}
		asked.Go(func() {
			limited, cancel := context.WithTimeout(ctx, m.probeLimit)
			defer cancel()
			if err := m.region(r.Region).readable(limited); err != nil {
				r.Reason += ": " + errorText(err)
			} else {
				r.Reason += "; it answers now"
			}
		})
	}
	asked.Wait()
}

func (m *Mirror) regionStatus(h *holding) regionStatus {
	p := m.region(h.region)
	r := regionStatus{
		Region: h.region, Bucket: p.Bucket.Name(), Away: p.health.away.Load(), Unsure: p.unsure(), Limit: h.limit, Transfers: p.Transfers,
		States: map[State]Sum{}, OldestWaiting: h.oldest, WaitingFor: age(h.oldest).Seconds(),
		OldestLeaving: h.leaving, LeavingFor: age(h.leaving).Seconds(),
	}
	for _, s := range states {
		r.States[s] = Sum{h.objects[s], h.bytes[s]}
	}
	r.Backlog.Objects, r.Backlog.Bytes = h.backlog()
	return r
}

// addMoves adds what has become of copies lately.
func (r *regionStatus) addMoves(tx *store.Tx, at timestamp.Time) error {
	r.Rate = rate{Seconds: rateOver.Seconds()}
	// A copy is verified when it becomes present: that has an index.
	err := tx.QueryRow(`SELECT COUNT(*), COALESCE(SUM(size), 0) FROM mirror_copy WHERE region = $1 AND state = 'present' AND verified > $2 AND requested > $2`,
		r.Region, at.Add(-rateOver)).Scan(&r.Rate.Objects, &r.Rate.Bytes)
	if err != nil {
		return err
	}
	r.Rate.ObjectsPerSecond = float64(r.Rate.Objects) / r.Rate.Seconds
	r.Rate.BytesPerSecond = float64(r.Rate.Bytes) / r.Rate.Seconds
	r.Errors = []failing{}
	for _, some := range []string{
		`state <> 'leaving' AND attempts > 0 ORDER BY due DESC`,
		`state = 'leaving' ORDER BY requested`, // those that cannot be deleted have been there for longest
	} {
		list, err := copies(tx, `SELECT `+copyColumns+` FROM mirror_copy WHERE region = $1 AND `+some+` LIMIT $2`, r.Region, someErrors)
		if err != nil {
			return err
		}
		for _, c := range list {
			if c.Attempts > 0 {
				r.Errors = append(r.Errors, failing{c.ID, c.Origin.public(), c.State, c.Attempts, c.Due, c.Error})
			}
		}
	}
	return nil
}

// A routeView is a route as it counts.
type routeView struct {
	Name      string   `json:"name"`
	TaskQueue string   `json:"taskQueue,omitempty"`
	Artifact  string   `json:"artifact,omitempty"`
	URL       string   `json:"url,omitempty"`
	MinSize   int64    `json:"minSize,omitempty"`
	MaxSize   int64    `json:"maxSize,omitempty"`
	Regions   []string `json:"regions"`
	Policy    Policy   `json:"policy"`
	MaxWait   float64  `json:"maxWait,omitempty"` // seconds
	Ahead     bool     `json:"ahead"`
	Prefetch  bool     `json:"prefetch"`
}

// view shows a route that has its defaults.
func (r Route) view(all []string) routeView {
	v := routeView{
		Name: r.Name, TaskQueue: r.TaskQueue, Artifact: r.Artifact, URL: r.URL, MinSize: r.MinSize, MaxSize: r.MaxSize,
		Regions: r.Regions, Policy: r.Policy, Ahead: r.Ahead, Prefetch: r.Prefetch,
	}
	if len(v.Regions) == 0 {
		v.Regions = append([]string{}, all...)
	}
	if r.Policy == Wait {
		v.MaxWait = r.MaxWait.Seconds()
	}
	return v
}

type routeList struct {
	Home    string      `json:"home"`
	Regions []string    `json:"regions"`
	Routes  []routeView `json:"routes"`
	Allowed []string    `json:"allowed"`
}

var listRoutes = api.Declare(api.Spec{
	Name: "routes", Route: "GET /routes", Scopes: scope.Scope("mirror:list-routes"), Output: "v1/route-list.json#",
	Stability: api.Experimental, Category: "Operations", Title: "List routes",
	Doc: `Lists the routes in their order: the first that fits an origin says how it is copied, and the last fits all. Also the
regions, and the rules for which URLs may be copied.`,
}, func(_ context.Context, m *Mirror, _ api.Call[api.None, api.None]) (routeList, error) {
	out := routeList{Home: m.guide.home, Regions: append([]string{}, m.guide.names...), Allowed: []string{}}
	for _, r := range m.guide.routes {
		out.Routes = append(out.Routes, r.view(m.guide.names))
	}
	out.Routes = append(out.Routes, defaultRoute.view(m.guide.names))
	if m.guide.http != nil {
		out.Allowed = append(out.Allowed, m.guide.http.Allow().Rules()...)
	}
	return out, nil
})
