package verify_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/taskfleet/taskfleet/infra/verify"
)

// An imitation of AWS for what moto does not do: services that run, lists in pages, refusals, throttling. What a test gives no
// answer to is answered with nothing.
type imitation struct {
	url string

	mu      sync.Mutex
	answers map[string]func(call) (status int, body string) // by service:Operation
	asked   map[string]int
}

// A call is what the imitation was asked.
type call struct {
	n            int // the how many-th of its kind
	region, text string
}

var credentialScope = regexp.MustCompile(`Credential=[^/]+/\d+/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request`)

func newImitation(t *testing.T) *imitation {
	m := &imitation{asked: map[string]int{}, answers: map[string]func(call) (int, string){
		"sts:GetCallerIdentity":         answer(`<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/auditor</Arn><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`),
		"ec2:GetEbsEncryptionByDefault": answer(`<GetEbsEncryptionByDefaultResponse><ebsEncryptionByDefault>true</ebsEncryptionByDefault></GetEbsEncryptionByDefaultResponse>`),
		// One thing belongs to the deployment, so that there is something to look at.
		"ec2:DescribeSecurityGroups": answer(`<DescribeSecurityGroupsResponse><securityGroupInfo><item><groupId>sg-1</groupId><tagSet>
			<item><key>Deployment</key><value>prod</value></item><item><key>ManagedBy</key><value>terraform</value></item></tagSet></item></securityGroupInfo></DescribeSecurityGroupsResponse>`),
	}}
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	m.url = s.URL
	return m
}

func answer(body string) func(call) (int, string) {
	return func(call) (int, string) { return http.StatusOK, body }
}

func (m *imitation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scope := credentialScope.FindStringSubmatch(r.Header.Get("Authorization"))
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if scope == nil || err != nil {
		http.Error(w, "it is not signed", http.StatusBadRequest)
		return
	}
	region, service := scope[1], scope[2]
	text := string(body)
	isJSON, operation := true, ""
	switch target := r.Header.Get("X-Amz-Target"); {
	case target != "":
		_, operation, _ = strings.Cut(target, ".")
	case service == "mq":
		operation = "DescribeBroker"
		if r.URL.Path == "/v1/brokers" {
			operation = "ListBrokers"
		}
	case service == "s3":
		isJSON, operation, text = false, "List", r.URL.String()
		if bucket := strings.Trim(r.URL.Path, "/"); bucket != "" {
			operation = "Get"
			for k := range r.URL.Query() {
				if k != "x-id" {
					operation = "Get " + k
				}
			}
		}
	default:
		form, _ := url.ParseQuery(text)
		isJSON, operation = false, form.Get("Action")
	}
	id := service + ":" + operation
	m.mu.Lock()
	m.asked[id]++
	n := m.asked[id]
	f := m.answers[id]
	if f == nil {
		f = m.answers["*"]
	}
	m.mu.Unlock()
	status, out := http.StatusOK, "<"+operation+"Response><"+operation+"Result/></"+operation+"Response>"
	switch {
	case isJSON:
		out = "{}"
	case service == "s3":
		out = "<Nothing/>"
	}
	if f != nil {
		if s, text := f(call{n, region, text}); s != 0 {
			status, out = s, text
		}
	}
	if status != http.StatusOK {
		w.Header().Set("X-Amzn-Errortype", out)
		switch {
		case isJSON:
			out = `{"__type": "` + out + `", "message": "no"}`
		case service == "s3":
			out = "<Error><Code>" + out + "</Code></Error>"
		case service == "ec2":
			out = "<Response><Errors><Error><Code>" + out + "</Code></Error></Errors></Response>"
		default:
			out = "<ErrorResponse><Error><Code>" + out + "</Code></Error></ErrorResponse>"
		}
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, out)
}

func (m *imitation) verify(ctx context.Context, manifest verify.Manifest) (*verify.Report, error) {
	conf := aws.Config{
		HTTPClient: awshttp.NewBuildableClient(), BaseEndpoint: &m.url, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
			})
		},
	}
	return verify.Account(ctx, verify.Options{Config: &conf, Manifest: manifest})
}

var oneRegion = verify.Manifest{Version: 1, Deployment: "prod", Regions: map[string]verify.Region{"us-east-1": {}}}

const jsonTags = `[{"key": "Deployment", "value": "prod"}, {"key": "ManagedBy", "value": "terraform"}]`

// Services that run or do not, in more pages and groups than one call has room for.
func TestServices(t *testing.T) {
	t.Parallel()
	m := newImitation(t)
	const cluster = "arn:aws:ecs:us-east-1:123456789012:cluster/prod"
	arn := func(i int) string { return fmt.Sprintf("arn:aws:ecs:us-east-1:123456789012:service/prod/s%02d", i) }
	m.answers["ecs:ListClusters"] = answer(`{"clusterArns": ["` + cluster + `"]}`)
	m.answers["ecs:DescribeClusters"] = func(c call) (int, string) {
		if !strings.Contains(c.text, "TAGS") {
			t.Errorf("it does not ask for tags: %s", c.text)
		}
		return 200, `{"clusters": [{"clusterArn": "` + cluster + `", "clusterName": "prod", "status": "ACTIVE", "tags": ` + jsonTags + `}]}`
	}
	m.answers["ecs:ListServices"] = func(c call) (int, string) {
		first, more := 0, `, "nextToken": "more"`
		if c.n == 2 {
			first, more = 7, ""
			if !strings.Contains(c.text, `"nextToken":"more"`) {
				t.Errorf("the second page is asked for by %s", c.text)
			}
		}
		var list []string
		for i := range 7 {
			list = append(list, `"`+arn(first+i)+`"`)
		}
		return 200, `{"serviceArns": [` + strings.Join(list, ", ") + `]` + more + `}`
	}
	m.answers["ecs:DescribeServices"] = func(c call) (int, string) {
		var list []string
		for i := range 14 {
			if !strings.Contains(c.text, arn(i)) {
				continue
			}
			running, desired, breaker, status := 2, 2, `{"enable": true, "rollback": true}`, "ACTIVE"
			switch i {
			case 3:
				running = 1
			case 5:
				running, desired = 0, 0
			case 9:
				breaker = `{"enable": true, "rollback": false}`
			case 11:
				breaker = "null"
			case 13:
				running, status = 0, "INACTIVE" // deleted
			}
			list = append(list, fmt.Sprintf(`{"serviceArn": %q, "serviceName": "s%02d", "status": %q, "runningCount": %d, "desiredCount": %d,
				"deploymentConfiguration": {"deploymentCircuitBreaker": %s}, "tags": %s}`, arn(i), i, status, running, desired, breaker, jsonTags))
		}
		if len(list) > 10 {
			return 400, "InvalidParameterException"
		}
		return 200, `{"services": [` + strings.Join(list, ", ") + `]}`
	}
	manifest := oneRegion
	manifest.KMSKeyARN, manifest.Cluster, manifest.Service = "", "prod", "s01"
	r := must(m.verify(t.Context(), manifest))(t)
	want := map[int]string{3: "service-running", 5: "service-running", 9: "service-circuit-breaker", 11: "service-circuit-breaker"}
	for i := range 14 {
		got := checksOf(r.Findings, arn(i))
		if want[i] == "" && len(got) > 0 || want[i] != "" && !slices.Equal(got, []string{want[i]}) {
			t.Errorf("service %d: %v, want %q", i, got, want[i])
		}
	}
	if len(r.Findings) != 4 || r.Resources["service"] != 13 || !strings.Contains(shown(r.Findings), "1 of 2 tasks") {
		t.Errorf("%v\n%s", r.Resources, shown(r.Findings))
	}

	manifest.KMSKeyARN, manifest.Service = "arn:aws:kms:us-east-1:123456789012:key/1", "gone"
	m.answers["kms:ListKeys"] = answer(`{"Keys": [{"KeyArn": "arn:aws:kms:us-east-1:123456789012:key/1"}]}`)
	m.answers["kms:DescribeKey"] = answer(`{"KeyMetadata": {"KeyId": "1", "KeyManager": "CUSTOMER", "KeyState": "Enabled", "KeySpec": "SYMMETRIC_DEFAULT", "Origin": "AWS_KMS"}}`)
	m.answers["kms:ListResourceTags"] = answer(`{"Tags": [{"TagKey": "Deployment", "TagValue": "prod"}, {"TagKey": "ManagedBy", "TagValue": "terraform"}]}`)
	m.answers["kms:GetKeyRotationStatus"] = answer(`{"KeyRotationEnabled": true}`)
	m.answers["kms:GetKeyPolicy"] = answer(`{"Policy": "{}"}`)
	m.asked = map[string]int{}
	r = must(m.verify(t.Context(), manifest))(t)
	if got := checksOf(r.Findings, "arn:aws:ecs:us-east-1:123456789012:service/prod/gone"); !slices.Equal(got, []string{"missing"}) {
		t.Errorf("a service that has gone: %v\n%s", got, shown(r.Findings))
	}
}

// A caller who may do nothing gets a finding for each permission, and nothing is taken for missing that could not be looked for.
func TestWhatIsDeniedIsNamed(t *testing.T) {
	t.Parallel()
	m := newImitation(t)
	who := m.answers["sts:GetCallerIdentity"]
	m.answers = map[string]func(call) (int, string){"sts:GetCallerIdentity": who, "*": func(c call) (int, string) { return 403, "AccessDenied" }}
	for id, code := range map[string]string{
		"ec2:DescribeLaunchTemplates": "UnauthorizedOperation", "ec2:GetEbsEncryptionByDefault": "UnauthorizedOperation",
		"kms:ListKeys": "AccessDeniedException", "ecs:ListClusters": "AccessDeniedException", "sqs:ListQueues": "AccessDeniedException", "mq:ListBrokers": "ForbiddenException",
	} {
		m.answers[id] = func(call) (int, string) { return 403, code }
	}
	manifest := verify.Manifest{
		Version: 1, Deployment: "prod", KMSKeyARN: "arn:aws:kms:us-east-1:123456789012:key/1", ArtifactBucket: "artifacts", Cluster: "prod", Service: "prod",
		Database: &verify.Database{Endpoint: "db.example.com:5432"},
		Regions:  map[string]verify.Region{"us-east-1": {EventQueue: "https://sqs/1", WorkerSecurityGroup: "sg-1", LaunchTemplate: "lt-1", MirrorBucket: "mirror"}},
	}
	r := must(m.verify(t.Context(), manifest))(t)
	var got []string
	for _, f := range r.Findings {
		_, permission, _ := strings.Cut(f.Message, "checked: ")
		permission, _, _ = strings.Cut(permission, " ")
		got = append(got, permission)
		if f.Check != verify.Unchecked || f.Severity != verify.Warning || !strings.Contains(f.Fix, permission) {
			t.Errorf("%+v", f)
		}
	}
	slices.Sort(got)
	if want := []string{
		"ec2:DescribeLaunchTemplates", "ec2:DescribeSecurityGroups", "ec2:GetEbsEncryptionByDefault", "ecs:ListClusters", "elasticloadbalancing:DescribeLoadBalancers",
		"iam:GetAccountAuthorizationDetails", "kms:ListKeys", "mq:ListBrokers", "rds:DescribeDBInstances", "s3:ListAllMyBuckets", "sqs:ListQueues",
	}; !slices.Equal(got, want) {
		t.Errorf("denied:\n%q\nwant\n%q", got, want)
	}
}

// One that may list buckets and not look at them: the rest of each is looked at, and one finding is for all of them.
func TestADenialIsOneFindingForAllItWasFor(t *testing.T) {
	t.Parallel()
	m := newImitation(t)
	m.answers["s3:List"] = func(c call) (int, string) {
		if c.n == 1 {
			return 200, `<ListAllMyBucketsResult><Buckets><Bucket><Name>a</Name><BucketRegion>us-east-1</BucketRegion></Bucket></Buckets><ContinuationToken>more</ContinuationToken></ListAllMyBucketsResult>`
		}
		return 200, `<ListAllMyBucketsResult><Buckets><Bucket><Name>b</Name><BucketRegion>us-east-1</BucketRegion></Bucket><Bucket><Name>foreign</Name><BucketRegion>us-east-1</BucketRegion></Bucket></Buckets></ListAllMyBucketsResult>`
	}
	m.answers["s3:Get tagging"] = func(c call) (int, string) {
		if strings.Contains(c.text, "/foreign") {
			return 404, "NoSuchBucket" // it has gone meanwhile
		}
		return 200, `<Tagging><TagSet><Tag><Key>Deployment</Key><Value>prod</Value></Tag><Tag><Key>ManagedBy</Key><Value>terraform</Value></Tag></TagSet></Tagging>`
	}
	m.answers["s3:Get acl"] = func(call) (int, string) { return 403, "AccessDenied" }
	m.answers["s3:Get policy"] = func(call) (int, string) { return 404, "NoSuchBucketPolicy" }
	m.answers["s3:Get policyStatus"] = m.answers["s3:Get policy"]
	r := must(m.verify(t.Context(), oneRegion))(t)
	denied := 0
	for _, f := range r.Findings {
		if f.Check == verify.Unchecked {
			denied++
			if f.Resource != "arn:aws:s3:::a" || !strings.Contains(f.Message, "nor could 1 more: s3:GetBucketAcl") {
				t.Errorf("%+v", f)
			}
		}
	}
	if denied != 1 || r.Resources["bucket"] != 2 {
		t.Errorf("%d denials, %v\n%s", denied, r.Resources, shown(r.Findings))
	}
	for _, b := range []string{"a", "b"} {
		if got, want := checksOf(r.Findings, "arn:aws:s3:::"+b), "bucket-encryption bucket-lifecycle bucket-public-access-block bucket-tls bucket-versioning"; !strings.Contains(strings.ReplaceAll(strings.Join(got, " "), " unchecked", ""), want) {
			t.Errorf("%s: %v", b, got)
		}
	}
}

// What AWS throttles is asked again.
func TestThrottling(t *testing.T) {
	t.Parallel()
	m := newImitation(t)
	for id, code := range map[string]string{"iam:GetAccountAuthorizationDetails": "Throttling", "ec2:DescribeLaunchTemplates": "RequestLimitExceeded", "kms:ListKeys": "ThrottlingException"} {
		m.answers[id] = func(c call) (int, string) {
			if c.n < 3 {
				return 400, code
			}
			return 0, ""
		}
	}
	r := must(m.verify(t.Context(), oneRegion))(t)
	if len(r.Findings) > 0 {
		t.Errorf("%s", shown(r.Findings))
	}
	for _, id := range []string{"iam:GetAccountAuthorizationDetails", "ec2:DescribeLaunchTemplates", "kms:ListKeys"} {
		if m.asked[id] != 3 {
			t.Errorf("%s was asked %d times", id, m.asked[id])
		}
	}
}

// No more calls are under way at a time than are said, however much there is.
func TestCallsAreBounded(t *testing.T) {
	t.Parallel()
	m := newImitation(t)
	var keys []string
	for i := range 60 {
		keys = append(keys, fmt.Sprintf(`{"KeyArn": "arn:aws:kms:us-east-1:123456789012:key/%d"}`, i))
	}
	m.answers["kms:ListKeys"] = answer(`{"Keys": [` + strings.Join(keys, ", ") + `]}`)
	var mu sync.Mutex
	now, most := 0, 0
	full := make(chan struct{})
	m.answers["kms:DescribeKey"] = func(call) (int, string) {
		mu.Lock()
		now++
		most = max(most, now)
		if now == 16 && most == 16 {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		mu.Unlock()
		<-full // until as many are here as may be
		mu.Lock()
		now--
		mu.Unlock()
		return 200, `{"KeyMetadata": {"KeyId": "1", "KeyManager": "AWS"}}`
	}
	must(m.verify(t.Context(), oneRegion))(t)
	if most != 16 || m.asked["kms:DescribeKey"] != 60 {
		t.Errorf("%d at a time, %d in all", most, m.asked["kms:DescribeKey"])
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	fails := func(want string, manifest verify.Manifest, change func(*imitation)) *verify.Report {
		t.Helper()
		m := newImitation(t)
		change(m)
		r, err := m.verify(t.Context(), manifest)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		return r
	}
	other := oneRegion
	other.KMSKeyARN = "arn:aws:kms:us-east-1:210987654321:key/1"
	fails("the deployment prod is in the account 210987654321, and the credentials are for 123456789012", other, func(*imitation) {})
	other = oneRegion
	other.AccountID = "210987654322"
	fails("the deployment prod is in the account 210987654322", other, func(*imitation) {})
	fails("whose credentials", oneRegion, func(m *imitation) {
		m.answers["sts:GetCallerIdentity"] = func(call) (int, string) { return 403, "ExpiredToken" }
	})
	nobody := oneRegion
	nobody.Deployment = "nobody"
	fails("nothing in the account 123456789012 is tagged Deployment = nobody", nobody, func(*imitation) {})
	// What was found until then is there.
	r := fails("rds:DescribeDBInstances in us-east-1, for all", oneRegion, func(m *imitation) {
		m.answers["rds:DescribeDBInstances"] = func(call) (int, string) { return 400, "InvalidParameterValue" }
	})
	if r == nil || r.Account != account {
		t.Errorf("the report is %+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newImitation(t).verify(ctx, oneRegion); err == nil {
		t.Error("it goes on after its end")
	}
}

func TestManifests(t *testing.T) {
	t.Parallel()
	const good = `{"version": 1, "deployment": "taskfleet-prod", "root_url": "https://tasks.example.com", "regions": {"us-west-2": {"vpc_id": "vpc-1", "mirror_bucket": "mirror",
		"event_queue_url": "https://sqs.us-west-2.amazonaws.com/123456789012/events"}}, "database": {"endpoint": "db:5432", "port": 5432}, "broker": null, "kms_key_arn": "arn:aws:kms:us-east-1:123456789012:key/1"}`
	for _, text := range []string{good, `{"manifest": {"sensitive": false, "value": ` + good + `}, "other": {"value": 1}}`} {
		m, err := verify.ReadManifest(strings.NewReader(text))
		if err != nil || m.Deployment != "taskfleet-prod" || m.Regions["us-west-2"].MirrorBucket != "mirror" || m.Database.Endpoint != "db:5432" {
			t.Errorf("%+v, %v", m, err)
		}
	}
	for text, want := range map[string]string{
		"":                                     "not as it should be",
		"[]":                                   "not as it should be",
		"{}":                                   "version is 0",
		`{"version": 2, "deployment": "prod"}`: "version is 2",
		`{"version": 1}`:                       "deployment is",
		`{"version": 1, "deployment": "` + strings.Repeat("x", 129) + `", "service_region": "us-east-1"}`: "deployment is",
		`{"version": 1, "deployment": "prod"}`:                                               "no region",
		`{"version": 1, "deployment": "prod", "service_region": "here"}`:                     "service_region",
		`{"version": 1, "deployment": "prod", "regions": {"moon": {}}}`:                      `"moon"`,
		`{"version": 1, "deployment": "prod", "kms_key_arn": "arn:aws:s3:::bucket"}`:         "kms_key_arn",
		`{"version": 1, "deployment": "prod", "regions": {"x.evil.example/?us-east-1": {}}}`: "regions have",
		`{"version": 1, "deployment": "` + strings.Repeat("x", 1<<20) + `"}`:                 "more than",
	} {
		if _, err := verify.ReadManifest(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %s", text, err, want)
		}
	}
}
