package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A Kind is how credentials of one sort are made and unmade where they are valid:
// its provider. Package rotatortest says whether a kind does what it should.
//
// Every method may be called again after it was carried out, since the process can
// end between that and writing it down; it then does nothing more, and succeeds. It
// heeds its context, whose end comes before another replica takes over.
//
// An error is temporary, and the method called again later, unless it is Refused.
// No error holds a secret, nor what a provider has echoed of one.
type Kind interface {
	// Check tells where such a credential is minted, in words for people that are
	// no secret, or what is wrong with the settings. It asks nobody.
	Check(settings json.RawMessage) (place string, err error)

	// Mint makes the version that is ordered, beside those that there are. It
	// labels it with its id wherever the provider has labels. Called again for the
	// same id it returns the same version; or, where the provider tells a secret
	// only once, removes what it has made for the id and makes it again.
	Mint(ctx context.Context, o Order) (Minted, error)

	// Prove uses a version as a consumer would, against the real provider. It
	// returns ErrNoVersion if the provider does not have it.
	Prove(ctx context.Context, v Version) error

	// Used tells when the provider has last seen the version in use; the zero time
	// if it has not. It returns ErrNotTold where that cannot be known.
	Used(ctx context.Context, v Version) (time.Time, error)

	// Disable has the version not be accepted any more, if possible so that it
	// could be enabled again by hand. Where the provider has nothing of the sort it
	// does nothing.
	Disable(ctx context.Context, v Version) error

	// Retire removes the version for good. That it is not there is success, also
	// for a version that was never minted, whose Public is empty.
	Retire(ctx context.Context, v Version) error

	// List tells which versions of the credential the provider has, or ErrNotTold.
	List(ctx context.Context, o Order) ([]Found, error)
}

var (
	// ErrNotTold is what a Kind returns where its provider does not tell.
	ErrNotTold = errors.New("credentials: the provider does not tell")

	// ErrNoVersion is what a Kind returns for a version that its provider does not
	// have, or not any more.
	ErrNoVersion = errors.New("credentials: the provider has no such version")
)

// Refused is an error that trying again does not mend.
func Refused(format string, args ...any) error { return &refusal{fmt.Errorf(format, args...)} }

type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

func refused(err error) bool {
	_, ok := errors.AsType[*refusal](err)
	return ok
}

// What a Kind can be beside that.
type (
	// A Sited kind tells places apart better than the words of Check do: site is the same
	// for settings that lead to the same place, and may hold what is secret. Where it is
	// shared, several credentials can be minted without being in each other's way.
	Sited interface {
		Site(settings json.RawMessage) (site string, shared bool)
	}

	// A Lagging kind has a provider that tells of a use so much later.
	Lagging interface {
		Lag() time.Duration
	}

	// A Lasting kind has versions that end by themselves, after so long.
	Lasting interface {
		Lasts(settings json.RawMessage) time.Duration
	}

	// A Supplied kind is one whose versions people bring. One that is due is asked for,
	// and the seed of its order is the secret that was brought; Mint, which asks nobody, says
	// what is wrong with that, also without an id. Supplied tells when the version in use
	// expires, as far as the settings know; otherwise it is the zero time.
	Supplied interface {
		Supplied(settings json.RawMessage) (expires time.Time)
	}

	// An Expiring kind has versions that end by themselves. Due tells when one is to be
	// replaced at the latest, whatever the plan says, by its Public; zero if it is not.
	Expiring interface {
		Due(v Version) time.Time
	}
)

// An Order is what a Kind is to make a version by.
type Order struct {
	Credential string          // its name
	Settings   json.RawMessage // as Check has passed them
	ID         string          // of the version to be minted; "" in List

	// Seed is random and the same whenever a version is ordered again, so that a
	// secret which is made of it is so, too. It is itself a secret. Of a kind that is
	// Supplied it is the secret, a JSON object.
	Seed []byte

	// Known are all other versions at this place that are not known to be gone, the newest
	// one last.
	// What else the provider has of the credential belongs to nobody.
	Known []Version
}

// A Minted is a version as the provider has made it.
type Minted struct {
	Public json.RawMessage // what identifies it there; no secret
	Secret json.RawMessage // an object: what consumers get
}

// A Version is one that was minted, or was to be.
type Version struct {
	ID         string
	Credential string
	Settings   json.RawMessage // that lead to where it was minted
	Defined    json.RawMessage // the settings of the definition now; nil if it is one of another kind
	Public     json.RawMessage // nil if it was not minted
	Secret     json.RawMessage // nil where that is not known
	Created    timestamp.Time

	// Leaked tells Disable and Retire that the rotation is a forced one: whoever has the
	// version must not be able to use it any more, whatever that takes.
	Leaked bool
}

// A Found is what a provider has of a credential.
type Found struct {
	ID      string          `json:"id"` // from its label; or what it is called there
	Public  json.RawMessage `json:"public,omitempty"`
	Created timestamp.Time  `json:"created,omitempty"`

	// Adopt tells that the version belongs to the credential though somebody else has
	// made it, before the first rotation or beside it: it is retired by the next rotation
	// like any other, once it is not in use.
	Adopt bool `json:"-"`
}
