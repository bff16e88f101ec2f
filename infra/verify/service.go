package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// How many clusters and services ECS describes at a time.
const (
	mostClusters = 100
	mostServices = 10
)

// checkServices looks at a region's ECS clusters and the services in those of the deployment.
func (v *verification) checkServices(ctx context.Context, c *clients) error {
	cluster, service := "", ""
	if c.region == v.manifest.home() {
		cluster, service = v.manifest.Cluster, v.manifest.Service
	}
	var list []string
	err := pages(ctx, v, place{region: c.region}, "ecs:ListClusters", ecs.NewListClustersPaginator(c.ecs, &ecs.ListClustersInput{}), func(p *ecs.ListClustersOutput) {
		list = append(list, p.ClusterArns...)
	})
	if err != nil {
		return err
	}
	var ours []types.Cluster
	seen := false
	for some := range slices.Chunk(list, mostClusters) {
		out, err := ask(ctx, v, place{c.region, some[0]}, "ecs:DescribeClusters", c.ecs.DescribeClusters, &ecs.DescribeClustersInput{Clusters: some, Include: []types.ClusterField{types.ClusterFieldTags}})
		if err != nil {
			return err
		}
		for _, x := range out.Clusters {
			named := cluster != "" && aws.ToString(x.ClusterName) == cluster
			if aws.ToString(x.Status) == "INACTIVE" {
				continue // it was deleted, and is remembered for a while
			}
			seen = seen || named
			if v.belongs("cluster", place{c.region, aws.ToString(x.ClusterArn)}, ecsTags(x.Tags), named) {
				ours = append(ours, x)
			}
		}
	}
	if cluster != "" {
		v.missing(c.region, "cluster", v.arn("ecs", c.region, "cluster/"+cluster), seen)
	}
	return each(ctx, v, ours, func(ctx context.Context, x types.Cluster) error {
		if aws.ToString(x.ClusterName) != cluster {
			return v.checkCluster(ctx, c, aws.ToString(x.ClusterArn), "")
		}
		return v.checkCluster(ctx, c, aws.ToString(x.ClusterArn), service)
	})
}

func ecsTags(list []types.Tag) map[string]string {
	return tagMap(list, func(t types.Tag) (*string, *string) { return t.Key, t.Value })
}

// checkCluster looks at the services of a cluster. named is the one that the manifest names, if any.
func (v *verification) checkCluster(ctx context.Context, c *clients, cluster, named string) error {
	var list []string
	err := pages(ctx, v, place{c.region, cluster}, "ecs:ListServices", ecs.NewListServicesPaginator(c.ecs, &ecs.ListServicesInput{Cluster: &cluster}), func(p *ecs.ListServicesOutput) {
		list = append(list, p.ServiceArns...)
	})
	if err != nil {
		return err
	}
	seen := false
	for some := range slices.Chunk(list, mostServices) {
		out, err := ask(ctx, v, place{c.region, some[0]}, "ecs:DescribeServices", c.ecs.DescribeServices, &ecs.DescribeServicesInput{Cluster: &cluster, Services: some, Include: []types.ServiceField{types.ServiceFieldTags}})
		if err != nil {
			return err
		}
		for _, s := range out.Services {
			if aws.ToString(s.Status) == "INACTIVE" {
				continue
			}
			isNamed := named != "" && aws.ToString(s.ServiceName) == named
			seen = seen || isNamed
			if at := (place{c.region, aws.ToString(s.ServiceArn)}); v.belongs("service", at, ecsTags(s.Tags), isNamed) {
				v.checkService(at, s)
			}
		}
	}
	if named != "" {
		_, path, _ := strings.Cut(cluster, ":cluster/")
		v.missing(c.region, "service", v.arn("ecs", c.region, "service/"+path+"/"+named), seen)
	}
	return nil
}

func (v *verification) checkService(at place, s types.Service) {
	switch {
	case s.DesiredCount == 0:
		v.find(at, "service-running", "the service is to have no task, so the platform is away", "set its desired count to 1 or more")
	case s.RunningCount < s.DesiredCount:
		v.find(at, "service-running", fmt.Sprintf("%d of %d tasks of the service are running", s.RunningCount, s.DesiredCount), "its events say why: aws ecs describe-services; so does its log group")
	}
	if d := s.DeploymentConfiguration; d == nil || d.DeploymentCircuitBreaker == nil || !d.DeploymentCircuitBreaker.Enable || !d.DeploymentCircuitBreaker.Rollback {
		v.find(at, "service-circuit-breaker", "a deployment that does not come up is tried for good, and not rolled back", "set deployment_circuit_breaker { enable = true, rollback = true }")
	}
}
