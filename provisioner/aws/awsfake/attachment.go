package awsfake

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// volume is an EBS volume: an instance's, or what one left behind.
type volume struct {
	id      string
	disk    disk
	zone    string
	created time.Time
	tags    []types.Tag
	owner   *instance // nil when available
}

// networkInterface is an instance's network interface, or one left behind.
type networkInterface struct {
	id      string
	subnet  *subnet
	address string
	stays   bool
	groups  []types.GroupIdentifier
	tags    []types.Tag
	created time.Time
	owner   *instance
}

// volumeID and interfaceID derive from the instance's: they need no memory.
func (i *instance) volumeID(n int) string {
	return "vol-" + string("0123456789abcdef"[n&15]) + i.id[3:]
}
func (i *instance) interfaceID() string { return "eni-" + i.id[2:] }

// detach leaves behind what is not deleted on termination, and what leaks.
// Volumes and interfaces of living instances are made when somebody looks: they
// become things of their own when they outlive their instance.
func (r *region) detach(i *instance) {
	leaks, c := r.cloud.config.Leaks, r.cloud
	leaked := leaks.Volumes > 0 && c.draws.leaks.Float64() < leaks.Volumes
	for n, d := range i.launch.disks {
		if d.stays || leaked {
			v := i.volume(n)
			v.owner = nil
			r.volumes[v.id] = v
		}
	}
	if i.launch.nicStays || leaks.Interfaces > 0 && c.draws.leaks.Float64() < leaks.Interfaces {
		v := i.networkInterface()
		v.owner = nil
		r.interfaces[v.id] = v
	}
}

func (i *instance) volume(n int) *volume {
	return &volume{id: i.volumeID(n), disk: i.launch.disks[n], zone: i.subnet.zone, created: i.requested, tags: i.launch.volumeTags, owner: i}
}

func (i *instance) networkInterface() *networkInterface {
	return &networkInterface{id: i.interfaceID(), subnet: i.subnet, address: i.address, stays: i.launch.nicStays, groups: i.launch.groups, tags: i.launch.nicTags, created: i.requested, owner: i}
}

func (i *instance) describeAttachments(v *types.Instance) {
	for n, d := range i.launch.disks {
		v.BlockDeviceMappings = append(v.BlockDeviceMappings, types.InstanceBlockDeviceMapping{
			DeviceName: aws.String(d.device),
			Ebs:        &types.EbsInstanceBlockDevice{VolumeId: aws.String(i.volumeID(n)), Status: types.AttachmentStatusAttached, AttachTime: &i.requested, DeleteOnTermination: aws.Bool(!d.stays)},
		})
	}
	v.NetworkInterfaces = []types.InstanceNetworkInterface{{
		NetworkInterfaceId: aws.String(i.interfaceID()), SubnetId: &i.subnet.id, VpcId: &i.region.vpc, PrivateIpAddress: &i.address, Groups: i.launch.groups,
		Status: types.NetworkInterfaceStatusInUse, OwnerId: &i.region.account.id,
		Attachment: &types.InstanceNetworkInterfaceAttachment{AttachmentId: aws.String("eni-attach-" + i.id[2:]), DeviceIndex: aws.Int32(0), Status: types.AttachmentStatusAttached, AttachTime: &i.requested, DeleteOnTermination: aws.Bool(!i.launch.nicStays)},
	}}
}

// holding are the instances that still hold their attachments.
func (r *region) holding(yield func(*instance) bool) {
	for _, i := range r.live {
		if i.state != types.InstanceStateNameTerminated && !yield(i) {
			return
		}
	}
}

func (r *region) allVolumes() []*volume {
	all := slices.SortedFunc(maps.Values(r.volumes), func(a, b *volume) int { return cmp.Compare(a.id, b.id) })
	for i := range r.holding {
		for n := range i.launch.disks {
			all = append(all, i.volume(n))
		}
	}
	return all
}

func (r *region) allInterfaces() []*networkInterface {
	all := slices.SortedFunc(maps.Values(r.interfaces), func(a, b *networkInterface) int { return cmp.Compare(a.id, b.id) })
	for i := range r.holding {
		all = append(all, i.networkInterface())
	}
	return all
}

func (v *volume) state() types.VolumeState {
	if v.owner != nil {
		return types.VolumeStateInUse
	}
	return types.VolumeStateAvailable
}

func (v *volume) describe() types.Volume {
	out := types.Volume{
		VolumeId: &v.id, AvailabilityZone: &v.zone, CreateTime: &v.created, Size: aws.Int32(v.disk.gib), VolumeType: v.disk.kind, State: v.state(),
		Tags: v.tags, Encrypted: aws.Bool(false), Attachments: []types.VolumeAttachment{},
	}
	if v.owner != nil {
		out.Attachments = append(out.Attachments, types.VolumeAttachment{
			InstanceId: &v.owner.id, VolumeId: &v.id, Device: &v.disk.device, State: types.VolumeAttachmentStateAttached, AttachTime: &v.created, DeleteOnTermination: aws.Bool(!v.disk.stays),
		})
	}
	return out
}

// DescribeVolumes lists volumes: first those that belong to no instance.
func (e *EC2) DescribeVolumes(ctx context.Context, in *ec2.DescribeVolumesInput, _ ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeVolumes", in, func(s scope, in *ec2.DescribeVolumesInput) (*ec2.DescribeVolumesOutput, error) {
		all := s.region.allVolumes()
		if len(in.VolumeIds) > 0 {
			var err error
			if all, err = pick(all, in.VolumeIds, func(v *volume) string { return v.id }, "InvalidVolume.NotFound", "The volume '%s' does not exist."); err != nil {
				return nil, err
			}
		}
		all, err := selected(all, in.Filters, func(v *volume, name string) ([]string, bool) {
			switch name {
			case "status":
				return []string{string(v.state())}, true
			case "volume-id":
				return []string{v.id}, true
			case "availability-zone":
				return []string{v.zone}, true
			case "create-time":
				return []string{v.created.UTC().Format(time.RFC3339)}, true
			case "attachment.instance-id":
				if v.owner != nil {
					return []string{v.owner.id}, true
				}
				return nil, true
			}
			return tagFilter(v.tags, name)
		})
		if err != nil {
			return nil, err
		}
		page, next, err := pageOf(all, in.MaxResults, in.NextToken, 5, 1000)
		if err != nil {
			return nil, err
		}
		out := &ec2.DescribeVolumesOutput{Volumes: []types.Volume{}, NextToken: next}
		for _, v := range page {
			out.Volumes = append(out.Volumes, v.describe())
		}
		return out, nil
	})
}

// pick finds named things, or says which is missing.
func pick[T any](all []T, ids []string, id func(T) string, code, format string) ([]T, error) {
	var found []T
	for _, want := range ids {
		n := slices.IndexFunc(all, func(t T) bool { return id(t) == want })
		if n < 0 {
			return nil, failure(code, format, want)
		}
		found = append(found, all[n])
	}
	return found, nil
}

// DeleteVolume removes a volume that belongs to no instance.
func (e *EC2) DeleteVolume(ctx context.Context, in *ec2.DeleteVolumeInput, _ ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error) {
	return call(ctx, e.scope, "ec2", "DeleteVolume", in, func(s scope, in *ec2.DeleteVolumeInput) (*ec2.DeleteVolumeOutput, error) {
		found, err := pick(s.region.allVolumes(), []string{aws.ToString(in.VolumeId)}, func(v *volume) string { return v.id }, "InvalidVolume.NotFound", "The volume '%s' does not exist.")
		if err != nil {
			return nil, err
		}
		if v := found[0]; v.owner != nil {
			return nil, failure("VolumeInUse", "Volume %s is currently attached to %s", v.id, v.owner.id)
		}
		if s.dry {
			return nil, dryRun()
		}
		delete(s.region.volumes, found[0].id)
		return &ec2.DeleteVolumeOutput{}, nil
	})
}

func (n *networkInterface) state() types.NetworkInterfaceStatus {
	if n.owner != nil {
		return types.NetworkInterfaceStatusInUse
	}
	return types.NetworkInterfaceStatusAvailable
}

func (n *networkInterface) describe(r *region) types.NetworkInterface {
	out := types.NetworkInterface{
		NetworkInterfaceId: &n.id, SubnetId: &n.subnet.id, VpcId: &r.vpc, AvailabilityZone: &n.subnet.zone, PrivateIpAddress: &n.address, Groups: n.groups,
		Status: n.state(), OwnerId: &r.account.id, TagSet: n.tags, InterfaceType: types.NetworkInterfaceTypeInterface,
	}
	if n.owner != nil {
		out.Attachment = &types.NetworkInterfaceAttachment{InstanceId: &n.owner.id, DeviceIndex: aws.Int32(0), Status: types.AttachmentStatusAttached, AttachTime: &n.created, DeleteOnTermination: aws.Bool(!n.stays)}
	}
	return out
}

// DescribeNetworkInterfaces lists interfaces: first those that belong to no
// instance.
func (e *EC2) DescribeNetworkInterfaces(ctx context.Context, in *ec2.DescribeNetworkInterfacesInput, _ ...func(*ec2.Options)) (*ec2.DescribeNetworkInterfacesOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeNetworkInterfaces", in, func(s scope, in *ec2.DescribeNetworkInterfacesInput) (*ec2.DescribeNetworkInterfacesOutput, error) {
		all := s.region.allInterfaces()
		if len(in.NetworkInterfaceIds) > 0 {
			var err error
			if all, err = pick(all, in.NetworkInterfaceIds, func(n *networkInterface) string { return n.id }, "InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist"); err != nil {
				return nil, err
			}
		}
		all, err := selected(all, in.Filters, func(n *networkInterface, name string) ([]string, bool) {
			switch name {
			case "status":
				return []string{string(n.state())}, true
			case "network-interface-id":
				return []string{n.id}, true
			case "subnet-id":
				return []string{n.subnet.id}, true
			case "availability-zone":
				return []string{n.subnet.zone}, true
			case "attachment.instance-id":
				if n.owner != nil {
					return []string{n.owner.id}, true
				}
				return nil, true
			}
			return tagFilter(n.tags, name)
		})
		if err != nil {
			return nil, err
		}
		page, next, err := pageOf(all, in.MaxResults, in.NextToken, 5, 1000)
		if err != nil {
			return nil, err
		}
		out := &ec2.DescribeNetworkInterfacesOutput{NetworkInterfaces: []types.NetworkInterface{}, NextToken: next}
		for _, n := range page {
			out.NetworkInterfaces = append(out.NetworkInterfaces, n.describe(s.region))
		}
		return out, nil
	})
}

// DeleteNetworkInterface removes an interface that belongs to no instance.
func (e *EC2) DeleteNetworkInterface(ctx context.Context, in *ec2.DeleteNetworkInterfaceInput, _ ...func(*ec2.Options)) (*ec2.DeleteNetworkInterfaceOutput, error) {
	return call(ctx, e.scope, "ec2", "DeleteNetworkInterface", in, func(s scope, in *ec2.DeleteNetworkInterfaceInput) (*ec2.DeleteNetworkInterfaceOutput, error) {
		found, err := pick(s.region.allInterfaces(), []string{aws.ToString(in.NetworkInterfaceId)}, func(n *networkInterface) string { return n.id }, "InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist")
		if err != nil {
			return nil, err
		}
		if n := found[0]; n.owner != nil {
			return nil, failure("InvalidNetworkInterface.InUse", "Network interface '%s' is currently in use.", n.id)
		}
		if s.dry {
			return nil, dryRun()
		}
		delete(s.region.interfaces, found[0].id)
		return &ec2.DeleteNetworkInterfaceOutput{}, nil
	})
}

// CreateTags adds or replaces tags of instances, and of volumes and interfaces
// that belong to none, and of launch templates.
func (e *EC2) CreateTags(ctx context.Context, in *ec2.CreateTagsInput, _ ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error) {
	return call(ctx, e.scope, "ec2", "CreateTags", in, func(s scope, in *ec2.CreateTagsInput) (*ec2.CreateTagsOutput, error) {
		r := s.region
		var set []func()
		for _, id := range in.Resources {
			switch {
			case r.templates[id] != nil:
				t := r.templates[id]
				set = append(set, func() { t.tags = mergeTags(t.tags, in.Tags) })
			case r.volumes[id] != nil:
				v := r.volumes[id]
				set = append(set, func() { v.tags = mergeTags(v.tags, in.Tags) })
			case r.interfaces[id] != nil:
				n := r.interfaces[id]
				set = append(set, func() { n.tags = mergeTags(n.tags, in.Tags) })
			default:
				list, err := r.named([]string{id})
				if err != nil {
					return nil, err
				}
				set = append(set, func() {
					list[0].tags = mergeTags(list[0].tags, in.Tags)
					list[0].view = nil
				})
			}
		}
		if s.dry {
			return nil, dryRun()
		}
		for _, f := range set {
			f()
		}
		return &ec2.CreateTagsOutput{}, nil
	})
}
