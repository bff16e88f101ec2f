package awsfake

import (
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// network is what a region has from the start: a default VPC with a subnet in
// each zone and a default security group.
type network struct {
	vpc     string
	subnets []*subnet
	groups  []*group
}

type subnet struct {
	id, zone, zoneID string
	index            int
	addresses        int // given out
}

type group struct{ id, name, description string }

func defaultNetwork(r *region) network {
	n := network{vpc: fixedID("vpc-", r.account.id, r.name)}
	for i, z := range r.zones {
		n.subnets = append(n.subnets, &subnet{id: fixedID("subnet-", r.account.id, z.name), zone: z.name, zoneID: z.id, index: i})
	}
	n.groups = []*group{{fixedID("sg-", r.account.id, r.name), "default", "default VPC security group"}}
	return n
}

// address gives out a private address of the subnet's /16.
func (s *subnet) address() string {
	a := s.addresses % (250 * 250)
	s.addresses++
	return fmt.Sprintf("172.%d.%d.%d", 16+s.index, a/250, 4+a%250)
}

func (n *network) subnet(id string) *subnet {
	for _, s := range n.subnets {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (n *network) subnetIn(zone string) *subnet {
	for _, s := range n.subnets {
		if s.zone == zone {
			return s
		}
	}
	return nil
}

func (n *network) group(idOrName string) *group {
	for _, g := range n.groups {
		if g.id == idOrName || g.name == idOrName {
			return g
		}
	}
	return nil
}

// image is an AMI.
type image struct {
	id, name     string
	architecture types.ArchitectureValues
	rootDevice   string
	rootGiB      int32
	owner        string
	parameter    string // of SSM, that names the image
	created      string
}

// defaultImages are one public image an architecture, found through the SSM
// parameters of Amazon Linux.
func defaultImages(region string) []*image {
	var images []*image
	for _, arch := range []types.ArchitectureValues{types.ArchitectureValuesX8664, types.ArchitectureValuesArm64} {
		images = append(images, &image{
			id: fixedID("ami-", region, string(arch)), name: "al2023-ami-2023.9.20251117.1-kernel-6.1-" + string(arch),
			architecture: arch, rootDevice: "/dev/xvda", rootGiB: 8, owner: amazon,
			parameter: "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-" + string(arch),
			created:   "2025-11-17T00:00:00.000Z",
		})
	}
	return images
}

// Surroundings are the identifiers of what every account has in a region.
type Surroundings struct {
	VPC           string
	Subnets       map[string]string // by zone
	SecurityGroup string            // named "default"
	Images        map[string]string // by architecture: "x86_64", "arm64"
	Profile       string            // an instance profile, "worker"
	KeyPair       string            // "default"
}

// Surroundings of an account's region; the zero value when there is none.
func (c *Cloud) Surroundings(account, region string) Surroundings {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.region(account, region)
	if r == nil {
		return Surroundings{}
	}
	s := Surroundings{VPC: r.vpc, Subnets: map[string]string{}, SecurityGroup: r.groups[0].id, Images: map[string]string{}, Profile: "worker", KeyPair: "default"}
	for _, n := range r.subnets {
		s.Subnets[n.zone] = n.id
	}
	for _, i := range defaultImages(r.name) {
		s.Images[string(i.architecture)] = i.id
	}
	return s
}

// AddImage adds an AMI to a region of an account and returns its identifier.
func (c *Cloud) AddImage(account, region, name, architecture string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.region(account, region)
	if r == nil {
		return ""
	}
	i := &image{id: c.draws.id("ami-"), name: name, architecture: types.ArchitectureValues(architecture), rootDevice: "/dev/xvda", rootGiB: 8, owner: account, created: c.now.UTC().Format("2006-01-02T15:04:05.000Z")}
	r.images[i.id] = i
	return i.id
}

// RemoveImage deregisters an AMI.
func (c *Cloud) RemoveImage(account, region, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.region(account, region); r != nil {
		delete(r.images, id)
	}
}

// SetParameter sets an SSM parameter; "" removes it.
func (c *Cloud) SetParameter(account, region, name, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.region(account, region); r != nil {
		r.parameters[name] = value
		if value == "" {
			delete(r.parameters, name)
		}
	}
}

// AddProfile adds an instance profile to an account.
func (c *Cloud) AddProfile(account, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.accounts[account]; a != nil {
		a.profiles[name] = true
	}
}

// SetQuotas changes Config.Quotas, for all accounts and regions.
func (c *Cloud) SetQuotas(q Quotas) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config.Quotas = q
}
