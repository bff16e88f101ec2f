package mirror

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

// A desk shares out the transfers of a region between three lanes: of small copies,
// of those whose size is not known, and of large ones. None keeps another from going
// on for long, whatever turns out to be large (limit says how many each may have):
//
//   - Some transfers are for small ones only.
//   - Large ones have no more than half while others wait, and never all that small
//     ones leave, so that one of unknown size is begun.
//   - One whose size is learned while it is copied changes to the lane that it
//     belongs to. Where that has its share already the attempt ends, which counts
//     for nothing, and the copy waits to be claimed as what it is (move).
//
// Copies are claimed some time ahead, as many as are made in a fraction of a
// second, so that where they are small a transaction claims many. What was claimed
// and not begun after some seconds is given back.
//
// While a region's bucket fails, one copy at a time is tried there, less and less
// often, until one succeeds. That a bucket fails is no fault of the copies.
type desk struct {
	copier *copier
	place  *place
	signal <-chan struct{} // there may be something to be copied
	handed chan *job       // claimed by a reader who waits; see through
	done   chan *job       // transfers that have ended
	moves  chan move       // transfers that have learned the size
	told   chan struct{}   // receives when it was written down how some have ended

	lanes  [kinds]lane
	looked time.Time // for leases that have run out
	leases time.Time // when the next one does

	claims    chan claim // the one that is under way, when it is over
	claiming  bool
	signalled bool      // since it began
	failure   error     // of the last claim
	holdOff   time.Time // until when nothing is claimed

	trouble int         // how often in a row the bucket has failed
	pauses  int         // that were made for it
	broken  atomic.Bool // so often that it is not the copies, for others to see
}

// A lane is copies of one kind.
type lane struct {
	kind    kind
	queue   []*job // claimed, the most urgent first
	running int
	more    bool      // there may be more that could be claimed
	heard   bool      // there was not, and something was added to some lane
	next    time.Time // otherwise: when there is; zero: nobody knows of any

	ended time.Time     // the last transfer
	took  time.Duration // it did
	ends  int           // since the rate was worked out
	since time.Time
	rate  float64 // of ends, per second
}

const (
	maxAhead   = 512
	aheadTime  = 250 * time.Millisecond // for which there is to be enough in a queue
	unbegun    = 5 * time.Second        // after which what was claimed is given back
	otherTime  = 10 * time.Second       // that others get between two large ones, where these have the only transfer
	afterError = time.Second
)

func newDesk(k *copier, p *place) *desk {
	d := &desk{
		copier: k, place: p, signal: k.mirror.db.Waits().Signal(topicWork), handed: make(chan *job), done: make(chan *job, p.Transfers),
		moves: make(chan move), told: make(chan struct{}, 1), claims: make(chan claim, 1),
	}
	for k := range kinds {
		d.lanes[k].kind = k
	}
	return d
}

// work makes the copies of a region until all regions have nothing to do.
func (d *desk) work(s *shift) error {
	d.looked, d.failure = time.Time{}, nil
	for k := range d.lanes {
		d.lanes[k].more, d.lanes[k].heard = true, false
	}
	for {
		d.fill(s)
		d.run(s)
		next := d.next()
		var over <-chan struct{}
		resting := d.idle(s, next)
		if resting {
			s.idle.rest()
			over = s.idle.over
		}
		ok := d.wait(s, next, over)
		if resting && !s.idle.resume() {
			ok = false
		}
		if !ok {
			d.leave(s)
			if s.ctx.Err() != nil {
				return nil // it was told to stop, whatever it was at
			}
			return d.failure
		}
		d.giveBack(s)
	}
}

// idle tells that there is nothing to do for so long that the shift need not go on
// for it.
func (d *desk) idle(s *shift, next time.Time) bool {
	if d.claiming || d.running() > 0 || d.queued() > 0 || s.holds(d.place) || len(d.signal) > 0 {
		return false
	}
	return d.failure != nil || time.Until(next) > d.copier.leaseTime
}

func (d *desk) running() (n int) {
	for k := range d.lanes {
		n += d.lanes[k].running
	}
	return n
}

func (d *desk) queued() (n int) {
	for k := range d.lanes {
		n += len(d.lanes[k].queue)
	}
	return n
}

// next is when there is something to be done that nobody will signal.
func (d *desk) next() time.Time {
	now := time.Now()
	next := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	if d.queued() > 0 {
		sooner(now.Add(unbegun))
	}
	switch {
	case d.claiming:
		return next
	case now.Before(d.holdOff):
		sooner(d.holdOff)
		return next
	}
	if d.roomForLost() {
		sooner(d.leases)
	}
	for k := range d.lanes {
		switch l := &d.lanes[k]; {
		case !l.more:
			sooner(l.next)
		case d.running()+d.queued() == 0:
			sooner(now)
		}
	}
	return next
}

// roomForLost tells whether copies that others have lost can be taken on.
func (d *desk) roomForLost() bool { return d.queued() < d.place.Transfers }

// wait waits for something to happen. It returns false if the shift is over.
func (d *desk) wait(s *shift, next time.Time, over <-chan struct{}) bool {
	look := d.looked.Add(fallback)
	if look.Before(d.holdOff) { // until when it is no use
		look = d.holdOff
	}
	if !d.claiming && d.roomForLost() && look.Before(next) {
		next = look
	}
	handed := d.handed
	if d.running() >= d.transfers() || d.broken.Load() {
		handed = nil // who hands something over does not wait for long
	}
	timer := time.NewTimer(max(0, time.Until(next)))
	defer timer.Stop()
	select {
	case j := <-d.done:
		d.end(j)
		for len(d.done) > 0 {
			d.end(<-d.done)
		}
	case c := <-d.claims:
		d.claimed(s, c)
	case <-d.told: // there may be nothing left to do
	case <-d.signal:
		d.hear()
	case j := <-handed:
		d.accept(s, j)
	case m := <-d.moves:
		m.answer <- d.move(m)
	case <-timer.C:
		d.hear()
	case <-over:
		return false
	case <-s.ctx.Done():
		return false
	}
	return s.ctx.Err() == nil
}

// hear takes note that there may be something in any lane.
func (d *desk) hear() {
	d.signalled = true
	for k := range d.lanes {
		if l := &d.lanes[k]; !l.more {
			l.more, l.heard = true, true
		}
	}
}

// leave waits for what is under way, which has been told to end if there is
// anything, and gives back what was not begun.
func (d *desk) leave(s *shift) {
	if d.claiming {
		d.claimed(s, <-d.claims)
	}
	for k := range d.lanes {
		s.giveBack(d.lanes[k].queue)
		d.lanes[k].queue = nil
	}
	for d.running() > 0 {
		d.end(<-d.done)
	}
}

// giveBack gives back what has waited here for too long: others may have room.
func (d *desk) giveBack(s *shift) {
	for k := range d.lanes {
		l := &d.lanes[k]
		if slices.ContainsFunc(l.queue, func(j *job) bool { return time.Since(j.claimed) > unbegun }) {
			s.giveBack(l.queue)
			l.queue, l.rate = nil, 0
		}
	}
}

// giveBack ends jobs that were not begun.
func (s *shift) giveBack(list []*job) {
	for _, j := range list {
		j.end = errInterrupted
		s.ends <- j
	}
}

// run begins as many transfers as there may be.
func (d *desk) run(s *shift) {
	if d.broken.Load() && time.Now().Before(d.holdOff) {
		return
	}
	for d.running() < d.transfers() {
		l := d.turn()
		if l == nil {
			return
		}
		j := l.queue[0]
		l.queue[0] = nil
		l.queue = l.queue[1:]
		d.begin(s, j)
	}
}

// turn is the lane of which a copy is to be made next; nil: none.
func (d *desk) turn() *lane {
	for k := large; k >= small; k-- {
		if l := &d.lanes[k]; len(l.queue) > 0 && l.running < d.limit(k) {
			return l
		}
	}
	return nil
}

// accept begins what was handed over, if its lane has room.
func (d *desk) accept(s *shift, j *job) {
	s.hold([]*job{j})
	if d.lane(j).running < d.limit(j.lane) {
		d.begin(s, j)
		return
	}
	j.end = errBusy // others make the copy, in its turn
	s.ends <- j
}

func (d *desk) begin(s *shift, j *job) {
	d.lane(j).running++
	j.started = time.Now()
	s.start(j, func() { d.done <- j })
}

func (d *desk) end(j *job) {
	l := d.lane(j)
	l.running--
	l.ends++
	l.ended = time.Now()
	l.took = l.ended.Sub(j.started)
	d.note(j.end)
}

func (d *desk) lane(j *job) *lane { return &d.lanes[j.lane] }

// A move is of a transfer to the lane that it belongs to, as is known now.
type move struct {
	job    *job
	to     kind
	answer chan bool // false: there is no room
}

// errMadeWay ends an attempt for others, and counts for nothing.
var errMadeWay = errors.New("it takes longer than was known: it waits for its turn")

// belongs has a transfer be of a lane from now on. It is called by the transfer.
func (d *desk) belongs(ctx context.Context, j *job, to kind) error {
	m := move{j, to, make(chan bool, 1)}
	select {
	case d.moves <- m:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !<-m.answer {
		return errMadeWay
	}
	return nil
}

func (d *desk) move(m move) bool {
	from := d.lane(m.job)
	from.running--
	if m.job.spout == nil && d.lanes[m.to].running >= d.limit(m.to) {
		from.running++
		return false
	}
	m.job.lane = m.to // though there be no room: somebody has begun to read it
	d.lane(m.job).running++
	return true
}

// transfers is how many there may be.
func (d *desk) transfers() int {
	if d.broken.Load() {
		return 1
	}
	return d.place.Transfers
}

// limit is how many transfers may be of a kind, given the others.
func (d *desk) limit(k kind) int {
	n := d.transfers()
	half, most := max(1, n/2), n // most of them may be other than small
	if n > 1 {
		most -= max(1, n/4)
	}
	s, u, l := &d.lanes[small], &d.lanes[unknown], &d.lanes[large]
	switch k {
	case unknown:
		switch {
		case !s.waits():
			half = most
		case n == 1 && time.Since(u.ended) < min(u.took, otherTime): // they take turns
			return 0
		}
		return min(half, most-l.running)
	case large:
		switch {
		case !s.waits() && !u.waits():
			half = max(half, most-1)
		case (n == 1 || n == 2 && u.waits()) && time.Since(l.ended) < otherTime:
			return 0
		}
		return min(half, most-u.running)
	}
	return n
}

// waits tells that there are copies to be made, as far as is known.
func (l *lane) waits() bool { return len(l.queue) > 0 || l.more }

// fill claims copies, if there is room for them and there may be any.
func (d *desk) fill(s *shift) {
	now := time.Now()
	if d.claiming || now.Before(d.holdOff) {
		return
	}
	c := claim{
		small: d.room(&d.lanes[small], now), unknown: d.room(&d.lanes[unknown], now), large: d.room(&d.lanes[large], now),
		lost: d.roomForLost() && (!d.leases.IsZero() && !now.Before(d.leases) || now.Sub(d.looked) >= fallback),
	}
	if c.small == 0 && c.unknown == 0 && c.large == 0 && !c.lost {
		return
	}
	for k := range d.lanes {
		c.heard[k] = d.lanes[k].heard
	}
	d.claiming, d.signalled = true, false
	go func() { d.claims <- d.claim(s, c) }()
}

// claimed takes what a claim came to.
func (d *desk) claimed(s *shift, c claim) {
	d.claiming = false
	if d.failure = c.err; c.err != nil {
		if s.ctx.Err() == nil {
			d.copier.mirror.log.Warn("cannot claim copies", "region", d.place.Name, "err", c.err)
		}
		d.holdOff = time.Now().Add(afterError)
		return
	}
	for k := range d.lanes {
		if l, o := &d.lanes[k], c.lanes[k]; o.known {
			l.more, l.heard, l.next = o.more || d.signalled, !o.more, o.next
		}
	}
	if c.lost {
		d.looked, d.leases = time.Now(), c.leases
	}
	d.lineUp(c.jobs)
	for _, l := range c.litter {
		s.discard(l)
	}
}

// room is how many copies of a lane are to be claimed now: as many as there are
// transfers free, and those that will follow them in a moment.
func (d *desk) room(l *lane, now time.Time) int {
	if !l.more {
		return 0
	}
	if d.broken.Load() {
		return max(0, 1-d.running()-d.queued())
	}
	if took := now.Sub(l.since); l.ends >= d.place.Transfers || took > time.Second {
		l.rate = float64(l.ends) / took.Seconds()
		l.ends, l.since = 0, now
	}
	ahead := min(int(l.rate*aheadTime.Seconds()), maxAhead)
	if len(l.queue) > ahead/2 {
		return 0
	}
	free := d.transfers() - d.running()
	if l.kind != small {
		free = d.limit(l.kind) - l.running
	}
	return max(free, ahead) - len(l.queue)
}

// serious trouble is more than a request that failed.
const seriousTrouble = 3

// note takes note of how a transfer has ended, as far as it tells something about
// the bucket.
func (d *desk) note(end error) {
	var f *fault
	switch {
	case end == nil:
		d.trouble, d.pauses, d.holdOff = 0, 0, time.Time{}
	case errors.As(end, &f) && f.bucket:
		// Those that were under way at the same time count as one.
		if d.trouble++; d.trouble >= seriousTrouble && !time.Now().Before(d.holdOff) {
			d.pauses++
			d.holdOff = time.Now().Add(backoff(d.pauses, maxTrouble))
		}
	}
	d.broken.Store(d.trouble >= seriousTrouble)
}

// maxTrouble is the longest pause.
const maxTrouble = 20 * time.Second
