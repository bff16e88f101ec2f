// Package monitor tells people of errors that they should look at: it sends them to
// Sentry.
//
// What is worth looking at is what is logged at the level ERROR; nothing else has to
// be called. A handler around that of the log gives each such line an incident id,
// where it has none, and queues what is to be sent. The id is in the answer of the API
// too, if there is one, and it is the id of the event in Sentry.
//
// # Invariants
//
//   - Nobody waits for Sentry. Queueing is a matter of memory; the queue is bounded,
//     and what finds it full is counted and dropped. Sending is the loop monitor.send,
//     and at the end of the process two seconds at most.
//   - What is sent says where and what, and is scrubbed (scrub.go): of fields by their
//     names, of text by its shape, of secrets that the platform knows, and of what the
//     caller has sent. Bodies, headers, queries and payloads are not sent at all.
//   - A storm does not eat the quota: a process sends so many events a minute, and
//     heeds what Sentry says of its own limits.
//   - The address (DSN) is replaced while the process runs.
package monitor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/getsentry/sentry-go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/taskfleet/taskfleet/loop"
)

// Config says what events say of this process, and how many it sends.
type Config struct {
	Release     string
	Environment string
	ServerName  string // default: the name of the machine

	// Rate is how many events are sent in a minute; 60 where it is zero.
	Rate int

	// Queue is how many events wait to be sent at most; 256 where it is zero.
	Queue int

	Metrics prometheus.Registerer // nil: none

	// Transport replaces the HTTP transport. It is meant for tests.
	Transport http.RoundTripper
}

const (
	defaultRate  = 60
	defaultQueue = 256

	// sendLimit is how long Sentry may take for an event.
	sendLimit = 5 * time.Second

	// tries is how often an event is sent at most, and tryAgain how far apart.
	tries    = 3
	tryAgain = 5 * time.Second

	// closeLimit is how long the end of the process waits for what is still to be sent.
	closeLimit = 2 * time.Second
)

// A Reporter sends errors to Sentry, once it knows where that is.
type Reporter struct {
	config Config
	limit  *rate.Limiter
	queue  chan *incident
	wake   chan struct{}
	target atomic.Pointer[target]
	hidden sync.Map // secrets that are known

	sending chan struct{} // held while sending
	late    *incident     // is tried again
	again   time.Time     // not before

	sent    prometheus.Counter
	dropped *prometheus.CounterVec
}

// A target is where events go.
type target struct {
	dsn       *sentry.Dsn
	transport *sentry.HTTPSyncTransport
	answers   *answers
}

// The reasons why an event is dropped.
const (
	droppedFull        = "queue-full"  // many come at once, or Sentry is slow
	droppedRate        = "rate"        // more than Config.Rate
	droppedRefused     = "refused"     // by Sentry, for its own limits or as the address is not good any more
	droppedUnreachable = "unreachable" // Sentry did not answer
	droppedEnd         = "end"         // of the process
)

// New returns a Reporter that sends nothing before it is told where to.
func New(c Config) *Reporter {
	c.Rate, c.Queue = cmp.Or(c.Rate, defaultRate), cmp.Or(c.Queue, defaultQueue)
	if c.ServerName == "" {
		c.ServerName, _ = os.Hostname()
	}
	if c.Transport == nil {
		c.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: sendLimit, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 1}
	}
	r := &Reporter{
		config: c, limit: rate.NewLimiter(rate.Limit(float64(c.Rate)/60), c.Rate),
		queue: make(chan *incident, c.Queue), wake: make(chan struct{}, 1), sending: make(chan struct{}, 1),
		sent: prometheus.NewCounter(prometheus.CounterOpts{Name: "taskfleet_sentry_events_total", Help: "Errors that Sentry has taken."}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "taskfleet_sentry_dropped_total", Help: "Errors that were not sent to Sentry, by reason. They are in the log all the same.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{droppedFull, droppedRate, droppedRefused, droppedUnreachable, droppedEnd} {
		r.dropped.WithLabelValues(reason)
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(r.sent, r.dropped, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "taskfleet_sentry_queue", Help: "Errors that wait to be sent to Sentry.",
		}, func() float64 { return float64(len(r.queue)) }))
	}
	return r
}

// Use has events go to a DSN from now on, if Sentry takes what is sent there: a
// report of no event, which counts against no quota.
func (r *Reporter) Use(ctx context.Context, dsn string) error {
	t, err := r.aim(dsn)
	if err != nil {
		return err
	}
	if err := t.ping(ctx, r.config.Transport); err != nil {
		return err
	}
	r.target.Store(t)
	return nil
}

// Assume is Use without asking Sentry, which may be away when the process starts.
func (r *Reporter) Assume(dsn string) error {
	t, err := r.aim(dsn)
	if err == nil {
		r.target.Store(t)
	}
	return err
}

func (r *Reporter) aim(text string) (*target, error) {
	dsn, err := sentry.NewDsn(text)
	if err != nil { // which quotes it
		return nil, errors.New("monitor: the DSN must be https://KEY@HOST/PROJECT, as Sentry shows it for a key of a project")
	}
	t := &target{dsn: dsn, transport: sentry.NewHTTPSyncTransport(), answers: &answers{to: r.config.Transport}}
	t.transport.Timeout = sendLimit
	t.transport.Configure(sentry.ClientOptions{Dsn: text, HTTPTransport: t.answers})
	return t, nil
}

// ping sends a client report without entries.
func (t *target) ping(ctx context.Context, transport http.RoundTripper) error {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	now := time.Now().UTC()
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	item, err := json.Marshal(map[string]any{"timestamp": now, "discarded_events": []any{}})
	if err := errors.Join(err,
		e.Encode(map[string]any{"sent_at": now}), e.Encode(map[string]any{"type": "client_report", "length": len(item)}),
	); err != nil {
		return err
	}
	body.Write(append(item, '\n'))
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, t.dsn.GetAPIURL().String(), &body)
	if err != nil {
		return errors.New("monitor: the DSN gives no URL") // which holds the key
	}
	q.Header.Set("X-Sentry-Auth", "Sentry sentry_version=7, sentry_client=sentry.go/"+sentry.SDKVersion+", sentry_key="+t.dsn.GetPublicKey())
	q.Header.Set("Content-Type", "application/x-sentry-envelope")
	answer, err := transport.RoundTrip(q)
	if err != nil {
		return fmt.Errorf("monitor: ask Sentry at %s: %w", t.dsn.GetHost(), err)
	}
	defer answer.Body.Close()
	io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
	switch {
	case answer.StatusCode == http.StatusTooManyRequests: // of a key that is known
	case answer.StatusCode >= 400:
		return fmt.Errorf("monitor: Sentry at %s answers %s to the key of project %s: is the key active?", t.dsn.GetHost(), answer.Status, t.dsn.GetProjectID())
	}
	return nil
}

// answers remembers what Sentry has answered, which the transport of the SDK does
// not tell. One event is sent at a time.
type answers struct {
	to     http.RoundTripper
	asked  bool
	status int // 0: none came
}

// RoundTrip is part of http.RoundTripper.
func (a *answers) RoundTrip(q *http.Request) (*http.Response, error) {
	a.asked, a.status = true, 0
	answer, err := a.to.RoundTrip(q)
	if err == nil {
		a.status = answer.StatusCode
	}
	return answer, err
}

// Loops send what waits.
func (r *Reporter) Loops() []loop.Loop {
	return []loop.Loop{{
		Name: "monitor.send", Doc: "Sends errors to Sentry.",
		When: loop.Every(tryAgain), Wake: r.wake, Pass: r.send, EveryReplica: true,
	}}
}

// batch is how many events are sent in a pass, which ends before its limit even if
// each takes the longest.
const batch = 20

// send is one pass of the loop. It has no error: that would be one more to send.
func (r *Reporter) send(ctx context.Context) (more bool, err error) {
	select {
	case r.sending <- struct{}{}:
	case <-ctx.Done():
		return false, nil
	}
	defer func() { <-r.sending }()
	for range batch {
		if r.target.Load() == nil || time.Now().Before(r.again) {
			return false, nil
		}
		i := r.late
		if i == nil {
			select {
			case i = <-r.queue:
			default:
				return false, nil
			}
		}
		r.late = nil
		if !r.sendOne(ctx, i) {
			return false, nil
		}
	}
	return true, nil
}

// sendOne sends an event, and tells whether to go on with the next one.
func (r *Reporter) sendOne(ctx context.Context, i *incident) bool {
	t := r.target.Load()
	t.answers.asked = false
	t.transport.SendEventWithContext(ctx, i.event(r))
	i.tries++
	switch a := t.answers; {
	case !a.asked, a.status == http.StatusTooManyRequests:
		r.dropped.WithLabelValues(droppedRefused).Inc()
	case a.status/100 == 2:
		r.sent.Inc()
	case a.status != 0 && a.status < 500:
		r.dropped.WithLabelValues(droppedRefused).Inc()
	case i.tries < tries:
		r.late, r.again = i, time.Now().Add(tryAgain)
		return false
	default: // those behind it wait, too: who knows whether Sentry is there for them
		r.dropped.WithLabelValues(droppedUnreachable).Inc()
		r.again = time.Now().Add(tryAgain)
		return false
	}
	return true
}

// Close sends what waits, for two seconds at most. It is called when the loops have
// ended.
func (r *Reporter) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	r.again = time.Time{}
	for more := true; more && ctx.Err() == nil; {
		more, _ = r.send(ctx)
	}
	left := len(r.queue)
	if r.late != nil {
		left++
	}
	r.dropped.WithLabelValues(droppedEnd).Add(float64(left))
	return nil
}
