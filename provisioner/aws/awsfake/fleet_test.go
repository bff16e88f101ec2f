package awsfake_test

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
)

// bought counts instances by type and zone.
func bought(out *ec2.CreateFleetOutput) map[string]int {
	n := map[string]int{}
	for _, i := range out.Instances {
		n[string(i.InstanceType)+" "+*i.AvailabilityZone] += len(i.InstanceIds)
	}
	return n
}

func spot(instanceType, zone string) awsfake.Market {
	return awsfake.Market{Region: "us-east-1", Zone: zone, Type: instanceType, Spot: true}
}

func TestAFleetBuysTheCheapestPoolThatHasCapacityAndGoesOnWithTheNext(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	w.SetPrice(spot("m5.large", "us-east-1a"), 0.01)
	w.SetPrice(spot("c5.large", "us-east-1b"), 0.02)
	w.SetPrice(spot("r5.large", "us-east-1c"), 0.03)
	w.SetDepth(spot("m5.large", "us-east-1a"), 4)
	w.SellOut(spot("c5.large", "us-east-1b"), true)
	fleet := fleetOf(w.template("linux"), 10, in("r5.large", "us-east-1c"), in("c5.large", "us-east-1b"), in("m5.large", "us-east-1a"))
	out := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleet))
	got := bought(out)
	if got["m5.large us-east-1a"] != 4 || got["r5.large us-east-1c"] != 6 || len(got) != 2 {
		t.Errorf("bought %v", got)
	}
	if codes := codesOf(out); !slices.Equal(codes, []string{"InsufficientInstanceCapacity"}) {
		t.Errorf("errors %v: the pool that ran dry", codes)
	}
	if o := out.Errors[0].LaunchTemplateAndOverrides.Overrides; o.InstanceType != "m5.large" || *o.AvailabilityZone != "us-east-1a" {
		t.Errorf("the error is about %v", *o)
	}
}

func TestAFleetWithoutCapacityAnywhereIsAnAnswerWithErrors(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	w.SellOut(spot("m5.large", "us-east-1a"), true)
	out := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleetOf(w.template("linux"), 2, in("m5.large", "us-east-1a"))))
	if len(out.Instances) != 0 || !slices.Equal(codesOf(out), []string{"InsufficientInstanceCapacity", "UnfulfillableCapacity"}) {
		t.Errorf("instances %v, errors %v", out.Instances, codesOf(out))
	}
}

func TestWhatIsWrongWithOneOverrideDoesNotKeepTheOthersFromLaunching(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	low := in("c5.large", "us-east-1a")
	low.MaxPrice = aws.String("0.001")
	fleet := fleetOf(w.template("linux"), 3, in("m7g.large", "us-east-1a"), in("m5.large", "us-east-1e"), low, in("m5.large", "us-east-1a"))
	fleet.SpotOptions.AllocationStrategy = types.SpotAllocationStrategyLowestPrice // c5 comes first
	out := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleet))
	if n := len(idsOf(out)); n != 3 {
		t.Errorf("%d instances", n)
	}
	if codes := codesOf(out); !slices.Equal(codes, []string{"InvalidParameterValue", "Unsupported", "SpotMaxPriceTooLow"}) {
		t.Errorf("errors %v", codes)
	}
}

func TestAFleetCountsWeightsTowardsItsTarget(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	heavy := in("m5.2xlarge", "us-east-1a")
	heavy.WeightedCapacity = aws.Float64(4)
	out := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleetOf(w.template("linux"), 10, heavy)))
	if n := len(idsOf(out)); n != 3 {
		t.Errorf("%d instances of weight 4 for a target of 10", n)
	}
}

func TestAFleetBelowItsMinimumBuysNothing(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	w.SetDepth(spot("m5.large", "us-east-1a"), 4)
	fleet := fleetOf(w.template("linux"), 10, in("m5.large", "us-east-1a"))
	fleet.SpotOptions.MinTargetCapacity = aws.Int32(5)
	out := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleet))
	if len(out.Instances) != 0 || len(out.Errors) == 0 || w.Alive() != 0 {
		t.Errorf("%d instances", w.Alive())
	}
}

func TestADiversifiedFleetSpreads(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	fleet := fleetOf(w.template("linux"), 9, in("m5.large", "us-east-1a"), in("m5.large", "us-east-1b"), in("c5.large", "us-east-1c"))
	fleet.SpotOptions.AllocationStrategy = types.SpotAllocationStrategyDiversified
	got := bought(must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleet)))
	for pool, n := range got {
		if n != 3 {
			t.Errorf("%d of %s", n, pool)
		}
	}
}

func TestAFleetsInstancesCarryTheTagsOfTemplateCallAndAWS(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	template := w.template("linux", func(d *types.RequestLaunchTemplateData) {
		d.TagSpecifications = []types.LaunchTemplateTagSpecificationRequest{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("pool"), Value: aws.String("a")}, {Key: aws.String("intent"), Value: aws.String("none")}}}}
	})
	fleet := fleetOf(template, 1, in("m5.large", "us-east-1a"))
	fleet.TagSpecifications = []types.TagSpecification{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("intent"), Value: aws.String("7")}}}}
	out := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleet))
	i, _ := w.Instance(idsOf(out)[0])
	for key, want := range map[string]string{"pool": "a", "intent": "7", "aws:ec2:fleet-id": *out.FleetId, "aws:ec2launchtemplate:id": template, "aws:ec2launchtemplate:version": "1"} {
		if i.Tag(key) != want {
			t.Errorf("%s is %q, want %q", key, i.Tag(key), want)
		}
	}
}

func TestQuotasCountVCPUsOfWhatLives(t *testing.T) {
	w := newWorld(t, awsfake.Config{Quotas: awsfake.Quotas{OnDemand: 5, Spot: 9}})
	if out := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleetOf(w.template("linux"), 6, in("m5.large", "us-east-1a"), in("m5.large", "us-east-1b")))); len(idsOf(out)) != 4 || !slices.Contains(codesOf(out), "MaxSpotInstanceCountExceeded") {
		t.Errorf("%d spot instances of two vCPUs, %v", len(idsOf(out)), codesOf(out))
	}
	first := must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 2)))
	if _, err := w.ec2.RunInstances(t.Context(), runOf(w, 1)); code(err) != "VcpuLimitExceeded" {
		t.Errorf("a third: %v", err)
	}
	must[*ec2.TerminateInstancesOutput](t)(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{*first.Instances[0].InstanceId}}))
	must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1)))
}

func TestRunInstancesTakesWhatThereIsBetweenMinimumAndMaximum(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	w.SetDepth(awsfake.Market{Region: "us-east-1", Zone: "us-east-1a", Type: "m5.large"}, 3)
	run := runOf(w, 5)
	run.MinCount, run.Placement = aws.Int32(2), &types.Placement{AvailabilityZone: aws.String("us-east-1a")}
	if n := len(must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), run)).Instances); n != 3 {
		t.Errorf("%d instances", n)
	}
	if _, err := w.ec2.RunInstances(t.Context(), run); code(err) != "InsufficientInstanceCapacity" {
		t.Errorf("the market is empty: %v", err)
	}
	run.Placement = nil
	if n := len(must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), run)).Instances); n != 5 {
		t.Errorf("any zone: %d instances", n)
	}
}

func TestATemplatesVersionsBuildOnEachOther(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	w.template("linux", func(d *types.RequestLaunchTemplateData) { d.KeyName = aws.String("default") })
	version := func(source *string, data *types.RequestLaunchTemplateData) *types.ResponseLaunchTemplateData {
		return must[*ec2.CreateLaunchTemplateVersionOutput](t)(w.ec2.CreateLaunchTemplateVersion(t.Context(), &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateName: aws.String("linux"), SourceVersion: source, LaunchTemplateData: data})).LaunchTemplateVersion.LaunchTemplateData
	}
	if d := version(aws.String("$Latest"), &types.RequestLaunchTemplateData{InstanceType: "c5.large"}); d.InstanceType != "c5.large" || aws.ToString(d.KeyName) != "default" {
		t.Errorf("over version 1: %+v", d)
	}
	if d := version(nil, &types.RequestLaunchTemplateData{InstanceType: "r5.large"}); d.KeyName != nil {
		t.Errorf("without a source: %+v", d)
	}
	if _, err := w.ec2.DescribeLaunchTemplateVersions(t.Context(), &ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateName: aws.String("linux"), Versions: []string{"9"}}); code(err) != "InvalidLaunchTemplateId.VersionNotFound" {
		t.Errorf("version 9: %v", err)
	}
	got := must[*ec2.DescribeLaunchTemplatesOutput](t)(w.ec2.DescribeLaunchTemplates(t.Context(), nil)).LaunchTemplates[0]
	if *got.DefaultVersionNumber != 1 || *got.LatestVersionNumber != 3 {
		t.Errorf("default %d, latest %d", *got.DefaultVersionNumber, *got.LatestVersionNumber)
	}
}

func BenchmarkCreateFleetOfFiveOverTwelveMarkets(b *testing.B) {
	w := newWorld(b, awsfake.Config{Happened: func(awsfake.Happening) {}})
	var markets []types.FleetLaunchTemplateOverridesRequest
	for _, t := range []string{"m5.large", "m6i.large", "c5.large", "c6i.large"} {
		for _, z := range []string{"us-east-1a", "us-east-1b", "us-east-1c"} {
			markets = append(markets, in(t, z))
		}
	}
	fleet := fleetOf(w.template("linux"), 5, markets...)
	for b.Loop() {
		fleet.ClientToken = aws.String(w.now.String())
		out := must[*ec2.CreateFleetOutput](b)(w.ec2.CreateFleet(b.Context(), fleet))
		must[*ec2.TerminateInstancesOutput](b)(w.ec2.TerminateInstances(b.Context(), &ec2.TerminateInstancesInput{InstanceIds: idsOf(out)}))
		w.pass(1e9)
	}
}
