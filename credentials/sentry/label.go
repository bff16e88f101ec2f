package sentry

import (
	"regexp"
	"time"
)

// A label says on a key in Sentry whose it is and when it ends, in the way of old:
//
//	taskfleet managed (expires-at:2026-01-31T12:00:00Z) Zk1Vd3vFQ5C4
//	taskfleet managed (expires-at:2026-04-30) Zk1Vd3vFQ5C4q0eF0bzVYw
//
// The first is a key that is given out, with the beginning of its id; the second one is
// a version of a credential, with all of its id, for which there would be no room beside
// the time. Labels without an id are those of the platform's predecessors.
type label struct {
	prefix  string
	expires time.Time
	id      string
}

// piece is how much of an id there is room for beside a time.
const piece = 12

const day = "2006-01-02"

var labels = regexp.MustCompile(`^(.{1,40}) managed \(expires-at:([0-9TZ:.+-]{10,35})\)(?: ([A-Za-z0-9_-]{12}|[A-Za-z0-9_-]{22}))?$`)

// read reads a label; ok tells that it is one.
func read(name string) (l label, ok bool) {
	m := labels.FindStringSubmatch(name)
	if m == nil {
		return l, false
	}
	l.prefix, l.id = m[1], m[3]
	var err error
	if l.expires, err = time.Parse(time.RFC3339, m[2]); err != nil {
		l.expires, err = time.Parse(day, m[2])
	}
	return l, err == nil
}

// lent tells that the key is one that is given out.
func (l label) lent(prefix string) bool {
	return l.prefix == prefix && (l.id == "" || len(l.id) == piece)
}

func lentLabel(prefix, id string, expires time.Time) string {
	return prefix + " managed (expires-at:" + expires.UTC().Format("2006-01-02T15:04:05Z") + ") " + id[:piece]
}

func versionLabel(prefix, id string, expires time.Time) string {
	return prefix + " managed (expires-at:" + expires.UTC().Format(day) + ") " + id
}
