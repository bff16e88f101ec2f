package credentials

import (
	"encoding/json"
	"fmt"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Step is what a rotation is at.
type Step string

const (
	stepAdopt    Step = "adopt"
	stepMint     Step = "mint"
	stepProve    Step = "prove"
	stepPublish  Step = "publish"
	stepAwait    Step = "await"
	stepDisable  Step = "disable"
	stepRetire   Step = "retire"
	stepWithdraw Step = "withdraw"
)

// States of versions.
const (
	versionMinting   = "minting"   // it may be there, or not
	versionMinted    = "minted"    // it is there, and nobody has it
	versionLive      = "live"      // consumers may have it
	versionDisabled  = "disabled"  // it is not accepted any more
	versionRetired   = "retired"   // it is gone
	versionWithdrawn = "withdrawn" // it is gone, and nobody ever had it
)

// States of rotations.
const (
	rotationRunning = "running"
	rotationDone    = "done"
	rotationFailed  = "failed"
)

// Reasons of rotations.
const (
	reasonFirst    = "first"
	reasonSchedule = "schedule"
	reasonRequest  = "request"
	reasonRevoke   = "revoke"
)

// A row is how a credential fares.
type row struct {
	name, kind, place, current, plan string
	next                             timestamp.Time
	failures                         int64
	trouble, broken                  string
	checked                          timestamp.Time
	again                            bool
}

const rowColumns = `name, kind, place, current, plan, next, failures, trouble, broken, checked, again`

func (r *row) scan(from store.Scanner) error {
	return from.Scan(&r.name, &r.kind, &r.place, &r.current, &r.plan, &r.next, &r.failures, &r.trouble, &r.broken, &r.checked, &r.again)
}

// A version is a row of one.
type version struct {
	id, credential, state, public, sealed       string
	created, published, disabled, retired, used timestamp.Time
}

const versionColumns = `id, credential, state, public, sealed, created, published, disabled, retired, used`

func (v *version) scan(from store.Scanner) error {
	return from.Scan(&v.id, &v.credential, &v.state, &v.public, &v.sealed, &v.created, &v.published, &v.disabled, &v.retired, &v.used)
}

func (v *version) gone() bool { return v.state == versionRetired || v.state == versionWithdrawn }

// place is what the secret of a version is bound to.
func (v *version) place() string { return "credential/" + v.credential + "/" + v.id + "/secret" }

// open makes of a row what kinds are given. The secret is that of a version which was
// minted.
func (c *Credentials) open(d *defined, v *version) (Version, error) {
	out := Version{ID: v.id, Credential: v.credential, Settings: d.Settings, Created: v.created}
	if v.public != "" {
		out.Public = json.RawMessage(v.public)
	}
	if v.sealed == "" || v.state == versionMinting {
		return out, nil
	}
	secret, err := c.keys.Open(v.sealed, v.place())
	if err != nil {
		return out, fmt.Errorf("credentials: version %s of %s cannot be opened; is its key still among the seal keys? %w", v.id, v.credential, err)
	}
	out.Secret = secret
	return out, nil
}

// versions are those of a credential that are not known to be gone, in the order in
// which they were made.
func versions(tx *store.Tx, name string) (list []*version, err error) {
	rows, err := tx.Query(`SELECT `+versionColumns+` FROM credential_version
		 WHERE credential = $1 AND state NOT IN ('retired', 'withdrawn') ORDER BY created, id`, name)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		v := &version{}
		if err := v.scan(rows); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// A rotation is a row of the journal.
type rotation struct {
	id, credential, version, reason, by string
	forced                              bool
	state                               string
	step                                Step
	due                                 timestamp.Time
	attempt                             int64
	note                                string
	alerted                             bool
	started, ended                      timestamp.Time
	lease                               string
}

const rotationColumns = `id, credential, version, reason, by_client, forced, state, step, due, attempt, note, alerted, started, ended, lease`

func (r *rotation) scan(from store.Scanner) error {
	return from.Scan(&r.id, &r.credential, &r.version, &r.reason, &r.by, &r.forced, &r.state, (*string)(&r.step), &r.due, &r.attempt, &r.note,
		&r.alerted, &r.started, &r.ended, &r.lease)
}

// rotations reads those that a condition picks.
func rotations(tx *store.Tx, condition string, args ...any) (list []*rotation, err error) {
	rows, err := tx.Query(`SELECT `+rotationColumns+` FROM credential_rotation WHERE `+condition, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		r := &rotation{}
		if err := r.scan(rows); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}
