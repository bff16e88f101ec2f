package auth

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

type s3Path struct {
	Level  level  `path:"level"`
	Bucket string `path:"bucket"`
	Prefix string `path:"prefix"`
}

// A level is how much access is asked for.
type level string

const readWrite level = "read-write"

const levelPattern = `^(read-write|read-only)$`

// given are the parameters of a method's scopes that follow from the level.
func (l level) given() scope.Vars { return scope.Vars{"levelIsReadOnly": l != readWrite} }

// levelled demands the scope for the level, where that for writing will do for
// reading too.
func levelled(readOnly, readWrite scope.Scope) scope.Expression {
	return scope.If{If: "levelIsReadOnly", Then: scope.AnyOf{readOnly, readWrite}, Else: readWrite}
}

type s3Response struct {
	Credentials struct {
		AccessKeyID     string `json:"accessKeyId"`
		SecretAccessKey string `json:"secretAccessKey"`
		SessionToken    string `json:"sessionToken"`
	} `json:"credentials"`
	Expires timestamp.Time `json:"expires"`
}

// instanceRole is what an instance's metadata service says of its role.
type instanceRole struct {
	Code            string
	Type            string
	LastUpdated     timestamp.Time
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	Token           string
	Expiration      timestamp.Time
}

const maxPrefix = 512 // twice in a policy, which may have 2,048 characters

var awsS3Credentials = api.Declare(api.Spec{
	Name: "awsS3Credentials", Route: "GET /aws/s3/<level>/<bucket>/<prefix...?>", Query: []string{"format"},
	Scopes: levelled("auth:aws-s3:read-only:<bucket>/<prefix>", "auth:aws-s3:read-write:<bucket>/<prefix>"),
	Output: "v1/aws-s3-credentials-response.json#", Stability: api.Stable, Category: "AWS Credentials", Title: "Get credentials for a prefix of an S3 bucket", Private: true,
	Doc: `Returns temporary credentials of AWS for those objects of a bucket whose keys begin with ` + "`prefix`" + `. With the level
` + "`read-only`" + ` they list and get objects, with ` + "`read-write`" + ` they also put and delete them. The buckets are those that the
deployment is configured for; ones with a dot in their name are not.

The credentials last an hour; look at ` + "`expires`" + `.

S3 knows no folders: the prefix ` + "`logs`" + ` covers ` + "`logs/today`" + ` and ` + "`logs.txt`" + ` alike, so end it in a slash. It may not begin with one.
An object cannot be put with an ACL other than ` + "`private`" + `, as whoever sets ACLs could keep access for ever.

With ` + "`format=iam-role-compat`" + ` the reply has the form in which an EC2 instance's metadata service gives the credentials of
a role, for tools that renew their credentials from there.`,
}, func(ctx context.Context, a *Auth, c api.Call[s3Path, api.None]) (any, error) {
	p := c.Path
	if err := c.Authorize(p.Level.given()); err != nil {
		return nil, err
	}
	switch {
	case a.aws == nil:
		return nil, unconfigured("S3", "credentials of AWS (auth.aws)")
	case strings.HasPrefix(p.Prefix, "/"):
		return nil, api.Errorf(api.InputError, "The prefix begins with a slash. Leave that out: keys on S3 do not begin with one.")
	case len(p.Prefix) > maxPrefix:
		return nil, api.Errorf(api.InputError, "The prefix has %d bytes; %d are allowed.", len(p.Prefix), maxPrefix)
	}
	x, err := a.aws.S3Credentials(ctx, p.Bucket, p.Prefix, p.Level == readWrite)
	if err != nil {
		return nil, err
	}
	if c.Query("format") != "" {
		role := instanceRole{
			Code: "Success", Type: "AWS-HMAC", LastUpdated: timestamp.Now(), Expiration: timestamp.Of(x.Expires),
			AccessKeyID: x.AccessKeyID, SecretAccessKey: x.SecretAccessKey, Token: x.SessionToken,
		}
		return api.Stream(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			return json.NewEncoder(w).Encode(role)
		}), nil
	}
	var r s3Response
	r.Credentials.AccessKeyID, r.Credentials.SecretAccessKey, r.Credentials.SessionToken = x.AccessKeyID, x.SecretAccessKey, x.SessionToken
	r.Expires = timestamp.Of(x.Expires)
	return r, nil
})
