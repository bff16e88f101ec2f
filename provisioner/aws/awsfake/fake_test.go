package awsfake_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
)

const account = "123456789012"

// world is a cloud on a clock that the test moves.
type world struct {
	*awsfake.Cloud
	t    testing.TB
	now  time.Time
	ec2  *awsfake.EC2
	here awsfake.Surroundings
	told []awsfake.Happening
}

func newWorld(t testing.TB, config awsfake.Config) *world {
	w := &world{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	config.Now = func() time.Time { return w.now }
	if config.Happened == nil {
		config.Happened = func(h awsfake.Happening) { w.told = append(w.told, h) }
	}
	w.Cloud = awsfake.New(config)
	w.ec2 = w.EC2(account, "us-east-1")
	w.here = w.Surroundings(account, "us-east-1")
	return w
}

func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	w.Advance()
}

// must fails the test when a call fails: must(w.ec2.DescribeInstances(...)).
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// code is an error's service code.
func code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return fmt.Sprint(err)
}

func (w *world) template(name string, change ...func(*types.RequestLaunchTemplateData)) string {
	w.t.Helper()
	data := &types.RequestLaunchTemplateData{ImageId: aws.String(w.here.Images["x86_64"]), InstanceType: "m5.large"}
	for _, f := range change {
		f(data)
	}
	out, err := w.ec2.CreateLaunchTemplate(context.Background(), &ec2.CreateLaunchTemplateInput{LaunchTemplateName: &name, LaunchTemplateData: data})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.LaunchTemplate.LaunchTemplateId
}

// fleetOf asks for n spot instances of any of the types in any zone.
func fleetOf(template string, n int, markets ...types.FleetLaunchTemplateOverridesRequest) *ec2.CreateFleetInput {
	return &ec2.CreateFleetInput{
		Type: types.FleetTypeInstant,
		LaunchTemplateConfigs: []types.FleetLaunchTemplateConfigRequest{{
			LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecificationRequest{LaunchTemplateId: &template, Version: aws.String("$Default")},
			Overrides:                   markets,
		}},
		TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{TotalTargetCapacity: aws.Int32(int32(n)), DefaultTargetCapacityType: types.DefaultTargetCapacityTypeSpot},
		SpotOptions:                 &types.SpotOptionsRequest{AllocationStrategy: types.SpotAllocationStrategyPriceCapacityOptimized},
	}
}

func in(instanceType, zone string) types.FleetLaunchTemplateOverridesRequest {
	return types.FleetLaunchTemplateOverridesRequest{InstanceType: types.InstanceType(instanceType), AvailabilityZone: aws.String(zone)}
}

func idsOf(out *ec2.CreateFleetOutput) (ids []string) {
	for _, i := range out.Instances {
		ids = append(ids, i.InstanceIds...)
	}
	return ids
}

func codesOf(out *ec2.CreateFleetOutput) (codes []string) {
	for _, e := range out.Errors {
		codes = append(codes, *e.ErrorCode)
	}
	return codes
}
