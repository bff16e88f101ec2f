package sentry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	slack      = 15 * time.Minute // that clocks of those who use a key may be behind
	deleteLate = 24 * time.Hour   // after it was disabled
	atATime    = 40               // keys or projects of a pass, which takes a second for two calls

	sweepEvery = 24 * time.Hour
)

// expire is one pass of the loop sentry.expiry: keys whose time is over are disabled,
// and deleted a day later.
func (s *Sentry) expire(ctx context.Context) (more bool, err error) {
	var due []row
	err = s.db.View(ctx, func(tx *store.Tx) (err error) {
		now := timestamp.Now()
		due, err = rows(tx, `state IN ('minting', 'live') AND expires <= $1 OR state = 'disabled' AND disabled <= $2 ORDER BY project, id LIMIT 1000`,
			now.Add(-slack), now.Add(-deleteLate))
		return err
	})
	if err != nil {
		return false, err
	}
	var failed []error
	away := map[string]bool{} // projects that there were errors of
	done, broken := 0, 0
	for _, r := range due {
		if away[r.project] {
			continue
		}
		if done == atATime {
			return true, errors.Join(failed...)
		}
		if err := s.end(ctx, r); err != nil {
			away[r.project] = true
			failed = append(failed, fmt.Errorf("key %s of the Sentry project %s: %w", r.id, r.project, err))
			if !ofOne(err) {
				broken++
			}
			if broken >= 3 || ctx.Err() != nil {
				break
			}
			continue
		}
		done++
	}
	return false, errors.Join(failed...)
}

// ofOne tells that an error is about one project, which the token may not see, say.
func ofOne(err error) bool {
	e, ok := errors.AsType[*sentryapi.Error](err)
	return ok && sentryapi.Final(err) && e.Status != http.StatusUnauthorized
}

// end takes a key one step further to its end.
func (s *Sentry) end(ctx context.Context, r row) error {
	if r.state == "minting" { // a process has ended in between
		all, err := s.client.Keys(ctx, r.project)
		if err != nil && !errors.Is(err, sentryapi.ErrNotFound) {
			return err
		}
		i := slices.IndexFunc(all, func(k sentryapi.Key) bool {
			l, ok := read(k.Name)
			return ok && l.prefix == s.Prefix && l.id == r.id[:piece]
		})
		if i < 0 {
			return s.write(ctx, `DELETE FROM sentry_key WHERE id = $1 AND state = 'minting'`, r.id)
		}
		r.sentry = all[i].ID
	}
	if r.state == "disabled" {
		if err := s.client.DeleteKey(ctx, r.project, r.sentry); err != nil && !errors.Is(err, sentryapi.ErrNotFound) {
			return err
		}
		s.log.Info("a Sentry key was deleted", "project", r.project, "key", r.id)
		return s.write(ctx, `DELETE FROM sentry_key WHERE id = $1`, r.id)
	}
	err := s.client.SetActive(ctx, r.project, r.sentry, false)
	if errors.Is(err, sentryapi.ErrNotFound) {
		return s.write(ctx, `DELETE FROM sentry_key WHERE id = $1`, r.id)
	} else if err != nil {
		return err
	}
	s.log.Info("a Sentry key was disabled", "project", r.project, "key", r.id)
	return s.write(ctx, `UPDATE sentry_key SET state = 'disabled', sentry = $2, disabled = $3 WHERE id = $1`, r.id, r.sentry, timestamp.Now())
}

func (s *Sentry) write(ctx context.Context, statement string, args ...any) error {
	return s.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	})
}

// sweep is one pass of the loop sentry.sweep: once a day it looks at the keys of every
// project, a part of them each time.
func (s *Sentry) sweep(ctx context.Context) (more bool, err error) {
	var after string
	var begun timestamp.Time
	var here []string
	err = s.db.Do(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(`INSERT INTO sentry_sweep (id, after, begun) VALUES (1, '', 0) ON CONFLICT (id) DO NOTHING`); err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT after, begun FROM sentry_sweep WHERE id = 1`).Scan(&after, &begun); err != nil {
			return err
		}
		here, err = tx.Column(`SELECT slug FROM sentry_project WHERE slug > $1 AND current <> '' ORDER BY slug LIMIT `+fmt.Sprint(atATime+1), after)
		return err
	})
	if err != nil || after == "" && begun.Add(sweepEvery) > timestamp.Now() {
		return false, err
	}
	there, err := s.client.Projects(ctx)
	if err != nil {
		return false, err
	}
	list := here
	for _, p := range there {
		if p.Slug > after {
			list = append(list, p.Slug)
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	rest := len(list) > atATime
	if rest {
		list = list[:atATime]
	}
	var failed []error
	broken := 0
	for _, project := range list {
		if err := s.look(ctx, project); err != nil {
			failed = append(failed, err)
			if !ofOne(err) {
				broken++
			}
			if broken >= 3 || ctx.Err() != nil {
				return false, errors.Join(failed...)
			}
		}
	}
	if after == "" {
		begun = timestamp.Now()
	}
	after = ""
	if rest {
		after = list[len(list)-1]
	}
	if err := s.write(ctx, `UPDATE sentry_sweep SET after = $1, begun = $2 WHERE id = 1`, after, begun); err != nil {
		return false, err
	}
	return rest, errors.Join(failed...)
}

// look compares the keys of a project with what is written down. A key of ours that
// nobody knows is written down, and goes at its end. One that is not there any more, or
// was disabled by somebody, is not given out any more.
func (s *Sentry) look(ctx context.Context, project string) error {
	var known []row // before the list is made
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) { known, err = rows(tx, `project = $1`, project); return err }); err != nil {
		return err
	}
	all, err := s.client.Keys(ctx, project)
	if err != nil && !errors.Is(err, sentryapi.ErrNotFound) {
		return err
	}
	active := map[string]bool{}
	var stray []row
	for _, k := range all {
		active[k.ID] = k.Active
		l, ok := read(k.Name)
		if ok && l.lent(s.Prefix) && !knows(known, k, l) {
			r := row{foreign(k.ID), project, k.ID, "live", timestamp.Of(l.expires), 0}
			if latest := timestamp.Now().Add(validity); r.expires > latest { // whatever has labelled it so
				r.expires = latest
			}
			stray = append(stray, r)
		}
	}
	return s.db.Do(ctx, func(tx *store.Tx) error {
		for _, r := range stray {
			if _, err := tx.Exec(`INSERT INTO sentry_key (id, project, sentry, state, expires, disabled) VALUES ($1, $2, $3, $4, $5, 0) ON CONFLICT (id) DO NOTHING`,
				r.id, r.project, r.sentry, r.state, r.expires); err != nil {
				return err
			}
		}
		for _, r := range known {
			if r.state != "live" || active[r.sentry] {
				continue
			}
			n, err := tx.Exec(`UPDATE sentry_project SET current = '', dsn = '', key_id = '', expires = 0 WHERE slug = $1 AND current = $2`, project, r.id)
			if err != nil {
				return err
			}
			if n > 0 {
				tx.AfterCommit(func() {
					s.log.Warn("a Sentry key that is given out was disabled or deleted by somebody; the next caller gets a new one", "project", project, "key", r.id)
				})
			}
		}
		return nil
	})
}

// reseal seals with the newest key what older ones have sealed.
func (s *Sentry) reseal(ctx context.Context) (more bool, err error) {
	newest, moved := s.keys.Newest(), 0
	err = s.db.Do(ctx, func(tx *store.Tx) error {
		moved = 0
		stale := map[string]string{}
		var order []string
		found, err := tx.Query(`SELECT slug, dsn FROM sentry_project WHERE key_id <> '' AND (key_id <> $1 OR dsn NOT LIKE $2) ORDER BY slug LIMIT 200 /*for update*/`, newest, seal.SealedBy(newest)+"%")
		if err != nil {
			return err
		}
		for found.Next() {
			var slug, sealed string
			if err := found.Scan(&slug, &sealed); err != nil {
				return err
			}
			stale[slug] = sealed
			order = append(order, slug)
		}
		if err := found.Err(); err != nil {
			return err
		}
		for _, slug := range order {
			text, err := s.keys.Open(stale[slug], place(slug))
			if err != nil { // a new one is made for the next caller
				s.log.Error("the address of a Sentry project cannot be opened to be sealed anew, and is forgotten", "project", slug, "err", err)
				_, err = tx.Exec(`UPDATE sentry_project SET current = '', dsn = '', key_id = '', expires = 0 WHERE slug = $1`, slug)
			} else {
				anew := s.keys.Seal(text, place(slug))
				_, err = tx.Exec(`UPDATE sentry_project SET dsn = $2, key_id = $3 WHERE slug = $1`, slug, anew, seal.KeyID(anew))
			}
			if err != nil {
				return err
			}
			moved++
		}
		return nil
	})
	if moved > 0 && err == nil {
		s.log.Info("addresses of Sentry projects were sealed with the newest key", "moved", moved)
	}
	return moved == 200, err
}

// knows tells that a key is written down: by its name in Sentry, or by its label while it
// is being made. Two can have one label, of replicas that took each other for dead.
func knows(rows []row, k sentryapi.Key, l label) bool {
	return slices.ContainsFunc(rows, func(r row) bool {
		return r.sentry == k.ID || r.state == "minting" && r.id[:piece] == l.id
	})
}

// A row is a key as it is written down.
type row struct {
	id, project, sentry, state string
	expires, disabled          timestamp.Time
}

const rowColumns = `id, project, sentry, state, expires, disabled`

func rows(tx *store.Tx, where string, args ...any) (list []row, err error) {
	found, err := tx.Query(`SELECT `+rowColumns+` FROM sentry_key WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	for found.Next() {
		var r row
		if err := found.Scan(&r.id, &r.project, &r.sentry, &r.state, &r.expires, &r.disabled); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, found.Err()
}
