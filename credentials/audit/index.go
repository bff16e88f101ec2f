package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"net/url"
	"strings"
)

// An index is what secrets are recognised by. It does not have the secrets: of each
// it keeps a fingerprint of a few characters, by which a place in a text is found
// that may be it, and its length and a digest, which tell whether it is. Both are
// made with keys of this index alone, so that what is in memory for as long as an
// audit takes is of use for nothing else.
type index struct {
	table   [256]uint64 // random: what a byte adds to a fingerprint
	past    [256]uint64 // the same, for one that is not in the window any more
	key     [32]byte
	filter  []uint64 // bits of fingerprints that there are, for a quick no
	shift   uint     // of a fingerprint, for its bits: the first ones of it, and the last ones
	at      map[uint64][]needle
	known   map[digest]bool
	sources []Source

	looked, left int // texts that are looked for, and those that are too short, too plain or too many
}

// A Source is where a secret is from.
type Source struct {
	Kind string // client, credential, secret
	Name string
	Part string // which of its secrets: the id of a token or version, the path of a member
}

type digest [16]byte

// A needle is a text that is looked for.
type needle struct {
	offset, length int // of the characters of the fingerprint in it; of all
	sum            digest
	source         int
	form           string // "" as it is; else how it is written
}

const (
	window    = 12   // characters of a fingerprint
	longest   = 1024 // of a text; of longer ones the beginning is looked for
	mostAlike = 64   // texts with one fingerprint

	mostLines = 500     // of a text: no key has more, and others want to be looked for, too
	mostTexts = 100_000 // in all, as each takes a kilobyte or so
)

func newIndex() *index {
	x := &index{at: map[uint64][]needle{}, known: map[digest]bool{}}
	rand.Read(x.key[:])
	var b [8 * 256]byte
	rand.Read(b[:])
	for i := range x.table {
		x.table[i] = binary.LittleEndian.Uint64(b[8*i:])
		x.past[i] = bits.RotateLeft64(x.table[i], window)
	}
	return x
}

func (x *index) fingerprint(text []byte) (h uint64) {
	for _, b := range text[:window] {
		h = bits.RotateLeft64(h, 1) ^ x.table[b]
	}
	return h
}

func (x *index) digest(text []byte) (d digest) {
	m := hmac.New(sha256.New, x.key[:])
	m.Write(text)
	copy(d[:], m.Sum(nil))
	return d
}

// add has a secret looked for: each line of it, as it is and as it stands in JSON,
// in URLs and in Base64.
func (x *index) add(secret string, from Source, always bool) {
	x.sources = append(x.sources, from)
	source, most := len(x.sources)-1, min(x.looked+mostLines, mostTexts)
	for line := range strings.Lines(secret) {
		line = strings.Trim(line, " \t\r\n")
		if strings.HasPrefix(line, "-----") {
			continue // begins or ends a key, as it does others
		}
		if len(line) < window || x.looked >= most || !always && plain(line) {
			x.left++
			continue
		}
		x.looked++
		x.put(line, source, "")
		if quoted, err := json.Marshal(line); err == nil {
			x.put(string(quoted[1:len(quoted)-1]), source, "in JSON")
		}
		x.put(url.QueryEscape(line), source, "in a URL")
		x.put(url.PathEscape(line), source, "in a URL")
		// What stands before it decides how it looks in Base64; characters that
		// depend on that are left out.
		for before := range 3 {
			padded := append(make([]byte, before, before+len(line)), line...)
			for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				text := e.EncodeToString(padded)
				begin, end := (before*8+5)/6, len(padded)*8/6
				if end-begin >= 2*window {
					x.put(text[begin:end], source, "in Base64")
				}
			}
		}
	}
}

func (x *index) put(text string, source int, form string) {
	b := []byte(text[:min(len(text), longest)])
	if len(b) < window {
		return
	}
	d := x.digest(b)
	if x.known[d] {
		return
	}
	x.known[d] = true
	// The most varied part is rarest in other texts.
	best, offset := 0, 0
	for i := 0; i+window <= len(b); i++ {
		var seen [4]uint64
		for _, c := range b[i : i+window] {
			seen[c>>6] |= 1 << (c & 63)
		}
		if n := bits.OnesCount64(seen[0]) + bits.OnesCount64(seen[1]) + bits.OnesCount64(seen[2]) + bits.OnesCount64(seen[3]); n > best {
			best, offset = n, i
		}
		if best == window {
			break
		}
	}
	h := x.fingerprint(b[offset:])
	if len(x.at[h]) < mostAlike {
		x.at[h] = append(x.at[h], needle{offset, len(b), d, source, form})
	}
}

// ready is called once all was added.
func (x *index) ready() {
	size := uint(12)
	for 1<<size < 64*len(x.at) && size < 22 {
		size++
	}
	x.shift = 64 - size
	x.filter = make([]uint64, 1<<(size-6))
	for h := range x.at {
		for _, i := range []uint64{h >> x.shift, h << x.shift >> x.shift} {
			x.filter[i>>6] |= 1 << (i & 63)
		}
	}
	x.known = nil
}

// is tells whether a text is a needle.
func (x *index) is(n *needle, text []byte) bool {
	d := x.digest(text)
	return subtle.ConstantTimeCompare(d[:], n.sum[:]) == 1
}

// plain tells that a text of a secret is likely to be found where it is no secret:
// an address, a name, a word, a date. Nobody would call these secret, but they stand
// in secrets beside what is.
func plain(text string) bool {
	if u, err := url.Parse(text); err == nil && u.Scheme != "" && u.Host != "" {
		if _, password := u.User.Password(); password {
			return false
		}
		return len(u.RawQuery) < 16 && !varied(u.Path)
	}
	return !varied(text)
}

// varied tells that a text looks as if it were made at random: letters of both cases
// and digits, or letters and digits where they are mixed, or special characters too.
func varied(text string) bool {
	kinds, changes, last := 0, 0, 0
	for _, c := range []byte(text) {
		kind := 0
		switch {
		case c >= 'a' && c <= 'z':
			kind = 1
		case c >= 'A' && c <= 'Z':
			kind = 2
		case c >= '0' && c <= '9':
			kind = 4
		case bytes.IndexByte([]byte(" -_./:,@"), c) >= 0:
			continue
		default:
			kind = 8
		}
		if last != 0 && kind != last {
			changes++
		}
		kinds |= kind
		last = kind
	}
	return bits.OnesCount(uint(kinds)) >= 2 && changes >= 4
}

// addJSON has all texts of a JSON document looked for.
func (x *index) addJSON(doc json.RawMessage, from Source) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v any
	if d.Decode(&v) == nil {
		x.walk(v, from, false)
	}
}

func (x *index) walk(v any, from Source, always bool) {
	within := func(member string) Source {
		s := from
		s.Part = strings.TrimPrefix(s.Part+"."+member, ".")
		return s
	}
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			x.walk(member, within(name), saysSecret(name))
		}
	case []any:
		for _, member := range v {
			x.walk(member, from, always)
		}
	case json.Number:
		if always {
			x.add(v.String(), from, true)
		}
	case string:
		// A secret can be a document in itself.
		if strings.HasPrefix(v, "{") && json.Valid([]byte(v)) {
			x.addJSON(json.RawMessage(v), from)
			return
		}
		x.add(v, from, always)
	}
}

// saysSecret tells that a member's name says that it is a secret.
func saysSecret(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"password", "passwd", "passphrase", "secret", "token", "privatekey", "private_key", "apikey", "api_key", "accesskey"} {
		if strings.Contains(name, word) && !strings.HasSuffix(name, "id") && !strings.HasSuffix(name, "name") && !strings.HasSuffix(name, "url") && !strings.HasSuffix(name, "uri") {
			return true
		}
	}
	return false
}
