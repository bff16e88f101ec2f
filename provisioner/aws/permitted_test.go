package aws_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
)

// The policy in docs/provisioner.md allows launches only of what carries the
// cluster's tag. That has to be enough for dry runs as well.
func TestADryRunCarriesTheTagThatThePolicyDemands(t *testing.T) {
	for _, config := range []string{strings.ReplaceAll(one("", ""), "ami-1", "$x86_64"), wide} {
		w := newWorld(t, awsfake.Config{}, nil)
		s := w.cloud.Surroundings(account, home)
		config = strings.NewReplacer("$x86_64", s.Images["x86_64"], "$arm64", s.Images["arm64"]).Replace(config)
		w.pass(10 * time.Second)
		dry := 0
		w.cloud.Fail(func(c awsfake.Call) error {
			in, is := c.Input.(*ec2.RunInstancesInput)
			if !is || c.After {
				return nil
			}
			dry++
			for _, kind := range []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume} {
				if !carries(in.TagSpecifications, kind, "taskfleet-cluster") {
					return &awsfake.Error{Code: "UnauthorizedOperation", Message: "You are not authorized to perform this operation."}
				}
			}
			return nil
		})
		findings, err := w.p.Validate(t.Context(), json.RawMessage(config))
		if err != nil || len(findings) > 0 || dry == 0 {
			t.Errorf("after %d dry runs: %v, %v", dry, findings, err)
		}
	}
}

func carries(specs []types.TagSpecification, kind types.ResourceType, key string) bool {
	for _, s := range specs {
		for _, x := range s.Tags {
			if s.ResourceType == kind && aws.ToString(x.Key) == key {
				return true
			}
		}
	}
	return false
}
