package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/blob"
)

// health is whether the bucket of a region can be read, as far as this replica
// sees. Readers are not sent to a copy in a bucket that cannot be, but to the
// origin: a copy is there to help, and so never is the reason why a download
// fails.
type health struct {
	away   atomic.Bool
	moved  atomic.Bool // see unsure
	failed int         // probes in a row; the loop's own
}

const (
	probeEvery   = 5 * time.Second
	probeLimit   = 4 * time.Second
	probesToFail = 2
)

// probe is one pass of the loop mirror.health: it asks each bucket for something
// that is not there, and the index which buckets it is of.
func (m *Mirror) probe(ctx context.Context) (more bool, err error) {
	var probes sync.WaitGroup
	for _, p := range m.regions {
		probes.Go(func() {
			limited, cancel := context.WithTimeout(ctx, probeLimit)
			defer cancel()
			_, err := p.Bucket.Stat(limited, "copies/health")
			if errors.Is(err, blob.ErrNotFound) {
				err = nil
			}
			if ctx.Err() == nil {
				p.probed(m, err)
			}
		})
	}
	probes.Wait()
	return false, m.findMoved(ctx)
}

func (p *place) probed(m *Mirror, err error) {
	if err == nil {
		p.health.failed = 0
		if p.health.away.Swap(false) {
			m.log.Info("the bucket of a region answers again", "region", p.Name, "bucket", p.Bucket.Name())
		}
		return
	}
	if p.health.failed++; p.health.failed >= probesToFail && !p.health.away.Swap(true) {
		m.log.Error("the bucket of a region does not answer: readers get the origin until it does", "region", p.Name, "bucket", p.Bucket.Name(), "err", err)
	}
}

// away says why a region's bucket is not to be relied on; "": it is.
func (m *Mirror) away(region string) string {
	switch p := m.region(region); {
	case p == nil:
		return ""
	case p.health.away.Load():
		return fmt.Sprintf("the bucket %s of %s does not answer", p.Bucket.Name(), region)
	case p.unsure():
		return fmt.Sprintf("the bucket %s of %s is another than before, and was not compared with the index yet", p.Bucket.Name(), region)
	}
	return ""
}
