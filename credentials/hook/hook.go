// Package hook mints credentials with a program that the operator brings.
//
// The program is run with one JSON document on stdin and answers with one on stdout.
// docs/credentials.md has the contract. Nothing secret is in its arguments or its
// environment.
package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/internal/program"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Kind is credentials.Kind by programs.
type Kind struct{}

// Settings are those of a credential of this kind.
type Settings struct {
	Command  []string        `json:"command"`  // an absolute path, and arguments that are no secrets
	Timeout  string          `json:"timeout"`  // of one run; 30s where it is empty
	Place    string          `json:"place"`    // in words, for people
	Settings json.RawMessage `json:"settings"` // which the program gets as they are
}

const (
	defaultTimeout = 30 * time.Second
	maxTimeout     = 110 * time.Second // less than a step may take
)

// Codes that a program ends with.
const (
	exitNotTold   = 3  // the provider does not tell, or has nothing of the sort
	exitNoVersion = 4  // the provider has no such version
	exitRefused   = 65 // trying again is of no use
)

// A request is what a program gets.
type request struct {
	Version    int             `json:"version"` // of the contract
	Action     string          `json:"action"`
	Credential string          `json:"credential"`
	ID         string          `json:"id,omitempty"`
	Settings   json.RawMessage `json:"settings,omitempty"`
	Seed       string          `json:"seed,omitempty"`
	Public     json.RawMessage `json:"public,omitempty"`
	Secret     json.RawMessage `json:"secret,omitempty"`
	Known      []known         `json:"known,omitempty"`
}

type known struct {
	ID     string          `json:"id"`
	Public json.RawMessage `json:"public,omitempty"`
}

// An answer is what it says.
type answer struct {
	Public   json.RawMessage     `json:"public"`
	Secret   json.RawMessage     `json:"secret"`
	Used     timestamp.Time      `json:"used"`
	Versions []credentials.Found `json:"versions"`
	Adopt    []string            `json:"adopt"` // ids of versions that are there from before
}

func parse(text json.RawMessage) (s Settings, limit time.Duration, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, 0, fmt.Errorf("the settings of a hook are command, timeout, place and settings: %w", err)
	}
	limit = defaultTimeout
	if s.Timeout != "" {
		if limit, err = time.ParseDuration(s.Timeout); err != nil || limit <= 0 || limit > maxTimeout {
			return s, 0, fmt.Errorf("timeout is %q; it must be a time such as 30s, up to %s", s.Timeout, maxTimeout)
		}
	}
	if len(s.Command) == 0 || !filepath.IsAbs(s.Command[0]) {
		return s, 0, errors.New("command must be a list that begins with the absolute path of a program")
	}
	return s, limit, nil
}

// Check implements credentials.Kind.
func (Kind) Check(settings json.RawMessage) (place string, err error) {
	s, _, err := parse(settings)
	if err != nil {
		return "", err
	}
	switch info, err := os.Stat(s.Command[0]); {
	case err != nil:
		return "", fmt.Errorf("command: the program cannot be found on this machine: %w", err)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("command: %s is no program that can be run", s.Command[0])
	case info.Mode()&0o002 != 0:
		return "", fmt.Errorf("command: anybody on this machine can change %s; chmod o-w it", s.Command[0])
	}
	if s.Place == "" {
		s.Place = "by " + s.Command[0]
	}
	return s.Place, nil
}

// Site implements credentials.Sited. It is what the program is told that says where to mint:
// the program itself may move. As it is told the credential's name, too, several can be
// minted with the same settings.
func (Kind) Site(settings json.RawMessage) (site string, shared bool) {
	s, _, err := parse(settings)
	if err != nil {
		return string(settings), true
	}
	var inner bytes.Buffer
	if json.Compact(&inner, s.Settings) != nil {
		inner.Reset()
	}
	return s.Place + "\x00" + inner.String(), true
}

// run has the program do something.
func run(ctx context.Context, settings json.RawMessage, r request) (out answer, err error) {
	s, limit, err := parse(settings)
	if err != nil {
		return out, credentials.Refused("%w", err)
	}
	r.Version, r.Settings = 1, s.Settings
	in, err := json.Marshal(r)
	if err != nil {
		return out, err
	}
	text, err := program.Run(ctx, s.Command, limit, in, r.Secret, json.RawMessage(r.Seed), r.Settings)
	if exit, ok := errors.AsType[*program.Exit](err); ok {
		switch exit.Code {
		case exitNotTold:
			return out, credentials.ErrNotTold
		case exitNoVersion:
			return out, credentials.ErrNoVersion
		case exitRefused:
			return out, credentials.Refused("%s: %w", r.Action, exit)
		}
		return out, fmt.Errorf("%s: %w", r.Action, exit)
	} else if err != nil {
		return out, err
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return out, nil
	}
	if err := json.Unmarshal(text, &out); err != nil {
		// Its text may be secret, and so may be what the error says of it.
		return out, credentials.Refused("%s: what the program has written to stdout is not the JSON that the contract asks for", r.Action)
	}
	return out, nil
}

// Mint implements credentials.Kind.
func (Kind) Mint(ctx context.Context, o credentials.Order) (credentials.Minted, error) {
	out, err := run(ctx, o.Settings, request{Action: "mint", Credential: o.Credential, ID: o.ID, Seed: string(o.Seed), Known: knownOf(o)})
	switch {
	case errors.Is(err, credentials.ErrNotTold), errors.Is(err, credentials.ErrNoVersion):
		return credentials.Minted{}, credentials.Refused("mint: the program says that it cannot; it has to")
	case err == nil && out.Secret == nil:
		return credentials.Minted{}, credentials.Refused("mint: the program has told no secret")
	}
	return credentials.Minted{Public: out.Public, Secret: out.Secret}, err
}

func knownOf(o credentials.Order) (list []known) {
	for _, v := range o.Known {
		list = append(list, known{called(o.Credential, v.ID), v.Public})
	}
	return list
}

func of(action string, v credentials.Version) request {
	return request{Action: action, Credential: v.Credential, ID: called(v.Credential, v.ID), Public: v.Public, Secret: v.Secret}
}

// called is what the program calls a version. One that was adopted has the name of the
// credential before that.
func called(credential, id string) string { return strings.TrimPrefix(id, credential+"/") }

// Prove implements credentials.Kind.
func (Kind) Prove(ctx context.Context, v credentials.Version) error {
	_, err := run(ctx, v.Settings, of("prove", v))
	if errors.Is(err, credentials.ErrNotTold) {
		return credentials.Refused("prove: the program says that it cannot; it has to, as nothing is handed out that was not tried")
	}
	return err
}

// Used implements credentials.Kind.
func (Kind) Used(ctx context.Context, v credentials.Version) (time.Time, error) {
	out, err := run(ctx, v.Settings, of("used", v))
	if err != nil || out.Used.IsZero() {
		return time.Time{}, err
	}
	return out.Used.Time(), nil
}

// Disable implements credentials.Kind.
func (Kind) Disable(ctx context.Context, v credentials.Version) error {
	_, err := run(ctx, v.Settings, of("disable", v))
	return ignoring(err)
}

// Retire implements credentials.Kind.
func (Kind) Retire(ctx context.Context, v credentials.Version) error {
	_, err := run(ctx, v.Settings, of("retire", v))
	return ignoring(err)
}

// ignoring takes what is not there for done.
func ignoring(err error) error {
	if errors.Is(err, credentials.ErrNotTold) || errors.Is(err, credentials.ErrNoVersion) {
		return nil
	}
	return err
}

// List implements credentials.Kind.
func (Kind) List(ctx context.Context, o credentials.Order) ([]credentials.Found, error) {
	out, err := run(ctx, o.Settings, request{Action: "list", Credential: o.Credential, Known: knownOf(o)})
	if err != nil {
		return nil, err
	}
	for i := range out.Versions {
		found := &out.Versions[i]
		found.Adopt = slices.Contains(out.Adopt, found.ID)
		for _, v := range o.Known {
			if called(o.Credential, v.ID) == found.ID {
				found.ID = v.ID
				break
			}
		}
	}
	return out.Versions, nil
}
