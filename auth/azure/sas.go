package azure

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/auth"
)

// version is that of Azure's protocol, for requests and signatures.
const version = "2020-12-06"

// mac is the base64 HMAC of lines.
func (a *account) mac(lines ...string) string {
	h := hmac.New(sha256.New, a.key)
	h.Write([]byte(strings.Join(lines, "\n")))
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// period is when a signature made now holds, in Azure's form, and until when.
func period(now time.Time) (start, end string, expires time.Time) {
	expires = now.Add(validity).Truncate(time.Second).UTC()
	return now.Add(-slack).UTC().Format(time.RFC3339), expires.Format(time.RFC3339), expires
}

// only is the protocol that a signature is good for: that of the endpoint, if
// it is safe.
func only(endpoint *url.URL) string {
	if endpoint.Scheme == "https" {
		return "https"
	}
	return ""
}

func (a *account) tableSAS(table string, write bool, now time.Time) auth.Token {
	start, end, expires := period(now)
	permissions := "r"
	if write {
		permissions = "raud" // read, add, update, delete; in this order
	}
	// The empty lines are for a stored policy, addresses, and a range of rows.
	sig := a.mac(permissions, start, end, "/table/"+a.name+"/"+strings.ToLower(table), "", "", only(a.table), version, "", "", "", "")
	return query(url.Values{"tn": {table}}, permissions, start, end, only(a.table), sig, expires)
}

func (a *account) containerSAS(container string, write bool, now time.Time) auth.Token {
	start, end, expires := period(now)
	permissions := "rl"
	if write {
		permissions = "racwdl" // read, add, create, write, delete, list; in this order
	}
	// The empty lines are for a stored policy, addresses, a snapshot, a scope of
	// encryption, and headers of the answer.
	sig := a.mac(permissions, start, end, "/blob/"+a.name+"/"+container, "", "", only(a.blob), version, "c", "", "", "", "", "", "", "")
	return query(url.Values{"sr": {"c"}}, permissions, start, end, only(a.blob), sig, expires)
}

func query(q url.Values, permissions, start, end, protocol, sig string, expires time.Time) auth.Token {
	for name, v := range map[string]string{"sv": version, "sp": permissions, "st": start, "se": end, "sig": sig} {
		q.Set(name, v)
	}
	if protocol != "" {
		q.Set("spr", protocol)
	}
	return auth.Token{Text: q.Encode(), Expires: expires}
}
