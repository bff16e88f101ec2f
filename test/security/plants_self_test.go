package security

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"testing"
)

// A search that finds nothing would be content with everything.
func TestTheSearchFindsSecretsInEveryForm(t *testing.T) {
	t.Parallel()
	p := &plants{}
	secret := p.new("a secret")
	quoted, err := json.Marshal(object{"x": "before " + secret + " after"})
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{
		secret, string(quoted), fmt.Sprintf("%q", "before "+secret), fmt.Sprintf("%+q", secret),
		"http://u:" + url.QueryEscape(secret) + "@h", url.PathEscape("x" + secret), hex.EncodeToString([]byte("x" + secret + "x")), fmt.Sprintf("%X", "x"+secret),
		fmt.Sprint([]byte("x" + secret + "x")),
	}
	for before := range 5 {
		for after := range 5 {
			whole := append(append(random(before), secret...), random(after)...)
			texts = append(texts, base64.StdEncoding.EncodeToString(whole), base64.URLEncoding.EncodeToString(whole))
		}
	}
	for _, text := range texts {
		if len(p.search([]byte(text))) == 0 {
			t.Errorf("not found in %s", text)
		}
		if len(p.search([]byte(text), "a sec")) != 0 {
			t.Errorf("found in %s, where it may be", text)
		}
	}
	if found := p.search([]byte("nothing")); len(found) != 0 {
		t.Errorf("found: %v", found)
	}
}
