package aws_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// one is a pool with one plain launch configuration, of further fields in it and
// around it.
func one(launchConfig, around string) string {
	return fmt.Sprintf(`{"maxCapacity": 1, "launchConfigs": [{"region": "us-east-1", "launchConfig": {"ImageId": "ami-1", "InstanceType": "c7i.large"%s}%s}]}`, comma(launchConfig), comma(around))
}

// matrix is a pool of instance types, with further fields.
func matrix(more string) string {
	return fmt.Sprintf(`{"maxCapacity": 1, "regions": [{"region": "us-east-1", "launchConfig": {"ImageId": "ami-1"}}]%s}`, comma(more))
}

func comma(s string) string {
	if s != "" {
		return ", " + s
	}
	return s
}

func TestWhatIsWrongWithAConfigurationIsSaid(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	kinds := `"instanceTypes": [{"instanceType": "c7i.large"}]`
	for _, c := range []struct{ config, want string }{
		{`[]`, "config is a JSON array, where an object is needed"},
		{`{"launchConfigs": {}}`, "config.launchConfigs is a JSON object, where a list is needed"},
		{`{}`, "it needs launchConfigs, or regions and instanceTypes"},
		{`{"launchConfigs": []}`, "it needs launchConfigs, or regions and instanceTypes"},
		{strings.Replace(one("", ""), "us-east-1", "us-moon-1", 1), `config.launchConfigs[0].region is "us-moon-1"; the provider has the regions us-east-1, us-west-2`},
		{one("", `"account": "999999999999"`), `config.launchConfigs[0].account is "999999999999"; the provider has the accounts 123456789012`},
		{one("", `"colour": 1`), `config.launchConfigs[0] has a field "colour", which is not known`},
		{one(`"UserData": "x"`, ""), "config.launchConfigs[0].launchConfig.UserData is not allowed: it is made by the provider; put what is to be added into additionalUserData"},
		{one(`"MinCount": 1`, ""), "config.minCapacity"},
		{one(`"MaxCount": 1`, ""), "config.maxCapacity or workerManager.maxCapacity"},
		{one(`"clienttoken": "x"`, ""), "the provider needs it for itself"},
		{one(`"IamInstanceProfile": {"Name": "admin"}`, ""), "IamInstanceProfile admin is not one of those that pools may use"},
		{one(`"IamInstanceProfile": {"Name": "worker"}`, ""), ""},
		{one(`"LaunchTemplate": {"LaunchTemplateName": "admin"}`, ""), "LaunchTemplate is not allowed: what is in it could not be checked"},
		{one(`"InstanceInitiatedShutdownBehavior": "stop"`, ""), "left behind"},
		{one(`"DisableApiTermination": true`, ""), "could not be ended"},
		{one(`"MetadataOptions": {"HttpEndpoint": "disabled"}`, ""), "a worker needs the metadata service"},
		{one(`"MetadataOptions": {"HttpPutResponseHopLimit": 2}`, ""), ""},
		{one(`"MetadataOptions": {"HttpTokens": "optional"}`, ""), "without session tokens (IMDSv2)"},
		{one(`"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "DeleteOnTermination": false}}]`, ""), "BlockDeviceMappings[0].Ebs.DeleteOnTermination is false: what an instance leaves behind would be paid for"},
		{one(`"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"Volumesize": 8}}]`, ""), `launchConfig.BlockDeviceMappings[0].Ebs has a field "Volumesize", which EC2 does not know; it is called VolumeSize`},
		{one(`"NetworkInterfaces": [{"NetworkInterfaceId": "eni-1"}]`, ""), "NetworkInterfaces[0] names an interface or an address, which several instances cannot share"},
		{one(`"SecurityGroupId": ["sg-1"]`, ""), `has a field "SecurityGroupId", which EC2 does not know`},
		{one(`"EbsOptimized": "yes"`, ""), "launchConfig.EbsOptimized is a JSON string, where EC2 takes true or false"},
		{one(`"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "persistent"}}`, ""), "SpotInstanceType"},
		{strings.Replace(one("", ""), `"InstanceType": "c7i.large"`, `"EbsOptimized": true`, 1), "InstanceType is missing"},
		{strings.Replace(one("", ""), `"ImageId": "ami-1",`, ``, 1), "ImageId is missing"},
		{one("", `"imageParameter": "/x"`), "both imageParameter and launchConfig.ImageId"},
		{one("", `"workerManager": {"launchConfigId": "a b"}`), "must have from 1 to 38 letters"},
		{one("", `"workerManager": {"initialWeight": 2}`), "must be from 0 to 1"},
		{one("", `"workerManager": {"maxCapacity": -1}`), "must not be negative"},
		{one("", `"workerManager": {"capacityPerInstance": 2}, "capacityPerInstance": 3`), "leave the first out"},
		{one("", `"workerManager": {"capacityPerInstance": 2}, "workerConfig": {"capacity": 1}`), "workerConfig.capacity is 1, but the pool counts 2"},
		{one("", `"canUseSpot": true`), "canUseSpot has no meaning without instanceTypes"},
		{one("", `"additionalUserData": {"rootUrl": "x"}`), "additionalUserData.rootUrl is not allowed"},
		{one("", `"additionalUserData": {"x": "`+strings.Repeat("y", 17000)+`"}`), "EC2 takes 16384"},
		{`{"launchConfigs": [{"region": "us-east-1", "launchConfig": {"ImageId": "ami-1", "InstanceType": "c7i.large"}}, {"region": "us-east-1", "launchConfig": {"ImageId": "ami-1", "InstanceType": "c7i.large"}}]}`, "config.launchConfigs[1] is the same launch configuration as config.launchConfigs[0]"},

		{matrix(kinds), ""},
		{matrix(""), "config.regions[0] has no instance types"},
		{matrix(kinds + `, "availabilityZones": [{"availabilityZone": "us-west-2a"}]`), "config.regions does not have its region us-west-2"},
		{matrix(kinds + `, "launchConfig": {"InstanceType": "x"}`), "launchConfig.InstanceType cannot be used together with instanceTypes"},
		{matrix(kinds + `, "launchConfig": {"SubnetId": "x"}, "availabilityZones": [{"availabilityZone": "us-east-1a"}]`), "give each zone its subnet"},
		{matrix(kinds + `, "launchConfig": {"PrivateIpAddress": "x"}`), "several instances cannot share it"},
		{matrix(kinds + `, "launchConfig": {"AdditionalInfo": "x"}`), "because launch templates do not have it"},
		{matrix(kinds + `, "launchConfig": {"SecurityGroups": ["x"]}, "availabilityZones": [{"availabilityZone": "us-east-1a", "launchConfig": {"SubnetId": "x"}}]`), "use SecurityGroupIds"},
		{matrix(kinds + `, "canUseSpot": false, "canUseOndemand": false`), "nothing could be launched"},
		{matrix(kinds + `, "minPrice": 2, "maxPrice": 1`), "not more than the second"},
		{matrix(`"instanceTypes": [{"instanceType": "c7i.large"}, {"instanceType": "c7i.large"}]`), "is there already"},
		{matrix(`"instanceTypes": [{"capacity": 2}]`), "instanceTypes[0].instanceType is missing"},
		{matrix(`"instanceTypes": [{"instanceType": "c7i.large", "capacity": -2}]`), "must be more than 0"},
		{matrix(`"instanceTypes": [{"instanceType": "c7i.large", "capacity": 4611686018427387904}]`), "must not be more than 1000000"},
		{one("", `"workerManager": {"capacityPerInstance": 4611686018427387904}`), "it must be from 1 to 1000000"},
		{strings.Replace(matrix(kinds), `"launchConfig": {"ImageId": "ami-1"}`, `"imageParameter": "/image"`, 1), ""},
	} {
		list, err := w.p.Parse(json.RawMessage(c.config))
		if c.want == "" && (err != nil || len(list) == 0) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.200s\n  gives %v\n  want %s", c.config, err, c.want)
		}
	}
}

func TestIdsFollowFromWhatMakesADifference(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	id := func(config string) string {
		t.Helper()
		list, err := w.p.Parse(json.RawMessage(config))
		if err != nil {
			t.Fatal(err)
		}
		again, err := w.p.Parse(json.RawMessage(`{"launchConfigs": [` + string(list[0].Config) + `]}`))
		if err != nil || again[0].ID != list[0].ID || string(again[0].Config) != string(list[0].Config) || again[0].Capacity != list[0].Capacity {
			t.Errorf("read again: %v, %+v", err, again)
		}
		return list[0].ID
	}
	same := [][]string{
		{one("", ""), strings.Replace(one("", ""), `"ImageId": "ami-1", "InstanceType": "c7i.large"`, `"InstanceType": "c7i.large", "ImageId": "ami-1"`, 1), one("", `"workerManager": {"initialWeight": 0.5, "maxCapacity": 3}`)},
		{matrix(`"instanceTypes": [{"instanceType": "c7i.large"}]`), matrix(`"maxPrice": 3, "instanceTypes": [{"instanceType": "c7i.large", "utility": 2}]`)},
		{one(`"EbsOptimized": true`, "")},
		{one("", `"workerConfig": {"a": 1}`)},
		{one("", `"additionalUserData": {"a": 1}`)},
		{one("", `"workerManager": {"capacityPerInstance": 2}`)},
		{matrix(`"instanceTypes": [{"instanceType": "c7i.large", "capacity": 2}]`)},
	}
	seen := map[string]int{}
	for i, list := range same {
		for _, config := range list {
			if j, has := seen[id(config)]; has && j != i {
				t.Errorf("%s has the id of number %d", config, j)
			}
			seen[id(config)] = i
		}
	}
	if len(seen) != len(same) {
		t.Errorf("%d ids for %d", len(seen), len(same))
	}
	if got := id(one("", `"workerManager": {"launchConfigId": "mine"}`)); got != "mine" {
		t.Errorf("the id is %s", got)
	}
}

// What is general is overridden by region, zone and instance type, in this
// order.
func TestOverridesAreMerged(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	config := `{"maxCapacity": 10,
		"launchConfig": {"KeyName": "general", "EbsOptimized": true}, "additionalUserData": {"from": "general", "general": true},
		"regions": [
			{"region": "us-east-1", "launchConfig": {"ImageId": "ami-east", "KeyName": "region"}, "additionalUserData": {"from": "region"}, "workerConfig": {"a": 1}},
			{"region": "us-west-2", "imageParameter": "/west", "workerManager": {"launchConfigId": "west"}}],
		"availabilityZones": [
			{"availabilityZone": "us-east-1a"}, {"availabilityZone": "us-east-1b", "launchConfig": {"KeyName": "zone", "SubnetId": "subnet-b"}, "additionalUserData": {"from": "zone"}},
			{"availabilityZone": "us-west-2a"}],
		"instanceTypes": [
			{"instanceType": "c7i.large"}, {"instanceType": "c7i.2xlarge", "capacity": 4, "utility": 1.5, "launchConfig": {"KeyName": "type", "ImageId": "ami-type"}, "additionalUserData": {"from": "type"}}]}`
	specs, err := w.p.Preview(t.Context(), json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range specs {
		var r struct {
			Input          ec2.CreateFleetInput
			LaunchTemplate struct{ KeyName, ImageId string }
			UserData       struct {
				From    string
				General bool
			}
		}
		if err := json.Unmarshal(s.Request, &r); err != nil {
			t.Fatal(err)
		}
		o := r.Input.LaunchTemplateConfigs[0].Overrides[0]
		place := "no subnet"
		if o.SubnetId != nil {
			place = *o.SubnetId
		}
		got[s.Market] = fmt.Sprint(s.Capacity, s.Utility, r.LaunchTemplate, r.UserData, place, o.InstanceType)
	}
	for market, want := range map[string]string{
		"us-east-1a/c7i.large/spot": "1 1 {region ami-east} {region true}no subnetc7i.large",
		"us-east-1b/c7i.large/spot": "1 1 {zone ami-east} {zone true}subnet-bc7i.large", "us-east-1b/c7i.large/on-demand": "1 1 {zone ami-east} {zone true}subnet-bc7i.large",
		"us-east-1a/c7i.2xlarge/spot": "4 1.5 {type ami-type} {type true}no subnetc7i.2xlarge", "us-east-1b/c7i.2xlarge/spot": "4 1.5 {type ami-type} {type true}subnet-bc7i.2xlarge",
		"us-west-2a/c7i.large/on-demand": "1 1 {general resolve:ssm:/west} {general true}no subnetc7i.large",
	} {
		if got[market] != want {
			t.Errorf("%s is %q, want %q", market, got[market], want)
		}
	}
	if len(specs) != 12 {
		t.Errorf("%d combinations", len(specs))
	}
}

func TestPreviewOfPlainLaunchConfigurations(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	specs, err := w.p.Preview(t.Context(), json.RawMessage(one(`"EbsOptimized": true`, `"additionalUserData": {"x": 1}`)))
	if err != nil || len(specs) != 1 || specs[0].Market != "us-east-1/c7i.large/on-demand" {
		t.Fatalf("%v %+v", err, specs)
	}
	for _, want := range []string{`"EbsOptimized":true`, `"HttpTokens":"required"`, `"InstanceInitiatedShutdownBehavior":"terminate"`, `"userData":{"providerId"`, `"x":1`} {
		if !strings.Contains(string(specs[0].Request), want) {
			t.Errorf("no %s in %s", want, specs[0].Request)
		}
	}
}

func TestValidation(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	s := w.cloud.Surroundings(account, home)
	good := strings.NewReplacer("$x86_64", s.Images["x86_64"], "$arm64", s.Images["arm64"])
	find := func(config string) string {
		t.Helper()
		w.pass(10 * time.Second)
		f, err := w.p.Validate(t.Context(), json.RawMessage(good.Replace(config)))
		if err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		return strings.Join(f, "\n")
	}
	fit := strings.ReplaceAll(one("", ""), "ami-1", "$x86_64")
	with := func(more string) string { return strings.ReplaceAll(one(more, ""), "ami-1", "$x86_64") }
	for _, c := range []struct{ config, want string }{
		{fit, ""}, {wide, ""}, {with(`"KeyName": "default", "SecurityGroupIds": ["` + s.SecurityGroup + `"], "SubnetId": "` + s.Subnets["us-east-1a"] + `", "IamInstanceProfile": {"Name": "worker"}`), ""},
		{strings.Replace(one("", ""), "ami-1", "ami-00000000000000000", 1), "launchConfig.ImageId ami-00000000000000000: EC2 said InvalidAMIID.NotFound"},
		{with(`"KeyName": "mine"`), "launchConfig.KeyName mine: EC2 said InvalidKeyPair.NotFound"},
		{with(`"SecurityGroupIds": ["sg-00000000000000000"]`), "security group sg-00000000000000000: EC2 said InvalidGroup.NotFound"},
		{with(`"SecurityGroups": ["nobody"]`), `there is no group "nobody"`},
		{with(`"SubnetId": "subnet-00000000000000000"`), "subnet subnet-00000000000000000: EC2 said InvalidSubnetID.NotFound"},
		{strings.Replace(fit, "$x86_64", "$arm64", 1), "is for arm64, and the instance type c7i.large is not"},
		{strings.Replace(fit, "c7i.large", "c99.large", 1), "the instance type c99.large is not offered in the region, or does not exist"},
		{strings.Replace(wide, `"launchConfig": {"ImageId": "$x86_64"}`, `"imageParameter": "/nothing"`, 1), "The parameter '/nothing' could not be resolved"},
		{strings.Replace(wide, `"launchConfig": {"ImageId": "$x86_64"}`, `"imageParameter": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"`, 1), ""},
		{`{"launchConfigs": [{"region": "us-moon-1", "launchConfig": {}}]}`, "us-moon-1"},
	} {
		if got := find(c.config); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s\n  gives %s\n  want %s", c.config, got, c.want)
		}
	}
	w.cloud.SetQuotas(awsfake.Quotas{OnDemand: 1})
	if got := find(fit); !strings.Contains(got, "may have 1 virtual processors on demand in us-east-1, and the smallest of the instance types needs 2") {
		t.Errorf("no quota: %s", got)
	}
	w.cloud.SetQuotas(awsfake.Quotas{})
	w.cloud.Deny(account, awsfake.Denial{Action: "ec2:RunInstances"})
	if got := find(fit); !strings.Contains(got, "UnauthorizedOperation") {
		t.Errorf("denied: %s", got)
	}
	if n := w.cloud.Alive(); n != 0 {
		t.Errorf("%d instances were launched", n)
	}
}

func TestAProviderSaysWhatIsWrongWithItsOwnConfiguration(t *testing.T) {
	for want, change := range map[string]func(*provider.Config){
		"name of the cluster":      func(c *provider.Config) { c.Cluster = "" },
		"may have letters":         func(c *provider.Config) { c.Cluster = "a b" },
		"root URL":                 func(c *provider.Config) { c.RootURL = "" },
		"needs an account":         func(c *provider.Config) { c.Accounts = nil },
		"not a twelve-digit":       func(c *provider.Config) { c.Accounts[0].ID = "me" },
		"needs regions":            func(c *provider.Config) { c.Regions = nil },
		"one of the provider's re": func(c *provider.Config) { c.Accounts[0].Queues = map[string]string{"eu-west-1": "x"} },
		"twice":                    func(c *provider.Config) { c.Accounts = append(c.Accounts, c.Accounts[0]) },
		"from 0 to 1":              func(c *provider.Config) { c.Requests = 2 },
	} {
		c := provider.Config{Cluster: "x", RootURL: "x", Accounts: []provider.Account{{ID: account}}, Regions: []string{home}, Clients: func(provider.Account, string) provider.Clients { return provider.Clients{} }}
		change(&c)
		if _, err := provider.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Tags, zones without subnets, subnets and machines of several architectures in
// one pool.
func TestAPoolOfManyKinds(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	s := w.cloud.Surroundings(account, home)
	w.define(`{"maxCapacity": 100,
		"launchConfig": {"ImageId": "$x86_64", "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "build"}, {"Key": "Name", "Value": "x"}]}, {"ResourceType": "network-interface", "Tags": [{"Key": "net", "Value": "1"}]}]},
		"regions": [{"region": "us-east-1"}],
		"availabilityZones": [{"availabilityZone": "us-east-1a", "launchConfig": {"SubnetId": "` + s.Subnets["us-east-1a"] + `"}}, {"availabilityZone": "us-east-1b", "launchConfig": {"SubnetId": "` + s.Subnets["us-east-1b"] + `"}}],
		"instanceTypes": [{"instanceType": "c7i.xlarge"}, {"instanceType": "c7g.xlarge", "launchConfig": {"ImageId": "$arm64"}}]}`)
	w.look()
	w.cloud.SellOut(awsfake.Market{Region: home, Zone: "us-east-1a", Type: "c7g.xlarge", Spot: true}, true)
	w.cloud.SetDepth(awsfake.Market{Region: home, Zone: "us-east-1b", Type: "c7g.xlarge", Spot: true}, 2)
	started, _ := w.start(6)
	if len(started) != 6 {
		t.Fatalf("%d started", len(started))
	}
	for _, x := range started {
		i, _ := w.cloud.Instance(x.WorkerID)
		if i.Tag("team") != "build" || i.Tag("Name") != "aws/build" || i.Tag("taskfleet-intent") == "" {
			t.Errorf("%+v", i)
		}
		if x.Market != i.Zone+"/"+i.Type+"/spot" {
			t.Errorf("%s is in %s", i.ID, x.Market)
		}
	}
	// Refusals are of the market of their subnet.
	for _, z := range []string{"us-east-1a", "us-east-1b"} {
		for _, k := range []string{"c7i.xlarge", "c7g.xlarge"} {
			w.cloud.SellOut(awsfake.Market{Region: home, Zone: z, Type: k, Spot: true}, true)
		}
	}
	w.start(1)
	markets, err := w.p.Markets(t.Context(), w.now(), w.pool.Config)
	if err != nil || len(markets) != 8 {
		t.Fatal(markets, err)
	}
	for _, m := range markets {
		if (m.State == "closed") != strings.HasSuffix(m.Name, "/spot") {
			t.Errorf("%+v", m)
		}
	}
}

// What is wrong in some markets keeps nobody from using the others.
func TestAPoolThatIsWrongInPartWorksInPart(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(strings.Replace(wide, `{"instanceType": "m7i.xlarge"}`, `{"instanceType": "m7g.xlarge"}`, 1)) // whose architecture is another
	w.look()
	w.cloud.SetDepth(awsfake.Market{Region: home, Zone: "us-east-1a", Type: "c6i.xlarge", Spot: true}, 1)
	started, faults := w.start(5)
	if len(started) != 5 {
		t.Fatalf("%d started: %+v", len(started), faults)
	}
	for _, f := range faults {
		if f.Class != fleet.SoldOut || f.Title == "" && !strings.Contains(f.Description, "InsufficientInstanceCapacity") {
			t.Errorf("%+v", f)
		}
	}
	started, faults = w.start(5)
	if len(started) != 5 || len(faults) != 0 {
		t.Errorf("again: %d started: %+v", len(started), faults)
	}
}

// Whatever a configuration is, reading it gives launch configurations that can
// be read again and previewed, or an error.
func FuzzParse(f *testing.F) {
	for _, config := range []string{plain, wide, one(`"BlockDeviceMappings": [{"DeviceName": "x", "Ebs": {"VolumeSize": 8}}]`, `"workerManager": {"maxCapacity": 3}`), matrix(`"instanceTypes": [{"instanceType": "c7i.large", "capacity": 2}], "maxPrice": 1`), one(`"NetworkInterfaces": [{"DeviceIndex": 0}], "Placement": {"AvailabilityZone": "us-east-1a"}`, `"additionalUserData": {"a": null}`)} {
		f.Add(config)
	}
	w := newWorld(f, awsfake.Config{}, nil)
	f.Fuzz(func(t *testing.T, config string) {
		list, err := w.p.Parse(json.RawMessage(config))
		if err != nil {
			return
		}
		for _, c := range list {
			again, err := w.p.Parse(json.RawMessage(`{"launchConfigs": [` + string(c.Config) + `]}`))
			if err != nil || again[0].ID != c.ID {
				t.Errorf("%s is read again as %v, %v", c.Config, again, err)
			}
		}
		if _, err := w.p.Preview(t.Context(), json.RawMessage(config)); err != nil {
			t.Error(err)
		}
	})
}

// Each value of a configuration is replaced by others of all kinds.
func TestNoConfigurationIsTooStrange(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	for _, config := range []string{
		wide, matrix(`"instanceTypes": [{"instanceType": "c7i.large", "capacity": 2, "utility": 2, "launchConfig": {"KeyName": "x"}, "additionalUserData": {"a": 1}}], "availabilityZones": [{"availabilityZone": "us-east-1a", "launchConfig": {"SubnetId": "x"}}], "maxPrice": 1, "ondemandAfter": 5, "workerConfig": {"a": 1}`),
		one(`"BlockDeviceMappings": [{"DeviceName": "x", "Ebs": {"VolumeSize": 8}}], "IamInstanceProfile": {"Name": "worker"}, "MetadataOptions": {"HttpTokens": "required"}, "NetworkInterfaces": [{"DeviceIndex": 0, "Groups": ["x"]}], "Placement": {"AvailabilityZone": "us-east-1a"}, "InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrice": "1"}}, "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]`,
			`"workerManager": {"maxCapacity": 3, "initialWeight": 1, "capacityPerInstance": 2, "launchConfigId": "x"}, "workerConfig": {"a": {}}, "additionalUserData": {"a": null}`),
	} {
		var root any
		if err := json.Unmarshal([]byte(config), &root); err != nil {
			t.Fatal(err)
		}
		tried, taken := 0, 0
		try := func() {
			text, err := json.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			tried++
			list, err := w.p.Parse(text)
			if err != nil {
				if !strings.HasPrefix(err.Error(), "config") {
					t.Errorf("%s: %v, which does not say where", text, err)
				}
				return
			}
			taken++
			o := &fleet.Pool{ID: "a/b", ProviderID: "aws", Config: text, LaunchConfigs: list}
			n := fleet.Need{Pool: o, Capacity: 3, Room: 3}
			for _, c := range list {
				n.From = append(n.From, fleet.Candidate{LaunchConfig: c, Workers: 3})
			}
			if _, err := w.p.Plan(t.Context(), w.now(), n); err != nil {
				t.Errorf("%s: %v", text, err)
			}
			if _, err := w.p.Preview(t.Context(), text); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
		strange := []any{nil, true, 1.5, -1.0, 0.0, 1e18, "", "x", []any{}, []any{nil}, []any{"x"}, map[string]any{}, map[string]any{"x": nil}, []any{map[string]any{}}}
		var visit func(v any, set func(any))
		visit = func(v any, set func(any)) {
			for _, s := range strange {
				set(s)
				try()
			}
			set(v)
			switch v := v.(type) {
			case map[string]any:
				for k, inner := range v {
					visit(inner, func(x any) { v[k] = x })
				}
			case []any:
				for i, inner := range v {
					visit(inner, func(x any) { v[i] = x })
				}
			}
		}
		visit(root, func(x any) { root = x })
		if tried < 100 || taken == 0 {
			t.Errorf("%d tried, %d taken", tried, taken)
		}
	}
}
