package sizing

import (
	"math"
	"math/bits"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// rises are how a pool's demand, its pending and running tasks together, has
// gone up from where it was: by how much within which time. That is all that
// there is to know about the use of an idle worker, since the queue uses the
// most recently used ones first: the r-th of them is needed when demand is more
// than r above what it is now, whatever ended in the meantime. Ramps, bursts and
// noise are all in it, and no distribution is assumed.
//
// How it went on is told apart by the situation before it, which is how many
// tasks had arrived just before, as tasks come in clusters and clusters too, and
// whether demand was above or below what it was just before, as what is high by
// chance goes down.
type rises struct {
	Seen [situations][spans]weights `json:"seen"` // how often: by situation, time, and rung of the rise
	Next [situations]struct {       // what arrived in the two minutes after, unannounced
		Tasks float64 `json:"tasks"`
		Times float64 `json:"times"`
	} `json:"next"`
	Lately float64        `json:"lately"` // tasks that arrived, each fading with the time since
	At     timestamp.Time `json:"at"`     // what Lately is of
	Mean   float64        `json:"mean"`   // of demand, fading likewise

	// What is under way: a sample every step, the last of them in the ring.
	running bool
	at      timestamp.Time // of the last sample
	n       int            // samples since all began
	demand  int64          // now
	top     int64          // highest since the last sample
	came    int64          // arrived since, unannounced
	ring    [ring]sample
	news    struct{ tasks, unannounced int64 } // arrived since the last observation

	made  int // n when above was made
	above [situations + 1][spans][rungs + 1]float64
}

type sample struct {
	demand, top int64 // when it was taken; highest until the next
	came        int64 // until the next
	situation   int8
}

const (
	step  = 15 * time.Second // between samples
	spans = 8                // times: 1, 2, 4 ... 128 steps, to half an hour
	ring  = 1<<(spans-1) + 1
	rungs = 44 // buckets of rises: 0 to 4, then four an octave to thousands
	// Six of arrivals just before, none and then each four times the last, times
	// three of demand: below, about, and above what it was.
	situations = 6 * 3

	lately  = 5 * time.Minute  // what just before means
	longest = 15 * time.Minute // between observations: more is a gap of which nothing is known
	half    = 2 * 24 * time.Hour
)

// rung is the bucket of a rise.
func rung(n int64) int {
	if n <= 4 {
		return int(max(n, 0))
	}
	shift := bits.Len64(uint64(n)) - 3
	return min(4*shift+int(uint64(n)>>shift), rungs-1)
}

// foot is the least rise of a rung.
func foot(r int) float64 {
	if r <= 4 {
		return float64(r)
	}
	return float64(r%4+4) * float64(uint64(1)<<(r/4-1))
}

func (r *rises) arrived(now timestamp.Time, tasks, known int64) {
	r.news.tasks += max(tasks, 0)
	r.news.unannounced += max(tasks-known, 0)
}

func (r *rises) fading(now timestamp.Time) float64 {
	return r.Lately * math.Exp(-max(now.Sub(r.At), 0).Seconds()/lately.Seconds())
}

// situation is what tells apart how demand goes on from now.
func (r *rises) situation(now timestamp.Time) int {
	arrivals := 0
	if x := r.fading(now); x >= .5 {
		arrivals = min(1+int(math.Log2(2*x)/2), situations/3-1)
	}
	position := 1
	if off := float64(r.demand) - r.Mean; math.Abs(off) > math.Sqrt(r.Mean+1)/2 { // half of what is mere chance
		position += int(math.Copysign(1, off))
	}
	return 3*arrivals + position
}

func (r *rises) observe(now timestamp.Time, demand int64) {
	gap := !r.running || now < r.at || now.Sub(r.at) > longest
	for !gap && r.at.Add(step) <= now {
		r.at = r.at.Add(step)
		r.take()
	}
	if r.news.tasks > 0 || r.At > now {
		r.Lately, r.At = r.fading(now)+float64(r.news.tasks), now
	}
	r.came += r.news.unannounced
	r.news.tasks, r.news.unannounced = 0, 0
	r.demand, r.top = demand, max(r.top, demand)
	if gap {
		r.running, r.at, r.n, r.came, r.top = true, now, 1, 0, demand
		r.ring[0] = sample{demand: demand, top: demand, situation: int8(r.situation(now))}
	}
}

// take takes a sample, and counts what it shows of the time after the ones
// that were taken 1, 2, 4 ... before. Times overlap: one of n steps counts for
// the nth part, so that counts are of times on their own.
func (r *rises) take() {
	last := &r.ring[(r.n-1)%ring]
	last.top, last.came = r.top, r.came
	top, came, k := int64(math.MinInt64), int64(0), 0
	for span := range spans {
		steps := 1 << span
		if r.n < steps {
			break
		}
		for ; k < steps; k++ {
			s := &r.ring[(r.n-1-k)%ring]
			top, came = max(top, s.top), came+s.came
		}
		first := &r.ring[(r.n-steps)%ring]
		seen := &r.Seen[first.situation][span]
		if len(*seen) < rungs {
			*seen = append(*seen, make(weights, rungs-len(*seen))...)
		}
		(*seen)[rung(top-first.demand)] += 1 / float32(steps)
		if steps == 8 {
			next := &r.Next[first.situation]
			next.Tasks += float64(came) / 8
			next.Times += 1. / 8
		}
	}
	r.Mean += (float64(r.demand) - r.Mean) * (step.Seconds() / lately.Seconds())
	r.ring[r.n%ring] = sample{demand: r.demand, top: r.demand, situation: int8(r.situation(r.at))}
	r.n++
	r.top, r.came = r.demand, 0
	if r.n%256 == 0 {
		r.fade(math.Exp2(-256 * step.Hours() / half.Hours()))
	}
}

func (r *rises) fade(f float64) {
	for i := range r.Seen {
		for _, seen := range r.Seen[i] {
			for rung := range seen {
				seen[rung] *= float32(f)
			}
		}
		r.Next[i].Tasks *= f
		r.Next[i].Times *= f
	}
}

// tidy makes what chance reads, once a minute.
func (r *rises) tidy() {
	if r.made > 0 && r.n >= r.made && r.n-r.made < 4 {
		return
	}
	r.made = r.n
	r.above[situations] = [spans][rungs + 1]float64{}
	for i := range r.Seen {
		for span, seen := range r.Seen[i] {
			sum := 0.
			for rung := rungs - 1; rung >= 0; rung-- {
				if rung < len(seen) {
					sum += float64(max(seen[rung], 0))
				}
				r.above[i][span][rung] = sum
				r.above[situations][span][rung] += sum
			}
		}
	}
}

// atLeast is how often demand rose by n or more within a span; in situations,
// which is none, it is all together.
func (r *rises) atLeast(situation, span int, n int64) float64 {
	i := rung(n)
	a := &r.above[situation][span]
	if i <= 4 {
		return a[i]
	}
	part := min((float64(n)-foot(i))/(foot(i+1)-foot(i)), 1)
	return a[i]*(1-part) + a[i+1]*part
}

// What the pool as a whole has shown counts as much as this many times of the
// same situation, and what is usual as much as this many times of the pool.
const (
	poolWeight = 2
	riseWeight = 2
)

// chance is the probability that demand rises by n or more within a span. Usual
// is what it is said to be by someone who knows nothing.
func (r *rises) chance(situation, span int, n int64, usual float64) float64 {
	pool := (r.atLeast(situations, span, n) + riseWeight*usual) / (r.above[situations][span][0] + riseWeight)
	return (r.atLeast(situation, span, n) + poolWeight*pool) / (r.above[situation][span][0] + poolWeight)
}

// expected is how many tasks are expected to arrive in a second, unannounced.
func (r *rises) expected(situation int) float64 {
	var tasks, times float64
	for _, x := range r.Next {
		tasks, times = tasks+x.Tasks, times+x.Times
	}
	of := r.Next[situation]
	pool := tasks / (times + 1)
	return (of.Tasks + poolWeight*pool) / (of.Times + poolWeight) / (8 * step.Seconds())
}
