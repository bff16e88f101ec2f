package awsfake

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// DescribeInstanceTypes lists instance types, by name.
func (e *EC2) DescribeInstanceTypes(ctx context.Context, in *ec2.DescribeInstanceTypesInput, _ ...func(*ec2.Options)) (*ec2.DescribeInstanceTypesOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeInstanceTypes", in, func(s scope, in *ec2.DescribeInstanceTypesInput) (*ec2.DescribeInstanceTypesOutput, error) {
		var all []*machine
		for _, name := range in.InstanceTypes {
			m := machines()[string(name)]
			if m == nil {
				return nil, failure("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", name)
			}
			all = append(all, m)
		}
		if len(in.InstanceTypes) == 0 {
			for _, name := range machineNames() {
				all = append(all, machines()[name])
			}
		}
		all, err := selected(all, in.Filters, machineFilter)
		if err != nil {
			return nil, err
		}
		page, next, err := pageOf(all, in.MaxResults, in.NextToken, 5, 100)
		if err != nil {
			return nil, err
		}
		out := &ec2.DescribeInstanceTypesOutput{InstanceTypes: []types.InstanceTypeInfo{}, NextToken: next}
		for _, m := range page {
			out.InstanceTypes = append(out.InstanceTypes, m.info)
		}
		return out, nil
	})
}

func machineFilter(m *machine, name string) ([]string, bool) {
	switch name {
	case "instance-type":
		return []string{m.name}, true
	case "current-generation":
		return []string{strconv.FormatBool(!m.family.old)}, true
	case "bare-metal":
		return []string{"false"}, true
	case "instance-storage-supported":
		return []string{strconv.FormatBool(m.family.disk)}, true
	case "processor-info.supported-architecture":
		return []string{string(m.family.arch)}, true
	case "supported-usage-class":
		return []string{"on-demand", "spot"}, true
	case "vcpu-info.default-vcpus":
		return []string{strconv.Itoa(int(m.vcpus))}, true
	case "memory-info.size-in-mib":
		return []string{strconv.FormatInt(m.mib, 10)}, true
	}
	return nil, false
}

// DescribeInstanceTypeOfferings lists which type is in which region or zone.
func (e *EC2) DescribeInstanceTypeOfferings(ctx context.Context, in *ec2.DescribeInstanceTypeOfferingsInput, _ ...func(*ec2.Options)) (*ec2.DescribeInstanceTypeOfferingsOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeInstanceTypeOfferings", in, func(s scope, in *ec2.DescribeInstanceTypeOfferingsInput) (*ec2.DescribeInstanceTypeOfferingsOutput, error) {
		kind := in.LocationType
		if kind == "" {
			kind = types.LocationTypeRegion
		}
		var all []types.InstanceTypeOffering
		for _, name := range machineNames() {
			offer := types.InstanceTypeOffering{InstanceType: types.InstanceType(name), LocationType: kind, Location: &s.region.name}
			if kind == types.LocationTypeRegion {
				all = append(all, offer)
				continue
			}
			for i := range s.region.zones {
				z := &s.region.zones[i]
				if !offered(machines()[name], z.name) {
					continue
				}
				offer.Location = &z.name
				if kind == types.LocationTypeAvailabilityZoneId {
					offer.Location = &z.id
				}
				all = append(all, offer)
			}
		}
		all, err := selected(all, in.Filters, func(o types.InstanceTypeOffering, name string) ([]string, bool) {
			switch name {
			case "instance-type":
				return []string{string(o.InstanceType)}, true
			case "location":
				return []string{*o.Location}, true
			}
			return nil, false
		})
		if err != nil {
			return nil, err
		}
		page, next, err := pageOf(all, in.MaxResults, in.NextToken, 5, 1000)
		return &ec2.DescribeInstanceTypeOfferingsOutput{InstanceTypeOfferings: page, NextToken: next}, err
	})
}

// DescribeAvailabilityZones lists the region's zones.
func (e *EC2) DescribeAvailabilityZones(ctx context.Context, in *ec2.DescribeAvailabilityZonesInput, _ ...func(*ec2.Options)) (*ec2.DescribeAvailabilityZonesOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeAvailabilityZones", in, func(s scope, in *ec2.DescribeAvailabilityZonesInput) (*ec2.DescribeAvailabilityZonesOutput, error) {
		all := s.region.zones
		if len(in.ZoneNames) > 0 {
			var err error
			if all, err = pick(all, in.ZoneNames, func(z zone) string { return z.name }, "InvalidParameterValue", "Invalid availability zone: [%s]"); err != nil {
				return nil, err
			}
		}
		all, err := selected(all, in.Filters, func(z zone, name string) ([]string, bool) {
			switch name {
			case "zone-name":
				return []string{z.name}, true
			case "zone-id":
				return []string{z.id}, true
			case "state":
				return []string{"available"}, true
			case "zone-type":
				return []string{"availability-zone"}, true
			case "region-name":
				return []string{s.region.name}, true
			case "opt-in-status":
				return []string{"opt-in-not-required"}, true
			}
			return nil, false
		})
		out := &ec2.DescribeAvailabilityZonesOutput{}
		for _, z := range all {
			out.AvailabilityZones = append(out.AvailabilityZones, types.AvailabilityZone{
				ZoneName: &z.name, ZoneId: &z.id, RegionName: &s.region.name, State: types.AvailabilityZoneStateAvailable, ZoneType: aws.String("availability-zone"), OptInStatus: types.AvailabilityZoneOptInStatusOptInNotRequired,
			})
		}
		return out, err
	})
}

// DescribeRegions lists the cloud's regions.
func (e *EC2) DescribeRegions(ctx context.Context, in *ec2.DescribeRegionsInput, _ ...func(*ec2.Options)) (*ec2.DescribeRegionsOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeRegions", in, func(s scope, in *ec2.DescribeRegionsInput) (*ec2.DescribeRegionsOutput, error) {
		all := s.cloud.config.Regions
		if len(in.RegionNames) > 0 {
			var err error
			if all, err = pick(all, in.RegionNames, func(r string) string { return r }, "InvalidParameterValue", "Invalid region provided: '%s'"); err != nil {
				return nil, err
			}
		}
		out := &ec2.DescribeRegionsOutput{}
		for _, name := range all {
			out.Regions = append(out.Regions, types.Region{RegionName: &name, Endpoint: aws.String("ec2." + name + ".amazonaws.com"), OptInStatus: aws.String("opt-in-not-required")})
		}
		return out, nil
	})
}

// DescribeImages lists images: of any owner.
func (e *EC2) DescribeImages(ctx context.Context, in *ec2.DescribeImagesInput, _ ...func(*ec2.Options)) (*ec2.DescribeImagesOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeImages", in, func(s scope, in *ec2.DescribeImagesInput) (*ec2.DescribeImagesOutput, error) {
		all := slices.SortedFunc(maps.Values(s.region.images), func(a, b *image) int { return cmp.Compare(a.id, b.id) })
		if len(in.ImageIds) > 0 {
			var err error
			if all, err = pick(all, in.ImageIds, func(i *image) string { return i.id }, "InvalidAMIID.NotFound", "The image id '[%s]' does not exist"); err != nil {
				return nil, err
			}
		}
		all = slices.DeleteFunc(all, func(i *image) bool {
			return len(in.Owners) > 0 && !slices.Contains(in.Owners, i.owner) &&
				!(slices.Contains(in.Owners, "self") && i.owner == s.region.account.id) && !(slices.Contains(in.Owners, "amazon") && i.owner == amazon)
		})
		all, err := selected(all, in.Filters, func(i *image, name string) ([]string, bool) {
			switch name {
			case "image-id":
				return []string{i.id}, true
			case "name":
				return []string{i.name}, true
			case "architecture":
				return []string{string(i.architecture)}, true
			case "state":
				return []string{"available"}, true
			case "owner-id":
				return []string{i.owner}, true
			}
			return tagFilter(nil, name)
		})
		if err != nil {
			return nil, err
		}
		page, next, err := pageOf(all, in.MaxResults, in.NextToken, 1, 1000)
		if err != nil {
			return nil, err
		}
		out := &ec2.DescribeImagesOutput{Images: []types.Image{}, NextToken: next}
		for _, i := range page {
			out.Images = append(out.Images, i.describe())
		}
		return out, nil
	})
}

// amazon owns public images.
const amazon = "137112412989"

func (i *image) describe() types.Image {
	return types.Image{
		ImageId: &i.id, Name: &i.name, Architecture: i.architecture, State: types.ImageStateAvailable, OwnerId: &i.owner, Public: aws.Bool(i.owner == amazon),
		CreationDate: &i.created, ImageType: types.ImageTypeValuesMachine, RootDeviceName: &i.rootDevice, RootDeviceType: types.DeviceTypeEbs,
		VirtualizationType: types.VirtualizationTypeHvm, EnaSupport: aws.Bool(true), PlatformDetails: aws.String("Linux/UNIX"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: &i.rootDevice, Ebs: &types.EbsBlockDevice{
			SnapshotId: aws.String("snap-" + i.id[4:]), VolumeSize: aws.Int32(i.rootGiB), VolumeType: types.VolumeTypeGp3, DeleteOnTermination: aws.Bool(true), Encrypted: aws.Bool(false)}}},
	}
}

// DescribeSecurityGroups lists security groups.
func (e *EC2) DescribeSecurityGroups(ctx context.Context, in *ec2.DescribeSecurityGroupsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeSecurityGroups", in, func(s scope, in *ec2.DescribeSecurityGroupsInput) (*ec2.DescribeSecurityGroupsOutput, error) {
		all := s.region.groups
		if names := slices.Concat(in.GroupIds, in.GroupNames); len(names) > 0 {
			all = nil
			for _, name := range names {
				g := s.region.group(name)
				if g == nil {
					return nil, failure("InvalidGroup.NotFound", "The security group '%s' does not exist", name)
				}
				all = append(all, g)
			}
		}
		all, err := selected(all, in.Filters, func(g *group, name string) ([]string, bool) {
			switch name {
			case "group-id":
				return []string{g.id}, true
			case "group-name":
				return []string{g.name}, true
			case "vpc-id":
				return []string{s.region.vpc}, true
			}
			return tagFilter(nil, name)
		})
		out := &ec2.DescribeSecurityGroupsOutput{SecurityGroups: []types.SecurityGroup{}}
		for _, g := range all {
			out.SecurityGroups = append(out.SecurityGroups, types.SecurityGroup{GroupId: &g.id, GroupName: &g.name, Description: &g.description, VpcId: &s.region.vpc, OwnerId: &s.region.account.id})
		}
		return out, err
	})
}

// DescribeSubnets lists subnets.
func (e *EC2) DescribeSubnets(ctx context.Context, in *ec2.DescribeSubnetsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSubnetsOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeSubnets", in, func(s scope, in *ec2.DescribeSubnetsInput) (*ec2.DescribeSubnetsOutput, error) {
		r := s.region
		all := r.network.subnets
		if len(in.SubnetIds) > 0 {
			var err error
			if all, err = pick(all, in.SubnetIds, func(n *subnet) string { return n.id }, "InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist"); err != nil {
				return nil, err
			}
		}
		all, err := selected(all, in.Filters, func(n *subnet, name string) ([]string, bool) {
			switch name {
			case "subnet-id":
				return []string{n.id}, true
			case "availability-zone":
				return []string{n.zone}, true
			case "availability-zone-id":
				return []string{n.zoneID}, true
			case "vpc-id":
				return []string{r.vpc}, true
			case "default-for-az":
				return []string{"true"}, true
			case "state":
				return []string{"available"}, true
			}
			return tagFilter(nil, name)
		})
		out := &ec2.DescribeSubnetsOutput{Subnets: []types.Subnet{}}
		for _, n := range all {
			out.Subnets = append(out.Subnets, types.Subnet{
				SubnetId: &n.id, AvailabilityZone: &n.zone, AvailabilityZoneId: &n.zoneID, VpcId: &r.vpc, State: types.SubnetStateAvailable, DefaultForAz: aws.Bool(true),
				CidrBlock: aws.String("172." + strconv.Itoa(16+n.index) + ".0.0/16"), OwnerId: &r.account.id, AvailableIpAddressCount: aws.Int32(65531),
			})
		}
		return out, err
	})
}

// DescribeKeyPairs lists key pairs.
func (e *EC2) DescribeKeyPairs(ctx context.Context, in *ec2.DescribeKeyPairsInput, _ ...func(*ec2.Options)) (*ec2.DescribeKeyPairsOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeKeyPairs", in, func(s scope, in *ec2.DescribeKeyPairsInput) (*ec2.DescribeKeyPairsOutput, error) {
		all := slices.Sorted(maps.Keys(s.region.keyPairs))
		if len(in.KeyNames) > 0 {
			var err error
			if all, err = pick(all, in.KeyNames, func(k string) string { return k }, "InvalidKeyPair.NotFound", "The key pair '%s' does not exist"); err != nil {
				return nil, err
			}
		}
		out := &ec2.DescribeKeyPairsOutput{}
		for _, name := range all {
			out.KeyPairs = append(out.KeyPairs, types.KeyPairInfo{KeyName: &name, KeyPairId: aws.String(fixedID("key-", s.region.account.id, s.region.name, name)), KeyType: types.KeyTypeEd25519})
		}
		return out, nil
	})
}

// DescribeSpotPriceHistory lists the changes of spot prices in a time, newest
// first, and of each market the price at its start. Without InstanceTypes or an
// availability zone it is long: it has every market of the region.
func (e *EC2) DescribeSpotPriceHistory(ctx context.Context, in *ec2.DescribeSpotPriceHistoryInput, _ ...func(*ec2.Options)) (*ec2.DescribeSpotPriceHistoryOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeSpotPriceHistory", in, func(s scope, in *ec2.DescribeSpotPriceHistoryInput) (*ec2.DescribeSpotPriceHistoryOutput, error) {
		names := machineNames()
		if len(in.InstanceTypes) > 0 {
			names = nil
			for _, t := range in.InstanceTypes {
				if machines()[string(t)] == nil {
					return nil, failure("InvalidParameterValue", "Invalid instance type: [%s]", t)
				}
				names = append(names, string(t))
			}
		}
		for _, f := range in.Filters { // the same in another way, which spares the other markets
			if aws.ToString(f.Name) == "instance-type" && !slices.ContainsFunc(f.Values, isPattern) {
				names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !slices.Contains(f.Values, name) })
			}
		}
		until := s.cloud.now
		if in.EndTime != nil && in.EndTime.Before(until) {
			until = *in.EndTime
		}
		since := until
		if in.StartTime != nil {
			since = *in.StartTime
		}
		if !productWanted(in.ProductDescriptions) {
			names = nil
		}
		var all []types.SpotPrice
		for _, name := range names {
			for i := range s.region.zones {
				z := &s.region.zones[i]
				if in.AvailabilityZone != nil && *in.AvailabilityZone != z.name || in.AvailabilityZoneId != nil && *in.AvailabilityZoneId != z.id || !offered(machines()[name], z.name) {
					continue
				}
				m := s.cloud.market(Market{s.region.name, z.name, name, true})
				m.current()
				for _, p := range m.between(since, until) {
					all = append(all, types.SpotPrice{
						AvailabilityZone: &z.name, AvailabilityZoneId: &z.id, InstanceType: types.InstanceType(name), ProductDescription: types.RIProductDescriptionLinuxUnix,
						SpotPrice: aws.String(strconv.FormatFloat(p.price, 'f', 6, 64)), Timestamp: aws.Time(p.at),
					})
				}
			}
		}
		slices.SortStableFunc(all, func(a, b types.SpotPrice) int { return b.Timestamp.Compare(*a.Timestamp) })
		all, err := selected(all, in.Filters, func(p types.SpotPrice, name string) ([]string, bool) {
			switch name {
			case "availability-zone":
				return []string{*p.AvailabilityZone}, true
			case "instance-type":
				return []string{string(p.InstanceType)}, true
			case "product-description":
				return []string{string(p.ProductDescription)}, true
			case "spot-price":
				return []string{*p.SpotPrice}, true
			case "timestamp":
				return []string{p.Timestamp.UTC().Format(time.RFC3339)}, true
			}
			return nil, false
		})
		if err != nil {
			return nil, err
		}
		size := in.MaxResults
		if size == nil {
			size = aws.Int32(1000)
		}
		page, next, err := pageOf(all, size, in.NextToken, 1, 1000)
		return &ec2.DescribeSpotPriceHistoryOutput{SpotPriceHistory: page, NextToken: next}, err
	})
}

func productWanted(products []string) bool {
	return len(products) == 0 || anyMatches(products, []string{"Linux/UNIX", "Linux/UNIX (Amazon VPC)"})
}

// between are the price changes in a time, with the price at its start.
func (m *market) between(since, until time.Time) []pricePoint {
	from := 0
	for from+1 < len(m.history) && !m.history[from+1].at.After(since) {
		from++
	}
	to := from
	for to < len(m.history) && !m.history[to].at.After(until) {
		to++
	}
	return m.history[from:to]
}

// GetSpotPlacementScores rates from 10 (will succeed) to 1 how likely a spot
// request is to get the whole capacity, by what the markets have now and how
// often they interrupt. It rates regions, or zones with SingleAvailabilityZone.
func (e *EC2) GetSpotPlacementScores(ctx context.Context, in *ec2.GetSpotPlacementScoresInput, _ ...func(*ec2.Options)) (*ec2.GetSpotPlacementScoresOutput, error) {
	return call(ctx, e.scope, "ec2", "GetSpotPlacementScores", in, func(s scope, in *ec2.GetSpotPlacementScoresInput) (*ec2.GetSpotPlacementScoresOutput, error) {
		want := int(aws.ToInt32(in.TargetCapacity))
		if want < 1 || len(in.InstanceTypes) == 0 {
			return nil, failure("InvalidParameterValue", "TargetCapacity and InstanceTypes are needed")
		}
		regions := in.RegionNames
		if len(regions) == 0 {
			regions = s.cloud.config.Regions
		}
		out := &ec2.GetSpotPlacementScoresOutput{SpotPlacementScores: []types.SpotPlacementScore{}}
		for _, name := range regions {
			r := s.cloud.region(s.region.account.id, name)
			if r == nil {
				return nil, failure("InvalidParameterValue", "Invalid region provided: '%s'", name)
			}
			whole := 0.0
			for _, z := range r.zones {
				share := 0.0
				for _, t := range in.InstanceTypes {
					if m := machines()[t]; m != nil && offered(m, z.name) {
						market := s.cloud.market(Market{r.name, z.name, t, true})
						share += float64(market.free(want)) / float64(want) / (1 + market.Hazard)
					}
				}
				whole += share
				if aws.ToBool(in.SingleAvailabilityZone) {
					out.SpotPlacementScores = append(out.SpotPlacementScores, types.SpotPlacementScore{Region: &name, AvailabilityZoneId: aws.String(z.id), Score: score(share)})
				}
			}
			if !aws.ToBool(in.SingleAvailabilityZone) {
				out.SpotPlacementScores = append(out.SpotPlacementScores, types.SpotPlacementScore{Region: &name, Score: score(whole)})
			}
		}
		slices.SortStableFunc(out.SpotPlacementScores, func(a, b types.SpotPlacementScore) int { return cmp.Compare(*b.Score, *a.Score) })
		var err error
		out.SpotPlacementScores, out.NextToken, err = pageOf(out.SpotPlacementScores, in.MaxResults, in.NextToken, 10, 1000)
		return out, err
	})
}

func score(share float64) *int32 {
	return aws.Int32(int32(math.Round(1 + 9*min(share, 1))))
}
