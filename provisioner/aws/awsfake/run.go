package awsfake

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// EC2 is the Go face of EC2 in one region for one principal: its methods are
// those of *ec2.Client. Options are ignored, and nothing is retried.
type EC2 struct{ scope }

// EC2 of an account's own user in a region; it panics when the cloud has no
// such account or region.
func (c *Cloud) EC2(account, region string) *EC2 { return &EC2{c.scope(account, region, "")} }

// EC2As is EC2 for an assumed role.
func (c *Cloud) EC2As(account, role, region string) *EC2 {
	return &EC2{c.scope(account, region, role)}
}

func (c *Cloud) scope(account, region, role string) scope {
	r := c.region(account, region)
	if r == nil {
		panic("awsfake: no account " + account + " with region " + region + ": name them in Config")
	}
	return scope{cloud: c, region: r, role: role}
}

// answer is what a call with a client token gave, for when it comes again.
type answer struct {
	token string
	input [sha256.Size]byte
	at    time.Time
	give  func() any // the same answer again
}

// remembered is how long client tokens work.
const remembered = 48 * time.Hour

// again finds the answer to an earlier call with the same token. A token with
// other parameters is an error.
func (r *region) again(action, token string, in any) (*answer, error) {
	for len(r.oldAnswers) > 0 && r.cloud.now.Sub(r.oldAnswers[0].at) > remembered {
		delete(r.answers, r.oldAnswers[0].token)
		r.oldAnswers = r.oldAnswers[1:]
	}
	if token == "" {
		return nil, nil
	}
	if len(token) > 64 {
		return nil, failure("InvalidParameterValue", "The client token may not be longer than 64 characters")
	}
	text, err := json.Marshal(in)
	if err != nil {
		return nil, failure("InternalError", "%v", err)
	}
	input := sha256.Sum256(text)
	key := sharedAction(action) + " " + token
	if old := r.answers[key]; old != nil {
		if old.input != input {
			return nil, failure("IdempotentParameterMismatch", "The client token '%s' was used before with other parameters", token)
		}
		return old, nil
	}
	return &answer{token: key, input: input, at: r.cloud.now}, nil
}

// remember keeps an answer; a may be nil.
func (r *region) remember(a *answer, give func() any) {
	if a == nil {
		return
	}
	a.give = give
	r.answers[a.token] = a
	r.oldAnswers = append(r.oldAnswers, a)
}

// RunInstances launches between MinCount and MaxCount instances of one type in
// one zone, or none and an error.
func (e *EC2) RunInstances(ctx context.Context, in *ec2.RunInstancesInput, _ ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	return call(ctx, e.scope, "ec2", "RunInstances", in, runInstances)
}

func runInstances(s scope, in *ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
	r := s.region
	low, high := int(aws.ToInt32(in.MinCount)), int(aws.ToInt32(in.MaxCount))
	if low < 1 || high < low {
		return nil, failure("InvalidParameterValue", "Value (%d) for parameter minCount is invalid: it must be between 1 and maxCount (%d)", low, high)
	}
	known, err := r.again("RunInstances", aws.ToString(in.ClientToken), in)
	if err != nil {
		return nil, err
	}
	if known != nil && known.give != nil {
		return known.give().(*ec2.RunInstancesOutput), nil
	}
	data, system, err := r.runData(in)
	if err != nil {
		return nil, err
	}
	spec, err := s.check(data, in.TagSpecifications, system...)
	if err != nil {
		return nil, err
	}
	if in.SubnetId != nil {
		if spec.subnet = r.subnet(*in.SubnetId); spec.subnet == nil {
			return nil, noSubnet(*in.SubnetId)
		}
		spec.zone = spec.subnet.zone
	}
	maxPrice, err := spotPrice(data.InstanceMarketOptions)
	if err != nil {
		return nil, err
	}
	instanceType := string(data.InstanceType)
	if instanceType == "" {
		instanceType = "m4.large"
	}
	machine, err := spec.machineOf(instanceType, spec.zone)
	if err != nil {
		return nil, err
	}
	if s.dry {
		return nil, dryRun()
	}

	tokens := r.resources("RunInstances")
	if tokens != nil {
		got := tokens.take(r.cloud.now, float64(high))
		if int(got) < low {
			tokens.give(got)
			return nil, requestLimitExceeded()
		}
		high = int(got)
	}
	where, m, n, reason := r.choose(spec, machine, data.InstanceMarketOptions != nil && data.InstanceMarketOptions.MarketType == types.MarketTypeSpot, high, maxPrice)
	if n < low {
		if tokens != nil {
			tokens.give(float64(high))
		}
		return nil, reason
	}
	if tokens != nil {
		tokens.give(float64(high - n))
	}
	rsv := &reservation{r.cloud.draws.id("r-")}
	started := r.take(spec, m, where, n, aws.ToString(in.ClientToken), rsv)
	give := func() any {
		out := &ec2.RunInstancesOutput{ReservationId: &rsv.id, OwnerId: &r.account.id, Groups: []types.GroupIdentifier{}}
		for _, i := range started {
			out.Instances = append(out.Instances, i.describe()...)
		}
		return out
	}
	r.remember(known, give)
	return give().(*ec2.RunInstancesOutput), nil
}

// runData lays the input over its launch template.
func (r *region) runData(in *ec2.RunInstancesInput) (*types.ResponseLaunchTemplateData, []types.Tag, error) {
	data := &types.ResponseLaunchTemplateData{}
	var system []types.Tag
	if t := in.LaunchTemplate; t != nil {
		v, err := r.templateVersion(t.LaunchTemplateId, t.LaunchTemplateName, t.Version)
		if err != nil {
			return nil, nil, err
		}
		*data = *v.data
		system = v.systemTags()
	}
	own := *in
	own.TagSpecifications = nil // added by check
	overlay(data, &own)
	return data, system, nil
}

// spotPrice is the limit of a spot request, 0 for none.
func spotPrice(o *types.LaunchTemplateInstanceMarketOptions) (float64, error) {
	if o == nil || o.SpotOptions == nil {
		return 0, nil
	}
	return maxPrice(o.SpotOptions.MaxPrice)
}

func maxPrice(p *string) (float64, error) {
	if p == nil || *p == "" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(*p, 64)
	if err != nil || !(v > 0) {
		return 0, failure("InvalidParameterValue", "Value (%s) for parameter price is invalid", *p)
	}
	return v, nil
}

// choose finds the zone that gives most, among those the launch allows.
func (r *region) choose(spec *launchSpec, m *machine, spot bool, want int, maxPrice float64) (where *subnet, best *market, got int, reason *Error) {
	first := r.cloud.draws.zone.IntN(len(r.subnets))
	for k := range r.subnets {
		s := r.subnets[(first+k)%len(r.subnets)]
		if spec.zone != "" && s.zone != spec.zone || spec.subnet != nil && s != spec.subnet || !offered(m, s.zone) {
			continue
		}
		market := r.cloud.market(Market{r.name, s.zone, m.name, spot})
		n, why := r.grant(market, want, maxPrice)
		if n > got || best == nil {
			where, best, got = s, market, n
		}
		if why != nil {
			reason = why
		}
		if got == want {
			return where, best, got, nil
		}
	}
	return where, best, got, reason
}
