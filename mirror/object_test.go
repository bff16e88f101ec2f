package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/blobtest"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// stored is the object that c is stored as.
func stored(c *Copy) blob.Object {
	return blob.Object{Key: c.key(), Size: max(c.Size, 0), ETag: "etag in the bucket", Headers: blob.Headers{Metadata: c.metadata()}}
}

func sumOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestACopyIsReadBackFromItsObject(t *testing.T) {
	origins := []Origin{
		{URL: "https://example.com/a%20b/c?d=%2F&e=f#"}, {URL: "https://example.com/é\x00"}, {URL: "https://example.com/" + strings.Repeat("long/", 300)},
	}
	for _, key := range blobtest.AwkwardKeys {
		origins = append(origins, Origin{Bucket: "artifacts", Key: key})
	}
	b := blobtest.Bucket(t, blobtest.Gateway(t))
	for _, o := range origins {
		full := Copy{
			ID: o.ID(), Origin: o, State: Present, Size: 4, ETag: "of \"the\" origin\x01", SHA256: sumOf("abcd"),
			Token: slugid.New(), Expires: timestamp.Now(),
		}
		bare := Copy{ID: o.ID(), Origin: o, State: Present, Size: -1, Token: slugid.New()}
		for _, c := range []Copy{full, bare} {
			if _, err := ParseOrigin(o.String()); err != nil { // such a URL never becomes an origin
				continue
			}
			if c.needsOriginObject() {
				if _, err := b.PutBytes(t.Context(), c.originKey(), []byte(c.Origin.String()), blob.Headers{}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.PutBytes(t.Context(), c.key(), []byte("abcd"), blob.Headers{Metadata: c.metadata()}); err != nil {
				t.Errorf("%q: %v", o, err)
				continue
			}
			found, err := b.Stat(t.Context(), c.key())
			if err != nil {
				t.Fatal(err)
			}
			p := place{Region: Region{Bucket: b}}
			got, err := fromObject(found, func() (string, error) { return p.readText(t.Context(), c.originKey()) })
			if err != nil {
				t.Errorf("%q: %v", o, err)
				continue
			}
			want := c
			want.Size, want.Stored, want.SHA256 = 4, found.ETag, sumOf("abcd")
			if !reflect.DeepEqual(*got, want) {
				t.Errorf("stored was %+v, read back %+v", want, *got)
			}
		}
	}
}

// say has an object say something else of itself.
func say(o *blob.Object, name, value string) {
	said := unpackMeta(o.Metadata)
	said[name] = value
	o.Metadata = packMeta(said)
}

func TestAnObjectThatIsNoCopyIsNotTakenForOne(t *testing.T) {
	origin := Origin{Bucket: "artifacts", Key: "task/0/public/x"}
	whole := &Copy{ID: origin.ID(), Origin: origin, Size: 10, SHA256: sumOf("x"), Token: slugid.New(), Expires: timestamp.Now()}
	long := Origin{Bucket: "artifacts", Key: strings.Repeat("ü", 400)}
	for name, spoil := range map[string]func(o *blob.Object){
		"of another origin":    func(o *blob.Object) { say(o, metaOrigin, "s3://artifacts/other") },
		"without an origin":    func(o *blob.Object) { say(o, metaOrigin, "") },
		"badly encoded":        func(o *blob.Object) { say(o, metaOrigin, "%zz") },
		"badly encoded ETag":   func(o *blob.Object) { say(o, metaETag, "%") },
		"of no origin":         func(o *blob.Object) { say(o, metaOrigin, "file:///etc/passwd") },
		"without metadata":     func(o *blob.Object) { o.Metadata = nil },
		"too short":            func(o *blob.Object) { o.Size-- },
		"of a size in words":   func(o *blob.Object) { say(o, metaSize, "ten") },
		"with other bytes":     func(o *blob.Object) { o.SHA256 = sumOf("y") },
		"with a short SHA-256": func(o *blob.Object) { say(o, metaSHA256, "abcd") },
		"with an odd expiry":   func(o *blob.Object) { say(o, metaExpires, "tomorrow") },
		"under another key":    func(o *blob.Object) { o.Key = keysOf(long.ID()) + "." + whole.Token },
		"whose origin is gone": func(o *blob.Object) { say(o, metaOriginObject, "1") },
		"elsewhere":            func(o *blob.Object) { o.Key = "other/" + o.Key },
	} {
		o := stored(whole)
		spoil(&o)
		if c, err := fromObject(o, func() (string, error) { return "", blob.ErrNotFound }); !errors.Is(err, errNotACopy) {
			t.Errorf("an object %s: %+v, %v", name, c, err)
		}
	}
	away := errors.New("the bucket does not answer")
	c := &Copy{ID: long.ID(), Origin: long, Size: 10, Token: slugid.New()}
	if !c.needsOriginObject() || whole.needsOriginObject() {
		t.Error("what is long needs an object for its origin, what is short does not")
	}
	if _, err := fromObject(stored(c), func() (string, error) { return "", away }); !errors.Is(err, away) || errors.Is(err, errNotACopy) {
		t.Errorf("with a bucket that does not answer: %v", err)
	}
}

func TestOnlyKeysOfOurFormAreOurs(t *testing.T) {
	id, token := Origin{URL: "https://example.com/"}.ID(), slugid.New()
	for key, want := range map[string]objectKind{
		"copies/" + id[:2] + "/" + id + "." + token:             copyObject,
		"copies/" + id[:2] + "/" + id + "." + token + ".origin": originObject,
		"copies/" + id[:2] + "/" + id + "." + token + ".other":  foreign,
		"copies/" + id[:2] + "/" + id + "." + token + "/x":      foreign,
		"copies/" + id[:2] + "/" + id + "." + token + "x":       foreign,
		"copies/" + id[:2] + "/" + id + ".":                     foreign,
		"copies/" + id[:2] + "/" + id:                           foreign,
		"copies/zz/" + id + "." + token:                         foreign,
		"copies/" + id + "." + token:                            foreign,
		keysOf(strings.ToUpper(id)) + "." + token:               foreign,
		keysOf(id[:63]) + "." + token:                           foreign,
		keysOf(id[:63]+"g") + "." + token:                       foreign,
		"copies//." + token:                                     foreign,
		"x/copies/" + id[:2] + "/" + id + "." + token:           foreign,
		id[:2] + "/" + id + "." + token:                         foreign,
	} {
		i, s, kind := parseKey(key)
		if kind != want || kind != foreign && (i != id || s != token) {
			t.Errorf("%s: %q, %q, %v", key, i, s, kind)
		}
	}
}
