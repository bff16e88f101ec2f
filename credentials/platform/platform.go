// Package platform rotates the platform's own keys: that which seals secrets in the
// database, and the access tokens of the platform's own clients.
//
// They are in the database, sealed with a root key that is not (package seal/ring,
// which keeps the promises: no key is used that a replica does not know, and none goes
// that something is sealed with). Every replica follows the ring by itself and tries
// what it takes. So a version has nothing secret for consumers: what they are given
// is which version is to be used, and the part of the platform with the name Part is
// who uses it.
package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/seal/ring"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Part is the name of the part of the platform that uses these keys: each credential
// of this kind has it for a consumer.
const Part = "keys"

// Kind is credentials.Kind for the platform's own keys.
type Kind struct{ Ring *ring.Ring }

// Settings are those of a credential of this kind.
type Settings struct {
	Key string `json:"key"` // a purpose of the ring
}

// A public is what tells a version.
type public struct {
	Key  string `json:"key"`
	ID   string `json:"id"`             // in the ring
	Name string `json:"name,omitempty"` // by which what it has sealed is told
}

// A secret has nothing secret, but what consumers are given is one.
type secret struct {
	Key     string `json:"key"`
	Version string `json:"version"`
}

// unkept says why some keys are none of this kind.
var unkept = map[string]string{
	"root":               "the root key seals the others, so it is not kept among them: it changes in the file of keys, see taskfleet keys --help",
	"kms":                "the key of AWS KMS is rotated by AWS; a root key that it wraps changes in the file of keys, see taskfleet keys --help",
	"static-client:root": "the token of the root client is the operator's, as scripts have it: it changes in the file of secrets",
	"gateway":            "the S3 gateway in the process has one account, which changes in the file of secrets",
	"tickets":            "tickets are sealed with the key seal, and end within ten minutes",
}

func (k Kind) parse(text json.RawMessage) (s Settings, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("the setting of a key of the platform is key: %w", err)
	}
	there := k.Ring.Purposes()
	for _, name := range there {
		if s.Key == name {
			return s, nil
		}
	}
	if why := unkept[s.Key]; why != "" {
		return s, fmt.Errorf("key is %q: %s", s.Key, why)
	}
	return s, fmt.Errorf("key is %q; this platform has %s", s.Key, strings.Join(there, ", "))
}

// Check implements credentials.Kind.
func (k Kind) Check(settings json.RawMessage) (place string, err error) {
	s, err := k.parse(settings)
	if err != nil {
		return "", err
	}
	return "this platform: " + k.Ring.Doc(s.Key), nil
}

// Site implements credentials.Sited.
func (k Kind) Site(settings json.RawMessage) (site string, shared bool) {
	s, _ := k.parse(settings)
	return s.Key, false
}

// Lag implements credentials.Lagging: replicas note uses of tokens that often.
func (Kind) Lag() time.Duration { return 3 * time.Minute }

// Mint implements credentials.Kind: it returns when every replica has the key.
func (k Kind) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	s, err := k.parse(o.Settings)
	if err != nil {
		return m, credentials.Refused("%w", err)
	}
	if err := k.Ring.Add(ctx, s.Key, o.ID); errors.Is(err, ring.ErrRetired) {
		return m, credentials.Refused("%w", err)
	} else if err != nil {
		return m, err
	}
	if err := k.Ring.Everywhere(ctx, s.Key, o.ID); err != nil {
		return m, err
	}
	p := public{Key: s.Key, ID: o.ID}
	list, err := k.Ring.Keys(ctx, s.Key)
	if err != nil {
		return m, err
	}
	for _, key := range list {
		if key.ID == o.ID {
			p.Name = key.Name
		}
	}
	if m.Public, err = json.Marshal(p); err == nil {
		m.Secret, err = json.Marshal(secret{s.Key, o.ID})
	}
	return m, err
}

// Prove implements credentials.Kind: every replica tries a key before it says that it
// has it, and this one does so once more.
func (k Kind) Prove(ctx context.Context, v credentials.Version) error {
	purpose, id, err := k.key(v)
	if err != nil {
		return err
	}
	if err = k.Ring.Try(ctx, purpose, id); err == nil {
		err = k.Ring.Everywhere(ctx, purpose, id)
	}
	if errors.Is(err, store.ErrNotFound) {
		return credentials.ErrNoVersion
	}
	return err
}

// key is where the ring has a version: one that was adopted has another id.
func (k Kind) key(v credentials.Version) (purpose, id string, err error) {
	s, err := k.parse(v.Settings)
	if err != nil {
		return "", "", credentials.Refused("%w", err)
	}
	var p public
	if json.Unmarshal(v.Public, &p) != nil || p.ID == "" {
		return s.Key, v.ID, nil
	}
	return s.Key, p.ID, nil
}

// Used implements credentials.Kind. A key that seals is in use for as long as anything
// is sealed with it, which is sealed anew meanwhile.
func (k Kind) Used(ctx context.Context, v credentials.Version) (time.Time, error) {
	purpose, id, err := k.key(v)
	if err != nil {
		return time.Time{}, err
	}
	list, err := k.Ring.Keys(ctx, purpose)
	if err != nil {
		return time.Time{}, err
	}
	for _, key := range list {
		switch {
		case key.ID != id:
		case key.Name == "" || key.State == ring.Used:
			if key.LastUsed.IsZero() {
				return time.Time{}, nil
			}
			return key.LastUsed.Time(), nil
		default:
			if err := k.Ring.Move(ctx, purpose); err != nil {
				return time.Time{}, err
			}
			if left, err := k.Ring.Left(ctx, purpose, id); err != nil || left.Total() == 0 {
				return time.Time{}, err
			}
			return time.Now(), nil
		}
	}
	return time.Time{}, credentials.ErrNoVersion
}

// Disable implements credentials.Kind: at the latest now the new key is used.
func (k Kind) Disable(ctx context.Context, v credentials.Version) error {
	purpose, id, err := k.key(v)
	if err != nil {
		return err
	}
	return k.Ring.Leave(ctx, purpose, id)
}

// Retire implements credentials.Kind. A key that something is sealed with stays,
// whatever the rotation is for.
func (k Kind) Retire(ctx context.Context, v credentials.Version) error {
	purpose, id, err := k.key(v)
	if err != nil {
		return err
	}
	return k.Ring.Retire(ctx, purpose, id)
}

// List implements credentials.Kind. Whatever is accepted is the credential's.
func (k Kind) List(ctx context.Context, o credentials.Order) (found []credentials.Found, err error) {
	s, err := k.parse(o.Settings)
	if err != nil {
		return nil, credentials.Refused("%w", err)
	}
	list, err := k.Ring.Keys(ctx, s.Key)
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for _, v := range o.Known {
		if v.Settings == nil {
			v.Settings = o.Settings
		}
		if _, id, err := k.key(v); err == nil {
			versions[id] = v.ID
		}
	}
	for _, key := range list {
		f := credentials.Found{ID: key.ID, Created: key.Created, Adopt: true}
		if id, ok := versions[key.ID]; ok {
			f.ID = id
		}
		if f.Created.IsZero() {
			f.Created = timestamp.Now()
		}
		if f.Public, err = json.Marshal(public{s.Key, key.ID, key.Name}); err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, nil
}

// Take is the credentials.Part that uses the keys: from its return on this replica
// does, and others do within a second.
func (k Kind) Take(ctx context.Context, id string, text json.RawMessage) error {
	var s secret
	if err := json.Unmarshal(text, &s); err != nil || s.Key == "" || s.Version != id {
		return fmt.Errorf("what is to be used is not told")
	}
	if err := k.Ring.Use(ctx, s.Key, id); err != nil {
		return err
	}
	return k.Ring.Follow(ctx)
}
