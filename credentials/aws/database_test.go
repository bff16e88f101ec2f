package aws

import (
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
)

// The signature is that which the SDK's own package for it makes at that time.
func TestATokenForADatabase(t *testing.T) {
	const host = "builds.abcdefghijkl.eu-central-1.rds.amazonaws.com"
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t, "aws-database-login.json").cloud()
		token, err := c.DatabaseToken(t.Context(), host, 5432, "rotator")
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse("https://" + token)
		if err != nil || u.Host != host+":5432" || u.Path != "/" {
			t.Errorf("%s, %v", token, err)
		}
		for name, value := range map[string]string{
			"Action": "connect", "DBUser": "rotator", "X-Amz-Expires": "900", "X-Amz-Date": "20000101T000000Z", "X-Amz-SignedHeaders": "host",
			"X-Amz-Credential": rotatorKey + "/20000101/eu-central-1/rds-db/aws4_request", "X-Amz-Signature": "e3eec2a8bff85d85e468de5b71131bc0565449785f0f70354d3d39c6b29e38f7",
		} {
			if got := u.Query().Get(name); got != value {
				t.Errorf("%s is %q; it should be %q", name, got, value)
			}
		}
		if _, err := c.DatabaseToken(t.Context(), "db.example.com", 5432, "rotator"); err == nil || !strings.Contains(err.Error(), "not the name of a database of RDS") {
			t.Errorf("a server elsewhere: %v", err)
		}
	})
}
