package aws

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A spot placement score, from 1 to 10, is EC2's opinion of how likely a region
// has what is wanted; https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-placement-score.html.
// Among the markets of a region EC2 chooses by what it knows of them anyway. But
// how much is bought in which region is ours to say, and there it counts.

const (
	placementEvery = 30 * time.Minute
	bestPlacement  = 10
	scarcity       = 0.05 // by how much each point less makes a machine count as dearer
	fewestTypes    = 3    // with fewer EC2 scores everything low
)

// hasChoice reports whether spot machines may be bought here or elsewhere.
func (pl *place) hasChoice() bool { return !pl.alone && pl.hasSpot() }

// readPlacement reads the score of a region, for all types that are bought there.
// EC2 limits how many different questions it is asked in a day, so the capacity
// that is asked for is a power of ten.
func (p *Provider) readPlacement(ctx context.Context, now timestamp.Time, pl *place) error {
	kinds := p.kinds(pl, true)
	if len(kinds) < fewestTypes {
		return nil
	}
	p.mu.Lock()
	target := int32(10)
	for int(target) < pl.count && target < 1000 {
		target *= 10
	}
	pl.lists.called(now)
	p.mu.Unlock()
	out, err := pl.EC2.GetSpotPlacementScores(ctx, &ec2.GetSpotPlacementScoresInput{InstanceTypes: kinds, TargetCapacity: &target, RegionNames: []string{pl.region}})
	if err != nil {
		return fmt.Errorf("read the spot placement score: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pl.news.placement = 0
	for _, s := range out.SpotPlacementScores {
		if aws.ToString(s.Region) == pl.region {
			pl.news.placement = aws.ToInt32(s.Score)
		}
	}
	return nil
}

// scarce is by how much spot machines of the place count as dearer than they are.
func (pl *place) scarce() float64 {
	if n := pl.news.placement; n > 0 && n < bestPlacement {
		return 1 + scarcity*float64(bestPlacement-n)
	}
	return 1
}
