package acme

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"

	"golang.org/x/crypto/acme"

	"github.com/taskfleet/taskfleet/credentials"
	run "github.com/taskfleet/taskfleet/credentials/internal/program"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Path is where authorities look for answers by HTTP.
const Path = "/.well-known/acme-challenge/"

var tokenPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{16,200}$`)

// ServeHTTP answers challenges. It is for everybody: an answer is of use to nobody
// but the authority that has asked.
func (k *Kind) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.URL.Path, Path)
	if !ok || !tokenPattern.MatchString(token) || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.NotFound(w, r)
		return
	}
	var answer string
	err := k.db.ViewOnce(r.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT answer FROM acme_challenge WHERE token = $1 AND record = ''`, token).Scan(&answer)
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		http.NotFound(w, r)
	case err != nil:
		k.log.Error("a challenge could not be answered", "err", err)
		http.Error(w, "the answer cannot be looked up now", http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Cache-Control", "no-store")
		io.WriteString(w, answer)
	}
}

// A request is what a program gets that sets records.
type request struct {
	Version    int             `json:"version"` // of the contract
	Action     string          `json:"action"`
	Credential string          `json:"credential"`
	ID         string          `json:"id"`
	Name       string          `json:"name"`
	Value      string          `json:"value"`
	Settings   json.RawMessage `json:"settings,omitempty"`
}

const exitRefused = 65 // trying again is of no use

func (s parsed) run(ctx context.Context, r request) error {
	r.Version, r.Settings = 1, s.DNS.Settings
	in, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = run.Run(ctx, s.DNS.Command, s.timeout, in, r.Settings)
	if err == nil {
		return nil
	}
	if exit, ok := errors.AsType[*run.Exit](err); ok && exit.Code == exitRefused {
		return credentials.Refused("%s of the record %s: %w", r.Action, r.Name, exit)
	}
	return fmt.Errorf("%s of the record %s: %w", r.Action, r.Name, err)
}

// answer has the answer to a challenge be where the authority looks for it. It is
// written down first, so that it is taken back whatever comes.
func (w *work) answer(ctx context.Context, name string, c *acme.Challenge) error {
	record, of := "", w.client.HTTP01ChallengeResponse
	if c.Type == byDNS {
		record, of = "_acme-challenge."+name, w.client.DNS01ChallengeRecord
	}
	answer, err := of(c.Token)
	if err != nil {
		return err
	}
	if !tokenPattern.MatchString(c.Token) {
		return credentials.Refused("the authority has sent a token for %s that is none", name)
	}
	if err := w.kind.do(ctx, `INSERT INTO acme_challenge (version, token, record, answer, made) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (version, token) DO NOTHING`,
		w.version, c.Token, record, answer, timestamp.Now()); err != nil {
		return err
	}
	if record == "" {
		return nil
	}
	return w.settings.run(ctx, request{Action: "present", Credential: w.credential, ID: w.version, Name: record, Value: answer})
}

// takeBack takes back the answers for a version.
func (k *Kind) takeBack(ctx context.Context, s parsed, credential, version string) error {
	type row struct{ token, record, answer string }
	var list []row
	if err := k.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`SELECT token, record, answer FROM acme_challenge WHERE version = $1 ORDER BY token`, version)
		if err != nil {
			return err
		}
		for rows.Next() {
			var r row
			if err := rows.Scan(&r.token, &r.record, &r.answer); err != nil {
				return err
			}
			list = append(list, r)
		}
		return rows.Err()
	}); err != nil {
		return err
	}
	var failed []error
	for _, r := range list {
		if r.record != "" && s.DNS != nil {
			if err := s.run(ctx, request{Action: "cleanup", Credential: credential, ID: version, Name: r.record, Value: r.answer}); err != nil {
				failed = append(failed, err)
				continue
			}
		}
		if err := k.do(ctx, `DELETE FROM acme_challenge WHERE version = $1 AND token = $2`, version, r.token); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}
