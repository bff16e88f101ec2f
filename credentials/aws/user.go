package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/taskfleet/taskfleet/credentials"
)

// A user is an IAM user as it was found.
type user struct {
	iam  *iam.Client
	name string
	keys []key
	mint mint        // the last one
	off  deactivated // a key that was in the way
	now  time.Time   // by the clock of AWS, if it has told
}

// A key is one of at most two.
type key struct {
	id      string
	active  bool
	created time.Time
}

// A mint is noted at the user before a key is made, as keys have no labels and IAM knows
// no idempotent requests: of a key that turns up afterwards this says whose it is.
type mint struct {
	credential, id string
	at             time.Time
	before         []string // keys that there were
}

// A deactivated key waits to be deleted.
type deactivated struct {
	key string
	at  time.Time
}

// Tags of users.
const (
	mintTag        = "taskfleet:mint"
	deactivatedTag = "taskfleet:deactivated"
)

// mintWindow is for how long after a mint was noted a key can turn up that it has made:
// as long as one attempt may take, twice and more: it is noted anew for later ones.
const mintWindow = 20 * time.Minute

func (m mint) String() string {
	return strings.Join(append([]string{m.credential, m.id, m.at.UTC().Format(time.RFC3339)}, m.before...), " ")
}

func parseMint(text string) (m mint) {
	words := strings.Fields(text)
	if len(words) < 3 {
		return mint{}
	}
	at, err := time.Parse(time.RFC3339, words[2])
	if err != nil {
		return mint{}
	}
	return mint{words[0], words[1], at, words[3:]}
}

var errNoUser = errors.New("there is no IAM user")

// look looks at a user.
func look(ctx context.Context, c aws.Config, name string) (*user, error) {
	u := &user{iam: iam.NewFromConfig(c), name: name, now: time.Now()}
	for pages := iam.NewListAccessKeysPaginator(u.iam, &iam.ListAccessKeysInput{UserName: &name}); pages.HasMorePages(); {
		out, err := pages.NextPage(ctx)
		if code(err) == "NoSuchEntity" {
			return nil, credentials.Refused("%w %s", errNoUser, name)
		} else if err != nil {
			return nil, explain("listing the keys of the user "+name, err)
		}
		if at, ok := awsmiddleware.GetServerTime(out.ResultMetadata); ok {
			u.now = at
		}
		for _, k := range out.AccessKeyMetadata {
			u.keys = append(u.keys, key{aws.ToString(k.AccessKeyId), k.Status == types.StatusTypeActive, aws.ToTime(k.CreateDate)})
		}
	}
	for pages := iam.NewListUserTagsPaginator(u.iam, &iam.ListUserTagsInput{UserName: &name}); pages.HasMorePages(); {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain("listing the tags of the user "+name, err)
		}
		for _, t := range out.Tags {
			switch aws.ToString(t.Key) {
			case mintTag:
				u.mint = parseMint(aws.ToString(t.Value))
			case deactivatedTag:
				if id, text, ok := strings.Cut(aws.ToString(t.Value), " "); ok {
					if at, err := time.Parse(time.RFC3339, text); err == nil {
						u.off = deactivated{id, at}
					}
				}
			}
		}
	}
	return u, nil
}

func (u *user) tag(ctx context.Context, name, value string) error {
	if _, err := u.iam.TagUser(ctx, &iam.TagUserInput{UserName: &u.name, Tags: []types.Tag{{Key: &name, Value: &value}}}); err != nil {
		return explain("tagging the user "+u.name, err)
	}
	return nil
}

// A public is what tells a version.
type public struct {
	User        string `json:"user"`
	AccessKeyID string `json:"accessKeyId"`
	Adopted     bool   `json:"adopted,omitempty"` // somebody else has made it
}

// keyOf is the key that is a version; "" if it was not minted.
func keyOf(v credentials.Version) (p public) {
	json.Unmarshal(v.Public, &p)
	return p
}

// strays are keys that the last mint may have made though nobody got to know: after a
// crash, or as the answer was lost. minted are the versions that somebody did.
func (u *user) strays(minted []credentials.Version) (list []key) {
	for _, k := range u.keys {
		known := slices.ContainsFunc(minted, func(v credentials.Version) bool { p := keyOf(v); return p.AccessKeyID == k.id && !p.Adopted })
		if u.mint.id != "" && !known && !slices.Contains(u.mint.before, k.id) &&
			!k.created.Before(u.mint.at.Add(-time.Minute)) && k.created.Before(u.mint.at.Add(mintWindow)) {
			list = append(list, k)
		}
	}
	return list
}

// A use of a key is the last one.
type use struct {
	at              time.Time // zero: never
	service, region string
}

func (u use) String() string {
	if u.at.IsZero() {
		return "never used"
	}
	return fmt.Sprintf("last used at %s, for %s in %s", u.at.UTC().Format(time.RFC3339), u.service, u.region)
}

// lastUse tells when a key of the user was last used.
func (u *user) lastUse(ctx context.Context, id string) (use, error) {
	out, err := u.iam.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: &id})
	if err != nil {
		return use{}, err
	}
	if l := out.AccessKeyLastUsed; l != nil {
		return use{aws.ToTime(l.LastUsedDate), aws.ToString(l.ServiceName), aws.ToString(l.Region)}, nil
	}
	return use{}, nil
}

// deactivate has a key not be accepted. It returns ErrNoVersion if there is no such key.
func deactivate(ctx context.Context, c *iam.Client, user, id string) error {
	_, err := c.UpdateAccessKey(ctx, &iam.UpdateAccessKeyInput{UserName: &user, AccessKeyId: &id, Status: types.StatusTypeInactive})
	if code(err) == "NoSuchEntity" {
		return credentials.ErrNoVersion
	} else if err != nil {
		return explain("deactivating the key "+id+" of the user "+user, err)
	}
	return nil
}

// remove deletes a key, if it is there.
func remove(ctx context.Context, c *iam.Client, user, id string) error {
	_, err := c.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: &user, AccessKeyId: &id})
	if err != nil && code(err) != "NoSuchEntity" {
		return explain("deleting the key "+id+" of the user "+user, err)
	}
	return nil
}
