package event

import (
	"context"
	"time"
)

// A pace lets passes follow one another at once, and once there have been many,
// a moment apart: while messages come one by one each is placed when it comes,
// and while they come in crowds a transaction places a crowd. So placing costs
// little at any rate, and at a high one takes a fiftieth of a second.
type pace struct {
	credit time.Duration // how much time passes may still take out
	last   time.Time
}

const (
	paceInterval = 20 * time.Millisecond
	paceCredit   = 200 * paceInterval
)

// wait waits until the next pass may begin. It is for one goroutine.
func (p *pace) wait(ctx context.Context) error {
	now := time.Now()
	if p.last.IsZero() {
		p.credit = paceCredit
	} else {
		p.credit = min(paceCredit, p.credit+now.Sub(p.last))
	}
	p.last = now
	p.credit -= paceInterval
	if p.credit >= 0 {
		return nil
	}
	select {
	case <-time.After(-p.credit):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *Bus) placeAtPace(ctx context.Context) (more bool, err error) {
	if err := b.pace.wait(ctx); err != nil {
		return false, err
	}
	return b.place(ctx)
}
