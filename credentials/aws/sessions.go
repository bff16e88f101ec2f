package aws

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/taskfleet/taskfleet/credentials"
)

// Sessions is credentials.Kind for sessions of STS: of a role that is assumed, or of a
// federated user.
//
// A session ends by itself, and what has made it cannot end it before. It is minted again
// well before that: the age at which it is plus the overlap is less than its duration,
// which Lasts tells. Where the settings allow it, a session that is disabled is denied
// everything by a policy of the role, which names it.
type Sessions struct{ Cloud *Cloud }

// SessionSettings are those of a credential of this kind.
type SessionSettings struct {
	Role       string          `json:"role"`       // ARN of what is assumed; without it there is a federated user
	ExternalID string          `json:"externalId"` // that the role asks for
	Policy     json.RawMessage `json:"policy"`     // what of the role's, or of the caller's, the session may do
	PolicyARNs []string        `json:"policyArns"` // likewise, by policies of IAM
	Duration   string          `json:"duration"`   // an hour if it is not given
	Tag        bool            `json:"tag"`        // sessions have tags with the credential and the version
	Revoke     bool            `json:"revoke"`     // sessions are denied everything when they are disabled
	Region     string          `json:"region"`     // of STS; and consumers are told
	As         As              `json:"as"`
}

const (
	defaultDuration = "1h"
	shortest        = 15 * time.Minute
	longestRole     = 12 * time.Hour
	longestChained  = time.Hour // when a role assumes another one
	longestUser     = 36 * time.Hour

	sessionNameSpare = 41               // characters, beside the version's
	expiryLeeway     = 15 * time.Minute // clocks differ
)

func parseSession(text json.RawMessage) (s SessionSettings, duration time.Duration, err error) {
	if err := settings(text, &s, "role, externalId, policy, policyArns, duration, tag, revoke, region and as"); err != nil {
		return s, 0, err
	}
	longest, of := longestRole, "of a role"
	switch {
	case s.Role != "" && !rolePattern.MatchString(s.Role):
		return s, 0, fmt.Errorf("role is %q; it must be the ARN of a role, such as arn:aws:iam::123456789012:role/builds", s.Role)
	case s.Role == "" && s.ExternalID != "":
		return s, 0, errors.New("externalId is of no use without role")
	case s.Role == "" && s.Revoke:
		return s, 0, errors.New("revoke is of no use without role: there is no policy that would name a federated user")
	case s.Role == "" && s.As.Role != "":
		return s, 0, errors.New("as.role: a role cannot make federated users; leave it out, and let as.profile be that of an IAM user")
	case s.Role == "" && len(s.Policy) == 0 && len(s.PolicyARNs) == 0:
		return s, 0, errors.New("without role there is a federated user, which needs policy or policyArns, as it may do nothing without")
	case s.Role == "":
		longest, of = longestUser, "of a federated user"
	case s.As.Role != "":
		longest, of = longestChained, "that a role has assumed"
	}
	if len(s.Policy) > 0 {
		var policy map[string]any
		if json.Unmarshal(s.Policy, &policy) != nil || policy["Statement"] == nil {
			return s, 0, errors.New("policy must be a policy of IAM, with its Statement")
		}
	}
	if duration, err = span(cmp.Or(s.Duration, defaultDuration)); err != nil || duration < shortest || duration > longest {
		return s, 0, fmt.Errorf("duration is %q; it must be a time from %s to %s, for a session %s", s.Duration, shortest, longest, of)
	}
	if err := checkRegion(s.Region); err != nil {
		return s, 0, err
	}
	return s, duration, s.As.check()
}

// Check implements credentials.Kind.
func (Sessions) Check(text json.RawMessage) (place string, err error) {
	s, _, err := parseSession(text)
	if s.Role == "" {
		place = "federated user of AWS"
	} else {
		place = "role " + s.Role
	}
	if by := cmp.Or(s.As.Role, s.As.Profile); by != "" {
		place += ", as " + by
	}
	return place, err
}

// Site implements credentials.Sited.
func (Sessions) Site(text json.RawMessage) (site string, shared bool) {
	s, _, _ := parseSession(text)
	return fmt.Sprintf("sts %q %q", s.Role, s.As), true
}

// Lasts is for how long sessions do that settings ask for; zero if these are wrong.
func (Sessions) Lasts(text json.RawMessage) time.Duration {
	_, duration, _ := parseSession(text)
	return duration
}

// A session is what tells a version.
type session struct {
	ARN         string    `json:"arn"`
	Name        string    `json:"name"`
	AccessKeyID string    `json:"accessKeyId"`
	Expires     time.Time `json:"expires"`
}

// sessionName is what a session of a role is called in the logs of AWS.
func sessionName(credential, id string) string {
	return credential[:min(len(credential), sessionNameSpare)] + "." + id
}

// userName is what a federated user is called there: it has 32 characters at most.
func userName(id string) string { return "taskfleet." + id }

// Mint implements credentials.Kind. Called again it makes a session of the same name; one
// that nobody got to know has no holder, and ends by itself.
func (k Sessions) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	s, duration, err := parseSession(o.Settings)
	if err != nil {
		return m, credentials.Refused("%w", err)
	}
	c, err := k.Cloud.config(ctx, s.As, s.Region)
	if err != nil {
		return m, err
	}
	client, seconds := sts.NewFromConfig(c), aws.Int32(int32(duration/time.Second))
	var tags []types.Tag
	if s.Tag {
		tags = []types.Tag{{Key: aws.String("taskfleet:credential"), Value: &o.Credential}, {Key: aws.String("taskfleet:version"), Value: &o.ID}}
	}
	var policy *string
	if len(s.Policy) > 0 {
		policy = aws.String(string(s.Policy))
	}
	var arns []types.PolicyDescriptorType
	for _, arn := range s.PolicyARNs {
		arns = append(arns, types.PolicyDescriptorType{Arn: &arn})
	}
	var got *types.Credentials
	out := session{Name: userName(o.ID)}
	if s.Role == "" {
		answer, err := client.GetFederationToken(ctx, &sts.GetFederationTokenInput{Name: &out.Name, DurationSeconds: seconds, Policy: policy, PolicyArns: arns, Tags: tags})
		if err != nil {
			return m, explain("making a federated user", err)
		}
		if got = answer.Credentials; answer.FederatedUser != nil {
			out.ARN = aws.ToString(answer.FederatedUser.Arn)
		}
	} else {
		out.Name = sessionName(o.Credential, o.ID)
		in := &sts.AssumeRoleInput{RoleArn: &s.Role, RoleSessionName: &out.Name, DurationSeconds: seconds, Policy: policy, PolicyArns: arns, Tags: tags}
		if s.ExternalID != "" {
			in.ExternalId = &s.ExternalID
		}
		answer, err := client.AssumeRole(ctx, in)
		if err != nil {
			return m, explain("assuming "+s.Role, err)
		}
		if got = answer.Credentials; answer.AssumedRoleUser != nil {
			out.ARN = aws.ToString(answer.AssumedRoleUser.Arn)
		}
	}
	if got == nil || got.AccessKeyId == nil || got.SecretAccessKey == nil || got.SessionToken == nil || got.Expiration == nil || out.ARN == "" {
		return m, errors.New("making a session: the answer of STS has none")
	}
	out.AccessKeyID, out.Expires = *got.AccessKeyId, got.Expiration.UTC()
	if m.Public, err = json.Marshal(out); err == nil {
		m.Secret, err = secret{AccessKeyID: out.AccessKeyID, SecretAccessKey: *got.SecretAccessKey, SessionToken: *got.SessionToken, Expiration: &out.Expires, Region: s.Region}.encode()
	}
	return m, err
}

// Prove implements credentials.Kind.
func (k Sessions) Prove(ctx context.Context, v credentials.Version) error {
	s, _, err := parseSession(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	var is session
	if json.Unmarshal(v.Public, &is) != nil {
		return credentials.Refused("the public members cannot be read")
	}
	c, err := k.Cloud.config(ctx, s.As, s.Region)
	if err != nil {
		return err
	}
	arn, err := caller(ctx, c, v.Secret)
	switch {
	case code(err) == "ExpiredToken" || code(err) == "ExpiredTokenException":
		return credentials.ErrNoVersion
	case err != nil:
		return explain("using the session "+is.Name, err)
	case arn != is.ARN:
		return credentials.Refused("AWS takes the holder of the session %s for %s", is.Name, arn)
	}
	return nil
}

// Used implements credentials.Kind. What AWS tells of uses is about roles.
func (Sessions) Used(context.Context, credentials.Version) (time.Time, error) {
	return time.Time{}, credentials.ErrNotTold
}

// List implements credentials.Kind.
func (Sessions) List(context.Context, credentials.Order) ([]credentials.Found, error) {
	return nil, credentials.ErrNotTold
}

// Disable implements credentials.Kind.
func (k Sessions) Disable(ctx context.Context, v credentials.Version) error {
	s, _, err := parseSession(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	var is session
	if json.Unmarshal(v.Public, &is) != nil || is.Name == "" || !s.Revoke || time.Now().After(is.Expires.Add(expiryLeeway)) {
		return nil // nobody has it, or it ends by itself
	}
	c, err := k.Cloud.config(ctx, s.As, s.Region)
	if err != nil {
		return err
	}
	return deny(ctx, iam.NewFromConfig(c), s.Role[strings.LastIndexByte(s.Role, '/')+1:], "taskfleet-revoked-"+v.Credential, is)
}

// Retire implements credentials.Kind.
func (k Sessions) Retire(ctx context.Context, v credentials.Version) error { return k.Disable(ctx, v) }

// A denial is a statement of a policy about one session. Sid tells when it is of no use
// any more.
type denial struct {
	Sid, Effect, Action, Resource string
	Condition                     map[string]map[string]string
}

const sidUntil = "Until" // and the second in which the session has expired

// deny has a policy of the role name a session; those that have expired leave it. The
// user id of a session is the id of the role and the name of the session.
func deny(ctx context.Context, c *iam.Client, role, policy string, is session) error {
	var document struct {
		Version   string
		Statement []denial
	}
	found, err := c.GetRolePolicy(ctx, &iam.GetRolePolicyInput{RoleName: &role, PolicyName: &policy})
	if err == nil {
		text, bad := url.QueryUnescape(strings.ReplaceAll(aws.ToString(found.PolicyDocument), "+", "%2B"))
		if bad != nil || json.Unmarshal([]byte(text), &document) != nil {
			return fmt.Errorf("the policy %s of the role %s cannot be read; delete it, and it is written anew", policy, role)
		}
	} else if code(err) != "NoSuchEntity" {
		return explain("reading the policy "+policy+" of the role "+role, err)
	}
	holder := "*:" + is.Name
	if slices.ContainsFunc(document.Statement, func(d denial) bool { return d.Condition["StringLike"]["aws:userid"] == holder }) {
		return nil
	}
	now := time.Now().Add(-expiryLeeway).Unix()
	document.Version = "2012-10-17"
	document.Statement = slices.DeleteFunc(document.Statement, func(d denial) bool {
		text, _, _ := strings.Cut(strings.TrimPrefix(d.Sid, sidUntil), "x")
		until, err := strconv.ParseInt(text, 10, 64)
		return err == nil && until < now
	})
	sid := fmt.Sprintf("%s%d", sidUntil, is.Expires.Unix())
	for slices.ContainsFunc(document.Statement, func(d denial) bool { return d.Sid == sid }) {
		sid += "x" // two of a policy must differ
	}
	document.Statement = append(document.Statement, denial{sid, "Deny", "*", "*", map[string]map[string]string{"StringLike": {"aws:userid": holder}}})
	text, err := json.Marshal(document)
	if err != nil {
		return err
	}
	if _, err := c.PutRolePolicy(ctx, &iam.PutRolePolicyInput{RoleName: &role, PolicyName: &policy, PolicyDocument: aws.String(string(text))}); err != nil {
		return explain("writing the policy "+policy+" of the role "+role, err)
	}
	return nil
}
