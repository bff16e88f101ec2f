// Package slugid makes and checks slugids: random version 4 UUIDs written in
// 22 characters of URL-safe base64, the form of every task id.
package slugid

import (
	"crypto/rand"
	"encoding/base64"
	"regexp"
)

// Pattern matches a slugid of a version 4 UUID and nothing else.
const Pattern = `^[A-Za-z0-9_-]{8}[Q-T][A-Za-z0-9_-][CGKOSWaeimquy26-][A-Za-z0-9_-]{10}[AQgw]$`

var pattern = regexp.MustCompile(Pattern)

// Valid reports whether s is a slugid.
func Valid(s string) bool { return pattern.MatchString(s) }

// New returns a fresh slugid of 121 random bits. Its first bit is zero, so
// that it never begins with '-', which command lines take for a flag.
func New() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	b[0] &= 0x7f
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Token returns 44 random characters (242 bits): the form of access tokens,
// seeds and one-time secrets.
func Token() string { return New() + New() }
