package aws_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth/aws"
)

const secret = "verySecretKeyOfAnIAMUser/0123456789abcdef"

// federation imitates STS: it makes credentials for those who sign with a key it
// knows, and keeps what they were made for.
type federation struct {
	asked  []url.Values
	denies bool
}

func (f *federation) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	answer := func(status int, text string) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"text/xml"}}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
	}
	q, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	if f.denies || q.Get("Action") != "GetFederationToken" || !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIAEXAMPLE/") {
		return answer(403, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not authorized to perform sts:GetFederationToken</Message></Error></ErrorResponse>`)
	}
	f.asked = append(f.asked, q)
	return answer(200, `<GetFederationTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetFederationTokenResult><Credentials>
		<SessionToken>session</SessionToken><SecretAccessKey>made</SecretAccessKey><AccessKeyId>ASIAMADE</AccessKeyId>
		<Expiration>2030-01-02T03:04:05Z</Expiration></Credentials></GetFederationTokenResult></GetFederationTokenResponse>`)
}

func open(t *testing.T, f *federation) *aws.Federation {
	t.Helper()
	x, err := aws.New(aws.Config{Keys: []aws.Key{
		{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: secret, Buckets: []string{"logs", "builds"}},
		{AccessKeyID: "AKIAOTHER", SecretAccessKey: secret, Buckets: []string{"elsewhere"}},
	}, Transport: f})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

type policy struct {
	Version   string
	Statement []struct {
		Effect, Resource string
		Action           []string
		Condition        map[string]map[string]string
	}
}

// allows tells what the policy says, by the rules of AWS as far as it uses them.
func (p policy) allows(action, key string) bool {
	matches := func(pattern, s string) bool {
		// As patterns of package path, where a slash is a letter as any other.
		for from, to := range map[string]string{"${*}": `\*`, "${?}": `\?`, "${$}": "$"} {
			pattern = strings.ReplaceAll(pattern, from, to)
		}
		flat := strings.NewReplacer("/", "\x01", "[", "\x02")
		ok, err := path.Match(flat.Replace(pattern), flat.Replace(s))
		return ok && err == nil
	}
	for _, s := range p.Statement {
		if s.Effect != "Allow" || !slices.Contains(s.Action, action) {
			continue
		}
		if c := s.Condition["StringLike"]["s3:prefix"]; c != "" {
			if s.Resource == "arn:aws:s3:::logs" && matches(c, key) {
				return true
			}
		} else if matches(s.Resource, "arn:aws:s3:::logs/"+key) || s.Resource == "arn:aws:s3:::logs" {
			return true
		}
	}
	return false
}

func TestCredentialsAreForThePrefixAlone(t *testing.T) {
	f := &federation{}
	x := open(t, f)
	get := func(prefix string, write bool) policy {
		t.Helper()
		c, err := x.S3Credentials(t.Context(), "logs", prefix, write)
		if err != nil || c.AccessKeyID != "ASIAMADE" || c.SecretAccessKey != "made" || c.SessionToken != "session" || !c.Expires.Equal(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)) {
			t.Fatalf("%+v, %v", c, err)
		}
		q := f.asked[len(f.asked)-1]
		if q.Get("Name") != "TemporaryS3ReadWriteCredentials" || q.Get("DurationSeconds") != "3600" {
			t.Errorf("asked for %v", q)
		}
		var p policy
		if err := json.Unmarshal([]byte(q.Get("Policy")), &p); err != nil || p.Version != "2012-10-17" {
			t.Fatalf("policy %s: %v", q.Get("Policy"), err)
		}
		return p
	}
	for _, c := range []struct {
		prefix string
		write  bool
		action string
		key    string
		want   bool
	}{
		{"a/b/", false, "s3:GetObject", "a/b/c", true},
		{"a/b/", false, "s3:GetObject", "a/bc", false},
		{"a/b/", false, "s3:ListBucket", "a/b/", true},
		{"a/b/", false, "s3:ListBucket", "a/", false},
		{"a/b/", false, "s3:GetBucketLocation", "", true},
		{"a/b/", false, "s3:PutObject", "a/b/c", false},
		{"a/b/", false, "s3:DeleteObject", "a/b/c", false},
		{"a/b/", true, "s3:GetObject", "a/b/c", true},
		{"a/b/", true, "s3:PutObject", "a/b/c", true},
		{"a/b/", true, "s3:DeleteObject", "a/b/c", true},
		{"a/b/", true, "s3:PutObjectAcl", "a/b/c", false},
		{"a/b/", true, "s3:PutObject", "x/a/b/c", false},
		{"", true, "s3:PutObject", "anything", true},
		{"a*b/", true, "s3:PutObject", "a*b/c", true},
		{"a*b/", true, "s3:PutObject", "axxb/c", false},
		{"a?/", true, "s3:GetObject", "a?/c", true},
		{"a?/", true, "s3:GetObject", "ab/c", false},
		{"${aws:username}/", false, "s3:GetObject", "${aws:username}/x", true},
	} {
		if got := get(c.prefix, c.write).allows(c.action, c.key); got != c.want {
			t.Errorf("with credentials for %q (write %v) %s of %q is allowed: %v", c.prefix, c.write, c.action, c.key, got)
		}
	}
	get("${aws:username}/", false)
	if p := f.asked[len(f.asked)-1].Get("Policy"); strings.Contains(p, "${aws:username}") {
		t.Errorf("a variable got into the policy: %s", p)
	}
}

func TestWhatIsRefused(t *testing.T) {
	f := &federation{}
	x := open(t, f)
	for name, c := range map[string]struct {
		bucket, prefix string
		want           api.Code
	}{
		"a bucket that nobody configured": {"other", "a/", api.ResourceNotFound},
		"a prefix that fits no policy":    {"logs", strings.Repeat("$", 500), api.InputError},
	} {
		_, err := x.S3Credentials(t.Context(), c.bucket, c.prefix, true)
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(f.asked) > 0 {
		t.Errorf("asked STS for %v", f.asked)
	}
	_, err := x.S3Credentials(t.Context(), "elsewhere", "a/", true)
	if _, ok := errors.AsType[*api.Error](err); ok || err == nil || !strings.Contains(err.Error(), "AccessDenied") || strings.Contains(err.Error(), secret) {
		t.Errorf("what only an operator can put right: %v", err)
	}
}

func TestConfiguration(t *testing.T) {
	k := aws.Key{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: secret, Buckets: []string{"logs"}}
	for says, keys := range map[string][]aws.Key{
		"two keys": {k, k},
		"lacks":    {{AccessKeyID: "AKIAEXAMPLE", Buckets: []string{"logs"}}},
	} {
		if _, err := aws.New(aws.Config{Keys: keys}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want one saying %q", err, says)
		}
	}
	c := aws.Config{Keys: []aws.Key{k}}
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), k.LogValue().String()} {
		if strings.Contains(text, secret[:10]) {
			t.Errorf("shows the key: %s", text)
		}
	}
}
