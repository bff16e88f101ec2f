package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // time zones of schedules, on machines that have none

	"github.com/robfig/cron/v3"

	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Settings are what pools of every provider have in their configuration. What
// they do not know is the provider's affair.
type Settings struct {
	MinCapacity  int64     `json:"minCapacity"`
	MaxCapacity  *int64    `json:"maxCapacity"` // nil only where workers are made known by hand
	ScalingRatio float64   `json:"scalingRatio"`
	Lifecycle    Lifecycle `json:"lifecycle"`
	Sizing       Sizing    `json:"sizing"`
	Schedule     []Warm    `json:"schedule"`
	Scopes       []string  `json:"scopes"`  // that its workers get besides
	Secrets      []string  `json:"secrets"` // that its workers may read, by name
}

// Lifecycle says how many seconds a worker may take over things.
type Lifecycle struct {
	RegistrationTimeout   int64 `json:"registrationTimeout"` // 0: as boot times of the pool suggest
	ReregistrationTimeout int64 `json:"reregistrationTimeout"`
	QueueInactivity       int64 `json:"queueInactivityTimeout"` // without a task, and without asking for one; 0: any time
	MaxAge                int64 `json:"maxAge"`                 // then a worker goes once it is idle; 0: never
}

// Sizing says how the number of workers is decided.
type Sizing struct {
	Policy      string   `json:"policy"`      // "": the provider's default
	WaitPrice   *float64 `json:"waitPrice"`   // what a minute of a task's waiting is worth, in minutes of a worker; nil: the default
	IdleTimeout int64    `json:"idleTimeout"` // most seconds that a worker may be idle; 0: as the policy thinks right
}

// Warm is capacity to have at certain times, whether or not anything is
// pending.
type Warm struct {
	Cron        string `json:"cron"`     // when it begins: minute hour day month weekday
	Zone        string `json:"timeZone"` // "": UTC
	Duration    int64  `json:"duration"` // seconds
	MinCapacity int64  `json:"minCapacity"`

	starts cron.Schedule
	zone   *time.Location
}

const (
	defaultReregistrationTimeout = 96 * time.Hour
	defaultQueueInactivity       = 2 * time.Hour
	longestReregistrationTimeout = 30 * 24 * time.Hour // credentials last 31 days at most
	longestWarm                  = 7 * 24 * time.Hour
	mostTimes                    = 100
)

// Largest capacities, in tasks at once. Nobody needs as much, and sums and
// products of them are still numbers.
const (
	MostCapacity  = 1_000_000_000 // of a pool
	MostPerWorker = 1_000_000
)

// ParseSettings reads the configuration of a pool that has a size, with
// defaults, and says what is wrong with it.
func ParseSettings(raw json.RawMessage) (Settings, error) {
	c, err := parseSettings(raw)
	if err == nil && c.MaxCapacity == nil {
		err = errors.New("config.maxCapacity is missing; say how many tasks the pool may run at once")
	}
	return c, err
}

func parseSettings(raw json.RawMessage) (Settings, error) {
	c := Settings{ScalingRatio: 1, Lifecycle: Lifecycle{
		ReregistrationTimeout: int64(defaultReregistrationTimeout / time.Second), QueueInactivity: int64(defaultQueueInactivity / time.Second),
	}}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, Explain(err)
	}
	l, most := &c.Lifecycle, int64(MostCapacity)
	if c.MaxCapacity != nil {
		most = *c.MaxCapacity
	}
	switch {
	case most < 0:
		return c, fmt.Errorf("config.maxCapacity is %d; it must not be negative", most)
	case most > MostCapacity:
		return c, fmt.Errorf("config.maxCapacity is %d; it must not be more than %d", most, MostCapacity)
	case c.MinCapacity < 0:
		return c, fmt.Errorf("config.minCapacity is %d; it must not be negative", c.MinCapacity)
	case c.MinCapacity > most:
		return c, fmt.Errorf("config.minCapacity is %d, more than config.maxCapacity, which is %d; lower the one or raise the other", c.MinCapacity, most)
	case c.ScalingRatio < 0 || c.ScalingRatio > 1:
		return c, fmt.Errorf("config.scalingRatio is %g; it must be from 0 to 1", c.ScalingRatio)
	case l.RegistrationTimeout < 0:
		return c, fmt.Errorf("config.lifecycle.registrationTimeout is %d; it must be at least 1 second, or 0 to have it follow from how long workers take", l.RegistrationTimeout)
	case l.ReregistrationTimeout < 1 || Seconds(l.ReregistrationTimeout) > longestReregistrationTimeout:
		return c, fmt.Errorf("config.lifecycle.reregistrationTimeout is %d; it must be from 1 to %d seconds", l.ReregistrationTimeout, longestReregistrationTimeout/time.Second)
	case l.QueueInactivity < 0 || l.QueueInactivity > 0 && l.QueueInactivity < 1200:
		return c, fmt.Errorf("config.lifecycle.queueInactivityTimeout is %d; it must be at least 1200 seconds", l.QueueInactivity)
	case l.MaxAge < 0:
		return c, fmt.Errorf("config.lifecycle.maxAge is %d; it must not be negative", l.MaxAge)
	case c.Sizing.IdleTimeout < 0:
		return c, fmt.Errorf("config.sizing.idleTimeout is %d; it must not be negative", c.Sizing.IdleTimeout)
	case c.Sizing.WaitPrice != nil && (*c.Sizing.WaitPrice < 0 || *c.Sizing.WaitPrice > 1000):
		return c, fmt.Errorf("config.sizing.waitPrice is %g; it must be from 0 to 1000 minutes of a worker for a minute of waiting", *c.Sizing.WaitPrice)
	}
	if _, err := sizing.ByName(c.Sizing.Policy); err != nil {
		return c, fmt.Errorf("config.sizing.policy: %w", err)
	}
	if n := len(c.Schedule); n > mostTimes {
		return c, fmt.Errorf("config.schedule has %d times; %d are the most", n, mostTimes)
	}
	for i := range c.Schedule {
		if err := c.Schedule[i].parse(most); err != nil {
			return c, fmt.Errorf("config.schedule[%d].%w", i, err)
		}
	}
	return c, c.checkGrants()
}

// checkGrants says what is wrong with what workers are given.
func (c *Settings) checkGrants() error {
	for i, s := range c.Scopes {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("config.scopes[%d] is %.100q; a scope has printable ASCII characters only", i, s)
		}
	}
	for i, s := range c.Secrets {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) || strings.HasSuffix(s, "*") {
			return fmt.Errorf("config.secrets[%d] is %.100q; name one secret, in printable ASCII characters, without * at the end", i, s)
		}
	}
	return nil
}

// Grants are the scopes that the pool's workers get besides those that all
// workers have. Whoever defines the pool has to have them.
func (c *Settings) Grants() []string {
	list := slices.Clone(c.Scopes)
	for _, s := range c.Secrets {
		list = append(list, "secrets:get:"+s)
	}
	return list
}

// fields are a time of the clock, and nothing else that a crontab may have.
var fields = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

func (w *Warm) parse(most int64) (err error) {
	if strings.Contains(w.Cron, "=") {
		err = errors.New("it names a time zone")
	} else {
		w.starts, err = fields.Parse(w.Cron)
	}
	if err != nil {
		return fmt.Errorf("cron is %.100q: %.200v; use five fields, such as 30 7 * * 1-5", w.Cron, err)
	}
	if w.zone, err = time.LoadLocation(w.Zone); err != nil || w.zone == time.Local {
		return fmt.Errorf("timeZone is %.100q, which is not known; use a name such as Europe/Berlin", w.Zone)
	}
	switch {
	case w.Duration < 60 || Seconds(w.Duration) > longestWarm:
		return fmt.Errorf("duration is %d; it must be from 60 to %d seconds", w.Duration, longestWarm/time.Second)
	case w.MinCapacity < 1 || w.MinCapacity > most:
		return fmt.Errorf("minCapacity is %d; it must be from 1 to config.maxCapacity, which is %d", w.MinCapacity, most)
	}
	return nil
}

// covers reports whether the time of w is now: it began within the last
// Duration.
func (w *Warm) covers(now timestamp.Time) bool {
	start := w.starts.Next(now.Time().In(w.zone).Add(-Seconds(w.Duration)))
	return !start.IsZero() && !start.After(now.Time())
}

// Min is the least capacity to have at a time, by the schedule and by the
// pool's minimum.
func (c *Settings) Min(now timestamp.Time) int64 {
	least := c.MinCapacity
	for i := range c.Schedule {
		if w := &c.Schedule[i]; w.MinCapacity > least && w.covers(now) {
			least = w.MinCapacity
		}
	}
	return least
}

// Renewal is how long a worker's credentials last.
func (c *Settings) Renewal() time.Duration { return Seconds(c.Lifecycle.ReregistrationTimeout) }

// Seconds is a number of seconds as a Duration, or the longest one.
func Seconds(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Second))) * time.Second
}

// Explain says which field of a configuration has the wrong type.
func Explain(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("config.%s is a JSON %s, where %s is needed", e.Field, e.Value, kindName(e.Type.Kind().String()))
	}
	return fmt.Errorf("config is not a JSON object: %w", err)
}

func kindName(kind string) string {
	switch kind {
	case "int64":
		return "a whole number"
	case "float64":
		return "a number"
	case "struct", "map":
		return "an object"
	case "slice":
		return "a list"
	}
	return "a " + kind
}

// NameLaunchConfig names what workers are made from by what it says: equal
// content has equal names.
func NameLaunchConfig(content any) (string, error) {
	text, err := json.Marshal(content) // keys of maps are sorted
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return "lc-" + hex.EncodeToString(sum[:10]), nil
}
