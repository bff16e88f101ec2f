package sentry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Spec is how a project should be. What is zero is as the configuration says.
type Spec struct {
	Project    string // slug
	Team       string // slug; it is created if there is none
	Platform   string // that events come from, such as go
	RateLimit  sentryapi.RateLimit
	AlertEvery time.Duration // between emails of one issue to the team
}

// A Change is something that is not as a Spec says. Nothing of it is secret.
type Change struct {
	What, Name, Action string // the kind of thing, which, and create, update or disable
	Before, After      any    // nil where there is nothing
}

const (
	maxTeam = 50
	maxName = 50
)

// fill fills in what the configuration says.
func (s *Sentry) fill(spec Spec) (Spec, error) {
	spec.Team, spec.Platform = cmp.Or(spec.Team, s.Team), cmp.Or(spec.Platform, s.Platform)
	spec.RateLimit, spec.AlertEvery = cmp.Or(spec.RateLimit, s.RateLimit), cmp.Or(spec.AlertEvery, s.AlertEvery)
	switch {
	case !sentryapi.ValidSlug(spec.Project) || len(spec.Project) > maxName:
		return spec, fmt.Errorf("the project of Sentry is %q; it must be lower-case letters, digits, - and _, up to %d, and not digits alone", spec.Project, maxName)
	case !sentryapi.ValidSlug(spec.Team) || len(spec.Team) > maxTeam:
		return spec, fmt.Errorf("the team of the Sentry project %s is %q; it must be lower-case letters, digits, - and _, up to %d, and not digits alone", spec.Project, spec.Team, maxTeam)
	case spec.AlertEvery != 0 && !frequencies[spec.AlertEvery]:
		return spec, fmt.Errorf("the Sentry project %s is to alert every %s; Sentry knows 5m, 10m, 30m, 1h, 3h, 12h and 24h", spec.Project, spec.AlertEvery)
	}
	if err := checkLimit(spec.RateLimit); err != nil {
		return spec, fmt.Errorf("the Sentry project %s: %w", spec.Project, err)
	}
	return spec, nil
}

// Plan tells what Apply would do. It changes nothing.
func (s *Sentry) Plan(ctx context.Context, spec Spec) ([]Change, error) {
	spec, err := s.fill(spec)
	if err != nil {
		return nil, err
	}
	b := &bringing{s: s, spec: spec}
	err = b.run(ctx)
	return b.changes, err
}

// Apply has the project be as it should, and tells what it has changed, also if it
// fails. Where all is well it changes nothing. Of several that do the same one creates.
func (s *Sentry) Apply(ctx context.Context, spec Spec) (changes []Change, err error) {
	said := spec
	spec, err = s.fill(spec)
	if err != nil {
		return nil, err
	}
	err = s.alone(ctx, spec.Project, nil, func(ctx context.Context) error {
		if err := s.db.Do(ctx, func(tx *store.Tx) error {
			if err := enter(tx, spec.Project); err != nil {
				return err
			}
			_, err := tx.Exec(`UPDATE sentry_project SET team = $2, platform = $3, count = $4, seconds = $5 WHERE slug = $1`,
				said.Project, said.Team, said.Platform, said.RateLimit.Count, said.RateLimit.Window)
			return err
		}); err != nil {
			return err
		}
		b := &bringing{s: s, spec: spec, apply: true}
		err := b.run(ctx)
		changes = b.changes
		return err
	})
	return changes, err
}

// enter has a row for a project.
func enter(tx *store.Tx, project string) error {
	_, err := tx.Exec(`INSERT INTO sentry_project (slug, making, team, platform, count, seconds, current, dsn, key_id, expires)
		 VALUES ($1, $2, '', '', 0, 0, '', '', '', 0) ON CONFLICT (slug) DO NOTHING`, project, false)
	return err
}

// A bringing brings a project to what it should be, or tells what would be done.
type bringing struct {
	s       *Sentry
	spec    Spec
	apply   bool
	changes []Change

	project sentryapi.Project // ID is "" where there is none yet
	team    sentryapi.Team
	making  bool // it is new
}

// change does something, if it is to be done.
func (b *bringing) change(c Change, do func() error) error {
	if b.apply {
		if err := do(); err != nil {
			return err
		}
		b.s.log.Info("Sentry was changed", "what", c.What, "name", c.Name, "action", c.Action)
	}
	b.changes = append(b.changes, c)
	return nil
}

func (b *bringing) run(ctx context.Context) error {
	if err := b.s.db.View(ctx, func(tx *store.Tx) error {
		err := tx.QueryRow(`SELECT making FROM sentry_project WHERE slug = $1`, b.spec.Project).Scan(&b.making)
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return err
	}); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{b.haveTeam, b.haveProject, b.haveAccess, b.havePlatform, b.haveAlert, b.haveKeys} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if !b.apply || !b.making {
		return nil
	}
	return b.s.setMaking(ctx, b.spec.Project, false)
}

func (s *Sentry) setMaking(ctx context.Context, project string, making bool) error {
	return s.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE sentry_project SET making = $2 WHERE slug = $1`, project, making)
		return err
	})
}

// haveTeam finds the team, or creates it.
func (b *bringing) haveTeam(ctx context.Context) (err error) {
	b.team, err = b.s.client.Team(ctx, b.spec.Team)
	if !errors.Is(err, sentryapi.ErrNotFound) {
		return err
	}
	return b.change(Change{What: "team", Name: b.spec.Team, Action: "create"}, func() error {
		return created(func() (err error) { b.team, err = b.s.client.CreateTeam(ctx, b.spec.Team); return err },
			func() (err error) { b.team, err = b.s.client.Team(ctx, b.spec.Team); return err })
	})
}

// created creates something, and if that fails looks whether it is there all the same:
// another one may have created it, or the answer was lost.
func created(create, look func() error) error {
	err := create()
	if err == nil || sentryapi.Final(err) && !errors.Is(err, sentryapi.ErrConflict) && !errors.Is(err, sentryapi.ErrNotFound) {
		return err
	}
	if again := look(); again != nil {
		return err
	}
	return nil
}

// haveProject finds the project, or creates it: only if Sentry says that there is none.
func (b *bringing) haveProject(ctx context.Context) (err error) {
	b.project, err = b.s.client.Project(ctx, b.spec.Project)
	if !errors.Is(err, sentryapi.ErrNotFound) {
		return err
	}
	after := map[string]any{"team": b.spec.Team}
	if b.spec.Platform != "" {
		after["platform"] = b.spec.Platform
	}
	err = b.change(Change{What: "project", Name: b.spec.Project, Action: "create", After: after}, func() error {
		if err := b.s.setMaking(ctx, b.spec.Project, true); err != nil {
			return err
		}
		conflict := false
		err := created(func() (err error) {
			b.project, err = b.s.client.CreateProject(ctx, b.spec.Team, sentryapi.NewProject{
				Name: b.spec.Project, Slug: b.spec.Project, Platform: b.spec.Platform, Alerts: b.spec.AlertEvery == 0})
			conflict = errors.Is(err, sentryapi.ErrConflict)
			return err
		}, func() (err error) { b.project, err = b.s.client.Project(ctx, b.spec.Project); return err })
		b.making = !conflict && (err == nil || !sentryapi.Final(err))
		if !b.making { // it is somebody else's, or there is none
			if err := b.s.setMaking(ctx, b.spec.Project, false); err != nil {
				return err
			}
		}
		if conflict && err != nil {
			return fmt.Errorf("there is a project %s in Sentry that the token does not let be seen, or that is being deleted: %w", b.spec.Project, err)
		}
		return err
	})
	if err == nil && b.apply && (b.project.Slug != b.spec.Project || b.project.ID == "") {
		err = fmt.Errorf("Sentry has called the project %s %q; delete it there", b.spec.Project, b.project.Slug)
	}
	return err
}

// haveAccess has the project be the team's.
func (b *bringing) haveAccess(ctx context.Context) error {
	var have []string
	for _, t := range b.project.Teams {
		have = append(have, t.Slug)
	}
	if b.project.ID == "" || slices.Contains(have, b.spec.Team) {
		return nil
	}
	return b.change(Change{What: "access", Name: b.spec.Project, Action: "update", Before: have, After: append(slices.Clone(have), b.spec.Team)}, func() error {
		return b.s.client.AddTeam(ctx, b.spec.Project, b.spec.Team)
	})
}

func (b *bringing) havePlatform(ctx context.Context) error {
	if b.project.ID == "" || b.spec.Platform == "" || b.project.Platform == b.spec.Platform {
		return nil
	}
	return b.change(Change{What: "platform", Name: b.spec.Project, Action: "update", Before: b.project.Platform, After: b.spec.Platform}, func() error {
		return b.s.client.SetPlatform(ctx, b.spec.Project, b.spec.Platform)
	})
}

// haveAlert has an alert of the name be there. How it is, people may have changed.
func (b *bringing) haveAlert(ctx context.Context) error {
	if b.spec.AlertEvery == 0 {
		return nil
	}
	name := b.s.Prefix + ": issues of " + b.spec.Project
	look := func() error {
		all, err := b.s.client.Alerts(ctx, b.project)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(a sentryapi.Alert) bool { return a.Name == name }) {
			return sentryapi.ErrNotFound
		}
		return nil
	}
	if b.project.ID != "" {
		switch err := look(); {
		case err == nil:
			return nil
		case err != sentryapi.ErrNotFound: // the list's own
			if errors.Is(err, sentryapi.ErrNotFound) {
				err = fmt.Errorf("this Sentry has no such alerts as its API describes now; leave alertEvery out of the configuration: %w", err)
			}
			return err
		}
	}
	return b.change(Change{What: "alert", Name: name, Action: "create", After: map[string]any{"every": b.spec.AlertEvery.String(), "team": b.spec.Team}}, func() error {
		monitors, err := b.s.client.Monitors(ctx, b.project)
		if err != nil {
			return err
		}
		monitor := ""
		for _, m := range monitors { // that of all issues, or that of errors
			if m.Type == "issue_stream" || m.Type == "error" && monitor == "" {
				monitor = m.ID
			}
		}
		if monitor == "" {
			return fmt.Errorf("the project %s has no monitor in Sentry that an alert could be of", b.spec.Project)
		}
		return created(func() error {
			_, err := b.s.client.CreateAlert(ctx, sentryapi.NewAlert{Name: name, Monitor: monitor, Team: b.team.ID, Frequency: int(b.spec.AlertEvery.Minutes())})
			return err
		}, look)
	})
}

// haveKeys has the keys that we give out have their limit. Of a project that we have
// created it disables the key that came with it: nobody has that, and it would be valid
// for ever. It is deleted a day later.
func (b *bringing) haveKeys(ctx context.Context) error {
	if b.project.ID == "" {
		return b.change(Change{What: "key", Name: "Default", Action: "disable"}, nil)
	}
	if !b.making && b.spec.RateLimit.Count == 0 {
		return nil
	}
	all, err := b.s.client.Keys(ctx, b.spec.Project)
	if err != nil {
		return err
	}
	for _, k := range all {
		l, managed := read(k.Name)
		switch {
		case !k.Active:
		case b.making && !managed && b.project.FirstEvent == nil:
			err = b.change(Change{What: "key", Name: k.Name, Action: "disable"}, func() error { return b.s.put(ctx, b.spec.Project, k.ID) })
		case managed && l.lent(b.s.Prefix) && b.spec.RateLimit.Count > 0 && (k.RateLimit == nil || *k.RateLimit != b.spec.RateLimit):
			err = b.change(Change{What: "limit", Name: k.Name, Action: "update", Before: k.RateLimit, After: b.spec.RateLimit}, func() error {
				return b.s.client.SetRateLimit(ctx, b.spec.Project, k.ID, b.spec.RateLimit)
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// put puts a key of nobody away: it is disabled, and deleted a day later. It is written
// down before, so that this is what becomes of it after a crash, too.
func (s *Sentry) put(ctx context.Context, project, id string) error {
	r := row{foreign(id), project, id, "live", timestamp.Now(), 0}
	if err := s.write(ctx, `INSERT INTO sentry_key (`+rowColumns+`) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING`,
		r.id, r.project, r.sentry, r.state, r.expires, r.disabled); err != nil {
		return err
	}
	return s.end(ctx, r)
}

// foreign is what a key is called here that was not written down before it was made. Its
// id in Sentry is the public half of it, which is not for logs.
func foreign(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "sentry/" + hex.EncodeToString(sum[:8])
}
