package platform

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/applicationautoscaling"
	"github.com/aws/aws-sdk-go-v2/service/applicationautoscaling/types"
)

// ReplicasSpec is the spec of taskfleet:platform:Replicas: how many servers autoscaling may have run. When the thing is deleted, it stays
// as it is.
type ReplicasSpec struct {
	Min Count `json:"min"`
	Max Count `json:"max"`
}

// replicasState has what autoscaling calls the service. That is how what was set here is told from what the foundation began with.
type replicasState struct {
	ReplicasSpec
	Resource string `json:"resource,omitempty"`
}

// mostReplicas is what ECS lets a service have.
const mostReplicas = 5000

func replicas(c *cloud) *kind[ReplicasSpec, replicasState] {
	// open is a client, and what it calls the service.
	open := func(ctx context.Context, name string) (*applicationautoscaling.Client, string, error) {
		region, cluster, service, _ := service(name)
		there, err := c.in(ctx, region)
		return applicationautoscaling.NewFromConfig(there), "service/" + cluster + "/" + service, err
	}
	read := func(ctx context.Context, name string) (*replicasState, error) {
		client, resource, err := open(ctx, name)
		if err != nil {
			return nil, err
		}
		found, err := client.DescribeScalableTargets(ctx, &applicationautoscaling.DescribeScalableTargetsInput{
			ServiceNamespace: types.ServiceNamespaceEcs, ScalableDimension: types.ScalableDimensionECSServiceDesiredCount, ResourceIds: []string{resource},
		})
		if err != nil {
			return nil, fmt.Errorf("look how many replicas of %s there may be: %w", name, err)
		}
		for _, t := range found.ScalableTargets {
			return &replicasState{ReplicasSpec{Count(aws.ToInt32(t.MinCapacity)), Count(aws.ToInt32(t.MaxCapacity))}, resource}, nil
		}
		return nil, nil
	}
	return &kind[ReplicasSpec, replicasState]{
		token: "Replicas", computed: []string{"resource"},
		check: func(name string, spec *ReplicasSpec, bad func(member, format string, args ...any)) {
			checkService(name, bad)
			if spec.Min < 1 {
				bad("min", "is %d; it must be 1 or more", spec.Min)
			}
			if spec.Max < spec.Min || spec.Max > mostReplicas {
				bad("max", "is %d; it must be %d, which is min, to %d", spec.Max, spec.Min, mostReplicas)
			}
		},
		read: func(ctx context.Context, name string, was *replicasState) (*replicasState, error) {
			if was != nil && was.Resource == "" {
				return nil, nil // what there is was set by the foundation, to begin with
			}
			return read(ctx, name)
		},
		write: func(ctx context.Context, name string, _ *replicasState, spec ReplicasSpec) (*replicasState, error) {
			// To register what is not there would make it, without its policies and unknown to the foundation.
			is, err := read(ctx, name)
			if err == nil && is == nil {
				err = fmt.Errorf("autoscaling does not know the service %s: taskfleet infra apply makes it", name)
			}
			if err != nil || is.ReplicasSpec == spec {
				return is, err
			}
			client, resource, err := open(ctx, name)
			if err != nil {
				return nil, err
			}
			if _, err := client.RegisterScalableTarget(ctx, &applicationautoscaling.RegisterScalableTargetInput{
				ServiceNamespace: types.ServiceNamespaceEcs, ScalableDimension: types.ScalableDimensionECSServiceDesiredCount, ResourceId: &resource,
				MinCapacity: aws.Int32(int32(spec.Min)), MaxCapacity: aws.Int32(int32(spec.Max)),
			}); err != nil {
				return nil, fmt.Errorf("set how many replicas of %s there may be: %w", name, err)
			}
			return &replicasState{spec, resource}, nil
		},
		complete: func(spec ReplicasSpec, was *replicasState) replicasState {
			if was == nil {
				return replicasState{spec, ""}
			}
			return replicasState{spec, was.Resource}
		},
	}
}
