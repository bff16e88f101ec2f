// Package timestamp is time as the API writes it: RFC 3339 in UTC with
// exactly three decimals, 2016-05-11T09:30:00.000Z. Databases keep the same
// instant as a count of milliseconds since 1970, so that a value survives the
// trip through either form unchanged.
package timestamp

import (
	"fmt"
	"time"
)

// A Time is an instant in whole milliseconds since 1970. The zero Time means
// "none" and is what a missing JSON member decodes to.
type Time int64

// Max is the last Time that can be written.
var Max = Of(time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC))

const layout = "2006-01-02T15:04:05.000Z"

// Now is the current time, cut to milliseconds.
func Now() Time { return Of(time.Now()) }

// Of cuts t to milliseconds.
func Of(t time.Time) Time { return Time(t.UnixMilli()) }

// Time returns t as a time.Time in UTC.
func (t Time) Time() time.Time { return time.UnixMilli(int64(t)).UTC() }

// Add returns t moved by d.
func (t Time) Add(d time.Duration) Time { return t + Time(d.Milliseconds()) }

// Sub returns the duration from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t-u) * time.Millisecond }

// IsZero reports whether t is "none".
func (t Time) IsZero() bool { return t == 0 }

func (t Time) String() string { return t.Time().Format(layout) }

// MarshalText writes the API's form.
func (t Time) MarshalText() ([]byte, error) { return t.Time().AppendFormat(nil, layout), nil }

// UnmarshalText reads any RFC 3339 time whose year has four digits in UTC, too.
// Fractions beyond milliseconds are dropped.
func (t *Time) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil || v.UTC().Year() < 0 || v.UTC().Year() > 9999 {
		return fmt.Errorf("%q is not a time such as 2016-05-11T09:30:00.000Z", b)
	}
	*t = Of(v)
	return nil
}
