package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Validate looks for what a configuration refers to: images, security groups,
// subnets, key pairs, instance types in their zones. It compares quotas with
// what one machine needs, and makes dry runs of launches, which find the rest:
// permissions, profiles, what does not go together.
func (p *Provider) Validate(ctx context.Context, config json.RawMessage) (findings []string, err error) {
	all, err := p.bindAll(config, p.glimpse)
	if err != nil {
		return []string{err.Error()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// One at a time: however many are asked for, sweeps find room within AWS's
	// limits on what describes.
	select {
	case p.validating <- struct{}{}:
		defer func() { <-p.validating }()
	case <-ctx.Done():
		return nil, errors.New("other configurations are being checked at the moment; try again in a few seconds")
	}
	v := &validation{p: p, now: timestamp.Of(p.config.Now())}
	for _, b := range all {
		v.spec(ctx, b)
	}
	return v.findings, errors.Join(v.errs...)
}

type validation struct {
	p        *Provider
	now      timestamp.Time
	findings []string
	errs     []error
}

func (v *validation) find(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(v.findings, s) {
		v.findings = append(v.findings, s)
	}
}

// ask sorts out what an error of a call means, and reports whether there is
// an answer. An error that is about what was asked for is a finding.
func (v *validation) ask(err error, at, what string) bool {
	if err == nil {
		return true
	}
	switch x := explainCall(err); {
	case !x.unknown && (x.class == fleet.Wrong || x.class == fleet.Denied || x.class == fleet.Quota):
		v.find("%s: %s: %s", at, what, x.text)
	default:
		v.errs = append(v.errs, fmt.Errorf("%s: %s: %s", at, what, x.text))
	}
	return false
}

// spec checks one launch configuration.
func (v *validation) spec(ctx context.Context, b *bound) {
	requests, err := b.requests()
	if err != nil {
		v.errs = append(v.errs, err)
		return
	}
	at := fmt.Sprintf("%s (region %s)", b.at, b.region)
	arch, ok := v.images(ctx, at, b, requests)
	if !ok {
		return // the account cannot be used at all, most likely
	}
	v.groups(ctx, at, b, requests)
	v.subnets(ctx, at, b, requests)
	v.keys(ctx, at, b, requests)
	v.kinds(ctx, at, b, arch, requests)
	v.quota(ctx, at, b)
	v.dryRuns(ctx, at, b, requests)
}

// requests are the launches of each template, and of the first of its offers.
func (b *bound) requests() ([]*ec2.RunInstancesInput, error) {
	if b.run != nil {
		in := *b.spec.run
		return []*ec2.RunInstancesInput{&in}, nil
	}
	all := make([]*ec2.RunInstancesInput, len(b.fleet))
	for i, t := range b.fleet {
		text, err := compact(t.data)
		if err != nil {
			return nil, err
		}
		all[i] = &ec2.RunInstancesInput{}
		if err := json.Unmarshal(text, all[i]); err != nil {
			return nil, err
		}
	}
	for k := len(b.offers) - 1; k >= 0; k-- {
		o := &b.offers[k]
		in := all[o.template]
		in.InstanceType = types.InstanceType(o.kind)
		in.SubnetId = nil
		if o.subnet != "" {
			in.SubnetId = &o.subnet
		} else if o.zone != "" {
			p := types.Placement{}
			if in.Placement != nil {
				p = *in.Placement
			}
			p.AvailabilityZone = &o.zone
			in.Placement = &p
		}
	}
	return all, nil
}

// images checks that the images are there, and returns their architectures. It
// reports false if the account does not answer.
func (v *validation) images(ctx context.Context, at string, b *bound, requests []*ec2.RunInstancesInput) (map[string]types.ArchitectureValues, bool) {
	arch := map[string]types.ArchitectureValues{}
	for _, in := range requests {
		id := aws.ToString(in.ImageId)
		if _, done := arch[id]; done || id == "" || strings.HasPrefix(id, "resolve:") {
			continue // a dry run resolves parameters
		}
		arch[id] = ""
		out, err := b.place.EC2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{id}})
		if !v.ask(err, at, "launchConfig.ImageId "+id) {
			if x := explainCall(err); x.unknown || x.class == fleet.Denied {
				return nil, false
			}
			continue
		}
		if len(out.Images) == 0 {
			v.find("%s: launchConfig.ImageId: there is no image %s. %s", at, id, verdicts["InvalidAMIID.NotFound"].advice)
			continue
		}
		x := out.Images[0]
		arch[id] = x.Architecture
		if x.State != "" && x.State != types.ImageStateAvailable {
			v.find("%s: launchConfig.ImageId: the image %s is %s, and not available.", at, id, x.State)
		}
	}
	return arch, true
}

// collect gathers what requests name, each once.
func collect(requests []*ec2.RunInstancesInput, of func(*ec2.RunInstancesInput) []string) (all []string) {
	for _, in := range requests {
		for _, s := range of(in) {
			if s != "" && !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}

func (v *validation) groups(ctx context.Context, at string, b *bound, requests []*ec2.RunInstancesInput) {
	for _, id := range collect(requests, func(in *ec2.RunInstancesInput) []string {
		ids := in.SecurityGroupIds
		for _, n := range in.NetworkInterfaces {
			ids = append(slices.Clone(ids), n.Groups...)
		}
		return ids
	}) {
		_, err := b.place.EC2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{id}})
		v.ask(err, at, "security group "+id)
	}
	for _, name := range collect(requests, func(in *ec2.RunInstancesInput) []string { return in.SecurityGroups }) {
		out, err := b.place.EC2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{filter("group-name", name)}})
		if v.ask(err, at, "security group "+name) && len(out.SecurityGroups) == 0 {
			v.find("%s: launchConfig.SecurityGroups: there is no group %q in the region.", at, name)
		}
	}
}

func (v *validation) subnets(ctx context.Context, at string, b *bound, requests []*ec2.RunInstancesInput) {
	zones := map[string]string{}
	for _, o := range b.offers {
		if o.subnet != "" {
			zones[o.subnet] = o.zone
		}
	}
	for _, id := range collect(requests, func(in *ec2.RunInstancesInput) []string {
		var ids []string
		for _, n := range in.NetworkInterfaces {
			ids = append(ids, aws.ToString(n.SubnetId))
		}
		return ids
	}) {
		zones[id] = ""
	}
	ids := make([]string, 0, len(zones))
	for id := range zones {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		out, err := b.place.EC2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{id}})
		if !v.ask(err, at, "subnet "+id) || len(out.Subnets) == 0 {
			continue
		}
		s := out.Subnets[0]
		if want, is := zones[id], aws.ToString(s.AvailabilityZone); want != "" && is != want {
			v.find("%s: the subnet %s is in %s, and not in %s, whose SubnetId it is said to be.", at, id, is, want)
		}
		if s.AvailableIpAddressCount != nil && *s.AvailableIpAddressCount == 0 {
			v.find("%s: the subnet %s has no free addresses.", at, id)
		}
	}
}

func (v *validation) keys(ctx context.Context, at string, b *bound, requests []*ec2.RunInstancesInput) {
	for _, name := range collect(requests, func(in *ec2.RunInstancesInput) []string { return []string{aws.ToString(in.KeyName)} }) {
		_, err := b.place.EC2.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{KeyNames: []string{name}})
		v.ask(err, at, "launchConfig.KeyName "+name)
	}
}

// kinds checks that the instance types are offered, and fit the images.
func (v *validation) kinds(ctx context.Context, at string, b *bound, arch map[string]types.ArchitectureValues, requests []*ec2.RunInstancesInput) {
	var kinds []string
	for _, o := range b.offers {
		if o.kind != "" && !slices.Contains(kinds, o.kind) {
			kinds = append(kinds, o.kind)
		}
	}
	for part := range slices.Chunk(kinds, 100) {
		zones, err := offerings(ctx, b.place, part)
		if !v.ask(err, at, "instance types") {
			return
		}
		for _, kind := range part {
			if len(zones[kind]) == 0 {
				v.find("%s: the instance type %s is not offered in the region, or does not exist.", at, kind)
			}
		}
		var known []types.InstanceType
		for kind := range zones {
			known = append(known, types.InstanceType(kind))
		}
		slices.Sort(known)
		v.architectures(ctx, at, b, arch, requests, known)
		for _, o := range b.offers {
			if slices.Contains(part, o.kind) && o.zone != "" && len(zones[o.kind]) > 0 && !zones[o.kind][o.zone] {
				var where []string
				for z := range zones[o.kind] {
					where = append(where, z)
				}
				slices.Sort(where)
				if b.run != nil {
					v.find("%s: the instance type %s is not offered in %s, but in %s.", at, o.kind, o.zone, strings.Join(where, ", "))
				} // of many combinations some need not exist
			}
		}
	}
}

func (v *validation) architectures(ctx context.Context, at string, b *bound, arch map[string]types.ArchitectureValues, requests []*ec2.RunInstancesInput, kinds []types.InstanceType) {
	if len(kinds) == 0 {
		return
	}
	out, err := b.place.EC2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: kinds})
	if !v.ask(err, at, "instance types") {
		return
	}
	for _, t := range out.InstanceTypes {
		if t.ProcessorInfo == nil {
			continue
		}
		for _, o := range b.offers {
			if o.kind != string(t.InstanceType) {
				continue
			}
			image := aws.ToString(requests[o.template].ImageId)
			if a := arch[image]; a != "" && !slices.Contains(t.ProcessorInfo.SupportedArchitectures, types.ArchitectureType(a)) {
				v.find("%s: the image %s is for %s, and the instance type %s is not: give types of another architecture an image of their own, in their launchConfig.", at, image, a, o.kind)
			}
		}
	}
}

// quota checks that the account may have a machine at all.
func (v *validation) quota(ctx context.Context, at string, b *bound) {
	if b.place.Quotas == nil {
		return
	}
	if !v.ask(v.p.readQuotas(ctx, v.now, b.place), at, "quotas") {
		return
	}
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	for i, markets := range b.markets {
		least := int64(0)
		for _, m := range markets {
			if n := vcpus(m.kind); classOf(m.kind) == standard && (least == 0 || n < least) {
				least = n
			}
		}
		if q := b.place.quota(standard, i == 1).limit; least > 0 && q < least {
			v.find("%s: account %s may have %d virtual processors %s in %s, and the smallest of the instance types needs %d. %s (%s)",
				at, b.account, q, howOf(i == 1), b.region, least, raiseQuota, quotaCodes[i])
		}
	}
}

// dryRuns has EC2 say whether it would launch an instance of each template.
func (v *validation) dryRuns(ctx context.Context, at string, b *bound, requests []*ec2.RunInstancesInput) {
	for _, in := range requests {
		v.p.mu.Lock()
		free := b.place.launches.left(v.now) > b.place.turns.ahead(v.now, "") // pools that wait come first
		if free {
			b.place.launches.take(1)
		}
		v.p.mu.Unlock()
		if !free {
			v.errs = append(v.errs, fmt.Errorf("%s: there was no room for a dry run within the limits on requests; try again in a few seconds", at))
			return
		}
		in.MinCount, in.MaxCount, in.DryRun = aws.Int32(1), aws.Int32(1), aws.Bool(true)
		in.UserData = nil
		// What may be launched depends on the tags.
		in.TagSpecifications = tagged(in.TagSpecifications, append(slices.Clone(b.tags), tag(tagIntent, "dry-run")),
			types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface)
		_, err := b.place.EC2.RunInstances(ctx, in)
		if e, ok := errors.AsType[smithy.APIError](err); ok && e.ErrorCode() == "DryRunOperation" {
			continue
		}
		if err != nil {
			if x := explainCall(err); !x.unknown && x.class == fleet.SoldOut {
				continue
			}
		}
		v.ask(err, at, fmt.Sprintf("dry run with %s", in.InstanceType))
	}
}
