package credentials

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/taskfleet/taskfleet/credentials/internal/cut"
	"github.com/taskfleet/taskfleet/credentials/internal/program"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	maxSecret = 256 << 10 // bytes of JSON
	maxPublic = 16 << 10

	// forever is when secrets of the platform expire that a rotation has set: it is
	// the next rotation that ends them.
	forever = 100 * 365 * 24 * time.Hour

	// overdue is for how long after the overlap a rotation may wait before it is told.
	overdue = time.Hour
)

func newSeed() []byte {
	seed := make([]byte, 32)
	rand.Read(seed)
	return []byte(fmt.Sprintf("%x", seed))
}

// A scene is what a step is about.
type scene struct {
	*rotation
	d     *defined
	fresh *version   // that the rotation makes
	old   []*version // all others that are not gone
}

// read reads it.
func (s *scene) read(tx *store.Tx, r *rotation) error {
	s.rotation, s.fresh, s.old = r, nil, nil
	list, err := versions(tx, r.credential)
	for _, v := range list {
		if v.id == r.version {
			s.fresh = v
		} else {
			s.old = append(s.old, v)
		}
	}
	return err
}

// step carries out the step that a rotation is at. What it does elsewhere it does
// before it returns; what it has the outcome write is written with the journal.
func (c *Credentials) step(ctx context.Context, s *scene) (outcome, error) {
	r := s.rotation
	if s.fresh == nil {
		return outcome{failed: fmt.Errorf("%s: somebody has noted that the version %s was removed by hand", r.step, r.version)}, nil
	}
	switch r.step {
	case stepAdopt:
		return c.adopt(ctx, s)
	case stepMint:
		return c.mint(ctx, s)
	case stepProve:
		return c.prove(ctx, s)
	case stepPublish:
		return c.publish(ctx, s)
	case stepAwait:
		return c.await(ctx, s)
	case stepDisable:
		return c.disable(ctx, s)
	case stepRetire:
		return c.retire(ctx, s)
	case stepWithdraw:
		return c.withdraw(ctx, s)
	}
	return outcome{}, fmt.Errorf("credentials: there is no step %q in this version of the program", r.step)
}

// call calls the provider. An error is scrubbed of the secrets of the versions, and is not
// longer than people read.
func (c *Credentials) call(ctx context.Context, what string, known []Version, f func() error) error {
	err := cut.Around(ctx, what, f)
	if err == nil || errors.Is(err, ErrNotTold) || errors.Is(err, ErrNoVersion) && what != "prove" {
		return err
	}
	var secrets []json.RawMessage
	for _, v := range known {
		secrets = append(secrets, v.Secret)
	}
	text := readable(scrubbed(err, secrets...))
	if text == err.Error() {
		return err
	}
	if refused(err) {
		return Refused("%s", text)
	}
	return errors.New(text)
}

const maxWords = 2000 // bytes of an error; what it says can be for the provider to choose

// readable is a text that can be shown and stored anywhere.
func readable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxWords {
		text = strings.ToValidUTF8(text[:maxWords], "") + "…"
	}
	return text
}

// scrubbed is what an error says, without secrets.
func scrubbed(err error, secrets ...json.RawMessage) string {
	text := err.Error()
	for _, s := range secrets {
		text = program.Scrub(text, s)
	}
	return text
}

// order is an order at a place, without a version, with those of a list that are there.
func (c *Credentials) order(d *defined, site string, settings json.RawMessage, list []*version) (Order, error) {
	o := Order{Credential: d.Name, Settings: settings}
	for _, v := range list {
		if v.site != site {
			continue
		}
		known, err := c.open(d, v)
		if err != nil {
			return o, err
		}
		o.Known = append(o.Known, known)
	}
	return o, nil
}

// adopt notes what the provider has of the credential that others have made.
func (c *Credentials) adopt(ctx context.Context, s *scene) (outcome, error) {
	o, err := c.order(s.d, s.d.site, s.d.Settings, s.old)
	if err != nil {
		return outcome{}, err
	}
	found, err := c.list(ctx, s.d.kind, o)
	if err != nil && !errors.Is(err, ErrNotTold) {
		return outcome{}, err
	}
	known := map[string]bool{s.version: true}
	for _, v := range s.old {
		known[v.id] = true
	}
	moved := !s.fresh.at(s.d)
	if moved { // the definition has changed since, and nothing was made
		c.here(s.fresh, s.d)
	}
	return outcome{next: stepMint, write: func(tx *store.Tx) error {
		if moved {
			if err := s.set(tx, `kind = $2, place = $3, site = $4, settings = $5`, s.fresh.kind, s.fresh.place, s.fresh.site, s.fresh.settings); err != nil {
				return err
			}
		}
		for _, f := range found {
			if !f.Adopt || known[f.ID] {
				continue
			}
			if f.Created.IsZero() {
				f.Created = timestamp.Now()
			}
			v := &version{id: s.credential + "/" + f.ID, credential: s.credential, state: versionLive, public: string(f.Public), created: f.Created, published: f.Created}
			c.here(v, s.d)
			if err := c.insert(tx, v); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

func (c *Credentials) mint(ctx context.Context, s *scene) (outcome, error) {
	kind, v, err := c.provider(s.d, s.fresh)
	if err != nil {
		return outcome{}, err
	}
	o, err := c.order(s.d, s.fresh.site, v.Settings, s.old)
	if err != nil {
		return outcome{}, err
	}
	o.ID = v.ID
	if o.Seed, err = c.keys.Open(s.fresh.sealed, s.fresh.bound()); err != nil {
		return outcome{}, fmt.Errorf("credentials: what version %s of %s is made of cannot be opened; is its key still among the seal keys? %w", v.ID, s.credential, err)
	}
	var m Minted
	if err := c.call(ctx, "mint", append(o.Known, Version{Secret: o.Seed}), func() (err error) { m, err = kind.Mint(ctx, o); return err }); err != nil {
		return outcome{}, err
	}
	if err := m.check(); err != nil {
		return outcome{}, err
	}
	sealed := c.keys.Seal(m.Secret, s.fresh.bound())
	return outcome{next: stepProve, write: func(tx *store.Tx) error {
		return s.set(tx, `state = 'minted', public = $2, sealed = $3, key_id = $4`, string(m.Public), sealed, c.keys.Newest())
	}}, nil
}

// set changes the version that the rotation makes. Somebody may have noted meanwhile that
// it was removed by hand: then the step, which is done again, finds that.
func (s *scene) set(tx *store.Tx, set string, args ...any) error {
	n, err := tx.Exec(`UPDATE credential_version SET `+set+` WHERE id = $1 AND state NOT IN ('retired', 'withdrawn')`, append([]any{s.version}, args...)...)
	if err == nil && n == 0 {
		err = fmt.Errorf("the version %s was noted as removed by hand while a step was at work on it", s.version)
	}
	return err
}

func (m Minted) check() error {
	var secret map[string]json.RawMessage
	switch {
	case json.Unmarshal(m.Secret, &secret) != nil || len(secret) == 0:
		return Refused("what was minted has a secret that is no JSON object, or an empty one")
	case len(m.Secret) > maxSecret:
		return Refused("what was minted has a secret of %d bytes; up to %d are allowed", len(m.Secret), maxSecret)
	case len(m.Public) > maxPublic:
		return Refused("what was minted has %d bytes of public members; up to %d are allowed", len(m.Public), maxPublic)
	case !isObject(m.Public):
		return Refused("what was minted has a public member that is no JSON object")
	}
	return nil
}

// isObject tells that there is a JSON object, or nothing.
func isObject(text json.RawMessage) bool {
	var v map[string]json.RawMessage
	return len(text) == 0 || json.Unmarshal(text, &v) == nil
}

const maxFoundID = 200

// list asks the provider what it has.
func (c *Credentials) list(ctx context.Context, kind Kind, o Order) (found []Found, err error) {
	if err := c.call(ctx, "list", o.Known, func() (err error) { found, err = kind.List(ctx, o); return err }); err != nil {
		return nil, err
	}
	for _, f := range found {
		if f.ID == "" || len(f.ID) > maxFoundID || len(f.Public) > maxPublic || !isObject(f.Public) {
			return nil, errors.New("what the provider lists needs an id of up to 200 bytes each, and public members that are JSON objects or absent")
		}
	}
	return found, nil
}

func (c *Credentials) prove(ctx context.Context, s *scene) (outcome, error) {
	kind, v, err := c.provider(s.d, s.fresh)
	if err != nil {
		return outcome{}, err
	}
	if err := c.call(ctx, "prove", []Version{v}, func() error { return kind.Prove(ctx, v) }); err != nil {
		return outcome{}, err
	}
	return outcome{next: stepPublish}, nil
}

// publish hands the version to where consumers find it, and makes it the current
// one. Replicas look after what is on them by themselves.
func (c *Credentials) publish(ctx context.Context, s *scene) (outcome, error) {
	v, err := c.open(s.d, s.fresh)
	if err != nil {
		return outcome{}, err
	}
	now := timestamp.Now()
	var latest timestamp.Time
	if kind, ok := c.config.Kinds[s.fresh.kind].(Expiring); ok {
		if at := kind.Due(v); !at.IsZero() {
			latest = max(timestamp.Of(at), now.Add(leastAge))
		}
	}
	for _, u := range s.d.Consumers {
		if u.Secret == "" {
			continue
		}
		if err := c.call(ctx, "publish "+u.Name, []Version{v}, func() error {
			return c.config.Secrets.Set(ctx, u.Secret, labelled(v), now.Add(forever))
		}); err != nil {
			return outcome{}, fmt.Errorf("setting the secret %s: %w", u.Secret, err)
		}
	}
	return outcome{next: stepAwait, write: func(tx *store.Tx) error {
		if err := s.set(tx, `state = 'live', published = $2`, now); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE credential SET current = $2, site = $3, next = $4, broken = '', doubt = '', doubts = 0, checked = $5, since = $5, latest = $6 WHERE name = $1`,
			s.credential, s.version, s.fresh.site, soonest(s.d.Plan.next(s.credential, now), latest), now, latest); err != nil {
			return err
		}
		if err := c.putAge(tx, s.d, now); err != nil {
			return err
		}
		tx.Wake(topicPublished+s.credential, store.Everybody)
		for _, u := range s.d.Consumers {
			if u.everywhere() {
				continue
			}
			handed := ""
			if u.Secret != "" {
				handed = s.version
			}
			if err := pickedUp(tx, pickup{credential: s.credential, consumer: u.Name, version: handed, at: now, seen: now}); err != nil {
				return err
			}
		}
		tx.Wake(topicDeliver, store.Everybody)
		return nil
	}}, nil
}

// await waits until old versions are not needed any more.
func (c *Credentials) await(ctx context.Context, s *scene) (outcome, error) {
	if s.forced { // consumers get it meanwhile, or after that
		return outcome{next: stepDisable, write: func(tx *store.Tx) error {
			tx.Wake(topicDeliver, store.Everybody)
			return nil
		}}, nil
	}
	limited, stop := context.WithTimeout(ctx, handLimit)
	err := c.deliverTo(limited, s.d, false)
	stop()
	if err != nil && ctx.Err() == nil {
		c.log.Warn("a rotation cannot hand the new version out; the loop credentials.deliver does", "credential", s.credential, "err", err)
	}
	if len(s.old) == 0 {
		return outcome{}, nil
	}
	var list []pickup
	if err := c.db.View(ctx, func(tx *store.Tx) (err error) { list, err = pickups(tx, s.credential); return err }); err != nil {
		return outcome{}, err
	}
	now, ends := timestamp.Now(), s.fresh.published.Add(s.d.Overlap)
	late, must, undelivered := s.d.unconfirmed(list, s.version)
	out := outcome{next: stepAwait, wait: now.Add(pollAwait), alert: now >= ends.Add(overdue)}
	switch {
	case len(s.d.Consumers) == 0 && now < ends: // nobody is there to confirm it
		out.wait, out.note = min(ends, out.wait), "the old version stays until "+ends.String()
	case len(late) > 0 && now < ends:
		out.wait, out.note = min(ends, out.wait), "waits for "+strings.Join(late, ", ")+", until "+ends.String()+" at the latest"
	case len(must)+len(undelivered) > 0:
		var notes []string
		if len(must) > 0 {
			notes = append(notes, fmt.Sprintf("waits for %s, which the configuration says must pick the new version up; have it do so, or report it by taskfleet credentials consumed", strings.Join(must, ", ")))
		}
		if len(undelivered) > 0 {
			notes = append(notes, fmt.Sprintf("waits for %s, which could not be given the new version on every replica; taskfleet credentials show %s tells why", strings.Join(undelivered, ", "), s.credential))
		}
		out.note = strings.Join(notes, "; ")
	default:
		return c.unused(ctx, s, stepDisable, out.alert)
	}
	// Providers that tell only of the moment are to be asked often.
	seen, err := c.lastUsed(ctx, s)
	if err != nil && ctx.Err() == nil {
		c.log.Warn("cannot tell when the old versions of a credential were last used", "credential", s.credential, "err", err)
	}
	out.write = seen.write
	return out, nil
}

const (
	// pollAwait is how often a rotation looks again at what it waits for; a consumer
	// that reports wakes it.
	pollAwait = time.Minute

	// handLimit is for how long a rotation itself hands a version out.
	handLimit = 10 * time.Second
)

// uses are when versions were last seen in use.
type uses map[string]timestamp.Time

func (u uses) write(tx *store.Tx) error {
	for id, at := range u {
		if _, err := tx.Exec(`UPDATE credential_version SET used = $2 WHERE id = $1 AND used < $2`, id, at); err != nil {
			return err
		}
	}
	return nil
}

// lastUsed tells when old versions were last used: what the provider says now, or
// has said before, as some know only who is there.
func (c *Credentials) lastUsed(ctx context.Context, s *scene) (uses, error) {
	seen := uses{}
	for _, row := range s.old {
		if row.state == versionMinting || row.state == versionMinted {
			continue // nobody has it
		}
		kind, v, err := c.provider(s.d, row)
		if err != nil {
			return seen, err
		}
		var at time.Time
		err = c.call(ctx, "used", []Version{v}, func() (err error) { at, err = kind.Used(ctx, v); return err })
		if errors.Is(err, ErrNoVersion) {
			continue
		} else if err != nil && !errors.Is(err, ErrNotTold) {
			return seen, fmt.Errorf("asking when version %s was last used: %w", v.ID, err)
		}
		last := row.used
		if err == nil && !at.IsZero() {
			last = max(last, timestamp.Of(at))
		}
		if !last.IsZero() {
			seen[v.ID] = last
		}
	}
	return seen, nil
}

// unused goes to the next step when no old version is seen in use any more.
func (c *Credentials) unused(ctx context.Context, s *scene, next Step, alert bool) (outcome, error) {
	seen, err := c.lastUsed(ctx, s)
	if err != nil {
		return outcome{}, err
	}
	now := timestamp.Now()
	var latest timestamp.Time
	busy := ""
	for id, at := range seen {
		// Clocks of providers differ from ours: what they have seen later than now is now.
		if last := min(at, now); last.Add(s.d.Quiet) > now && last > latest {
			latest, busy = last, id
		}
	}
	if busy != "" {
		return outcome{next: s.step, wait: min(latest.Add(s.d.Quiet), now.Add(max(s.d.Quiet/4, time.Minute))), alert: alert, write: seen.write, note: fmt.Sprintf(
			"the old version %s was seen in use at %s; it stays until it was not for %s. Find who uses it, or end it by taskfleet credentials revoke", busy, latest, s.d.Quiet)}, nil
	}
	return outcome{next: next, write: seen.write}, nil
}

func (c *Credentials) disable(ctx context.Context, s *scene) (outcome, error) {
	for _, row := range s.old {
		kind, v, err := c.provider(s.d, row)
		if err != nil {
			return outcome{}, err
		}
		v.Leaked = s.forced
		err = c.call(ctx, "disable", []Version{v}, func() error { return kind.Disable(ctx, v) })
		if err != nil && !errors.Is(err, ErrNoVersion) {
			return outcome{}, fmt.Errorf("disabling version %s: %w", v.ID, err)
		}
	}
	now := timestamp.Now()
	out := outcome{next: stepRetire, write: func(tx *store.Tx) error {
		for _, v := range s.old {
			if _, err := tx.Exec(`UPDATE credential_version SET state = 'disabled', disabled = $2 WHERE id = $1 AND state <> 'disabled'`, v.id, now); err != nil {
				return err
			}
		}
		return nil
	}}
	if !s.forced {
		out.wait, out.note = now.Add(s.d.Grace), "the old version is disabled; it is retired after a time of grace"
	}
	return out, nil
}

func (c *Credentials) retire(ctx context.Context, s *scene) (outcome, error) {
	if !s.forced { // where nothing can be disabled, it may have been used on
		out, err := c.unused(ctx, s, "", timestamp.Now() >= s.fresh.published.Add(s.d.Overlap+s.d.Grace+overdue))
		if err != nil || !out.wait.IsZero() {
			return out, err
		}
	}
	for _, row := range s.old {
		kind, v, err := c.provider(s.d, row)
		if err != nil {
			return outcome{}, err
		}
		v.Leaked = s.forced
		if err := c.gone(ctx, kind, v); err != nil {
			return outcome{}, err
		}
	}
	return outcome{write: func(tx *store.Tx) error {
		for _, v := range s.old {
			if err := forget(tx, v.id, versionRetired); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// gone has the provider not have a version any more.
func (c *Credentials) gone(ctx context.Context, kind Kind, v Version) error {
	err := c.call(ctx, "retire", []Version{v}, func() error { return kind.Retire(ctx, v) })
	if err != nil && !errors.Is(err, ErrNoVersion) {
		return fmt.Errorf("retiring version %s: %w", v.ID, err)
	}
	return nil
}

// forget erases the secret of a version.
func forget(tx *store.Tx, id, state string) error {
	_, err := tx.Exec(`UPDATE credential_version SET state = $2, sealed = '', settings = '', key_id = '', retired = $3 WHERE id = $1`, id, state, timestamp.Now())
	return err
}

// withdraw removes a version that never came into use.
func (c *Credentials) withdraw(ctx context.Context, s *scene) (outcome, error) {
	kind, v, err := c.provider(s.d, s.fresh)
	if err != nil {
		return outcome{}, err
	}
	if err := c.gone(ctx, kind, v); err != nil {
		return outcome{}, err
	}
	var at, why string
	if err := c.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT step, error FROM credential_step WHERE rotation = $1 AND outcome = 'failed' AND step <> 'withdraw' ORDER BY ended DESC LIMIT 1`, s.id).Scan(&at, &why)
	}); err != nil {
		return outcome{}, err
	}
	return outcome{failed: fmt.Errorf("%s: %s", at, why), write: func(tx *store.Tx) error {
		return forget(tx, s.version, versionWithdrawn)
	}}, nil
}
