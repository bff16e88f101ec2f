package blob

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxSpelling = 1024 // bytes; S3's limit
	maxPiece    = 200  // bytes of a segment; file systems stop at 255, and the gateway needs room for temporary names
	emptyName   = "~empty"
)

// Spell is the name of key's object in its bucket. The spelling is chosen so
// that it survives everything between here and the disk unchanged, and so that
// two different keys never are in each other's way:
//
//   - Every segment before the last is followed by "~", so that what is a
//     directory on a disk never has the name of an object, and no segment is
//     empty, "." or "..": "a/b" is "a~/b", "/a//b" is "~/a~/~/b", "../a" is "..~/a".
//   - "~", control characters and bytes that are not part of UTF-8 or cannot
//     stand in XML are "~" and two hexadecimal digits: "a~b" is "a~7eb".
//   - The last segment is "~empty" where it is empty, "~2e" for "." and "~2e."
//     for "..". (The dot of ".sgwtmp" is escaped too: the gateway keeps that
//     name for itself.)
//   - Segments of more than 200 bytes are broken, the pieces being followed by
//     "~-", since file systems limit the length of a name.
//
// A spelling of more than 1024 bytes, which is S3's limit, is an [ErrKeyTooLong].
func Spell(key string) (string, error) {
	if key == "" {
		return "", fmt.Errorf("blob: %w: it is empty", ErrKey)
	}
	s := spell(key)
	if len(s) > maxSpelling {
		return "", fmt.Errorf("blob: %w: the key of %d bytes that starts with %.60q takes %d bytes in a bucket, and S3 allows %d",
			ErrKeyTooLong, len(key), key, len(s), maxSpelling)
	}
	return s, nil
}

func spell(key string) string {
	var b strings.Builder
	segments := strings.Split(key, "/")
	last := segments[len(segments)-1]
	spellDirectories(&b, segments[:len(segments)-1])
	rest := breakUp(&b, escape(last))
	switch {
	case last == "":
		rest = emptyName
	case rest == "." || rest == "..":
		rest = "~2e" + rest[1:]
	}
	b.WriteString(rest)
	return b.String()
}

func spellDirectories(b *strings.Builder, segments []string) {
	for _, s := range segments {
		b.WriteString(breakUp(b, escape(s)))
		b.WriteString("~/")
	}
}

// breakUp writes the pieces of a long segment but the last, which it returns.
func breakUp(b *strings.Builder, s string) string {
	for len(s) > maxPiece {
		end := maxPiece
		if i := strings.LastIndexByte(s[:end], '~'); i > end-3 {
			end = i // not within an escape
		}
		for !utf8.RuneStart(s[end]) {
			end--
		}
		b.WriteString(s[:end])
		b.WriteString("~-/")
		s = s[end:]
	}
	return s
}

func escape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1, r < ' ', r == '~', r == 0x7f, r == 0xfffe, r == 0xffff:
			for _, c := range []byte(s[i : i+n]) {
				fmt.Fprintf(&b, "~%02x", c)
			}
		case strings.HasPrefix(s[i:], ".sgwtmp"):
			b.WriteString("~2e")
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// Unspell is the key whose spelling is name. It is false for a name that [Spell]
// does not make: an object that somebody else put into the bucket.
func Unspell(name string) (key string, ok bool) {
	var b strings.Builder
	segments := strings.Split(name, "/")
	last := len(segments) - 1
	for _, s := range segments[:last] {
		if piece, broken := strings.CutSuffix(s, "~-"); broken {
			b.WriteString(unescape(piece))
		} else {
			b.WriteString(unescape(strings.TrimSuffix(s, "~")) + "/")
		}
	}
	if segments[last] != emptyName {
		b.WriteString(unescape(segments[last]))
	}
	key = b.String()
	return key, key != "" && spell(key) == name
}

func unescape(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "~")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		s = after
		if c, err := hex.DecodeString(s[:min(2, len(s))]); err == nil && len(c) == 1 {
			b.WriteByte(c[0])
			s = s[2:]
		}
	}
}

// spellPrefix is what the spellings of all keys that start with prefix start
// with. Other spellings may start with it too.
func spellPrefix(prefix string) string {
	var b strings.Builder
	segments := strings.Split(prefix, "/")
	last := segments[len(segments)-1]
	spellDirectories(&b, segments[:len(segments)-1])
	// Of an unfinished segment only what is spelled as itself wherever it
	// stands: its end may be half a rune, or become part of something escaped.
	end := 0
	for end < min(len(last), maxPiece) && (last[end] == '-' || last[end] == '_' ||
		'0' <= last[end] && last[end] <= '9' || 'a' <= last[end] && last[end] <= 'z' || 'A' <= last[end] && last[end] <= 'Z') {
		end++
	}
	b.WriteString(last[:end])
	return b.String()
}
