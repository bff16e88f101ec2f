package credentials

import (
	"cmp"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A State is how a credential is.
type State string

const (
	Good        State = "good"        // the current version works, and nothing is to be done
	Rotating    State = "rotating"    // a rotation is under way
	Waiting     State = "waiting"     // a rotation waits for consumers, for longer than the overlap
	InUse       State = "in-use"      // the overlap has ended, and the old version is still seen in use
	Failing     State = "failing"     // a step of a rotation fails, and is tried again
	Failed      State = "failed"      // the last rotation failed: the version before is in use
	Undelivered State = "undelivered" // a consumer could not be given the current version
	Broken      State = "broken"      // the current version does not work any more
	Wanted      State = "wanted"      // somebody is to supply a new version
	Overdue     State = "overdue"     // it should have been rotated
	Invalid     State = "invalid"     // it is defined wrongly
	Undefined   State = "undefined"   // it is not in the configuration any more
	Fresh       State = "new"         // there is no version yet
)

// late is for how long a rotation may be due before that is worth saying.
const late = 15 * 60 * 1000 // milliseconds

// A view is what callers are told of a credential.
type view struct {
	Name      string         `json:"name"`
	Kind      string         `json:"kind"`
	Place     string         `json:"place,omitempty"`
	State     State          `json:"state"`
	Why       string         `json:"why,omitempty"`  // what is wrong
	ToDo      string         `json:"toDo,omitempty"` // what to do about it
	Plan      string         `json:"plan,omitempty"`
	Next      timestamp.Time `json:"next,omitempty"`
	Current   string         `json:"current,omitempty"`
	Since     timestamp.Time `json:"since,omitempty"` // the current version is in use
	Checked   timestamp.Time `json:"checked,omitempty"`
	Failures  int64          `json:"failures"`
	Versions  []versionView  `json:"versions"`
	Consumers []useView      `json:"consumers"`
	Rotation  *rotationView  `json:"rotation,omitempty"` // that is under way

	overlapEnds timestamp.Time
	undelivered []string // why consumers could not be given the current version
	unwritten   []string // consumers whose secrets the next rotation writes
	held        bool     // consumers hold the old version
}

type versionView struct {
	ID        string         `json:"id"`
	State     string         `json:"state"`
	Public    any            `json:"public,omitempty"`
	Created   timestamp.Time `json:"created"`
	Published timestamp.Time `json:"published,omitempty"`
	Disabled  timestamp.Time `json:"disabled,omitempty"`
	Retired   timestamp.Time `json:"retired,omitempty"`
	Used      timestamp.Time `json:"used,omitempty"`
}

type useView struct {
	Name      string         `json:"name"`
	Kind      string         `json:"kind"`
	Replica   string         `json:"replica,omitempty"`
	Version   string         `json:"version,omitempty"`
	Confirmed string         `json:"confirmed,omitempty"`
	At        timestamp.Time `json:"at,omitempty"`
	Error     string         `json:"error,omitempty"`
}

type rotationView struct {
	ID      string         `json:"rotationId"`
	Version string         `json:"version"`
	Reason  string         `json:"reason"`
	By      string         `json:"by,omitempty"`
	Forced  bool           `json:"forced"`
	State   string         `json:"state"`
	Step    Step           `json:"step"`
	Due     timestamp.Time `json:"due,omitempty"`
	Attempt int64          `json:"attempt"`
	Note    string         `json:"note,omitempty"`
	Started timestamp.Time `json:"started"`
	Ended   timestamp.Time `json:"ended,omitempty"`
	Steps   []stepView     `json:"steps,omitempty"`
}

type stepView struct {
	Step    Step           `json:"step"`
	Attempt int64          `json:"attempt"`
	Started timestamp.Time `json:"started"`
	Ended   timestamp.Time `json:"ended,omitempty"`
	Outcome string         `json:"outcome"`
	Error   string         `json:"error,omitempty"`
}

func (r *rotation) view() *rotationView {
	v := &rotationView{ID: r.id, Version: r.version, Reason: r.reason, By: r.by, Forced: r.forced, State: r.state, Step: r.step,
		Attempt: r.attempt, Note: r.note, Started: r.started, Ended: r.ended}
	if r.state == rotationRunning {
		v.Due = r.due
	}
	return v
}

// views are those of all credentials, defined or not, in the order of their names.
func (c *Credentials) views(tx *store.Tx) (list []*view, err error) {
	rows, err := tx.Query(`SELECT ` + rowColumns + ` FROM credential`)
	if err != nil {
		return nil, err
	}
	have := map[string]*row{}
	for rows.Next() {
		r := &row{}
		if err := r.scan(rows); err != nil {
			return nil, err
		}
		have[r.name] = r
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	names := slices.Clone(c.names)
	for name := range have {
		if c.defined[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	parts, err := c.parts(tx, names)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		list = append(list, c.view(name, have[name], parts[name]))
	}
	return list, nil
}

// A part is what there is of a credential beside its row.
type part struct {
	versions []*version
	pickups  []pickup
	running  *rotation
}

// parts reads those of some credentials, at once.
func (c *Credentials) parts(tx *store.Tx, names []string) (map[string]*part, error) {
	all := map[string]*part{}
	for _, name := range names {
		all[name] = &part{}
	}
	list, err := versions(tx, names...)
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		all[v.credential].versions = append(all[v.credential].versions, v)
	}
	has, err := pickups(tx, names...)
	if err != nil {
		return nil, err
	}
	for _, p := range has {
		all[p.credential].pickups = append(all[p.credential].pickups, p)
	}
	running, err := rotations(tx, `state = 'running' AND credential IN (SELECT value FROM json_each($1))`, names)
	for _, r := range running {
		all[r.credential].running = r
	}
	return all, err
}

// view is that of one, of which there is a definition, or a row, or both.
func (c *Credentials) view(name string, r *row, p *part) *view {
	d := c.defined[name]
	v := &view{Name: name, Versions: []versionView{}, Consumers: []useView{}}
	if r != nil {
		v.Kind, v.Place, v.Plan, v.Next, v.Current, v.Checked, v.Failures = r.kind, r.place, r.plan, r.next, r.current, r.checked, r.failures
	}
	if d != nil {
		v.Kind, v.Plan = d.Kind, d.planText()
		v.Place = cmp.Or(d.place, v.Place)
	}
	for _, x := range p.versions {
		v.Versions = append(v.Versions, x.view())
		if x.id == v.Current {
			v.Since = x.published
			if d != nil {
				v.overlapEnds = x.published.Add(d.Overlap)
			}
		}
	}
	v.addConsumers(d, p.pickups)
	if d != nil && p.running == nil && v.Current != "" {
		v.addUnwritten()
	}
	if d != nil {
		_, must, undelivered := d.unconfirmed(p.pickups, v.Current)
		v.held = len(must)+len(undelivered) > 0
	}
	if p.running != nil {
		v.Rotation = p.running.view()
	}
	v.judge(d, r)
	return v
}

func (x *version) view() versionView {
	out := versionView{ID: x.id, State: x.state, Created: x.created, Published: x.published, Disabled: x.disabled, Retired: x.retired, Used: x.used}
	if x.public != "" {
		out.Public = rawJSON(x.public)
	}
	return out
}

// rawJSON is text that is JSON.
type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func (v *view) addConsumers(d *defined, has []pickup) {
	if d == nil {
		return
	}
	now := timestamp.Now()
	for _, u := range d.Consumers {
		found := false
		for _, p := range has {
			if p.consumer == u.Name && u.everywhere() == (p.replica != "") {
				v.Consumers = append(v.Consumers, useView{u.Name, u.kind(), p.replica, p.version, p.confirmed, p.at, p.err})
				found = true
				if p.err != "" && p.of(u, now) {
					v.undelivered = append(v.undelivered, "the consumer "+u.Name+" on "+p.replica+" could not be given the current version: "+p.err)
				}
			}
		}
		if !found {
			v.Consumers = append(v.Consumers, useView{Name: u.Name, Kind: u.kind()})
		}
	}
}

// addUnwritten finds secrets that were named after the current version was published: it is
// the rotation that writes them.
func (v *view) addUnwritten() {
	for _, u := range v.Consumers {
		if u.Kind == "secret" && u.Version == "" {
			v.unwritten = append(v.unwritten, u.Name)
		}
	}
}

// judge says how the credential is, the worst first.
func (v *view) judge(d *defined, r *row) {
	now := timestamp.Now()
	is := func(s State, why, toDo string) { v.State, v.Why, v.ToDo = s, why, toDo }
	rotate := "taskfleet credentials rotate " + v.Name
	switch at := v.Rotation; {
	case d == nil:
		is(Undefined, "it is not in the configuration of the replica that answers, and is not rotated", "put it back, or remove it where it is minted")
	case d.wrong != "":
		is(Invalid, d.wrong, "correct its entry in the configuration, and start the server anew")
	case at != nil && at.Attempt > 2:
		is(Failing, string(at.Step)+": "+at.Note, "mend what it names; it is tried again by itself")
	case at != nil && (at.Forced || at.Step.unpublished()): // what else is wrong it mends, or it fails
		is(Rotating, at.Note, "")
	case r != nil && !r.wanted.IsZero() && at == nil:
		is(Wanted, v.wanted(d, r), "supply the new one: taskfleet credentials supply "+v.Name+" < FILE")
	case r != nil && r.broken != "":
		is(Broken, "the current version does not work: "+r.broken, rotate+" makes a new one; taskfleet credentials verify "+v.Name+" looks again")
	case len(v.undelivered) > 0:
		toDo := "mend what it names; it is tried again by itself every few minutes"
		if at != nil && at.Step == stepAwait {
			toDo += ". The old version stays for it; taskfleet credentials revoke " + v.Name + " goes on without it"
		}
		is(Undelivered, strings.Join(v.undelivered[:min(len(v.undelivered), 3)], "; "), toDo)
	case len(v.unwritten) > 0:
		toDo := rotate
		if d.supplied() {
			toDo = "taskfleet credentials supply " + v.Name + " < FILE"
		}
		is(Undelivered, "the secrets of these consumers were named after the current version was handed out, and get the next one: "+strings.Join(v.unwritten, ", "), toDo)
	case at != nil && at.Step == stepAwait && !v.overlapEnds.IsZero() && now > v.overlapEnds && !v.held && v.oldUsed(now, d):
		is(InUse, at.Note, "find who uses the old version; or taskfleet credentials revoke "+v.Name+" ends it, whoever that is")
	case at != nil && at.Step == stepAwait && !v.overlapEnds.IsZero() && now > v.overlapEnds:
		is(Waiting, at.Note, "have the consumer pick it up; or taskfleet credentials revoke "+v.Name+" goes on without it")
	case at != nil:
		is(Rotating, at.Note, "")
	case r != nil && r.failures > 0:
		is(Failed, r.trouble, "mend what it names, then "+rotate+"; it is tried again by itself at "+r.next.String())
	case r == nil || r.current == "":
		is(Fresh, "", "")
	case !v.Next.IsZero() && v.Next.Add(d.Plan.Jitter)+late < now:
		is(Overdue, "it should have been rotated at "+v.Next.String(), "taskfleet schedule list shows whether its job, "+jobName(v.Name)+", was paused, and taskfleet loops whether the loop schedule.run runs")
	case r.doubt != "":
		is(Good, "the last check could not tell: "+r.doubt, "")
	default:
		is(Good, "", "")
	}
}

// wanted says why a version is to be supplied.
func (v *view) wanted(d *defined, r *row) string {
	text := "a new version is to be supplied, since " + r.wanted.String()
	switch {
	case r.again:
		text = "it was revoked, and a new version is to be supplied; the old one ends as soon as that is in use"
	case r.failures > 0:
		text = "what was supplied cannot be used: " + r.trouble
	case r.broken != "":
		text = "the current version does not work: " + r.broken
	case v.Current == "":
		text = "the first version is to be supplied"
	}
	if at := d.expires(r.since); !at.IsZero() {
		text += "; the one in use expires at " + at.String()
	}
	return text
}

// unpublished tells that the version of a rotation that is at a step is not in use.
func (s Step) unpublished() bool {
	switch s {
	case stepAdopt, stepMint, stepProve, stepPublish, stepWithdraw:
		return true
	}
	return false
}

// oldUsed tells that an old version was seen in use lately.
func (v *view) oldUsed(now timestamp.Time, d *defined) bool {
	return slices.ContainsFunc(v.Versions, func(x versionView) bool {
		return x.ID != v.Current && !x.Used.IsZero() && x.Used.Add(d.Quiet) > now.Add(-2*pollAwait)
	})
}
