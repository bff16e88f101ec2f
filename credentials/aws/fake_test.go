package aws

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awscredentials "github.com/aws/aws-sdk-go-v2/credentials"
)

const (
	account    = "123456789012"
	rotatorKey = "AKIAROTATOR000000000"
	rotatorSec = "the-secret-of-the-rotator"
)

// TestMain keeps out of the tests what the machine has for the SDK to find.
func TestMain(m *testing.M) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AWS_") {
			os.Unsetenv(name)
		}
	}
	os.Setenv("AWS_CONFIG_FILE", os.DevNull)
	os.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	os.Exit(m.Run())
}

// A fake is IAM, STS and Secrets Manager in memory, behind the SDK's HTTP transport. It
// checks signatures, and allows the rotator what a policy of infra/policies does and
// nothing else.
type fake struct {
	t      *testing.T
	policy []statement

	mu       sync.Mutex
	skew     time.Duration // of its clock
	settle   time.Duration // until STS knows a new key
	lag      time.Duration // until IAM lists a new key
	page     int           // of lists; 0: all
	made     int
	users    map[string]*fakeUser
	roles    map[string]map[string]string // their policies
	sessions map[string]*fakeSession
	secrets  map[string]string
	calls    map[string]int // of the rotator

	// fail is asked before and after the work of each call; nil is that it goes well.
	fail func(action string, after bool) *fault
}

type fakeUser struct {
	keys []*fakeKey
	tags map[string]string
}

type fakeKey struct {
	id, secret    string
	active        bool
	created, used time.Time
	service       string
}

type fakeSession struct {
	secret, token, arn, role, userID string
	expires                          time.Time
}

// A fault is an answer; without a status the connection is cut.
type fault struct {
	status        int
	code, message string
}

func newFake(t *testing.T, policy string) *fake {
	t.Helper()
	return &fake{t: t, policy: readPolicy(t, policy), users: map[string]*fakeUser{}, roles: map[string]map[string]string{},
		sessions: map[string]*fakeSession{}, secrets: map[string]string{}, calls: map[string]int{}}
}

func (f *fake) cloud() *Cloud {
	return &Cloud{Transport: f, Identity: awscredentials.NewStaticCredentialsProvider(rotatorKey, rotatorSec, "")}
}

func (f *fake) now() time.Time { return time.Now().Add(f.skew).Truncate(time.Second) }

func (f *fake) user(name string) *fakeUser {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users[name] == nil {
		f.users[name] = &fakeUser{tags: map[string]string{}}
	}
	return f.users[name]
}

// key makes a key as somebody else would.
func (f *fake) key(name string) *fakeKey {
	u := f.user(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newKey(u)
}

func (f *fake) newKey(u *fakeUser) *fakeKey {
	f.made++
	k := &fakeKey{id: fmt.Sprintf("AKIA%016d", f.made), secret: fmt.Sprintf("hunter2-%032d", f.made), active: true, created: f.now()}
	u.keys = append(u.keys, k)
	return k
}

// works uses a secret for something that policies can forbid.
func (f *fake) works(text json.RawMessage) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s secret
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	for _, u := range f.users {
		for _, k := range u.keys {
			if k.id == s.AccessKeyID && k.secret == s.SecretAccessKey && k.active && !f.now().Before(k.created.Add(f.settle)) {
				k.used, k.service = f.now(), "s3"
				return nil
			}
		}
	}
	x := f.sessions[s.AccessKeyID]
	if x == nil || x.secret != s.SecretAccessKey || x.token != s.SessionToken {
		return errors.New("InvalidClientTokenId")
	}
	if !f.now().Before(x.expires) {
		return errors.New("ExpiredToken")
	}
	for _, text := range f.roles[x.role] {
		var p struct{ Statement []denial }
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return err
		}
		for _, d := range p.Statement {
			if like, _ := path.Match(d.Condition["StringLike"]["aws:userid"], x.userID); like && d.Effect == "Deny" && d.Action == "*" && d.Resource == "*" {
				return errors.New("AccessDenied with an explicit deny")
			}
		}
	}
	return nil
}

// RoundTrip implements http.RoundTripper.
func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	scope := strings.Split(strings.SplitN(rest, ",", 2)[0], "/")
	if len(scope) != 5 {
		return nil, fmt.Errorf("not signed: %v", scope)
	}
	form, _ := url.ParseQuery(string(body))
	service, action := scope[3], form.Get("Action")
	if service == "secretsmanager" {
		_, action, _ = strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	}
	action = service + ":" + action
	answer := func(x string, wrong *fault) (*http.Response, error) {
		w := &http.Response{StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Date": {f.now().UTC().Format(http.TimeFormat)}}, Request: r}
		name := action[strings.Index(action, ":")+1:]
		switch {
		case wrong != nil && wrong.status == 0:
			return nil, errors.New("the connection was cut")
		case service == "secretsmanager":
			w.Header.Set("Content-Type", "application/x-amz-json-1.1")
			if wrong != nil {
				x = fmt.Sprintf(`{"__type": %q, "message": %q}`, wrong.code, wrong.message)
			}
		case wrong != nil:
			x = "<ErrorResponse><Error><Type>Sender</Type><Code>" + wrong.code + "</Code><Message>" + escaped(wrong.message) + "</Message></Error><RequestId>r</RequestId></ErrorResponse>"
		default:
			x = fmt.Sprintf("<%[1]sResponse><%[1]sResult>%[2]s</%[1]sResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></%[1]sResponse>", name, x)
		}
		if wrong != nil {
			w.StatusCode = wrong.status
		}
		w.Body, w.ContentLength = io.NopCloser(strings.NewReader(x)), int64(len(x))
		return w, nil
	}
	if f.fail != nil {
		if wrong := f.fail(action, false); wrong != nil {
			return answer("", wrong)
		}
	}
	out, wrong := f.serve(r, body, scope[0], action, form)
	if wrong == nil && f.fail != nil {
		wrong = f.fail(action, true)
	}
	return answer(out, wrong)
}

func escaped(text string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(text))
	return b.String()
}

func no(code, format string, args ...any) (string, *fault) {
	status := map[string]int{"NoSuchEntity": 404, "LimitExceeded": 409, "ValidationError": 400}[code]
	return "", &fault{cmp.Or(status, 403), code, fmt.Sprintf(format, args...)}
}

// signed checks a signature by making it again.
func (f *fake) signed(r *http.Request, body []byte, key, secret string) *fault {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || at.Sub(f.now()).Abs() > 5*time.Minute {
		return &fault{403, "SignatureDoesNotMatch", "Signature expired: " + r.Header.Get("X-Amz-Date")}
	}
	again := r.Clone(r.Context())
	again.Header = http.Header{}
	_, list, _ := strings.Cut(r.Header.Get("Authorization"), "SignedHeaders=")
	for name := range strings.SplitSeq(strings.SplitN(list, ",", 2)[0], ";") {
		if v := r.Header.Values(name); len(v) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = v
		}
	}
	again.ContentLength = int64(len(body))
	sum := sha256.Sum256(body)
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	scope := strings.Split(rest, "/")
	err = v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: key, SecretAccessKey: secret, SessionToken: r.Header.Get("X-Amz-Security-Token")},
		again, hex.EncodeToString(sum[:]), scope[3], scope[2], at)
	if err != nil || again.Header.Get("Authorization") != r.Header.Get("Authorization") {
		return &fault{403, "SignatureDoesNotMatch", "The request signature we calculated does not match. The Canonical String should have been 'x-amz-security-token:" + r.Header.Get("X-Amz-Security-Token") + "'"}
	}
	return nil
}

func (f *fake) serve(r *http.Request, body []byte, key, action string, form url.Values) (string, *fault) {
	if action == "sts:GetCallerIdentity" { // allowed to everybody
		return f.caller(r, body, key)
	}
	if key != rotatorKey {
		return no("AccessDenied", "only the rotator does %s here", action)
	}
	if wrong := f.signed(r, body, key, rotatorSec); wrong != nil {
		return "", wrong
	}
	f.calls[action]++
	if strings.HasPrefix(action, "sts:") {
		return f.sts(action, form)
	}
	if action == "secretsmanager:PutSecretValue" {
		var in struct{ SecretId, SecretString, ClientRequestToken string }
		if err := json.Unmarshal(body, &in); err != nil || in.ClientRequestToken == "" {
			return no("ValidationError", "%v", err)
		}
		if !allows(f.policy, action, in.SecretId) {
			return no("AccessDeniedException", "%s on %s", action, in.SecretId)
		}
		if _, ok := f.secrets[in.SecretId]; !ok {
			return no("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
		}
		f.secrets[in.SecretId] = in.SecretString
		return `{"ARN": "x", "Name": "x", "VersionId": "x"}`, nil
	}
	return f.iam(action, form)
}

func (f *fake) caller(r *http.Request, body []byte, key string) (string, *fault) {
	identity := func(arn string) (string, *fault) {
		return "<Arn>" + arn + "</Arn><UserId>u</UserId><Account>" + account + "</Account>", nil
	}
	for name, u := range f.users {
		for _, k := range u.keys {
			if k.id != key || !k.active || f.now().Before(k.created.Add(f.settle)) {
				continue
			}
			if wrong := f.signed(r, body, key, k.secret); wrong != nil {
				return "", wrong
			}
			k.used, k.service = f.now(), "sts"
			return identity("arn:aws:iam::" + account + ":user/" + name)
		}
	}
	if s := f.sessions[key]; s != nil && r.Header.Get("X-Amz-Security-Token") == s.token {
		if wrong := f.signed(r, body, key, s.secret); wrong != nil {
			return "", wrong
		}
		if !f.now().Before(s.expires) {
			return no("ExpiredToken", "The security token included in the request is expired")
		}
		return identity(s.arn)
	}
	return no("InvalidClientTokenId", "The security token included in the request is invalid.")
}

func (f *fake) sts(action string, form url.Values) (string, *fault) {
	seconds, _ := strconv.Atoi(form.Get("DurationSeconds"))
	f.made++
	s := &fakeSession{secret: fmt.Sprintf("hunter2-%032d", f.made), token: fmt.Sprintf("hunter3-%064d", f.made), expires: f.now().Add(time.Duration(seconds) * time.Second)}
	id, who := fmt.Sprintf("ASIA%016d", f.made), ""
	on := form.Get("RoleArn")
	tagged := form.Get("Tags.member.1.Key") != ""
	switch action {
	case "sts:AssumeRole":
		name := form.Get("RoleSessionName")
		s.role, s.userID = on[strings.LastIndexByte(on, '/')+1:], "AROAEXAMPLE:"+name
		s.arn = "arn:aws:sts::" + account + ":assumed-role/" + s.role + "/" + name
		who = "<AssumedRoleUser><Arn>" + s.arn + "</Arn><AssumedRoleId>" + s.userID + "</AssumedRoleId></AssumedRoleUser>"
		if f.roles[s.role] == nil {
			return no("AccessDenied", "not authorized to perform: sts:AssumeRole on resource: %s", on)
		}
	case "sts:GetFederationToken":
		name := form.Get("Name")
		s.userID, s.arn = account+":"+name, "arn:aws:sts::"+account+":federated-user/"+name
		who = "<FederatedUser><Arn>" + s.arn + "</Arn><FederatedUserId>" + s.userID + "</FederatedUserId></FederatedUser>"
		if on = s.arn; len(name) > 32 {
			return no("ValidationError", "Name is too long")
		}
	default:
		return no("InvalidAction", "%s", action)
	}
	if len(form.Get("RoleSessionName")) > 64 || seconds < 900 {
		return no("ValidationError", "name or duration")
	}
	if !allows(f.policy, action, on) || tagged && !allows(f.policy, "sts:TagSession", on) {
		return no("AccessDenied", "not authorized to perform: %s on resource: %s", action, on)
	}
	if tagged {
		f.calls["sts:TagSession"]++
	}
	f.sessions[id] = s
	return who + "<Credentials><AccessKeyId>" + id + "</AccessKeyId><SecretAccessKey>" + s.secret + "</SecretAccessKey><SessionToken>" + s.token +
		"</SessionToken><Expiration>" + s.expires.UTC().Format(time.RFC3339) + "</Expiration></Credentials>", nil
}

func (f *fake) iam(action string, form url.Values) (string, *fault) {
	on := "arn:aws:iam::" + account + ":user/" + form.Get("UserName")
	id := form.Get("AccessKeyId")
	if role := form.Get("RoleName"); role != "" {
		on = "arn:aws:iam::" + account + ":role/" + role
	} else if action == "iam:GetAccessKeyLastUsed" {
		for name, u := range f.users {
			if slices.ContainsFunc(u.keys, func(k *fakeKey) bool { return k.id == id }) {
				on += name
				form.Set("UserName", name)
			}
		}
	}
	if !allows(f.policy, action, on) {
		return no("AccessDenied", "not authorized to perform: %s on resource: %s", action, on)
	}
	if policies := f.roles[form.Get("RoleName")]; policies != nil {
		name := form.Get("PolicyName")
		switch action {
		case "iam:GetRolePolicy":
			if policies[name] == "" {
				return no("NoSuchEntity", "The role policy with name %s cannot be found.", name)
			}
			return "<RoleName>r</RoleName><PolicyName>p</PolicyName><PolicyDocument>" + url.QueryEscape(policies[name]) + "</PolicyDocument>", nil
		case "iam:PutRolePolicy":
			policies[name] = form.Get("PolicyDocument")
			return "", nil
		}
	}
	u := f.users[form.Get("UserName")]
	if u == nil {
		return no("NoSuchEntity", "The user with name %s cannot be found.", form.Get("UserName"))
	}
	at := slices.IndexFunc(u.keys, func(k *fakeKey) bool { return k.id == id })
	if id != "" && at < 0 {
		return no("NoSuchEntity", "The Access Key with id %s cannot be found.", id)
	}
	when := func(name string, t time.Time) string {
		return "<" + name + ">" + t.UTC().Format(time.RFC3339) + "</" + name + ">"
	}
	switch action {
	case "iam:ListAccessKeys":
		var list []string
		for _, k := range u.keys {
			status := map[bool]string{true: "Active", false: "Inactive"}[k.active]
			if !f.now().Before(k.created.Add(f.lag)) {
				list = append(list, "<member><UserName>u</UserName><AccessKeyId>"+k.id+"</AccessKeyId><Status>"+status+"</Status>"+when("CreateDate", k.created)+"</member>")
			}
		}
		return f.paged("AccessKeyMetadata", list, form.Get("Marker")), nil
	case "iam:ListUserTags":
		var list []string
		for k, v := range u.tags {
			list = append(list, "<member><Key>"+k+"</Key><Value>"+v+"</Value></member>")
		}
		slices.Sort(list)
		return f.paged("Tags", list, form.Get("Marker")), nil
	case "iam:TagUser":
		value := form.Get("Tags.member.1.Value")
		if len(value) > 256 || strings.Trim(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _.:/=+-@") != "" {
			return no("ValidationError", "tag %q", value)
		}
		u.tags[form.Get("Tags.member.1.Key")] = value
		return "", nil
	case "iam:CreateAccessKey":
		if len(u.keys) >= 2 {
			return no("LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2")
		}
		k := f.newKey(u)
		return "<AccessKey><UserName>u</UserName><AccessKeyId>" + k.id + "</AccessKeyId><Status>Active</Status><SecretAccessKey>" + k.secret + "</SecretAccessKey>" + when("CreateDate", k.created) + "</AccessKey>", nil
	case "iam:UpdateAccessKey":
		u.keys[at].active = form.Get("Status") == "Active"
		return "", nil
	case "iam:DeleteAccessKey":
		u.keys = slices.Delete(u.keys, at, at+1)
		return "", nil
	case "iam:GetAccessKeyLastUsed":
		k, last := u.keys[at], ""
		if !k.used.IsZero() {
			last = when("LastUsedDate", k.used)
		}
		return "<UserName>u</UserName><AccessKeyLastUsed>" + last + "<ServiceName>" + k.service + "</ServiceName><Region>us-east-1</Region></AccessKeyLastUsed>", nil
	}
	return no("InvalidAction", "%s", action)
}

func (f *fake) paged(name string, list []string, marker string) string {
	from, _ := strconv.Atoi(marker)
	to, rest := len(list), "<IsTruncated>false</IsTruncated>"
	if f.page > 0 && from+f.page < to {
		to = from + f.page
		rest = fmt.Sprintf("<IsTruncated>true</IsTruncated><Marker>%d</Marker>", to)
	}
	return "<" + name + ">" + strings.Join(list[from:to], "") + "</" + name + ">" + rest
}
