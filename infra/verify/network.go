package verify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// checkNetwork looks at a region's load balancers, security groups, launch templates, and how it encrypts volumes.
func (v *verification) checkNetwork(ctx context.Context, c *clients) error {
	return v.all(ctx,
		func(ctx context.Context) error {
			groups, err := v.checkBalancers(ctx, c)
			if err != nil && !errors.Is(err, errDenied) {
				return err
			}
			return v.checkGroups(ctx, c, func(group string) bool { return err != nil || groups[group] })
		},
		func(ctx context.Context) error { return v.checkTemplates(ctx, c) },
		func(ctx context.Context) error {
			at := place{c.region, v.arn("ec2", c.region, "*")}
			out, err := ask(ctx, v, at, "ec2:GetEbsEncryptionByDefault", c.ec2.GetEbsEncryptionByDefault, &ec2.GetEbsEncryptionByDefaultInput{})
			if err == nil && !aws.ToBool(out.EbsEncryptionByDefault) {
				v.find(at, "volume-encryption-default", "volumes are not encrypted unless whoever makes one asks for it", "turn encryption by default on: aws ec2 enable-ebs-encryption-by-default --region "+c.region)
			}
			return err
		})
}

// checkGroups looks at security groups. mayBalance says of one that it is, or may be, a load balancer's.
func (v *verification) checkGroups(ctx context.Context, c *clients, mayBalance func(id string) bool) error {
	named := v.manifest.Regions[c.region].WorkerSecurityGroup
	seen := false
	p := ec2.NewDescribeSecurityGroupsPaginator(c.ec2, &ec2.DescribeSecurityGroupsInput{MaxResults: aws.Int32(mostDescribed)})
	err := pages(ctx, v, place{region: c.region}, "ec2:DescribeSecurityGroups", p, func(p *ec2.DescribeSecurityGroupsOutput) {
		for _, g := range p.SecurityGroups {
			id := aws.ToString(g.GroupId)
			seen = seen || id == named
			at := place{c.region, v.arn("ec2", c.region, "security-group/"+id)}
			if v.belongs("security group", at, ec2Tags(g.Tags), id == named) {
				v.checkGroup(at, g, mayBalance(id))
			}
		}
	})
	if err == nil && named != "" {
		v.missing(c.region, "security group", v.arn("ec2", c.region, "security-group/"+named), seen)
	}
	return err
}

// mostDescribed is the largest page of security groups and of launch templates that EC2 takes.
const mostDescribed = 200

func ec2Tags(list []types.Tag) map[string]string {
	return tagMap(list, func(t types.Tag) (*string, *string) { return t.Key, t.Value })
}

// checkGroup finds what lets the world in. A load balancer may do so at 443.
func (v *verification) checkGroup(at place, g types.SecurityGroup, mayBalance bool) {
	for _, p := range g.IpPermissions {
		from, to, protocol := aws.ToInt32(p.FromPort), aws.ToInt32(p.ToPort), aws.ToString(p.IpProtocol)
		https := from == 443 && to == 443 && slices.Contains([]string{"tcp", "udp", "6", "17"}, protocol)
		if mayBalance && https {
			continue
		}
		ports := fmt.Sprintf("ports %d to %d", from, to)
		switch {
		case protocol == "-1" || p.FromPort == nil:
			ports = "everything"
		case from == to:
			ports = fmt.Sprintf("port %d", from)
		}
		var ranges []string
		for _, r := range p.IpRanges {
			ranges = append(ranges, aws.ToString(r.CidrIp))
		}
		for _, r := range p.Ipv6Ranges {
			ranges = append(ranges, aws.ToString(r.CidrIpv6))
		}
		for _, r := range ranges {
			if world(r) {
				v.find(at, "ingress-open", fmt.Sprintf("%s (%s) is open to the world (%s)", ports, protocol, r), "name the ranges or security groups that need it; only a load balancer is open to all, at 443")
			}
		}
	}
}

// world says that a range has a sixteenth of all addresses or more: half the world in two rules is the world, too. Of IPv6 a
// /9 is the largest that one could want.
func world(cidr string) bool {
	p, err := netip.ParsePrefix(cidr)
	return err == nil && (p.Bits() <= 4 || p.Addr().Is6() && p.Bits() <= 9)
}

func (v *verification) checkTemplates(ctx context.Context, c *clients) error {
	named := v.manifest.Regions[c.region].LaunchTemplate
	seen := false
	var ours []types.LaunchTemplate
	p := ec2.NewDescribeLaunchTemplatesPaginator(c.ec2, &ec2.DescribeLaunchTemplatesInput{MaxResults: aws.Int32(mostDescribed)})
	err := pages(ctx, v, place{region: c.region}, "ec2:DescribeLaunchTemplates", p, func(p *ec2.DescribeLaunchTemplatesOutput) {
		for _, t := range p.LaunchTemplates {
			id := aws.ToString(t.LaunchTemplateId)
			seen = seen || id == named
			if v.belongs("launch template", place{c.region, v.arn("ec2", c.region, "launch-template/"+id)}, ec2Tags(t.Tags), id == named) {
				ours = append(ours, t)
			}
		}
	})
	if err != nil {
		return err
	}
	if named != "" {
		v.missing(c.region, "launch template", v.arn("ec2", c.region, "launch-template/"+named), seen)
	}
	return each(ctx, v, ours, func(ctx context.Context, t types.LaunchTemplate) error { return v.checkTemplate(ctx, c, t) })
}

// checkTemplate looks at the versions that are used by who names none: the default and the latest one.
func (v *verification) checkTemplate(ctx context.Context, c *clients, t types.LaunchTemplate) error {
	at := place{c.region, v.arn("ec2", c.region, "launch-template/"+aws.ToString(t.LaunchTemplateId))}
	versions := []string{"$Default"}
	if aws.ToInt64(t.DefaultVersionNumber) != aws.ToInt64(t.LatestVersionNumber) {
		versions = append(versions, "$Latest")
	}
	p := ec2.NewDescribeLaunchTemplateVersionsPaginator(c.ec2, &ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: t.LaunchTemplateId, Versions: versions})
	return pages(ctx, v, at, "ec2:DescribeLaunchTemplateVersions", p, func(p *ec2.DescribeLaunchTemplateVersionsOutput) {
		for _, x := range p.LaunchTemplateVersions {
			d := x.LaunchTemplateData
			if d == nil {
				continue
			}
			if m := d.MetadataOptions; m == nil || m.HttpTokens != types.LaunchTemplateHttpTokensStateRequired && m.HttpEndpoint != types.LaunchTemplateInstanceMetadataEndpointStateDisabled {
				v.find(at, "launch-template-metadata", fmt.Sprintf("version %d lets instances be asked for their credentials without a session (IMDSv1)", aws.ToInt64(x.VersionNumber)), `set metadata_options { http_tokens = "required" }`)
			}
			for _, m := range d.BlockDeviceMappings {
				if m.Ebs != nil && !aws.ToBool(m.Ebs.Encrypted) {
					v.find(at, "launch-template-encrypted", fmt.Sprintf("version %d does not encrypt the volume %s", aws.ToInt64(x.VersionNumber), aws.ToString(m.DeviceName)), "set ebs { encrypted = true } for it")
				}
			}
		}
	})
}
