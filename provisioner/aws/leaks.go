package aws

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/taskfleet/taskfleet/timestamp"
)

// Volumes and network interfaces go with their instance. Now and then one
// stays: an image says so, or EC2 loses it. What carries the cluster's tag and
// has been attached to nothing for a while belongs to nobody.

const (
	looseFor  = 10 * time.Minute // before it is deleted
	looseLook = looseFor + time.Minute
	mostLoose = 50 // deleted at a time
)

func (p *Provider) sweepVolumes(ctx context.Context, now timestamp.Time, pl *place) error {
	in := &ec2.DescribeVolumesInput{Filters: []types.Filter{filter("tag:"+tagCluster, p.config.Cluster), filter("status", "available")}, MaxResults: aws.Int32(500)}
	p.called(now, pl)
	out, err := pl.EC2.DescribeVolumes(ctx, in)
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	var ids []string
	for _, v := range out.Volumes {
		ids = append(ids, aws.ToString(v.VolumeId))
	}
	return p.clear(now, pl, looseVolumes, "vol-", ids, func(id string) error {
		_, err := pl.EC2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
		return err
	})
}

func (p *Provider) sweepInterfaces(ctx context.Context, now timestamp.Time, pl *place) error {
	in := &ec2.DescribeNetworkInterfacesInput{Filters: []types.Filter{filter("tag:"+tagCluster, p.config.Cluster), filter("status", "available")}, MaxResults: aws.Int32(500)}
	p.called(now, pl)
	out, err := pl.EC2.DescribeNetworkInterfaces(ctx, in)
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	var ids []string
	for _, n := range out.NetworkInterfaces {
		ids = append(ids, aws.ToString(n.NetworkInterfaceId))
	}
	return p.clear(now, pl, looseInterfaces, "eni-", ids, func(id string) error {
		_, err := pl.EC2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id})
		return err
	})
}

// clear deletes what has been found loose for long enough, and has the others
// looked at again when they will have been. ids are all that are loose now, of
// those that begin with prefix.
func (p *Provider) clear(now timestamp.Time, pl *place, chore int, prefix string, ids []string, remove func(string) error) error {
	p.mu.Lock()
	n := &pl.news
	before := n.loose
	n.loose = map[string]timestamp.Time{}
	for id, since := range before {
		if !strings.HasPrefix(id, prefix) {
			n.loose[id] = since
		}
	}
	var old []string
	again := false
	for _, id := range ids {
		since, has := before[id]
		if has && now.Sub(since) >= looseFor && len(old) < mostLoose {
			old = append(old, id)
			continue
		}
		if !has {
			since = now
		}
		n.loose[id] = since
		again = true
	}
	if again {
		n.due[chore] = now.Add(looseLook)
	}
	p.mu.Unlock()
	var errs []error
	for _, id := range old {
		if err := remove(id); err != nil {
			errs = append(errs, fmt.Errorf("delete %s, which nothing uses: %w", id, err))
			continue
		}
		p.config.Log.Info("deleted what an instance left behind", "id", id, "account", pl.account.ID, "region", pl.region)
	}
	return errors.Join(errs...)
}
