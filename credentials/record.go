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
	reasonRetry    = "retry"    // of one that failed
	reasonExpiring = "expiring" // the version in use ends by itself
	reasonMoved    = "moved"    // the configuration says that it is minted elsewhere
	reasonRequest  = "request"
	reasonSupplied = "supplied" // somebody has brought the version
	reasonRevoke   = "revoke"
)

// A row is how a credential fares.
type row struct {
	name, kind, place, site, current, plan string
	since, latest, next                    timestamp.Time
	failures                               int64
	trouble, broken, doubt                 string
	doubts                                 int64
	doubted, checked, wanted, reminded     timestamp.Time
	again                                  bool
}

const rowColumns = `name, kind, place, site, current, since, latest, plan, next, failures, trouble, broken, doubt, doubts, doubted, checked, wanted, reminded, again`

func (r *row) scan(from store.Scanner) error {
	return from.Scan(&r.name, &r.kind, &r.place, &r.site, &r.current, &r.since, &r.latest, &r.plan, &r.next, &r.failures, &r.trouble, &r.broken, &r.doubt, &r.doubts, &r.doubted,
		&r.checked, &r.wanted, &r.reminded, &r.again)
}

// A version is a row of one.
type version struct {
	id, credential, kind, place, site, settings string // settings are sealed
	state, public, sealed                       string
	created, published, disabled, retired, used timestamp.Time
}

const versionColumns = `id, credential, kind, place, site, settings, state, public, sealed, created, published, disabled, retired, used`

func (v *version) scan(from store.Scanner) error {
	return from.Scan(&v.id, &v.credential, &v.kind, &v.place, &v.site, &v.settings, &v.state, &v.public, &v.sealed, &v.created, &v.published, &v.disabled, &v.retired, &v.used)
}

func (v *version) gone() bool { return v.state == versionRetired || v.state == versionWithdrawn }

// bound is what the secret of a version is bound to.
func (v *version) bound() string { return "credential/" + v.credential + "/" + v.id + "/secret" }

// boundSettings is what its settings are bound to.
func (v *version) boundSettings() string {
	return "credential/" + v.credential + "/" + v.id + "/settings"
}

// here has a version be minted where the definition says.
func (c *Credentials) here(v *version, d *defined) {
	v.kind, v.place, v.site = d.Kind, d.place, d.site
	v.settings = c.keys.Seal(d.Settings, v.boundSettings())
}

// insert writes a new version down. One that was adopted, is gone and was made again by
// somebody is a new one, too.
func (c *Credentials) insert(tx *store.Tx, v *version) error {
	_, err := tx.Exec(`INSERT INTO credential_version (id, credential, kind, place, site, settings, state, public, sealed, key_id, created, published, disabled, retired, used)
		 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, 0, 0)
		 ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, place = excluded.place, site = excluded.site, settings = excluded.settings, state = excluded.state,
		   public = excluded.public, sealed = excluded.sealed, key_id = excluded.key_id, created = excluded.created, published = excluded.published, disabled = 0, retired = 0, used = 0
		 WHERE credential_version.state IN ('retired', 'withdrawn')`,
		v.id, v.credential, v.kind, v.place, v.site, v.settings, v.state, v.public, v.sealed, c.keys.Newest(), v.created, v.published)
	return err
}

// open makes of a row what kinds are given. The secret is that of a version which was
// minted.
func (c *Credentials) open(d *defined, v *version) (Version, error) {
	out := Version{ID: v.id, Credential: v.credential, Settings: d.Settings, Created: v.created}
	if v.public != "" {
		out.Public = json.RawMessage(v.public)
	}
	if v.kind == d.Kind {
		out.Defined = d.Settings
	}
	unreadable := func(err error) error {
		return fmt.Errorf("credentials: version %s of %s cannot be opened; is its key still among the seal keys? %w", v.id, v.credential, err)
	}
	if !v.at(d) {
		settings, err := c.keys.Open(v.settings, v.boundSettings())
		if err != nil {
			return out, unreadable(err)
		}
		out.Settings = settings
	}
	if v.sealed == "" || v.state == versionMinting {
		return out, nil
	}
	secret, err := c.keys.Open(v.sealed, v.bound())
	if err != nil {
		return out, unreadable(err)
	}
	out.Secret = secret
	return out, nil
}

// at tells that a version was minted where the definition says. Its settings are those
// of the definition then, as what leads to the same place may have changed.
func (v *version) at(d *defined) bool { return v.site == d.site }

// provider is where a version was minted, and the version as that is told of it.
func (c *Credentials) provider(d *defined, v *version) (Kind, Version, error) {
	out, err := c.open(d, v)
	if err != nil || v.at(d) {
		return d.kind, out, err
	}
	if kind := c.config.Kinds[v.kind]; kind != nil {
		return kind, out, nil
	}
	return nil, out, Refused("version %s was minted by the kind %s (%s), which this deployment does not have any more; bring that back, or remove the version there by hand and then say so: "+
		"taskfleet credentials retire %s %s --removed", v.id, v.kind, v.place, v.credential, v.id)
}

// versions are those of credentials that are not known to be gone, in the order in
// which they were made.
func versions(tx *store.Tx, names ...string) (list []*version, err error) {
	rows, err := tx.Query(`SELECT `+versionColumns+` FROM credential_version
		 WHERE credential IN (SELECT value FROM json_each($1)) AND state NOT IN ('retired', 'withdrawn') ORDER BY created, id`, names)
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
	occasion                            timestamp.Time
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

const rotationColumns = `id, credential, version, reason, by_client, occasion, forced, state, step, due, attempt, note, alerted, started, ended, lease`

func (r *rotation) scan(from store.Scanner) error {
	return from.Scan(&r.id, &r.credential, &r.version, &r.reason, &r.by, &r.occasion, &r.forced, &r.state, (*string)(&r.step), &r.due, &r.attempt, &r.note,
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
