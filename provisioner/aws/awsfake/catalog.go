package awsfake

import (
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// family is a series of instance types. Prices are USD per vCPU-hour on demand
// in us-east-1, about what AWS asks.
type family struct {
	name  string
	arch  types.ArchitectureType
	gib   float64 // memory per vCPU
	price float64
	sizes string // of sizes, by first letters; "" is all
	disk  bool   // has local NVMe disks
	old   bool   // a previous generation
}

var families = []family{
	{name: "m4", arch: types.ArchitectureTypeX8664, gib: 4, price: 0.05, sizes: "large xlarge 2xlarge 4xlarge 16xlarge", old: true},
	{name: "c4", arch: types.ArchitectureTypeX8664, gib: 1.875, price: 0.05, sizes: "large xlarge 2xlarge 4xlarge", old: true},
	{name: "r4", arch: types.ArchitectureTypeX8664, gib: 7.625, price: 0.0665, sizes: "large xlarge 2xlarge 4xlarge 8xlarge 16xlarge", old: true},
	{name: "t3", arch: types.ArchitectureTypeX8664, gib: 4, price: 0.0416, sizes: "large xlarge 2xlarge"},
	{name: "m5", arch: types.ArchitectureTypeX8664, gib: 4, price: 0.048, sizes: "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge"},
	{name: "m5a", arch: types.ArchitectureTypeX8664, gib: 4, price: 0.043, sizes: "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge"},
	{name: "m5d", arch: types.ArchitectureTypeX8664, gib: 4, price: 0.0565, sizes: "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge", disk: true},
	{name: "m6i", arch: types.ArchitectureTypeX8664, gib: 4, price: 0.048},
	{name: "m6a", arch: types.ArchitectureTypeX8664, gib: 4, price: 0.0432},
	{name: "m7i", arch: types.ArchitectureTypeX8664, gib: 4, price: 0.0504},
	{name: "m7a", arch: types.ArchitectureTypeX8664, gib: 4, price: 0.05796},
	{name: "c5", arch: types.ArchitectureTypeX8664, gib: 2, price: 0.0425, sizes: "large xlarge 2xlarge 4xlarge 9xlarge 12xlarge 18xlarge 24xlarge"},
	{name: "c5a", arch: types.ArchitectureTypeX8664, gib: 2, price: 0.0385, sizes: "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge"},
	{name: "c5d", arch: types.ArchitectureTypeX8664, gib: 2, price: 0.048, sizes: "large xlarge 2xlarge 4xlarge 9xlarge 12xlarge 18xlarge 24xlarge", disk: true},
	{name: "c6i", arch: types.ArchitectureTypeX8664, gib: 2, price: 0.0425},
	{name: "c6a", arch: types.ArchitectureTypeX8664, gib: 2, price: 0.03825},
	{name: "c7i", arch: types.ArchitectureTypeX8664, gib: 2, price: 0.044625},
	{name: "c7a", arch: types.ArchitectureTypeX8664, gib: 2, price: 0.05132},
	{name: "r5", arch: types.ArchitectureTypeX8664, gib: 8, price: 0.063, sizes: "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge"},
	{name: "r6i", arch: types.ArchitectureTypeX8664, gib: 8, price: 0.063},
	{name: "r7i", arch: types.ArchitectureTypeX8664, gib: 8, price: 0.06615},
	{name: "m6g", arch: types.ArchitectureTypeArm64, gib: 4, price: 0.0385, sizes: "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge"},
	{name: "m7g", arch: types.ArchitectureTypeArm64, gib: 4, price: 0.0408, sizes: "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge"},
	{name: "c6g", arch: types.ArchitectureTypeArm64, gib: 2, price: 0.034, sizes: "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge"},
	{name: "c7g", arch: types.ArchitectureTypeArm64, gib: 2, price: 0.03625, sizes: "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge"},
}

var sizes = []struct {
	name  string
	vcpus int32
}{
	{"medium", 1}, {"large", 2}, {"xlarge", 4}, {"2xlarge", 8}, {"4xlarge", 16}, {"8xlarge", 32}, {"9xlarge", 36},
	{"12xlarge", 48}, {"16xlarge", 64}, {"18xlarge", 72}, {"24xlarge", 96}, {"32xlarge", 128},
}

// machine is an instance type.
type machine struct {
	name   string
	family *family
	vcpus  int32
	mib    int64
	price  float64
	info   types.InstanceTypeInfo
}

// machines are all instance types, by name.
var machines = sync.OnceValue(func() map[string]*machine {
	all := map[string]*machine{}
	for i := range families {
		f := &families[i]
		for _, s := range sizes {
			if f.sizes == "" && (s.name == "medium" || s.name == "9xlarge" || s.name == "18xlarge") ||
				f.sizes != "" && !slices.Contains(strings.Fields(f.sizes), s.name) {
				continue
			}
			m := &machine{
				name: f.name + "." + s.name, family: f, vcpus: s.vcpus,
				mib: int64(f.gib * 1024 * float64(s.vcpus)), price: f.price * float64(s.vcpus),
			}
			m.info = m.describe()
			all[m.name] = m
		}
	}
	return all
})

// machineNames are the names of machines, sorted.
var machineNames = sync.OnceValue(func() []string {
	var names []string
	for name := range machines() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
})

func (m *machine) describe() types.InstanceTypeInfo {
	info := types.InstanceTypeInfo{
		InstanceType:                  types.InstanceType(m.name),
		CurrentGeneration:             aws.Bool(!m.family.old),
		FreeTierEligible:              aws.Bool(false),
		BareMetal:                     aws.Bool(false),
		BurstablePerformanceSupported: aws.Bool(strings.HasPrefix(m.name, "t")),
		Hypervisor:                    types.InstanceTypeHypervisorNitro,
		SupportedUsageClasses:         []types.UsageClassType{types.UsageClassTypeOnDemand, types.UsageClassTypeSpot},
		SupportedRootDeviceTypes:      []types.RootDeviceType{types.RootDeviceTypeEbs},
		SupportedVirtualizationTypes:  []types.VirtualizationType{types.VirtualizationTypeHvm},
		ProcessorInfo:                 &types.ProcessorInfo{SupportedArchitectures: []types.ArchitectureType{m.family.arch}, SustainedClockSpeedInGhz: aws.Float64(3.1)},
		VCpuInfo:                      &types.VCpuInfo{DefaultVCpus: aws.Int32(m.vcpus), DefaultCores: aws.Int32(max(m.vcpus/2, 1)), DefaultThreadsPerCore: aws.Int32(min(m.vcpus, 2))},
		MemoryInfo:                    &types.MemoryInfo{SizeInMiB: aws.Int64(m.mib)},
		InstanceStorageSupported:      aws.Bool(m.family.disk),
		EbsInfo:                       &types.EbsInfo{EbsOptimizedSupport: types.EbsOptimizedSupportDefault, EncryptionSupport: types.EbsEncryptionSupportSupported, NvmeSupport: types.EbsNvmeSupportRequired},
		NetworkInfo:                   &types.NetworkInfo{MaximumNetworkInterfaces: aws.Int32(4), Ipv4AddressesPerInterface: aws.Int32(15), EnaSupport: types.EnaSupportRequired},
	}
	if m.family.disk {
		info.InstanceStorageInfo = &types.InstanceStorageInfo{
			TotalSizeInGB: aws.Int64(int64(m.vcpus) * 37), NvmeSupport: types.EphemeralNvmeSupportRequired,
			Disks: []types.DiskInfo{{Count: aws.Int32(1), SizeInGB: aws.Int64(int64(m.vcpus) * 37), Type: types.DiskTypeSsd}},
		}
	}
	return info
}

// zone is an availability zone.
type zone struct{ name, id string }

// zonesOf are a region's zones: six in us-east-1, four in us-west-2, two in
// us-west-1, and three elsewhere, as in AWS.
func zonesOf(region string) []zone {
	n := 3
	switch region {
	case "us-east-1":
		n = 6
	case "us-west-2":
		n = 4
	case "us-west-1":
		n = 2
	}
	parts := strings.Split(region, "-")
	short := parts[0]
	for _, p := range parts[1 : len(parts)-1] {
		short += p[:1]
	}
	if len(parts) > 1 {
		short += parts[len(parts)-1]
	}
	var zones []zone
	for i := range n {
		zones = append(zones, zone{region + string(rune('a'+i)), short + "-az" + string(rune('1'+i))})
	}
	return zones
}

// offered tells whether a zone has a type. As in AWS, us-east-1e has old types only.
func offered(m *machine, zone string) bool {
	return zone != "us-east-1e" || m.family.old
}

// regionFactor is what a region costs compared with us-east-1.
func regionFactor(region string) float64 {
	switch {
	case strings.HasPrefix(region, "us-west-1"):
		return 1.17
	case strings.HasPrefix(region, "us-"):
		return 1
	case strings.HasPrefix(region, "eu-"):
		return 1.12
	}
	return 1.25
}

// onDemand is the price of a type in USD per hour.
func (c *Cloud) onDemand(region string, m *machine) float64 {
	if c.config.Prices != nil {
		if p := c.config.Prices(region, m.name); p > 0 {
			return p
		}
	}
	return m.price * regionFactor(region)
}

// OnDemandPrice is the price in USD per hour, by Config.Prices or the built-in
// table; 0 for an unknown type.
func (c *Cloud) OnDemandPrice(region, instanceType string) float64 {
	m := machines()[instanceType]
	if m == nil {
		return 0
	}
	return c.onDemand(region, m)
}
