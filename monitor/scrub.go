package monitor

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// gone stands in place of what is not sent.
const gone = "[…]"

// secretNames are parts of names of fields that hold secrets, or what callers have
// sent.
const secretNames = `passw|passphrase|secret|token|authoriz|certificate|bewit|signature|cookie|api[-_]?key|access[-_]?key|private[-_]?key|credentials|seed|dsn|payload|body|session`

// secretHints are the same for whoever looks for one of them first.
var secretHints = []string{"passw", "passphrase", "secret", "token", "authoriz", "certificate", "bewit", "signature", "cookie", "api", "access", "private", "credentials", "seed", "dsn", "payload", "body", "session"}

var secretField = regexp.MustCompile(`(?i)` + secretNames + `|^(sig|pwd|key|mac|nonce|ext)$`)

func secretName(name string) bool { return secretField.MatchString(name) }

// What is put in place of what has the shape of a secret, in this order. It is looked
// for in a text that has one of the hints, which is in lower case.
var shapes = []struct {
	hints []string
	shape *regexp.Regexp
	by    string
}{
	// Keys and certificates in PEM, also where they are cut short.
	{[]string{"-----begin"}, regexp.MustCompile(`-----BEGIN [\s\S]*?(?:-----END [^-]*-----|$)`), gone},
	// Headers, to the end of the line.
	{[]string{"authorization", "cookie", "x-"}, regexp.MustCompile(`(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]*(?:token|key))(\\*["']?\s*[:=]).*`), "$1$2 " + gone},
	{[]string{"hawk"}, regexp.MustCompile(`(?i)\b(hawk)\s+\w+=.*`), "$1 " + gone},
	{[]string{"bearer", "basic", "digest", "negotiate"}, regexp.MustCompile(`(?i)\b(bearer|basic|digest|negotiate)\s+[\w+/=.~:-]{6,}`), "$1 " + gone},
	{[]string{"aws4-hmac"}, regexp.MustCompile(`AWS4-HMAC-SHA256.*`), gone},
	// URLs: who logs in, and all queries.
	{[]string{"://"}, regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s"'<>]*@`), "$1" + gone + "@"},
	{[]string{"://"}, regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^\s?"'<>]*)\?[^\s"'<>]*`), "$1?" + gone},
	// Members and settings, by their names: JSON also where it stands in a string.
	{secretHints, regexp.MustCompile(`(?i)([\w.-]*(?:` + secretNames + `)[\w.-]*\\*["']?\s*[:=]\s*)` +
		`(?:\\+"(?:[^"\\]|\\+[^"\\])*\\*"|"(?:[^"\\]|\\.)*"?|'[^']*'?|` + "`[^`]*`?" + `|\{[^}]*\}?|\[[^\]]*\]?|[^\s,;&)}\]]+)`), "${1}" + gone},
	{[]string{"sig=", "pwd=", "mac=", "nonce="}, regexp.MustCompile(`(?i)\b((?:sig|pwd|mac|nonce)=)[^\s,;&)}\]]+`), "${1}" + gone},
	// What is known by how it begins.
	{[]string{"akia", "asia", "aroa", "xox", "gh", "sntry", "glpat-", "sk-", "sg.", "eyj"}, regexp.MustCompile(`\b(?:AKIA|ASIA|AROA)[0-9A-Z]{12,}|\bxox[a-z]-[\w-]+|\b(?:gh[a-z]_|github_pat_|sntry[a-z]_|glpat-|sk-|SG\.)[\w.=-]{10,}|\beyJ[\w-]{8,}(?:\.[\w-]*){0,2}`), gone},
}

// opaque is what may be a key, a token or a signature: long, and no word.
var opaque = regexp.MustCompile(`[A-Za-z0-9+/_-]{32,}={0,2}`)

var (
	uuidShape = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	hexShape  = regexp.MustCompile(`^[0-9a-fA-F]+$`)
)

func random(s string) bool {
	has := func(f func(rune) bool) bool { return strings.ContainsFunc(s, f) }
	switch {
	case uuidShape.MatchString(s):
		return false
	case hexShape.MatchString(s):
		return true
	}
	return has(unicode.IsDigit) && has(unicode.IsUpper) && has(unicode.IsLower)
}

// scrub takes out of a text what must not be sent.
func (r *Reporter) scrub(text string) string {
	r.hidden.Range(func(secret, _ any) bool {
		text = strings.ReplaceAll(text, secret.(string), gone)
		return true
	})
	low := strings.ToLower(text)
	for _, s := range shapes {
		if slices.ContainsFunc(s.hints, func(hint string) bool { return strings.Contains(low, hint) }) {
			text = s.shape.ReplaceAllString(text, s.by)
		}
	}
	return opaque.ReplaceAllStringFunc(text, func(s string) string {
		if random(s) {
			return gone
		}
		return s
	})
}

// shortestSecret is looked for: what is shorter is a word.
const shortestSecret = 6

// Hide has secrets never be sent, in whatever text they stand.
func (r *Reporter) Hide(secrets ...string) {
	for _, s := range secrets {
		if len(s) < shortestSecret {
			continue
		}
		for _, form := range forms(s) {
			r.hidden.Store(form, nil)
		}
	}
}

// forms are how a text may stand in another one.
func forms(s string) []string {
	quoted := strconv.Quote(s)
	all := []string{s, url.QueryEscape(s), url.PathEscape(s), quoted[1 : len(quoted)-1]}
	slices.Sort(all)
	return slices.Compact(all)
}

// mostHidden texts are looked for. If a caller has sent more of them, nothing is
// said of the error but its kind.
const mostHidden = 500

// hide takes out of a text what a caller has sent: strings, and those in decoded JSON.
func hide(text string, hides []any) string {
	if text == "" || len(hides) == 0 {
		return text
	}
	var list []string
	var walk func(any) bool
	walk = func(v any) bool {
		if len(list) > mostHidden {
			return false
		}
		switch v := v.(type) {
		case string:
			if len(v) >= shortestSecret {
				list = append(list, v)
			}
		case []any:
			for _, x := range v {
				if !walk(x) {
					return false
				}
			}
		case map[string]any:
			for k, x := range v {
				// Names are the schema's, mostly; where they are not, they are long.
				if len(k) >= 16 {
					list = append(list, k)
				}
				if !walk(x) {
					return false
				}
			}
		}
		return true
	}
	for _, v := range hides {
		if !walk(v) {
			return gone
		}
	}
	// The longest first: one may be part of another.
	slices.SortFunc(list, func(a, b string) int { return len(b) - len(a) })
	for _, s := range list {
		if strings.Contains(text, s) {
			text = strings.ReplaceAll(text, s, gone)
		}
		for _, form := range forms(s) {
			text = strings.ReplaceAll(text, form, gone)
		}
	}
	return text
}

// clip cuts a text that is too long, between words where there are any: part of a
// secret does not look like one.
func clip(s string, longest int) string {
	if len(s) <= longest {
		return s
	}
	s = s[:longest]
	if i := strings.LastIndexAny(s, " \n\t"); i > 0 {
		s = s[:i]
	} else {
		return gone
	}
	return s + " …"
}

var (
	quotedPart = regexp.MustCompile("\"[^\"]*\"|`[^`]*`|'[^']*'")
	idPart     = regexp.MustCompile(`[A-Za-z0-9_-]*[0-9][A-Za-z0-9_.:-]*`)
)

// class is a text without what differs from one error to the next of the same sort.
func class(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	return clip(idPart.ReplaceAllString(quotedPart.ReplaceAllString(text, `"…"`), "#"), 300)
}
