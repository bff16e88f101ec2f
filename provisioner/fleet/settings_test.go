package fleet

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

func TestAFaultInSettingsIsCalledByName(t *testing.T) {
	for config, say := range map[string]string{
		``:                                      "config is not a JSON object",
		`[]`:                                    "JSON array",
		`{}`:                                    "config.maxCapacity is missing",
		`{"maxCapacity": null}`:                 "config.maxCapacity is missing",
		`{"maxCapacity": "4"}`:                  "config.maxCapacity is a JSON string, where a whole number is needed",
		`{"maxCapacity": 1.5}`:                  "config.maxCapacity is a JSON number 1.5",
		`{"maxCapacity": -1}`:                   "config.maxCapacity is -1",
		`{"maxCapacity": 1000000001}`:           "config.maxCapacity is 1000000001; it must not be more than 1000000000",
		`{"maxCapacity": 4, "minCapacity": 5}`:  "config.minCapacity is 5, more than config.maxCapacity, which is 4",
		`{"maxCapacity": 4, "minCapacity": -1}`: "config.minCapacity is -1",
		`{"maxCapacity": 4, "scalingRatio": 1.01}`:                                        "config.scalingRatio is 1.01",
		`{"maxCapacity": 4, "scalingRatio": -1}`:                                          "config.scalingRatio is -1",
		`{"maxCapacity": 4, "lifecycle": []}`:                                             "config.lifecycle is a JSON array, where an object is needed",
		`{"maxCapacity": 4, "lifecycle": {"registrationTimeout": -1}}`:                    "config.lifecycle.registrationTimeout is -1",
		`{"maxCapacity": 4, "lifecycle": {"reregistrationTimeout": 0}}`:                   "config.lifecycle.reregistrationTimeout is 0",
		`{"maxCapacity": 4, "lifecycle": {"reregistrationTimeout": 2592001}}`:             "from 1 to 2592000 seconds",
		`{"maxCapacity": 4, "lifecycle": {"reregistrationTimeout": 1000000000000000000}}`: "from 1 to 2592000 seconds",
		`{"maxCapacity": 4, "lifecycle": {"queueInactivityTimeout": 1199}}`:               "at least 1200 seconds",
		`{"maxCapacity": 4, "lifecycle": {"queueInactivityTimeout": -5}}`:                 "at least 1200 seconds",
		`{"maxCapacity": 4, "lifecycle": {"maxAge": -1}}`:                                 "config.lifecycle.maxAge is -1",
		`{"maxCapacity": 4, "sizing": {"policy": "guess"}}`:                               "config.sizing.policy: there is no sizing policy \"guess\"; choose one of",
		`{"maxCapacity": 4, "sizing": {"idleTimeout": -1}}`:                               "config.sizing.idleTimeout is -1",
		`{"maxCapacity": 4, "sizing": {"waitPrice": -0.1}}`:                               "config.sizing.waitPrice is -0.1",
		`{"maxCapacity": 4, "sizing": {"waitPrice": 1001}}`:                               "config.sizing.waitPrice is 1001",
		`{"maxCapacity": 4, "schedule": [{}` + strings.Repeat(",{}", 100) + `]}`:          "config.schedule has 101 times; 100 are the most",
		`{"maxCapacity": 4, "schedule": {}}`:                                              "config.schedule is a JSON object, where a list is needed",
		warmAt("", "UTC", 60, 1):                                                          "config.schedule[0].cron is \"\"",
		warmAt("8 o'clock", "UTC", 60, 1):                                                 "config.schedule[0].cron is \"8 o'clock\"",
		warmAt("0 8 * * 8", "UTC", 60, 1):                                                 "use five fields",
		warmAt("0 0 8 * * *", "UTC", 60, 1):                                               "use five fields",
		warmAt("@every 1h", "UTC", 60, 1):                                                 "use five fields",
		warmAt("TZ=Europe/Berlin 0 8 * * *", "UTC", 60, 1):                                "use five fields",
		warmAt("0 8 * * *", "Mars/Olympus", 60, 1):                                        "config.schedule[0].timeZone is \"Mars/Olympus\"",
		warmAt("0 8 * * *", "../../etc/passwd", 60, 1):                                    "config.schedule[0].timeZone",
		warmAt("0 8 * * *", "Local", 60, 1):                                               "config.schedule[0].timeZone is \"Local\"",
		warmAt("0 8 * * *", "UTC", 59, 1):                                                 "config.schedule[0].duration is 59",
		warmAt("0 8 * * *", "UTC", 604801, 1):                                             "from 60 to 604800 seconds",
		warmAt("0 8 * * *", "UTC", 60, 0):                                                 "config.schedule[0].minCapacity is 0",
		warmAt("0 8 * * *", "UTC", 60, 5):                                                 "config.maxCapacity, which is 4",
	} {
		if _, err := ParseSettings(json.RawMessage(config)); err == nil {
			t.Errorf("%s passes", config)
		} else if !strings.Contains(err.Error(), say) {
			t.Errorf("%s: the error does not say %q: %v", config, say, err)
		}
	}
}

func warmAt(cron, zone string, duration, capacity int) string {
	return fmt.Sprintf(`{"maxCapacity": 4, "schedule": [{"cron": %q, "timeZone": %q, "duration": %d, "minCapacity": %d}]}`, cron, zone, duration, capacity)
}

func TestSettingsHaveDefaults(t *testing.T) {
	s, err := ParseSettings(json.RawMessage(`{"maxCapacity": 7, "whatever": ["else"], "lifecycle": {"maxAge": 60}}`))
	if err != nil {
		t.Fatal(err)
	}
	if s.MinCapacity != 0 || *s.MaxCapacity != 7 || s.ScalingRatio != 1 || s.Renewal() != 96*time.Hour ||
		s.Lifecycle.RegistrationTimeout != 0 || s.Lifecycle.QueueInactivity != 7200 || s.Lifecycle.MaxAge != 60 ||
		s.Sizing.WaitPrice != nil || s.Sizing.Policy != "" || s.Sizing.IdleTimeout != 0 {
		t.Errorf("%+v", s)
	}
	if zero, err := ParseSettings(json.RawMessage(`{"maxCapacity": 0, "scalingRatio": 0}`)); err != nil || zero.ScalingRatio != 0 {
		t.Errorf("a pool without workers: %+v, %v", zero, err)
	}
}

// A schedule means the clock on the wall in its zone, whatever that does.
func TestScheduledCapacity(t *testing.T) {
	type moment struct {
		at   string
		want int64
	}
	for name, c := range map[string]struct {
		cron, zone string
		duration   time.Duration
		moments    []moment
	}{
		"in UTC": {"0 8 * * *", "", time.Hour, []moment{
			{"2026-03-02T07:59:59Z", 1}, {"2026-03-02T08:00:00Z", 3}, {"2026-03-02T08:59:59Z", 3}, {"2026-03-02T09:00:00Z", 1},
		}},
		"on working days": {"0 8 * * 1-5", "", time.Hour, []moment{
			{"2026-03-06T08:30:00Z", 3}, {"2026-03-07T08:30:00Z", 1}, {"2026-03-08T08:30:00Z", 1}, {"2026-03-09T08:30:00Z", 3},
		}},
		"in a zone, in winter and in summer": {"0 8 * * *", "Europe/Berlin", time.Hour, []moment{
			{"2026-01-15T06:59:00Z", 1}, {"2026-01-15T07:00:00Z", 3}, {"2026-07-15T05:59:00Z", 1}, {"2026-07-15T06:00:00Z", 3}, {"2026-07-15T07:00:00Z", 1},
		}},
		"through an hour that does not exist": {"0 1 * * *", "Europe/Berlin", 2 * time.Hour, []moment{ // 01:00 to what would be 03:00 and is 04:00
			{"2026-03-28T23:59:00Z", 1}, {"2026-03-29T00:00:00Z", 3}, {"2026-03-29T01:59:00Z", 3}, {"2026-03-29T02:00:00Z", 1},
		}},
		"at a minute that does not exist": {"30 2 * * *", "Europe/Berlin", time.Hour, []moment{ // that day it does not begin
			{"2026-03-28T01:45:00Z", 3}, {"2026-03-29T00:45:00Z", 1}, {"2026-03-29T01:45:00Z", 1}, {"2026-03-30T00:45:00Z", 3},
		}},
		"through an hour that comes twice": {"0 2 * * *", "Europe/Berlin", 30 * time.Minute, []moment{
			{"2026-10-24T23:59:00Z", 1}, {"2026-10-25T00:00:00Z", 3}, {"2026-10-25T00:29:00Z", 3}, {"2026-10-25T03:00:00Z", 1},
		}},
		"over midnight and a month": {"0 22 28 * *", "", 4 * time.Hour, []moment{
			{"2026-02-28T21:59:00Z", 1}, {"2026-02-28T23:59:00Z", 3}, {"2026-03-01T01:59:00Z", 3}, {"2026-03-01T02:00:00Z", 1}, {"2026-03-02T23:00:00Z", 1},
		}},
		"without an end": {"0 0 * * *", "", 24 * time.Hour, []moment{
			{"2026-03-01T00:00:00Z", 3}, {"2026-03-01T23:59:59Z", 3}, {"2026-03-02T00:00:00Z", 3},
		}},
		"on a day that never comes": {"0 0 30 2 *", "", time.Hour, []moment{{"2026-03-01T00:00:00Z", 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			config := fmt.Sprintf(`{"minCapacity": 1, "maxCapacity": 4, "schedule": [
				{"cron": %q, "timeZone": %q, "duration": %d, "minCapacity": 3}, {"cron": %[1]q, "timeZone": %[2]q, "duration": %[3]d, "minCapacity": 2}]}`,
				c.cron, c.zone, int(c.duration.Seconds()))
			s, err := ParseSettings(json.RawMessage(config))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range c.moments {
				at, err := time.Parse(time.RFC3339, m.at)
				if err != nil {
					t.Fatal(err)
				}
				if got := s.Min(timestamp.Time(at.UnixMilli())); got != m.want {
					t.Errorf("at %s there are to be %d, want %d", m.at, got, m.want)
				}
			}
		})
	}
}

func TestSecondsDoNotOverflow(t *testing.T) {
	if Seconds(1<<62) <= 0 || Seconds(90) != 90*time.Second {
		t.Error(Seconds(1<<62), Seconds(90))
	}
}

func TestLaunchConfigsAreNamedByTheirContent(t *testing.T) {
	name := func(text string) string {
		var x any
		if err := json.Unmarshal([]byte(text), &x); err != nil {
			t.Fatal(err)
		}
		n, err := NameLaunchConfig(x)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	one := name(`{"a": 1, "b": [true]}`)
	if one != name(`{"b":[true],"a":1}`) || one == name(`{"a": 1, "b": [false]}`) || len(one) > 38 || !strings.HasPrefix(one, "lc-") {
		t.Errorf("the name is %s", one)
	}
}

// Whatever somebody sends, settings are refused with a reason, or can be used.
func FuzzParseSettings(f *testing.F) {
	for _, seed := range []string{
		`{"maxCapacity": 4}`, `{"maxCapacity": 4, "minCapacity": 2, "scalingRatio": 0.5}`, `null`, `[]`, `{"maxCapacity": 1e30}`,
		`{"maxCapacity": 4, "lifecycle": {"registrationTimeout": 9223372036854775807, "maxAge": 9223372036854775807, "queueInactivityTimeout": 9223372036854775807}}`,
		`{"maxCapacity": 4, "sizing": {"policy": "ratio", "waitPrice": 3, "idleTimeout": 9223372036854775807}}`,
		warmAt("*/5 0-6,8 1 JAN MON", "Europe/Berlin", 600, 2), warmAt("0 0 31 2 *", "America/Sao_Paulo", 604800, 4), warmAt("@daily", "Asia/Kolkata", 60, 1),
	} {
		f.Add(seed, int64(1774749600000))
	}
	f.Fuzz(func(t *testing.T, config string, at int64) {
		s, err := ParseSettings(json.RawMessage(config))
		if err != nil {
			if len(err.Error()) > len(config)*6+1000 {
				t.Errorf("the error has %d bytes: %.200s", len(err.Error()), err)
			}
			return
		}
		if at < 0 || at > 4e12 {
			return // not in the times that a timestamp is for
		}
		if least := s.Min(timestamp.Time(at)); least < 0 || least > *s.MaxCapacity {
			t.Errorf("%s: from %d to %d", config, least, *s.MaxCapacity)
		}
		for _, n := range []int64{s.Lifecycle.RegistrationTimeout, s.Lifecycle.MaxAge, s.Lifecycle.QueueInactivity, s.Sizing.IdleTimeout} {
			if Seconds(n) < 0 {
				t.Errorf("%s: %d seconds are %v", config, n, Seconds(n))
			}
		}
		if s.Renewal() <= 0 {
			t.Errorf("%s: credentials last %v", config, s.Renewal())
		}
	})
}
