package aws

import (
	"math"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A bucket is one of AWS's request or resource limits as we keep account of
// it: a token bucket, filled to a share of what is documented, that shrinks when
// AWS says we were too fast after all (somebody else calls, too, or the account's
// limits are lower), and grows back slowly.
//
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html
type bucket struct {
	size, refill float64 // of AWS, times our share; refill by the second
	factor       float64 // of what is left of it after throttling, from minFactor to 1
	tokens       float64
	at           timestamp.Time
	closed       timestamp.Time // none are given out before
}

const (
	minFactor = 0.05
	growth    = 0.1 // of the factor, in a minute without throttling
	pause     = 2 * time.Second
)

func newBucket(size, refill, share, sizeShare float64) bucket {
	return bucket{size: max(1, size*sizeShare), refill: refill * share, factor: 1, tokens: max(1, size*sizeShare)}
}

func (b *bucket) advance(now timestamp.Time) {
	if b.at == 0 {
		b.at = now
	}
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.tokens = min(max(1, b.size*b.factor), b.tokens+d*b.refill*b.factor)
		b.factor = min(1, b.factor+growth*d/60)
		b.at = now
	}
}

// left is how many whole tokens there are.
func (b *bucket) left(now timestamp.Time) int64 {
	b.advance(now)
	if now < b.closed {
		return 0
	}
	return int64(b.tokens + 1e-9)
}

func (b *bucket) take(n int64) { b.tokens -= float64(n) }

// retry is when there will be n tokens.
func (b *bucket) retry(now timestamp.Time, n int64) timestamp.Time {
	b.advance(now)
	wait := math.Ceil((float64(n) - b.tokens) / (b.refill * b.factor) * 1000)
	return max(b.closed, now.Add(time.Duration(max(wait, 1))*time.Millisecond))
}

// throttled is AWS saying that there were none.
func (b *bucket) throttled(now timestamp.Time) {
	b.advance(now)
	b.factor = max(b.factor/2, minFactor)
	b.tokens = 0
	b.closed = now.Add(pause)
}

// A turnstile gives everybody a turn when there is too little for all: who was
// turned away comes before those that come later, until it has had its turn.
type turnstile struct{ waiting []ticket }

type ticket struct {
	who  string
	last timestamp.Time // when it was last here
}

const patience = 15 * time.Second // who does not come back for so long needs nothing any more

// ahead is how many others were turned away before who was.
func (t *turnstile) ahead(now timestamp.Time, who string) int64 {
	var n int64
	kept := t.waiting[:0]
	mine := false
	for _, w := range t.waiting {
		if w.who == who {
			w.last, mine = now, true
		} else if now.Sub(w.last) > patience {
			continue
		} else if !mine {
			n++
		}
		kept = append(kept, w)
	}
	t.waiting = kept
	return n
}

// others is how many others wait.
func (t *turnstile) others(who string) int64 {
	var n int64
	for _, w := range t.waiting {
		if w.who != who {
			n++
		}
	}
	return n
}

// wait puts who at the end, unless it waits already.
func (t *turnstile) wait(now timestamp.Time, who string) {
	for i := range t.waiting {
		if t.waiting[i].who == who {
			return
		}
	}
	t.waiting = append(t.waiting, ticket{who, now})
}

// served takes who out.
func (t *turnstile) served(who string) {
	for i := range t.waiting {
		if t.waiting[i].who == who {
			t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
			return
		}
	}
}

// A pacer keeps calls that list things to so many a minute: in no minute are
// there more.
type pacer struct{ calls []timestamp.Time }

// may reports whether n more calls are within most a minute.
func (p *pacer) may(now timestamp.Time, n, most int) bool {
	kept := p.calls[:0]
	for _, t := range p.calls {
		if now.Sub(t) < time.Minute {
			kept = append(kept, t)
		}
	}
	p.calls = kept
	return len(kept)+n <= most
}

func (p *pacer) called(now timestamp.Time) { p.calls = append(p.calls, now) }
