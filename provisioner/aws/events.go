package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/taskfleet/taskfleet/timestamp"
)

// An event is what EventBridge says of an instance. Those of all instances of
// the account come, and most are not ours.
type event struct {
	DetailType string    `json:"detail-type"`
	Time       time.Time `json:"time"`
	Detail     struct {
		InstanceID string `json:"instance-id"`
		State      string `json:"state"`
		Action     string `json:"instance-action"`
	} `json:"detail"`
}

const (
	stateChanged = "EC2 Instance State-change Notification"
	interruption = "EC2 Spot Instance Interruption Warning"
	rebalance    = "EC2 Instance Rebalance Recommendation"
)

// noticeTime is how long before it takes an instance EC2 says so.
const noticeTime = 2 * time.Minute

// A notice is an event about an instance that we do not know, and may get to
// know: its launch has not been answered yet, or it has not been swept.
type notice struct {
	at    timestamp.Time
	event event
}

const keepNotice = 10 * time.Minute

// Poll reads the events that are there, of all queues, and does not wait for
// more. It is for those who have a time of their own; others have Run.
func (p *Provider) Poll(ctx context.Context, now timestamp.Time) error {
	var first error
	for _, pl := range p.order {
		for {
			n, err := p.receive(ctx, now, pl, 0)
			if err != nil && first == nil {
				first = err
			}
			if err != nil || n == 0 {
				break
			}
		}
	}
	return first
}

// mostMessages is how many SQS gives at a time.
const mostMessages = 10

// receive reads some events of a queue, waiting for the first for so many
// seconds, and says how many there were.
func (p *Provider) receive(ctx context.Context, now timestamp.Time, pl *place, wait int32) (int, error) {
	url := pl.account.Queues[pl.region]
	if url == "" || pl.SQS == nil {
		return 0, nil
	}
	out, err := pl.SQS.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: mostMessages, WaitTimeSeconds: wait})
	if err != nil {
		return 0, fmt.Errorf("receive EC2 events from %s: %w", url, err)
	}
	if len(out.Messages) == 0 {
		return 0, nil
	}
	if wait > 0 {
		now = timestamp.Of(p.config.Now())
	}
	done := &sqs.DeleteMessageBatchInput{QueueUrl: &url}
	news := false
	for i, m := range out.Messages {
		var e event
		if err := json.Unmarshal([]byte(aws.ToString(m.Body)), &e); err != nil {
			p.config.Log.Warn("a message of the queue of EC2 events is no event; it is dropped", "queue", url, "error", err)
		} else if p.hear(now, e) {
			news = true
		}
		done.Entries = append(done.Entries, sqstypes.DeleteMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(i)), ReceiptHandle: m.ReceiptHandle})
	}
	if news {
		p.changed()
	}
	// What is not deleted comes again, which does no harm.
	if _, err := pl.SQS.DeleteMessageBatch(ctx, done); err != nil {
		return len(out.Messages), fmt.Errorf("delete EC2 events from %s: %w", url, err)
	}
	return len(out.Messages), nil
}

// hear takes an event in, and reports whether it is news.
func (p *Provider) hear(now timestamp.Time, e event) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := e.Detail.InstanceID
	i := p.instances[id]
	if i == nil || i.unsure {
		if _, over := p.ended[id]; !over && (e.DetailType == interruption || e.DetailType == rebalance) {
			p.notices[id] = notice{now, e}
		}
		return false
	}
	if e.DetailType != stateChanged {
		return p.warn(i, notice{now, e})
	}
	to, known := stages[e.Detail.State]
	if !known {
		return false
	}
	i.visible = true
	if to == terminated && i.state != terminated && i.asked == 0 && !i.taken && i.reason == "" {
		// The event does not say why, and it matters whether it has shut itself
		// down, failed to start or was ended by somebody else. EC2 says it when
		// asked.
		if !i.wanted {
			p.reach(now, i, shuttingDown)
			i.over, i.wanted, i.place.sweep.wanted = now, true, true
			return true
		}
		return false
	}
	return p.reach(now, i, to)
}

// warn takes in that EC2 is going to take an instance, or thinks of it. The
// caller holds p.mu.
func (p *Provider) warn(i *instance, n notice) bool {
	if i.state >= shuttingDown {
		return false
	}
	switch n.event.DetailType {
	case interruption:
		if i.taken {
			return false
		}
		i.taken = true
		p.touch(i)
		at := n.at
		if !n.event.Time.IsZero() {
			at = min(at, timestamp.Of(n.event.Time))
		}
		i.sighting.Ends = at.Add(noticeTime)
		i.sighting.Detail = fmt.Sprintf("%s as of %s.", interruptedDetail, i.sighting.Ends)
		if m := i.market; m != nil {
			m.fade(n.at)
			m.interrupted++
		}
	case rebalance:
		if i.sighting.Detail != "" {
			return false
		}
		p.touch(i)
		i.sighting.Detail = "EC2 recommends to move away from the instance: it may be taken back soon."
		if m := i.market; m != nil {
			m.fade(n.at)
			m.interrupted += rebalanceCount
		}
	default:
		return false
	}
	return true
}

const (
	pollWait  = 20               // seconds that SQS waits for a message, at most
	pollAgain = 10 * time.Second // after errors, at most
	tendEvery = time.Second
	sayAgain  = 60               // failures later it is logged again
	unlooked  = 30 * time.Second // without a Look there is nobody to tell
)

// Run receives events as they come and sweeps in time, until ctx ends. Without
// it, Look does the sweeping, and whoever calls Look waits for it.
//
// It does so only while Look is called. Of several replicas of a server one looks
// after the pools, and an event that another one had received would be lost.
func (p *Provider) Run(ctx context.Context) {
	p.background.Store(true)
	defer p.background.Store(false)
	var wg sync.WaitGroup
	for _, pl := range p.order {
		wg.Go(func() { p.runSweeps(ctx, pl) })
		if pl.account.Queues[pl.region] != "" && pl.SQS != nil {
			wg.Go(func() { p.runEvents(ctx, pl) })
		}
	}
	wg.Wait()
}

func (p *Provider) runSweeps(ctx context.Context, pl *place) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		if now := timestamp.Of(p.config.Now()); p.watched(now) && p.due(now, pl) {
			before := pl.sweepNumber(p)
			p.tend(ctx, now, pl)
			if pl.sweepNumber(p) != before {
				p.changed()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// watched reports whether Look is being called.
func (p *Provider) watched(now timestamp.Time) bool {
	return now.Sub(timestamp.Time(p.looked.Load())) < unlooked
}

func (pl *place) sweepNumber(p *Provider) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pl.sweep.number
}

func (p *Provider) runEvents(ctx context.Context, pl *place) {
	failures := 0
	for ctx.Err() == nil {
		began := timestamp.Of(p.config.Now())
		n, err := 0, error(nil)
		if p.watched(began) {
			n, err = p.receive(ctx, began, pl, pollWait)
		}
		pause := time.Duration(0)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if failures%sayAgain == 0 {
				p.config.Log.Error("EC2 events cannot be read; instances are swept for every minute meanwhile", "account", pl.account.ID, "region", pl.region, "attempts", failures+1, "error", err)
			}
			pause = min(tendEvery<<min(failures, 10), pollAgain)
			failures++
		case n == 0:
			pause = tendEvery - timestamp.Of(p.config.Now()).Sub(began) // a service that does not wait
			failures = 0
		default:
			failures = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
