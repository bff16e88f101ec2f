package security

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/taskfleet/taskfleet/slugid"
)

// plants are secrets that were planted, by what they are. They are found in any
// of the forms that a secret takes on its way through logs and URLs.
type plants struct {
	mu    sync.Mutex
	forms []form
}

type form struct {
	what, as string
	text     []byte
}

// new makes up a secret with characters that URLs, JSON and shells treat in
// their own ways.
func (p *plants) new(what string) string {
	return p.add(what, "s&"+slugid.Token()[:20]+"/+%é<"+slugid.Token()[:10])
}

// token makes up a secret of letters and digits.
func (p *plants) token(what string) string { return p.add(what, slugid.Token()) }

// add takes a secret that somebody else made up.
func (p *plants) add(what, secret string) string {
	if len(secret) < 16 {
		panic(fmt.Sprintf("%s has %d characters: too few to be told from chance", what, len(secret)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[string]bool{}
	add := func(as, text string) {
		if !seen[text] {
			seen[text] = true
			p.forms = append(p.forms, form{what, as, []byte(text)})
		}
	}
	add("as it is", secret)
	add("quoted", strings.Trim(fmt.Sprintf("%q", secret), `"`))
	add("quoted in ASCII", strings.Trim(fmt.Sprintf("%+q", secret), `"`))
	add("JSON for HTML", strings.NewReplacer("&", `\u0026`, "<", `\u003c`, ">", `\u003e`).Replace(secret))
	add("in a query", url.QueryEscape(secret))
	add("in a path", url.PathEscape(secret))
	add("escaped twice", url.QueryEscape(url.QueryEscape(secret)))
	add("hex", hex.EncodeToString([]byte(secret)))
	add("hex in capitals", strings.ToUpper(hex.EncodeToString([]byte(secret))))
	add("as a list of bytes", strings.Trim(fmt.Sprint([]byte(secret)), "[]"))
	for _, e := range []struct {
		name string
		*base64.Encoding
	}{{"base64", base64.RawStdEncoding}, {"base64 for URLs", base64.RawURLEncoding}} {
		for before := range 3 { // where in a longer text the secret begins
			text := e.EncodeToString(append(make([]byte, before), secret...))
			// The first and the last characters depend on what is around.
			add(e.name, text[(before*8+5)/6:len(text)-2])
		}
	}
	return secret
}

// A find is a secret where none should be.
type find struct{ what, as, around string }

// search looks for the secrets in a text, but for those that may be there.
func (p *plants) search(text []byte, but ...string) (list []find) {
	p.mu.Lock()
	defer p.mu.Unlock()
next:
	for _, f := range p.forms {
		for _, b := range but {
			if strings.HasPrefix(f.what, b) {
				continue next
			}
		}
		if i := bytes.Index(text, f.text); i >= 0 {
			around := string(text[max(0, i-200):min(len(text), i+len(f.text)+100)])
			list = append(list, find{f.what, f.as, around})
		}
	}
	return list
}

func random(n int) []byte {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic(err) // never returned
	}
	return b
}
