// Package notify tells people and machines what happened: by email, in rooms
// of Matrix and channels of Slack, and by messages on an exchange. Callers ask
// for it by the API, tasks by their routes (routes.go).
//
// Whatever is to be sent is a row of an outbox first, written in the
// transaction of the call or of the event that causes it; so nothing that was
// accepted is lost, and an event that is delivered twice notifies once. Loops,
// one for each kind of address, send what is due, and try again, at longer and
// longer intervals, what failed for a passing reason. What a receiver refuses
// is dropped at once, what could not be sent within a day is given up.
//
// A call of the API makes the first attempt itself, so that its caller is told
// of a refusal (a room that the platform was not invited to). If that attempt
// fails otherwise, the call succeeds and the loop carries on.
//
// Sending is at least once: between the receiver's yes and the row's deletion a
// process can die. Each message has an id that stays the same over attempts;
// Matrix drops a repetition by it, mail programs may.
//
// Three things keep people from being flooded, all of them before a message is
// accepted:
//
//   - Addresses on the denylist get nothing.
//   - The same content for the same address is accepted once in an hour
//     (Window), however often it is asked for.
//   - An address gets only so many messages in ten minutes (emailLimit, roomLimit); the
//     last email before the limit says so.
//
// Who sends is not known here: Config has a Sender for each kind, and the
// sub-packages smtp, ses, matrix and slack have one each. Publishing on the
// exchange needs neither sender nor outbox, as package event is one.
package notify

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// Tasks are where the definitions of tasks come from. An unknown task is an
// *api.Error with the code ResourceNotFound.
type Tasks interface {
	Definition(ctx context.Context, taskID string) (json.RawMessage, error)
}

// Config is what a Notify needs. Of the senders any may be nil: what needs it
// is then refused, with a message that says so.
type Config struct {
	DB      *store.DB
	Events  *event.Bus
	Tasks   Tasks
	RootURL string // for links, "https://tasks.example.com"
	Log     *slog.Logger
	Metrics prometheus.Registerer

	Email  Sender[Mail]
	Matrix Sender[RoomMessage]
	Slack  Sender[ChannelMessage]

	// EmailLimit is how many emails an address gets in ten minutes; 0 means 50.
	EmailLimit int

	// Ignore are the reasons of exceptions that tasks' routes say nothing
	// about. nil means canceled and deadline-exceeded, which are somebody's
	// will or come in floods.
	Ignore []task.Reason
}

// Notify is the service.
type Notify struct {
	db      *store.DB
	events  *event.Bus
	tasks   Tasks
	rootURL string
	log     *slog.Logger
	counts  *prometheus.CounterVec
	senders map[kind]func(ctx context.Context, id string, content []byte) error
	limits  map[kind]int
	ignore  []task.Reason

	unsent sync.Map // kinds that somebody was told to be without a sender
}

// New returns the service, creating its tables where they do not exist. It
// subscribes to the queue's events, so it comes before the loops of c.Events.
func New(ctx context.Context, c Config) (*Notify, error) {
	if err := c.DB.Migrate(ctx, "notify", migrations); err != nil {
		return nil, fmt.Errorf("notify: migrate: %w", err)
	}
	n := &Notify{
		db: c.DB, events: c.Events, tasks: c.Tasks, rootURL: c.RootURL, log: c.Log, ignore: c.Ignore,
		senders: map[kind]func(context.Context, string, []byte) error{},
		limits:  map[kind]int{byEmail: c.EmailLimit, byMatrix: roomLimit, bySlack: roomLimit},
		counts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "taskfleet_notifications_total",
			Help: "Notifications by type and by what became of them: accepted, or not as denylisted, duplicate or limited; and of those accepted sent, retried, refused or given-up.",
		}, []string{"type", "outcome"}),
	}
	if c.EmailLimit <= 0 {
		n.limits[byEmail] = emailLimit
	}
	if c.Ignore == nil {
		n.ignore = []task.Reason{task.Canceled, task.DeadlineExceeded}
	}
	if c.Email != nil {
		n.senders[byEmail] = sending(c.Email, n.compose)
	}
	if c.Matrix != nil {
		n.senders[byMatrix] = sending(c.Matrix, asItIs)
	}
	if c.Slack != nil {
		n.senders[bySlack] = sending(c.Slack, asItIs)
	}
	c.Metrics.MustRegister(n.counts)
	c.Events.Subscribe("notify", bindings(), n.follow)
	return n, nil
}

// Loops are the work that goes on beside the calls.
func (n *Notify) Loops() []loop.Loop {
	loops := []loop.Loop{{
		Name: "notify.expiry", Doc: "Gives up what could not be sent within a day, and forgets what was sent when.",
		When: loop.Every(10 * time.Minute), Pass: n.expire,
	}}
	for _, k := range []kind{byEmail, byMatrix, bySlack} {
		if n.senders[k] == nil {
			continue
		}
		loops = append(loops, loop.Loop{
			Name: "notify." + string(k), Doc: "Sends the messages to addresses of the type " + string(k) + " that are due.",
			When: loop.Every(pollInterval), Wake: n.db.Waits().Signal(k.topic()), Limit: passLimit,
			Pass: func(ctx context.Context) (bool, error) { return n.deliver(ctx, k) },
		})
	}
	return loops
}

// Email sends an email in Markdown, for services of the platform that have to
// tell somebody of something. It returns once the email is certain to be tried.
// That the address is denylisted, has had too many or has had this one already
// is no error.
func (n *Notify) Email(ctx context.Context, address, subject, markdown string) error {
	if n.senders[byEmail] == nil {
		return fmt.Errorf("notify: email to %s: %s", address, byEmail.unconfigured())
	}
	l := &letter{Address: address, Subject: clip(oneLine(subject), maxSubject), Content: clip(markdown, maxContent), Template: simple}
	if err := l.check(); err != nil {
		return fmt.Errorf("notify: email to %s: %w", address, err)
	}
	return n.db.Do(ctx, func(tx *store.Tx) error {
		_, _, err := n.accept(tx, l, now())
		return err
	})
}
