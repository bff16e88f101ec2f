// Package verify reads a live AWS account back and says where a deployment is not as it should be. It asks AWS alone, never
// Terraform's state: what somebody has changed by hand, what was never applied and what a state has forgotten is found alike.
//
// # What belongs to a deployment
//
// What has the tag Deployment with its name, in the regions of its manifest (its output of that name), and what the manifest
// names. A resource that only the manifest names lacks its tags, which is a finding; one that is not there is another.
// Buckets are looked for in all regions, IAM roles are global.
//
// # Files
//
//	verify.go     a verification: regions side by side, findings, what is denied
//	manifest.go   what a deployment says of itself
//	document.go   policies of IAM, as far as they are judged
//	bucket.go key.go database.go network.go balancer.go service.go queue.go broker.go role.go   the checks, by kind of resource
//
// # How it asks
//
// Every list is read to its end. At most 16 calls are under way at a time, and what AWS throttles is tried again, up to eight
// times. A call that is not allowed is a finding of its own that names the permission, and what it was for counts as not
// checked. All calls only read.
package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/mq"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/errgroup"
)

// A Severity says how bad a finding is.
type Severity string

const (
	Error   Severity = "error"   // data can leak, get lost, or the platform is not up
	Warning Severity = "warning" // something is missing that is of use when another thing fails, or could not be checked
)

// A Finding is something that is not as it should be.
type Finding struct {
	Check    string   `json:"check"` // of Checks
	Severity Severity `json:"severity"`
	Resource string   `json:"resource"` // its ARN
	Region   string   `json:"region"`   // "global" for IAM
	Message  string   `json:"message"`
	Fix      string   `json:"fix"`
}

// Global is the region of findings about IAM.
const Global = "global"

// Unchecked is the check of findings that say that something could not be checked.
const Unchecked = "unchecked"

// A Report is what a verification has found.
type Report struct {
	Deployment string         `json:"deployment"`
	Account    string         `json:"account"`
	Regions    []string       `json:"regions"`
	Resources  map[string]int `json:"resources"` // how many belong to the deployment, by kind
	Findings   []Finding      `json:"findings"`  // the worst first
}

// Options say what is verified.
type Options struct {
	// Config has the credentials; nil is what the AWS SDK finds by itself. Its region counts for nothing. Its retryer is
	// replaced unless it has one.
	Config   *aws.Config
	Manifest Manifest

	// Development says that the deployment may lose data and be away: its database is not asked for a standby,
	// protection against deletion and a week of backups.
	Development bool
}

const (
	callsAtATime = 16
	attempts     = 8
)

// Account verifies a deployment. With an error the report has what was found until then; it is nil where nothing could be
// asked at all.
func Account(ctx context.Context, o Options) (*Report, error) {
	if err := o.Manifest.check(); err != nil {
		return nil, err
	}
	if o.Config == nil {
		found, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return nil, fmt.Errorf("find credentials for AWS: %w", err)
		}
		o.Config = &found
	}
	conf := o.Config.Copy()
	if conf.Retryer == nil {
		conf.Retryer = func() aws.Retryer {
			return retry.NewStandard(func(s *retry.StandardOptions) { s.MaxAttempts = attempts })
		}
	}
	v := &verification{
		manifest: o.Manifest, development: o.Development, config: conf, slots: make(chan struct{}, callsAtATime),
		clients: map[string]*clients{}, keys: map[string]bool{}, denied: map[string]*denial{},
		report: &Report{Deployment: o.Manifest.Deployment, Regions: o.Manifest.regions(), Resources: map[string]int{}, Findings: []Finding{}},
	}
	if err := v.identify(ctx); err != nil {
		return nil, err
	}
	// Keys come first: buckets are judged by them.
	err := v.inRegions(ctx, v.checkKeys)
	if err == nil {
		err = v.all(ctx, v.checkBuckets, v.checkRoles, func(ctx context.Context) error {
			return v.inRegions(ctx, v.checkDatabases, v.checkNetwork, v.checkServices, v.checkQueues, v.checkBrokers)
		})
	}
	v.end()
	if err == nil && len(v.report.Resources) == 0 && len(v.denied) == 0 {
		err = fmt.Errorf("nothing in the account %s is tagged Deployment = %s, in %s: was it applied, and under that name?", v.account, o.Manifest.Deployment, strings.Join(v.report.Regions, ", "))
	}
	return v.report, err
}

// A verification is one call of Account.
type verification struct {
	manifest    Manifest
	development bool
	config      aws.Config
	slots       chan struct{} // a call holds one
	account     string
	partition   string

	mu      sync.Mutex
	clients map[string]*clients // by region
	keys    map[string]bool     // ARNs of the deployment's KMS keys
	denied  map[string]*denial  // by permission and region
	report  *Report
}

// A denial is a call that is not allowed, and how many resources it was for.
type denial struct {
	permission string
	at         place
	others     int
}

// A place is what a call or a finding is about.
type place struct{ region, resource string }

// clients of a region.
type clients struct {
	region string
	ec2    *ec2.Client
	ecs    *ecs.Client
	elb    *elb.Client
	kms    *kms.Client
	mq     *mq.Client
	rds    *rds.Client
	s3     *s3.Client
	sqs    *sqs.Client
}

func (v *verification) in(region string) *clients {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.clients[region]
	if c == nil {
		conf := v.config.Copy()
		conf.Region = region
		c = &clients{
			region: region, ec2: ec2.NewFromConfig(conf), ecs: ecs.NewFromConfig(conf), elb: elb.NewFromConfig(conf), kms: kms.NewFromConfig(conf),
			mq: mq.NewFromConfig(conf), rds: rds.NewFromConfig(conf), s3: s3.NewFromConfig(conf), sqs: sqs.NewFromConfig(conf),
		}
		v.clients[region] = c
	}
	return c
}

// identify sees that the credentials are for the account of the deployment: in another one all would be missing.
func (v *verification) identify(ctx context.Context) error {
	conf := v.config.Copy()
	conf.Region = v.report.Regions[0]
	who, err := sts.NewFromConfig(conf).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return fmt.Errorf("ask AWS whose credentials these are: %w", err)
	}
	caller, err := arn.Parse(aws.ToString(who.Arn))
	if err != nil {
		return fmt.Errorf("AWS says that the caller is %.200q, which is no ARN: %w", aws.ToString(who.Arn), err)
	}
	v.account, v.partition = aws.ToString(who.Account), caller.Partition
	theirs := v.manifest.AccountID
	if key, err := arn.Parse(v.manifest.KMSKeyARN); err == nil && theirs == "" {
		theirs = key.AccountID
	}
	if theirs != "" && theirs != v.account {
		return fmt.Errorf("the deployment %s is in the account %s, and the credentials are for %s: use those of the deployment's account", v.manifest.Deployment, theirs, v.account)
	}
	v.report.Account = v.account
	return nil
}

// end counts what was denied among the findings, and puts them in order.
func (v *verification) end() {
	for _, d := range v.denied {
		about := ""
		if d.others > 0 {
			about = fmt.Sprintf(", nor could %d more", d.others)
		}
		v.find(d.at, Unchecked, "it could not be checked"+about+": "+d.permission+" is not allowed",
			"allow the caller "+d.permission+", or verify as somebody else")
	}
	slices.SortFunc(v.report.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Check, b.Check), cmp.Compare(a.Region, b.Region),
			cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Message, b.Message)) // "error" is before "warning"
	})
}

// find notes a finding.
func (v *verification) find(at place, check, message, fix string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Findings = append(v.report.Findings, Finding{
		Check: check, Severity: severities[check], Resource: at.resource, Region: at.region, Message: message, Fix: fix,
	})
}

// severities of all checks.
var severities = map[string]Severity{
	Unchecked: Warning,
	"missing": Error,
	"tags":    Warning,

	"bucket-public-access-block": Error,
	"bucket-public-policy":       Error,
	"bucket-public-acl":          Error,
	"bucket-encryption":          Error,
	"bucket-tls":                 Error,
	"bucket-versioning":          Error,
	"bucket-lifecycle":           Warning,

	"key-state":    Error,
	"key-rotation": Warning,
	"key-policy":   Error,

	"database-encryption":          Error,
	"database-backups":             Error,
	"database-standby":             Error,
	"database-public":              Error,
	"database-deletion-protection": Error,
	"database-tls":                 Error,

	"ingress-open":              Error,
	"launch-template-metadata":  Error,
	"launch-template-encrypted": Error,
	"volume-encryption-default": Warning,

	"load-balancer-tls":    Error,
	"load-balancer-policy": Error,

	"service-running":         Error,
	"service-circuit-breaker": Warning,

	"queue-encryption": Error,
	"queue-policy":     Error,

	"broker-public":     Error,
	"broker-encryption": Error,

	"role-actions":  Error,
	"role-boundary": Error,
	"role-trust":    Error,
}

// Checks are the names of all checks, in order.
func Checks() []string { return slices.Sorted(maps.Keys(severities)) }

// belongs says whether a resource is the deployment's, by its tags or since the manifest names it, and counts it. It finds
// the tags that it lacks.
func (v *verification) belongs(kind string, at place, tags map[string]string, named bool) bool {
	if tags[tagDeployment] != v.manifest.Deployment && !named {
		return false
	}
	v.count(kind)
	var lacks []string
	for _, tag := range []string{tagDeployment, tagManagedBy} {
		if tags[tag] == "" {
			lacks = append(lacks, tag)
		}
	}
	switch has := tags[tagDeployment]; {
	case len(lacks) > 0:
		v.find(at, "tags", "it has no tag "+strings.Join(lacks, " and no tag "), "give it the tags Deployment = "+v.manifest.Deployment+" and ManagedBy; taskfleet infra plan shows what Terraform would do")
	case has != v.manifest.Deployment:
		v.find(at, "tags", fmt.Sprintf("the manifest names it, and its tag Deployment is %q", has), "see to it that no two deployments share it, and set its tag")
	}
	return true
}

func (v *verification) count(kind string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Resources[kind]++
}

const (
	tagDeployment = "Deployment"
	tagManagedBy  = "ManagedBy"
)

// missing finds what the manifest names and nobody has seen.
func (v *verification) missing(region, what, resource string, seen bool) {
	if resource != "" && !seen {
		v.find(place{region, resource}, "missing", "the manifest names this "+what+", and it is not there", "taskfleet infra drift tells what else has gone; taskfleet infra plan makes it again")
	}
}

// arn of something in the account.
func (v *verification) arn(service, region, resource string) string {
	return arn.ARN{Partition: v.partition, Service: service, Region: region, AccountID: v.account, Resource: resource}.String()
}

// errDenied is what a call ends with that is not allowed, and has been noted.
var errDenied = errors.New("denied")

// all does things side by side. What is denied is noted and ends nothing but the function it happened in; another error
// ends them all.
func (v *verification) all(ctx context.Context, functions ...func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, f := range functions {
		g.Go(func() error {
			if err := f(ctx); !errors.Is(err, errDenied) {
				return err
			}
			return nil
		})
	}
	return g.Wait()
}

// each is all, of a function for each of a list.
func each[T any](ctx context.Context, v *verification, list []T, f func(context.Context, T) error) error {
	functions := make([]func(context.Context) error, 0, len(list))
	for _, x := range list {
		functions = append(functions, func(ctx context.Context) error { return f(ctx, x) })
	}
	return v.all(ctx, functions...)
}

func (v *verification) inRegions(ctx context.Context, checks ...func(context.Context, *clients) error) error {
	var functions []func(context.Context) error
	for _, region := range v.report.Regions {
		for _, check := range checks {
			functions = append(functions, func(ctx context.Context) error { return check(ctx, v.in(region)) })
		}
	}
	return v.all(ctx, functions...)
}

// ask makes a call. The permission is the one that it needs.
func ask[In, Out, O any](ctx context.Context, v *verification, at place, permission string,
	method func(context.Context, *In, ...func(*O)) (*Out, error), in *In) (*Out, error) {
	select {
	case v.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-v.slots }()
	out, err := method(ctx, in)
	switch {
	case err == nil:
		return out, nil
	case isDenied(err):
		v.deny(at, permission)
		return nil, errDenied
	}
	return nil, fmt.Errorf("%s in %s, for %s: %w", permission, at.region, cmp.Or(at.resource, "all"), err)
}

// A pager lists something.
type pager[Out, O any] interface {
	HasMorePages() bool
	NextPage(context.Context, ...func(*O)) (*Out, error)
}

// pages calls f for each page of a list.
func pages[Out, O any](ctx context.Context, v *verification, at place, permission string, p pager[Out, O], f func(*Out)) error {
	for p.HasMorePages() {
		page, err := ask(ctx, v, at, permission, func(ctx context.Context, _ *struct{}, options ...func(*O)) (*Out, error) {
			return p.NextPage(ctx, options...)
		}, nil)
		if err != nil {
			return err
		}
		f(page)
	}
	return nil
}

func (v *verification) deny(at place, permission string) {
	if at.resource == "" {
		service, _, _ := strings.Cut(permission, ":")
		at.resource = v.arn(service, at.region, "*")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	id := permission + " " + at.region
	d := v.denied[id]
	if d == nil {
		v.denied[id] = &denial{permission: permission, at: at}
		return
	}
	if d.at.resource != at.resource {
		d.others++
		d.at.resource = min(d.at.resource, at.resource) // the same one in each report
	}
}

// isDenied says that the caller is who it says and may not do this. Each service has its own name for that; credentials that
// are no good have other ones.
func isDenied(err error) bool {
	switch code(err) {
	case "AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "AuthorizationErrorException", "NotAuthorized":
		return true
	case "ForbiddenException", "Forbidden":
		response, ok := errors.AsType[*awshttp.ResponseError](err)
		return ok && response.HTTPStatusCode() == http.StatusForbidden
	}
	return false
}

// code is the code of AWS's error.
func code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// tagMap reads tags.
func tagMap[T any](list []T, of func(T) (key, value *string)) map[string]string {
	tags := make(map[string]string, len(list))
	for _, t := range list {
		k, v := of(t)
		tags[aws.ToString(k)] = aws.ToString(v)
	}
	return tags
}
