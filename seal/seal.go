// Package seal keeps secrets at rest: what a database or its backup shows of
// them is of no use without a key that is kept elsewhere.
//
// A secret is sealed with AES-256-GCM, under a random nonce, and bound to its
// place: the name of its table, row and column is authenticated with it, so
// that a sealed secret copied to another row does not open there. The sealed
// text is ASCII and fits a TEXT column:
//
//	s1.KEYID.BASE64(nonce, ciphertext, tag)
//
// Keys change: the last one of Keys seals, all of them open, and Replace puts
// others in their place while the program runs. The services that keep secrets
// have a loop that seals anew what an old key sealed, and say in the log how much
// they have moved and what is left. When that is nothing, the old key can go.
//
// Where several replicas share a database, all of them have to open what one of
// them seals: so a new key opens on all of them before it seals on any. Package
// ring sees to that.
//
// With random nonces a key is good for some four thousand million secrets.
//
// The id of a key is taken from a hash of it, so two keys are never mistaken
// for one another and nobody has to name them.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
)

// ErrUnknownKey reports a secret that was sealed with a key which is not among
// the Keys.
var ErrUnknownKey = errors.New("seal: sealed with a key that is not among the keys")

// ErrBroken reports what is not a sealed secret, was changed, or belongs to
// another place.
var ErrBroken = errors.New("seal: not a sealed secret of this place, or changed since")

const (
	format    = "s1"
	keyPrefix = "taskfleet-seal-key-1:"
)

var encoding = base64.RawURLEncoding

// A Key seals and opens. It prints as its id; Text is what to store.
type Key struct {
	id string
	*material
}

// material is behind a pointer because that is where fmt stops: a Key in a
// field that is not exported is printed without regard to its methods.
type material struct {
	secret []byte
	aead   cipher.AEAD
}

// NewKey makes a key.
func NewKey() Key {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	return newKey(secret)
}

func newKey(secret []byte) Key {
	block, err := aes.NewCipher(secret)
	if err != nil {
		panic(err) // the length is right
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	hash := sha256.Sum256(append([]byte("taskfleet seal key id\x00"), secret...))
	return Key{hex.EncodeToString(hash[:6]), &material{secret, aead}}
}

// KeyFrom makes a key of the 32 random bytes of a secret that somebody else
// keeps, such as a key management service.
func KeyFrom(secret []byte) (Key, error) {
	if len(secret) != 32 {
		return Key{}, fmt.Errorf("seal: a key has 32 bytes, not %d", len(secret))
	}
	return newKey(bytes.Clone(secret)), nil
}

// ParseKey reads what Text wrote.
func ParseKey(text string) (Key, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), keyPrefix)
	secret, err := encoding.DecodeString(encoded)
	if !ok || err != nil || len(secret) != 32 { // the text is no business of an error's
		return Key{}, fmt.Errorf("seal: a key is %q and 43 characters after it; this is something else", keyPrefix)
	}
	return newKey(secret), nil
}

// ID tells keys apart and is no secret.
func (k Key) ID() string { return k.id }

// Text is the key in one line, for a file that only its owner can read.
func (k Key) Text() string { return keyPrefix + encoding.EncodeToString(k.secret) }

// Format prints the id, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, "seal key "+k.id) }

// LogValue logs the id.
func (k Key) LogValue() slog.Value { return slog.StringValue("seal key " + k.id) }

// MarshalText refuses: a key does not end up in JSON by accident.
func (k Key) MarshalText() ([]byte, error) {
	return nil, errors.New("seal: a key is not to be marshalled; use Text to store it")
}

// Keys seal with the last and open with all of them. Which these are can change
// while they are in use.
type Keys struct {
	now  atomic.Pointer[set]
	miss atomic.Pointer[func(id string)]
}

// A set is the keys at a time. It is never changed.
type set struct {
	keys []Key
	last Key
	byID map[string]Key
}

// NewKeys returns keys, the newest one last.
func NewKeys(keys ...Key) (*Keys, error) {
	ks := &Keys{}
	return ks, ks.Replace(keys...)
}

// Replace has the keys be these from now on, the newest one last. What is sealed
// or opened meanwhile is by those from before or by these. So between Newest and
// Seal the keys can change: what a sealed secret was sealed with is told by KeyID.
func (ks *Keys) Replace(keys ...Key) error {
	if len(keys) == 0 {
		return errors.New("seal: there is no key; make one with NewKey and keep its Text")
	}
	next := &set{keys: slices.Clone(keys), last: keys[len(keys)-1], byID: map[string]Key{}}
	for _, k := range keys {
		if k.material == nil {
			return errors.New("seal: an empty Key among the keys")
		}
		next.byID[k.id] = k
	}
	ks.now.Store(next)
	return nil
}

// Missing has f asked for a key that is not among the keys before something is
// said to be sealed with an unknown one. It may Replace the keys. It is called by
// whoever opens, at any time: it should be quick.
func (ks *Keys) Missing(f func(id string)) { ks.miss.Store(&f) }

// All are the keys, the newest one last.
func (ks *Keys) All() []Key { return slices.Clone(ks.now.Load().keys) }

// ParseKeys reads a file of keys: one a line, the newest one last, empty lines
// and those beginning with # left out.
func ParseKeys(text string) (*Keys, error) { return ParseKeysWith(text, ParseKey) }

// ParseKeysWith is ParseKeys where parse reads the lines: for keys that are
// written in another form.
func ParseKeysWith(text string, parse func(line string) (Key, error)) (*Keys, error) {
	var keys []Key
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		keys = append(keys, k)
	}
	return NewKeys(keys...)
}

// Seal seals a secret for a place, say "worker/local/w-1/secret".
func (ks *Keys) Seal(secret []byte, place string) string {
	return ks.now.Load().last.Seal(secret, place)
}

// Seal seals with this key.
func (k Key) Seal(secret []byte, place string) string {
	return format + "." + k.id + "." + encoding.EncodeToString(k.aead.Seal(nil, nil, secret, bound(k.id, place)))
}

// Open opens what Seal sealed for the same place.
func (ks *Keys) Open(sealed, place string) ([]byte, error) {
	id, box, err := parse(sealed)
	if err != nil {
		return nil, err
	}
	k, ok := ks.now.Load().byID[id]
	if miss := ks.miss.Load(); !ok && miss != nil {
		(*miss)(id)
		k, ok = ks.now.Load().byID[id] // whoever brought it
	}
	if !ok {
		return nil, fmt.Errorf("%w (key %s, for %s)", ErrUnknownKey, id, place)
	}
	secret, err := k.aead.Open(nil, nil, box, bound(id, place))
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", ErrBroken, place)
	}
	return secret, nil
}

// Current tells whether a secret is sealed with the newest key.
func (ks *Keys) Current(sealed string) bool { return KeyID(sealed) == ks.Newest() }

// KeyID is the id of the key that a secret is sealed with; "" if it is not sealed.
func KeyID(sealed string) string {
	id, _, err := parse(sealed)
	if err != nil {
		return ""
	}
	return id
}

// SealedBy begins all that a key has sealed, and nothing else.
func SealedBy(id string) (prefix string) { return format + "." + id + "." }

// Newest is the id of the key that seals.
func (ks *Keys) Newest() string { return ks.now.Load().last.id }

// Has tells whether a key is among the keys.
func (ks *Keys) Has(id string) bool {
	_, ok := ks.now.Load().byID[id]
	return ok
}

func parse(sealed string) (id string, box []byte, err error) {
	parts := strings.Split(sealed, ".")
	if len(parts) != 3 || parts[0] != format || parts[1] == "" {
		return "", nil, ErrBroken
	}
	box, err = encoding.DecodeString(parts[2])
	if err != nil {
		return "", nil, ErrBroken
	}
	return parts[1], box, nil
}

// bound is what is authenticated beside the secret.
func bound(id, place string) []byte { return []byte(format + "\x00" + id + "\x00" + place) }
