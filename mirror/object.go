package mirror

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// metaCopy is the metadata of a copy's object: what follows, as "name=value" with
// spaces between. Where metadata is attributes of files, one costs a fraction of
// many.
const metaCopy = "taskfleet-copy"

// What an object says of itself, from which its row can be made anew. Values are
// percent-encoded where they are not printable ASCII.
const (
	metaOrigin       = "origin"        // its text
	metaOriginObject = "origin-object" // "1" instead: it is the object originKey
	metaETag         = "etag"          // of the origin, where it has one
	metaSHA256       = "sha256"        // where it was known when the copy was begun; so, too:
	metaSize         = "size"
	metaExpires      = "expires"
	metaStored       = "stored" // when it was begun
)

const (
	// What origins and ETags may take of the 2 KiB that S3 allows in all. An ETag
	// that takes more is left out.
	maxMetaOrigin = 1500
	maxMetaETag   = 200

	keyPrefix    = "copies/"
	originSuffix = ".origin"
)

// metadata is what c's object says of itself.
func (c *Copy) metadata() map[string]string {
	m := map[string]string{metaStored: timestamp.Now().String()}
	if c.needsOriginObject() {
		m[metaOriginObject] = "1"
	} else {
		m[metaOrigin] = escapeMeta(c.Origin.String())
	}
	if etag := escapeMeta(c.ETag); etag != "" && len(etag) <= maxMetaETag {
		m[metaETag] = etag
	}
	if c.SHA256 != "" {
		m[metaSHA256] = c.SHA256
	}
	if c.Size >= 0 {
		m[metaSize] = strconv.FormatInt(c.Size, 10)
	}
	if !c.Expires.IsZero() {
		m[metaExpires] = c.Expires.String()
	}
	return packMeta(m)
}

func packMeta(m map[string]string) map[string]string {
	var said []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		said = append(said, name+"="+m[name])
	}
	return map[string]string{metaCopy: strings.Join(said, " ")}
}

func unpackMeta(metadata map[string]string) map[string]string {
	m := map[string]string{}
	for _, said := range strings.Fields(metadata[metaCopy]) {
		name, value, _ := strings.Cut(said, "=")
		m[name] = value
	}
	return m
}

// needsOriginObject tells that the origin's text is too long for metadata, or not
// for whoever reads the copy, and so sees its metadata: a query may hold a
// signature. It is then put under originKey before the copy is stored.
func (c *Copy) needsOriginObject() bool {
	return strings.Contains(c.Origin.URL, "?") || len(escapeMeta(c.Origin.String())) > maxMetaOrigin
}

// originKey is where the origin's text is, if it needs an object of its own.
func (c *Copy) originKey() string { return c.key() + originSuffix }

// errNotACopy says that an object does not say of itself what a copy says.
var errNotACopy = errors.New("not a copy that can be told what it is of")

// fromObject makes the copy that o, which was looked at with Stat, is of. Its
// region is for the caller to fill in. readOrigin reads the object originKey. An
// object that is not such a copy is errNotACopy.
func fromObject(o blob.Object, readOrigin func() (string, error)) (*Copy, error) {
	bad := func(format string, args ...any) (*Copy, error) {
		return nil, fmt.Errorf("mirror: object %q: %w: %s", o.Key, errNotACopy, fmt.Sprintf(format, args...))
	}
	id, token, kind := parseKey(o.Key)
	if kind != copyObject {
		return bad("its key is not %s<id>.<token>", keyPrefix)
	}
	said := unpackMeta(o.Metadata)
	text, err := url.PathUnescape(said[metaOrigin])
	if err != nil {
		return bad("its metadata %s is not percent-encoded", metaOrigin)
	}
	if said[metaOriginObject] != "" {
		if text, err = readOrigin(); errors.Is(err, blob.ErrNotFound) {
			return bad("its origin, an object of its own, is gone")
		} else if err != nil {
			return nil, err
		}
	}
	origin, err := ParseOrigin(text)
	if err != nil || origin.ID() != id {
		return bad("its origin is not the one of its key")
	}
	c := &Copy{ID: id, Origin: origin, State: Present, Size: o.Size, Token: token, Stored: o.ETag, SHA256: said[metaSHA256]}
	if size := said[metaSize]; size != "" && size != strconv.FormatInt(o.Size, 10) {
		return bad("it has %d bytes instead of %s", o.Size, size)
	}
	if c.ETag, err = url.PathUnescape(said[metaETag]); err != nil {
		return bad("its metadata %s is not percent-encoded", metaETag)
	}
	if b, err := hex.DecodeString(c.SHA256); err != nil || len(b) != 32 && len(b) != 0 {
		return bad("its metadata %s is no SHA-256", metaSHA256)
	}
	if o.SHA256 != "" && c.SHA256 != "" && o.SHA256 != c.SHA256 {
		return bad("its SHA-256 is %s instead of %s", o.SHA256, c.SHA256)
	}
	if c.SHA256 == "" {
		c.SHA256 = o.SHA256
	}
	if text := said[metaExpires]; text != "" {
		if err := c.Expires.UnmarshalText([]byte(text)); err != nil {
			return bad("its metadata %s is no time", metaExpires)
		}
	}
	return c, nil
}

// An objectKind says what a key in a region's bucket is of.
type objectKind int

const (
	foreign      objectKind = iota // not ours
	copyObject                     // a copy, or an attempt at one
	originObject                   // the text of its origin
)

// parseKey takes a key apart. Whatever does not look exactly as ours do was put
// there by somebody else.
func parseKey(key string) (id, token string, kind objectKind) {
	_, rest, _ := strings.Cut(strings.TrimPrefix(key, keyPrefix), "/")
	id, token, _ = strings.Cut(rest, ".")
	token, origin := strings.CutSuffix(token, originSuffix)
	b, err := hex.DecodeString(id)
	switch {
	case !strings.HasPrefix(key, keysOf(id)+".") || err != nil || len(b) != 32 || strings.ToLower(id) != id || !slugid.Valid(token):
		return "", "", foreign
	case origin:
		return id, token, originObject
	}
	return id, token, copyObject
}

// escapeMeta percent-encodes what cannot stand in metadata. url.PathUnescape is
// the way back.
func escapeMeta(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
