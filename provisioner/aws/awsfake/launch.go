package awsfake

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// launchSpec is a checked launch: what all its instances have in common. It is
// never modified.
type launchSpec struct {
	data         *types.ResponseLaunchTemplateData // merged
	image        *image
	groups       []types.GroupIdentifier
	subnet       *subnet // nil: any
	zone         string  // "" any
	profile      *types.IamInstanceProfile
	metadata     *types.InstanceMetadataOptionsResponse
	userData     []byte
	instanceTags []types.Tag
	volumeTags   []types.Tag
	nicTags      []types.Tag
	nicStays     bool // the interface is not deleted on termination
	disks        []disk
}

// disk is one block device.
type disk struct {
	device string
	gib    int32
	kind   types.VolumeType
	stays  bool // not deleted on termination
}

const maxUserData = 16 << 10

// check resolves launch data in this region, as RunInstances would; tags are
// added to those in the data.
func (s scope) check(data *types.ResponseLaunchTemplateData, tags []types.TagSpecification, system ...types.Tag) (*launchSpec, error) {
	r := s.region
	spec := &launchSpec{data: data}
	if err := s.checkImage(spec); err != nil {
		return nil, err
	}
	if err := r.checkNetwork(spec); err != nil {
		return nil, err
	}
	if name := data.KeyName; name != nil && !r.keyPairs[*name] {
		return nil, failure("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", *name)
	}
	if err := s.checkProfile(spec); err != nil {
		return nil, err
	}
	if data.UserData != nil {
		raw, err := base64.StdEncoding.DecodeString(*data.UserData)
		if err != nil {
			return nil, failure("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
		}
		if len(raw) > maxUserData {
			return nil, failure("InvalidParameterValue", "User data is limited to 16384 bytes")
		}
		spec.userData = raw
	}
	spec.metadata = metadataOptions(data.MetadataOptions)
	spec.checkDisks()

	spec.instanceTags = slices.Clone(system)
	for _, t := range data.TagSpecifications {
		spec.tag(t.ResourceType, t.Tags)
	}
	for _, t := range tags {
		spec.tag(t.ResourceType, t.Tags)
	}
	if len(spec.instanceTags)-len(system) > 50 {
		return nil, failure("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
	}
	return spec, nil
}

// tag adds or replaces tags.
func (spec *launchSpec) tag(resource types.ResourceType, tags []types.Tag) {
	switch resource {
	case types.ResourceTypeInstance:
		spec.instanceTags = mergeTags(spec.instanceTags, tags)
	case types.ResourceTypeVolume:
		spec.volumeTags = mergeTags(spec.volumeTags, tags)
	case types.ResourceTypeNetworkInterface:
		spec.nicTags = mergeTags(spec.nicTags, tags)
	}
}

// mergeTags makes a new list in which later values win.
func mergeTags(old, more []types.Tag) []types.Tag {
	tags := slices.Clone(old)
	for _, t := range more {
		t := types.Tag{Key: aws.String(aws.ToString(t.Key)), Value: aws.String(aws.ToString(t.Value))}
		if n := slices.IndexFunc(tags, func(o types.Tag) bool { return *o.Key == *t.Key }); n >= 0 {
			tags[n] = t
		} else {
			tags = append(tags, t)
		}
	}
	return tags
}

func (s scope) checkImage(spec *launchSpec) error {
	r := s.region
	id := aws.ToString(spec.data.ImageId)
	if id == "" {
		return failure("MissingParameter", "The request must contain the parameter ImageId")
	}
	if name, ok := strings.CutPrefix(id, "resolve:ssm:"); ok {
		id = r.parameters[name]
		if id == "" {
			return failure("InvalidParameterValue", "The parameter '%s' could not be resolved from SSM Parameter Store", name)
		}
	}
	if !strings.HasPrefix(id, "ami-") {
		return failure("InvalidAMIID.Malformed", `Invalid id: "%s" (expecting "ami-...")`, id)
	}
	if spec.image = r.images[id]; spec.image == nil {
		return failure("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", id)
	}
	return nil
}

func (r *region) checkNetwork(spec *launchSpec) error {
	data := spec.data
	names := slices.Concat(data.SecurityGroupIds, data.SecurityGroups)
	if len(data.NetworkInterfaces) > 0 {
		if len(names) > 0 {
			return failure("InvalidParameterCombination", "Network interfaces and an instance-level security groups may not be specified on the same request")
		}
		nic := data.NetworkInterfaces[0]
		names = nic.Groups
		spec.nicStays = nic.DeleteOnTermination != nil && !*nic.DeleteOnTermination
		if nic.SubnetId != nil {
			if spec.subnet = r.subnet(*nic.SubnetId); spec.subnet == nil {
				return noSubnet(*nic.SubnetId)
			}
		}
	}
	if len(names) == 0 {
		names = []string{r.groups[0].id}
	}
	for _, name := range names {
		g := r.group(name)
		if g == nil {
			return failure("InvalidGroup.NotFound", "The security group '%s' does not exist", name)
		}
		spec.groups = append(spec.groups, types.GroupIdentifier{GroupId: &g.id, GroupName: &g.name})
	}
	if data.Placement != nil && data.Placement.AvailabilityZone != nil {
		spec.zone = *data.Placement.AvailabilityZone
		if r.subnetIn(spec.zone) == nil {
			return r.noZone(spec.zone)
		}
	}
	if spec.subnet != nil {
		spec.zone = spec.subnet.zone
	}
	return nil
}

func noSubnet(id string) *Error {
	return failure("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", id)
}

func (r *region) noZone(zone string) *Error {
	return failure("InvalidParameterValue", "Invalid availability zone: [%s]", zone)
}

// checkProfile needs the profile to exist and the caller to be allowed to pass
// its role.
func (s scope) checkProfile(spec *launchSpec) error {
	p := spec.data.IamInstanceProfile
	if p == nil {
		return nil
	}
	account := s.region.account
	name := aws.ToString(p.Name)
	if p.Arn != nil {
		prefix := "arn:aws:iam::" + account.id + ":instance-profile/"
		if !strings.HasPrefix(*p.Arn, prefix) {
			return failure("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.arn is invalid. Invalid IAM Instance Profile ARN", *p.Arn)
		}
		name = (*p.Arn)[strings.LastIndex(*p.Arn, "/")+1:]
	}
	if !account.profiles[name] {
		return failure("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name", name)
	}
	if s.denied("iam:PassRole", s.role) {
		return s.unauthorized("iam:PassRole", "arn:aws:iam::"+account.id+":role/"+name)
	}
	spec.profile = &types.IamInstanceProfile{Arn: aws.String(account.profileARN(name)), Id: aws.String("AIPA" + strings.ToUpper(fixedID("", account.id, name)))}
	return nil
}

func (a *account) profileARN(name string) string {
	return fmt.Sprintf("arn:aws:iam::%s:instance-profile/%s", a.id, name)
}

func metadataOptions(o *types.LaunchTemplateInstanceMetadataOptions) *types.InstanceMetadataOptionsResponse {
	out := &types.InstanceMetadataOptionsResponse{
		State: types.InstanceMetadataOptionsStateApplied, HttpTokens: types.HttpTokensStateOptional, HttpPutResponseHopLimit: aws.Int32(1),
		HttpEndpoint: types.InstanceMetadataEndpointStateEnabled, InstanceMetadataTags: types.InstanceMetadataTagsStateDisabled,
		HttpProtocolIpv6: types.InstanceMetadataProtocolStateDisabled,
	}
	if o == nil {
		return out
	}
	if o.HttpTokens != "" {
		out.HttpTokens = types.HttpTokensState(o.HttpTokens)
	}
	if o.HttpPutResponseHopLimit != nil {
		out.HttpPutResponseHopLimit = o.HttpPutResponseHopLimit
	}
	if o.HttpEndpoint != "" {
		out.HttpEndpoint = types.InstanceMetadataEndpointState(o.HttpEndpoint)
	}
	if o.InstanceMetadataTags != "" {
		out.InstanceMetadataTags = types.InstanceMetadataTagsState(o.InstanceMetadataTags)
	}
	return out
}

// checkDisks lays the block devices over the image's root device.
func (spec *launchSpec) checkDisks() {
	spec.disks = []disk{{device: spec.image.rootDevice, gib: spec.image.rootGiB, kind: types.VolumeTypeGp3}}
	for _, b := range spec.data.BlockDeviceMappings {
		if b.Ebs == nil {
			continue // an ephemeral or suppressed device has no volume
		}
		d := disk{device: aws.ToString(b.DeviceName), gib: 8, kind: types.VolumeTypeGp3}
		at := slices.IndexFunc(spec.disks, func(o disk) bool { return o.device == d.device })
		if at >= 0 {
			d = spec.disks[at]
		}
		if b.Ebs.VolumeSize != nil {
			d.gib = *b.Ebs.VolumeSize
		}
		if b.Ebs.VolumeType != "" {
			d.kind = b.Ebs.VolumeType
		}
		d.stays = b.Ebs.DeleteOnTermination != nil && !*b.Ebs.DeleteOnTermination
		if at >= 0 {
			spec.disks[at] = d
		} else {
			spec.disks = append(spec.disks, d)
		}
	}
}

// machineOf checks an instance type against image and zone.
func (spec *launchSpec) machineOf(name, zone string) (*machine, error) {
	m := machines()[name]
	if m == nil {
		return nil, failure("InvalidParameterValue", "Invalid value '%s' for InstanceType.", name)
	}
	if string(m.family.arch) != string(spec.image.architecture) {
		return nil, failure("InvalidParameterValue", "The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.", m.family.arch, spec.image.architecture)
	}
	if zone != "" && !offered(m, zone) {
		return nil, failure("Unsupported", "Your requested instance type (%s) is not supported in your requested Availability Zone (%s). Please retry your request by not specifying an Availability Zone or choosing another one.", name, zone)
	}
	return m, nil
}

// grant asks how many of want instances a market gives, at up to maxPrice for
// spot (0 is any price). Fewer than want come with the reason. Nothing is taken.
func (r *region) grant(m *market, want int, maxPrice float64) (int, *Error) {
	if m.Spot && maxPrice > 0 && maxPrice < m.current() {
		return 0, failure("SpotMaxPriceTooLow", "Your Spot request price of %v is lower than the minimum required Spot request fulfillment price of %v.", maxPrice, m.current())
	}
	got, reason := want, (*Error)(nil)
	if free := m.free(want); free < got {
		got, reason = free, r.insufficient(m)
	}
	quota := r.cloud.config.Quotas.OnDemand
	if m.Spot {
		quota = r.cloud.config.Quotas.Spot
	}
	if quota > 0 {
		room := max(0, quota-r.vcpus[lifecycleIndex(m.Spot)]) / int(m.machine.vcpus)
		if room < got {
			got = room
			if m.Spot {
				reason = failure("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
			} else {
				reason = failure("VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit of %d allows for the instance bucket that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.", quota)
			}
		}
	}
	return got, reason
}

func (r *region) insufficient(m *market) *Error {
	if m.Spot {
		return failure("InsufficientInstanceCapacity", "There is no Spot capacity available that matches your request.")
	}
	return failure("InsufficientInstanceCapacity", "We currently do not have sufficient %s capacity in the Availability Zone you requested (%s). Our system will be working on provisioning additional capacity. You can currently get %s capacity by not specifying an Availability Zone in your request or choosing another one.", m.Type, m.Zone, m.Type)
}

// reserve counts n more instances of a market as in use; fewer if n is negative.
func (r *region) reserve(m *market, n int) {
	m.used += n
	r.vcpus[lifecycleIndex(m.Spot)] += n * int(m.machine.vcpus)
}

// take starts n instances, in one reservation or, if that is nil, each in its own.
func (r *region) take(spec *launchSpec, m *market, s *subnet, n int, token string, shared *reservation) []*instance {
	started := make([]*instance, n)
	for i := range started {
		own := shared
		if own == nil {
			own = &reservation{r.cloud.draws.id("r-")}
		}
		started[i] = r.start(spec, m, s, own, int32(i), token)
	}
	return started
}
