package aws

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Keys is credentials.Kind for access keys of IAM users.
//
// A user has two keys at most, so one is in use and the other one is free, or there for
// the time of the overlap. A second key that others have made is in the way. Unless it
// was used lately it is deactivated, and deleted by a rotation that follows an hour or
// more later, if nobody has activated it again.
type Keys struct{ Cloud *Cloud }

// KeySettings are those of a credential of this kind.
type KeySettings struct {
	User   string `json:"user"`   // its name; the keys are the credential's alone
	Region string `json:"region"` // where STS is asked, and what consumers are told; us-east-1 for the former if it is not given
	As     As     `json:"as"`
	Idle   string `json:"idle"` // for how long a foreign key was not used that may be removed: 30d if it is not given
}

const (
	maxKeys = 2 // of a user, by a quota that AWS does not raise

	defaultIdle = "30d"
	idleAtLeast = 24 * time.Hour
	foreignStay = time.Hour // of a foreign key between being deactivated and deleted

	// A key is not known everywhere at once: one that was made in the last minutes has to
	// be accepted several times in a row.
	freshFor   = 5 * time.Minute
	freshTimes = 3
	freshPause = 2 * time.Second
)

var userPattern = regexp.MustCompile(`^[\w+=,.@-]{1,64}$`)

func parseKey(text json.RawMessage) (s KeySettings, idle time.Duration, err error) {
	if err := settings(text, &s, "user, region, as and idle"); err != nil {
		return s, 0, err
	}
	if !userPattern.MatchString(s.User) {
		return s, 0, fmt.Errorf("user is %q; it must be the name of an IAM user, without its path", s.User)
	}
	if idle, err = span(cmp.Or(s.Idle, defaultIdle)); err != nil || idle < idleAtLeast {
		return s, 0, fmt.Errorf("idle is %q; it must be a time of a day or more, such as %s", s.Idle, defaultIdle)
	}
	if err := checkRegion(s.Region); err != nil {
		return s, 0, err
	}
	return s, idle, s.As.check()
}

// Check implements credentials.Kind.
func (Keys) Check(text json.RawMessage) (place string, err error) {
	s, _, err := parseKey(text)
	place = "IAM user " + s.User
	if by := cmp.Or(s.As.Role, s.As.Profile); by != "" {
		place += ", as " + by
	}
	return place, err
}

// Site implements credentials.Sited. There is not room for two credentials at a user.
func (Keys) Site(text json.RawMessage) (site string, shared bool) {
	s, _, _ := parseKey(text)
	return fmt.Sprintf("iam %q %q", s.User, s.As), false
}

// at looks at the user that settings name.
func (k Keys) at(ctx context.Context, text json.RawMessage) (u *user, s KeySettings, idle time.Duration, err error) {
	if s, idle, err = parseKey(text); err != nil {
		return nil, s, 0, credentials.Refused("%w", err)
	}
	c, err := k.Cloud.config(ctx, s.As, s.Region)
	if err != nil {
		return nil, s, 0, err
	}
	u, err = look(ctx, c, s.User)
	return u, s, idle, err
}

// Mint implements credentials.Kind. IAM tells a secret once: what an attempt before has
// made is removed.
func (k Keys) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	u, s, idle, err := k.at(ctx, o.Settings)
	if err != nil {
		return m, err
	}
	if u.mint.credential != "" && u.mint.credential != o.Credential {
		return m, credentials.Refused("the user %s is that of the credential %s, by its tag %s; give each credential a user of its own, or remove the tag if that is not so", s.User, u.mint.credential, mintTag)
	}
	if err := u.clear(ctx, o); err != nil {
		return m, err
	}
	if len(u.keys) >= maxKeys {
		if err := u.free(ctx, o, idle); err != nil {
			return m, err
		}
	}
	if u.mint.id != o.ID || u.now.Sub(u.mint.at) > mintWindow/2 { // of an attempt before, which may be long ago
		note := mint{credential: o.Credential, id: o.ID, at: u.now}
		for _, v := range o.Known { // all that there were, as each rotation adopts what it finds
			if id := keyOf(v).AccessKeyID; id != "" && slices.ContainsFunc(u.keys, func(k key) bool { return k.id == id }) {
				note.before = append(note.before, id)
			}
		}
		if err := u.tag(ctx, mintTag, note.String()); err != nil {
			return m, err
		}
	}
	// The SDK would repeat what may have been done.
	out, err := u.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: &s.User}, func(o *iam.Options) { o.Retryer = aws.NopRetryer{} })
	if code(err) == "LimitExceeded" {
		return m, fmt.Errorf("the user %s has two keys, though IAM listed %d: what was made a moment ago is seen a moment later", s.User, len(u.keys))
	} else if err != nil {
		return m, explain("making a key for the user "+s.User, err)
	}
	if out.AccessKey == nil || aws.ToString(out.AccessKey.AccessKeyId) == "" || aws.ToString(out.AccessKey.SecretAccessKey) == "" {
		return m, fmt.Errorf("making a key for the user %s: the answer has none", s.User)
	}
	id := *out.AccessKey.AccessKeyId
	if m.Public, err = json.Marshal(public{User: s.User, AccessKeyID: id}); err == nil {
		m.Secret, err = secret{AccessKeyID: id, SecretAccessKey: *out.AccessKey.SecretAccessKey, Region: s.Region}.encode()
	}
	return m, err
}

// clear removes what mints before have left. Nobody can have used it, but for a proof.
func (u *user) clear(ctx context.Context, o credentials.Order) error {
	for _, stray := range u.strays(o.Known) {
		used, err := u.lastUse(ctx, stray.id)
		if err != nil {
			return explain("asking when the key "+stray.id+" was last used", err)
		}
		if used.at.After(u.mint.at.Add(mintWindow)) {
			continue // it is somebody's
		}
		if err := remove(ctx, u.iam, u.name, stray.id); err != nil {
			return err
		}
		u.keys = slices.DeleteFunc(u.keys, func(k key) bool { return k == stray })
	}
	return nil
}

// free makes room for a key. It removes one that is not a version which was minted, if
// that was not used for long: in two steps, an hour or more apart.
func (u *user) free(ctx context.Context, o credentials.Order, idle time.Duration) error {
	var victim *key
	var last use
	var since time.Time
	for _, k := range u.keys {
		if slices.ContainsFunc(o.Known, func(v credentials.Version) bool { p := keyOf(v); return p.AccessKeyID == k.id && !p.Adopted }) {
			continue
		}
		used, err := u.lastUse(ctx, k.id)
		if err != nil {
			return explain("asking when the key "+k.id+" was last used", err)
		}
		at := k.created
		if used.at.After(at) {
			at = used.at
		}
		if victim == nil || at.Before(since) {
			victim, last, since = &k, used, at
		}
	}
	if victim == nil {
		return fmt.Errorf("the user %s has two keys that are versions of this credential; the older one has to go first", u.name)
	}
	ours := u.off.key == victim.id
	full := fmt.Sprintf("the user %s has two keys, which is all that IAM allows, and %s was not made by a rotation and is %s", u.name, victim.id, last)
	switch ends := u.off.at.Add(foreignStay); {
	case victim.active && since.Add(idle).After(u.now):
		return credentials.Refused("%s; find who uses it, and delete it", full)
	case victim.active && ours && u.off.at.Add(idle).After(u.now):
		return credentials.Refused("%s; it was deactivated by a rotation, and somebody has activated it again. Delete it, or the other one", full)
	case !victim.active && ours && ends.After(u.now):
		return credentials.Refused("%s; it is deactivated, and a rotation after %s deletes it, unless somebody activates it again", full, ends.UTC().Format(time.RFC3339))
	case !victim.active && ours:
		if err := remove(ctx, u.iam, u.name, victim.id); err != nil {
			return err
		}
		u.keys = slices.DeleteFunc(u.keys, func(k key) bool { return k == *victim })
		return nil
	}
	if victim.active {
		if err := deactivate(ctx, u.iam, u.name, victim.id); err != nil {
			return err
		}
	}
	if err := u.tag(ctx, deactivatedTag, victim.id+" "+u.now.UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	return credentials.Refused("%s; it is deactivated now, and a rotation after %s deletes it, unless somebody activates it again", full, u.now.Add(foreignStay).UTC().Format(time.RFC3339))
}

// Prove implements credentials.Kind. It asks STS who the holder of the key is.
func (k Keys) Prove(ctx context.Context, v credentials.Version) error {
	s, _, err := parseKey(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	c, err := k.Cloud.config(ctx, s.As, s.Region)
	if err != nil {
		return err
	}
	p := keyOf(v)
	times := 1
	if time.Since(v.Created.Time()) < freshFor {
		times = freshTimes
	}
	for i := range times {
		if i > 0 {
			if err := pause(ctx, freshPause); err != nil {
				return err
			}
		}
		arn, err := caller(ctx, c, v.Secret)
		if code(err) == "InvalidClientTokenId" {
			return k.unknown(ctx, c, p)
		} else if err != nil {
			return explain("using the key "+p.AccessKeyID, err)
		}
		if !strings.Contains(arn, ":user/") || !strings.HasSuffix(arn, "/"+s.User) {
			return credentials.Refused("AWS takes the holder of the key %s for %s, which is not the user %s", p.AccessKeyID, arn, s.User)
		}
	}
	return nil
}

// unknown tells why AWS does not know a key.
func (k Keys) unknown(ctx context.Context, c aws.Config, p public) error {
	u, err := look(ctx, c, p.User)
	if errors.Is(err, errNoUser) {
		return credentials.ErrNoVersion
	} else if err != nil {
		return fmt.Errorf("AWS does not accept the key %s, and why cannot be told: %w", p.AccessKeyID, err)
	}
	for _, found := range u.keys {
		switch {
		case found.id != p.AccessKeyID:
		case !found.active:
			return fmt.Errorf("the key %s of the user %s is inactive; activate it, or rotate", p.AccessKeyID, p.User)
		default:
			return fmt.Errorf("the key %s of the user %s is active, but not known to STS; a new key is, after some seconds", p.AccessKeyID, p.User)
		}
	}
	return credentials.ErrNoVersion
}

// Used implements credentials.Kind.
func (k Keys) Used(ctx context.Context, v credentials.Version) (time.Time, error) {
	u, _, _, err := k.at(ctx, v.Settings)
	if errors.Is(err, errNoUser) {
		return time.Time{}, credentials.ErrNoVersion
	} else if err != nil {
		return time.Time{}, err
	}
	id := keyOf(v).AccessKeyID
	if !slices.ContainsFunc(u.keys, func(k key) bool { return k.id == id }) {
		return time.Time{}, credentials.ErrNoVersion // IAM forbids to ask for what is not there
	}
	used, err := u.lastUse(ctx, id)
	if err != nil {
		return time.Time{}, explain("asking when the key "+id+" was last used", err)
	}
	return used.at, nil
}

// Disable implements credentials.Kind.
func (k Keys) Disable(ctx context.Context, v credentials.Version) error {
	c, p, err := k.client(ctx, v)
	if err != nil || p.AccessKeyID == "" {
		return err
	}
	return deactivate(ctx, c, p.User, p.AccessKeyID)
}

// Retire implements credentials.Kind.
func (k Keys) Retire(ctx context.Context, v credentials.Version) error {
	c, p, err := k.client(ctx, v)
	if err != nil {
		return err
	}
	if p.AccessKeyID != "" {
		return remove(ctx, c, p.User, p.AccessKeyID)
	}
	u, _, _, err := k.at(ctx, v.Settings)
	if errors.Is(err, errNoUser) {
		return nil
	} else if err != nil {
		return err
	}
	if u.mint.credential != v.Credential || u.mint.id != v.ID {
		return nil // nothing was asked for
	}
	for _, stray := range u.strays(nil) {
		if err := remove(ctx, u.iam, u.name, stray.id); err != nil {
			return err
		}
	}
	return nil
}

func (k Keys) client(ctx context.Context, v credentials.Version) (*iam.Client, public, error) {
	s, _, err := parseKey(v.Settings)
	if err != nil {
		return nil, public{}, credentials.Refused("%w", err)
	}
	c, err := k.Cloud.config(ctx, s.As, s.Region)
	if err != nil {
		return nil, public{}, err
	}
	return iam.NewFromConfig(c), keyOf(v), nil
}

// List implements credentials.Kind.
func (k Keys) List(ctx context.Context, o credentials.Order) (found []credentials.Found, err error) {
	u, s, _, err := k.at(ctx, o.Settings)
	if err != nil {
		return nil, err
	}
	versions, ids := map[string]credentials.Version{}, map[string]bool{}
	for _, v := range o.Known {
		ids[v.ID] = keyOf(v).AccessKeyID != ""
		versions[keyOf(v).AccessKeyID] = v
	}
	strays := u.strays(o.Known)
	for _, x := range u.keys {
		f := credentials.Found{ID: x.id, Created: timestamp.Of(x.created)}
		p := public{User: s.User, AccessKeyID: x.id}
		if v, ok := versions[x.id]; ok {
			f.ID, p.Adopted = v.ID, keyOf(v).Adopted
		} else if slices.Contains(strays, x) && u.mint.credential == o.Credential && !ids[u.mint.id] {
			f.ID = u.mint.id
		} else { // another one of the same mint, too
			p.Adopted, f.Adopt = true, true
		}
		if f.Public, err = json.Marshal(p); err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, nil
}
