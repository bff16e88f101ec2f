package mirror

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A copier makes copies: it is the loop mirror.copy of this replica.
//
// It claims rows for the transfers that a region has room for, which gives it a
// lease on each, renews the leases, and reports how transfers ended, each of these
// for many copies in one transaction. All that it does may be cut off at any
// point:
//
//   - Before an object is there, or after it is and before its row says so: the
//     lease runs out, and another attempt is made under another key. Who makes it
//     deletes what there may be under the old one.
//   - Between the parts of an upload: the next attempt goes on with it, under the
//     same key, for as long as the origin is what it was. Two that do this at the
//     same time, since one of them only seemed to be dead, write the same bytes.
//   - A copier that comes back finds at the end that the lease is not its own any
//     more, changes nothing, and deletes what it has made. The same happens to
//     the copier of a copy that was purged meanwhile.
type copier struct {
	mirror *Mirror
	memory *semaphore.Weighted // of buffers
	remote *semaphore.Weighted // of those that URLs are read into
	bulk   *semaphore.Weighted // of those of them that are parts
	spare  chan []byte         // buffers of partSize bytes
	hurry  chan struct{}       // receives when somebody comes to wait for a copy
	spools *semaphore.Weighted // of parts on disk
	slow   *semaphore.Weighted // of those that URLs are read into

	copySize   int64 // tests make these smaller
	sizes      sizes
	leaseTime  time.Duration
	renewAfter time.Duration
	saveAfter  time.Duration
	handLimit  time.Duration // until a job that is handed over is given up; tests wait longer
	tidyLimit  time.Duration // for deleting what an attempt has left; likewise
}

const (
	// shiftLimit is how long a pass of the loop may go on while there is always
	// something to do. What is under way then goes on with its next part.
	shiftLimit = 24 * time.Hour

	// copySize is what a store copies in one go, and the size of the parts of what is
	// larger. It is less than the 5 GiB that S3 allows, since parts are copied at the
	// same time, and resumed.
	copySize = 1 << 30

	// memoryLimit is what the buffers of all transfers may take together, and
	// spoolLimit what parts that are too large for them may take on disk.
	memoryLimit = 96 << 20
	spoolLimit  = 4 << 30

	// remoteLimit is what of it those may take that are filled as slowly as servers
	// like that are not ours.
	remoteLimit      = 64 << 20
	bulkLimit        = 48 << 20 // of that, for parts, which leaves some for what is small
	remoteSpoolLimit = 2 << 30
)

func newCopier(m *Mirror) *copier {
	return &copier{
		mirror: m, memory: semaphore.NewWeighted(memoryLimit), remote: semaphore.NewWeighted(remoteLimit), bulk: semaphore.NewWeighted(bulkLimit),
		spare:  make(chan []byte, memoryLimit/partSize),
		spools: semaphore.NewWeighted(spoolLimit), slow: semaphore.NewWeighted(remoteSpoolLimit),
		copySize: copySize, sizes: sizesOfParts, leaseTime: 30 * time.Second, renewAfter: 10 * time.Second, saveAfter: 2 * time.Second, handLimit: 5 * time.Second, tidyLimit: 5 * time.Second,
	}
}

// A job is an attempt at a copy, of this replica.
type job struct {
	place   *place
	lease   string
	lane    kind // of the desk, which changes it
	claimed time.Time
	started time.Time     // the transfer
	spout   *spout        // for whom the bytes go to while they are stored; may be nil
	wrote   bool          // something to the bucket, maybe
	begun   int64         // what of it was in the bucket before
	end     error         // of the transfer
	err     error         // nil: it is the copy
	ended   chan struct{} // closed once err is known

	mu      sync.Mutex
	copy    *Copy // as it was claimed, with what became of it since
	dirty   bool  // there is something to be saved
	saved   time.Time
	renewed time.Time
	cancel  context.CancelCauseFunc
	lost    bool // what to begin with is in vain
}

// note changes what is known of the copy, and has it saved soon.
func (j *job) note(f func(c *Copy)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f(j.copy)
	j.dirty = true
}

// state is the copy as far as it is known.
func (j *job) state() Copy {
	j.mu.Lock()
	defer j.mu.Unlock()
	return *j.copy
}

// A shift is a pass of the loop: from when there is something to do to when there
// is nothing more.
type shift struct {
	copier *copier
	ctx    context.Context
	ends   chan *job     // to be written down
	litter chan leftover // to be deleted
	work   chan func()   // transfers, for goroutines that have none
	idle   idleness

	mu   sync.Mutex
	jobs map[*job]bool // that have been claimed, and whose end was not written down
}

// shift is one pass of the loop mirror.copy. It goes on for as long as anything is
// to be copied that is due, or will be in a moment.
func (k *copier) shift(ctx context.Context) (more bool, err error) {
	regions := k.mirror.regions
	if len(regions) == 0 {
		return false, nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &shift{copier: k, ctx: ctx, ends: make(chan *job, endsTogether), litter: make(chan leftover, maxLitter), work: make(chan func()), jobs: map[*job]bool{}}
	s.idle.init(len(regions))
	errs := make([]error, len(regions))
	var desks, others sync.WaitGroup
	for i, p := range regions {
		desks.Go(func() { errs[i] = p.desk.work(s) })
	}
	others.Go(s.write)
	others.Go(s.tidy)
	others.Go(s.renew)
	desks.Wait()
	close(s.ends)
	stop() // renewing; what has ended is still written down
	others.Wait()
	return false, errors.Join(errs...)
}

// idleness finds out when all desks have nothing to do at the same time.
type idleness struct {
	mu      sync.Mutex
	working int
	over    chan struct{}
}

func (i *idleness) init(desks int) { i.working, i.over = desks, make(chan struct{}) }

// rest tells that a desk has nothing to do.
func (i *idleness) rest() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.working--; i.working == 0 {
		close(i.over)
	}
}

// resume tells that it has again; false: it is too late, the shift is over.
func (i *idleness) resume() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.working == 0 {
		return false
	}
	i.working++
	return true
}

// start has a transfer made.
func (s *shift) start(j *job, then func()) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	j.mu.Lock()
	j.cancel = cancel
	if j.lost {
		cancel(errLost)
	}
	j.mu.Unlock()
	s.do(func() {
		defer then()
		defer cancel(nil)
		j.end = s.copier.attempt(ctx, j)
		if cause := context.Cause(ctx); cause != nil && j.end != nil {
			j.end = cause
			if s.ctx.Err() != nil {
				j.end = errInterrupted
			}
		}
		if j.spout != nil {
			j.spout.end()
		}
		s.ends <- j
	})
}

// do runs f beside the caller, in a goroutine that has run another before, if one
// is free: the S3 client needs a deep stack, and a new one is grown step by step.
func (s *shift) do(f func()) {
	select {
	case s.work <- f:
	default:
		go func() {
			for {
				f()
				select {
				case f = <-s.work:
				case <-s.ctx.Done():
					return
				}
			}
		}()
	}
}

// attempt makes a panic a failure.
func (k *copier) attempt(ctx context.Context, j *job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			k.mirror.log.Error("a transfer panicked", "region", j.place.Name, "id", j.copy.ID, "panic", p, "stack", string(debug.Stack()))
			err = damaged("panic: %v", p)
		}
	}()
	return (&transfer{copier: k, mirror: k.mirror, job: j, bucket: j.place.Bucket}).run(ctx)
}

func (s *shift) hold(list []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range list {
		s.jobs[j] = true
	}
}

func (s *shift) let(list []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range list {
		delete(s.jobs, j)
		select {
		case j.place.desk.told <- struct{}{}:
		default:
		}
	}
}

// holds tells that there are jobs of a region.
func (s *shift) holds(p *place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for j := range s.jobs {
		if j.place == p {
			return true
		}
	}
	return false
}

// errLost ends a transfer whose copy is not this replica's any more.
var errLost = errors.New("the copy was purged, or its lease was lost to another copier")

// renew keeps the leases, and writes down how far uploads have come.
func (s *shift) renew() {
	tick := time.NewTicker(min(time.Second, s.copier.renewAfter/4, s.copier.saveAfter))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		list := s.due(time.Now())
		if len(list) == 0 {
			continue
		}
		lost, err := s.copier.renewAll(s.ctx, list)
		if err != nil && s.ctx.Err() == nil {
			s.copier.mirror.log.Warn("cannot renew the leases of copies; others take them over when they run out", "err", err, "copies", len(list))
		}
		for _, j := range lost {
			j.mu.Lock()
			if j.lost = true; j.cancel != nil {
				j.cancel(errLost)
			}
			j.mu.Unlock()
		}
	}
}

// due are the jobs of which something is to be written down.
func (s *shift) due(now time.Time) (list []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for j := range s.jobs {
		j.mu.Lock()
		// How far a large upload has come is long text: it is written with the lease.
		first := j.dirty && (j.copy.Upload == nil || len(j.copy.Upload.Parts) < 100)
		if now.Sub(j.renewed) >= s.copier.renewAfter || first && now.Sub(j.saved) >= s.copier.saveAfter {
			list = append(list, j)
		}
		j.mu.Unlock()
	}
	return list
}

// renewAll renews the leases of jobs, and returns those that have lost theirs.
func (k *copier) renewAll(ctx context.Context, list []*job) (lost []*job, err error) {
	now := time.Now()
	byName := make(map[name]*job, len(list))
	names := make([]name, 0, len(list))
	known := make(map[*job]Copy, len(list))
	for _, j := range list {
		c := j.state()
		byName[c.name()], known[j] = j, c
		names = append(names, c.name())
	}
	err = k.mirror.change(ctx, func(ch *changes) error {
		lost = nil
		rows, err := ch.named(names...)
		if err != nil {
			return err
		}
		held := map[*job]bool{}
		for _, c := range rows {
			j := byName[c.name()]
			if c.State != Copying || c.Lease != j.lease {
				continue
			}
			held[j] = true
			is := known[j]
			c.LeaseUntil = timestamp.Of(now.Add(k.leaseTime))
			c.Size, c.ETag, c.Upload, c.Done = is.Size, is.ETag, is.Upload, is.Done
		}
		for _, j := range list {
			if !held[j] {
				lost = append(lost, j)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, j := range list {
		j.mu.Lock()
		j.renewed, j.saved = now, now
		if j.copy.Upload == known[j].Upload && j.copy.Size == known[j].Size {
			j.dirty = false
		}
		j.mu.Unlock()
	}
	return lost, nil
}
