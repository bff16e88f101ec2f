package mirror

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// endsTogether is how many ends of attempts are written down by a transaction.
const endsTogether = 512

// gatherEnds is how long ends are gathered for a transaction, as long as nobody is
// known to wait for one of these copies. To write down a few each time takes more
// of the database, and of its disk, than to make small copies does. Who comes to
// wait on another replica meanwhile is not known of.
const gatherEnds = 50 * time.Millisecond

// write writes down how attempts have ended, as many as there are at a time.
func (s *shift) write() {
	defer close(s.litter)
	for j := range s.ends {
		list := s.gather(j)
		for _, l := range s.copier.finish(s.ctx, list) {
			s.discard(l)
		}
		s.let(list)
	}
}

// gather returns a job that has ended with others that have ended, or do so in a
// moment.
func (s *shift) gather(j *job) []*job {
	list := []*job{j}
	var over <-chan time.Time // nil: there is no time
	if !j.urgent() {
		timer := time.NewTimer(gatherEnds)
		defer timer.Stop()
		over = timer.C
	}
	for len(list) < endsTogether {
		var more bool
		if over == nil {
			select {
			case j, more = <-s.ends:
			default:
			}
		} else {
			select {
			case j, more = <-s.ends:
			case <-over:
			case <-s.copier.hurry:
			}
		}
		if !more {
			break
		}
		list = append(list, j)
		if j.urgent() {
			over = nil
		}
	}
	return list
}

// urgent tells that somebody waits for the copy, as far as this replica knows, or
// that it is more than one of many small ones.
func (j *job) urgent() bool { return j.lane == large || j.spout != nil || j.state().Priority >= Waited }

// A verdict is what becomes of an attempt that has ended.
type verdict struct {
	err   error // nil: it is the copy
	final bool  // given up
	left  leftover
}

// finish writes down how attempts have ended, also when the shift is over. Where
// the database cannot be reached the leases run out, and all is done again.
func (k *copier) finish(ctx context.Context, list []*job) (left []leftover) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.leaseTime)
	defer cancel()
	var verdicts []verdict
	var err error
	for range 3 { // where it was not told whether it was done, it is looked at again
		if err = k.mirror.change(ctx, func(ch *changes) (err error) { verdicts, err = judge(ch, list); return err }); err == nil {
			break
		}
	}
	if err != nil {
		k.mirror.log.Error("cannot write down how attempts to copy ended: these copies are made again", "err", err, "copies", len(list))
		verdicts = make([]verdict, len(list))
		for i := range verdicts {
			verdicts[i].err = err
		}
	}
	for i, j := range list {
		v := verdicts[i]
		j.err = v.err
		if j.spout != nil {
			j.spout.end()
		}
		close(j.ended)
		k.account(j, v)
		if len(v.left.keys) > 0 {
			left = append(left, v.left)
		}
	}
	return left
}

// account counts and logs how an attempt ended.
func (k *copier) account(j *job, v verdict) {
	log := k.mirror.log.With("region", j.place.Name, "origin", j.copy.Origin.public())
	var f *fault
	switch {
	case v.err == nil:
		k.mirror.metrics.present(j.place.Name, j.copy.Size, time.Since(j.started))
	case errors.As(v.err, &f):
		k.mirror.metrics.failure(j.place.Name, v.final)
		log.Info("an attempt to copy failed", "final", v.final, "err", errorText(v.err))
	case errors.Is(v.err, errMadeWay), errors.Is(v.err, errBusy):
	case errors.Is(v.err, errLost):
		log.Info("what was copied is not wanted any more, or another copier has made it")
	case !interrupted(v.err):
		log.Error("an attempt to copy ended unexpectedly", "err", errorText(v.err))
	}
}

// judge changes the rows of copies according to how attempts have ended, where
// these have their lease still.
func judge(ch *changes, list []*job) ([]verdict, error) {
	names := make([]name, 0, len(list))
	for _, j := range list {
		names = append(names, j.copy.name())
	}
	rows, err := ch.named(names...)
	if err != nil {
		return nil, err
	}
	found := make(map[name]*Copy, len(rows))
	for _, c := range rows {
		found[c.name()] = c
	}
	verdicts := make([]verdict, len(list))
	for i, j := range list {
		is, c, v := j.state(), found[j.copy.name()], &verdicts[i]
		switch {
		case c != nil && c.State == Present && c.Token == is.Token: // it was written down
		case c == nil || c.State != Copying || c.Lease != j.lease:
			v.err = errLost
		default:
			v.err, v.final = j.settle(c, &is)
		}
		v.left = j.left(&is, c)
	}
	return verdicts, nil
}

// settle has the row say how the attempt ended.
func (j *job) settle(c, is *Copy) (err error, final bool) {
	now := timestamp.Now()
	c.Lease, c.LeaseUntil = "", 0
	var f *fault
	switch {
	case j.end == nil && c.SHA256 != "" && c.SHA256 != is.SHA256:
		// With that it was wanted while it was copied.
		sum := c.SHA256
		c.restart()
		c.SHA256 = sum
		return damaged("it has the SHA-256 %s, and the one that is wanted is %s", cmp.Or(is.SHA256, "(unknown)"), sum), false
	case j.end == nil && !c.Expires.IsZero() && c.Expires <= now:
		c.Token, c.Upload, c.Size = is.Token, nil, is.Size
		c.leave()
		return errLost, false
	case j.end == nil:
		c.State, c.Due, c.Requested, c.Attempts, c.Error = Present, 0, now, 0, ""
		c.Size, c.ETag, c.SHA256, c.Token, c.Stored = is.Size, is.ETag, is.SHA256, is.Token, is.Stored
		c.Upload, c.Done = nil, is.Size
		c.Verified, c.Read = now, max(c.Read, now)
		return nil, false
	case errors.As(j.end, &f):
		return j.end, j.retry(c, is, f)
	}
	c.State, c.Due = Waiting, now // it was told to stop, or makes way
	c.keep(is)
	return j.end, false
}

// retry has the copy tried again, or gives it up.
func (j *job) retry(c, is *Copy, f *fault) (final bool) {
	now := timestamp.Now()
	if is.Done > j.begun && !f.changed {
		c.Attempts = 0 // it gets somewhere
	}
	c.Attempts++
	c.Error = errorText(f.err)
	if f.changed {
		sum := c.SHA256
		c.forget()
		c.SHA256 = sum // which is what is wanted, not what was found
	} else {
		c.keep(is)
	}
	if f.bucket && c.Upload != nil {
		up := *c.Upload
		up.Stuck++
		c.Upload = &up
	}
	// While nothing can be put into the bucket nothing is given up.
	if f.final || c.Attempts >= maxAttempts && !(f.bucket && j.place.desk.broken.Load()) {
		c.State, c.Due = Failed, now.Add(max(failedFor, f.after))
		c.Token, c.Upload, c.Done = "", nil, 0
		return true
	}
	wait := backoff(c.Attempts, maxBackoff)
	switch {
	case f.changed && c.Attempts == 1:
		wait = 0
	case f.bucket:
		wait = min(wait, maxTrouble)
	}
	c.State, c.Due = Waiting, now.Add(max(wait, f.after))
	return false
}

// keep has the next attempt go on where this one ended, if it has uploaded parts.
func (c *Copy) keep(is *Copy) {
	c.Size, c.ETag, c.Upload, c.Done, c.Token = is.Size, is.ETag, is.Upload, is.Done, is.Token
	if c.Upload == nil {
		c.Token, c.Done = "", 0
	}
}

// A leftover is what an attempt may have left in a bucket, and nobody will use.
type leftover struct {
	place  *place
	keys   []string
	upload string // under the first key
}

// left is what is left of an attempt, given what the row has become.
func (j *job) left(is, row *Copy) leftover {
	l := leftover{place: j.place}
	if !j.wrote || row != nil && row.Token == is.Token && row.State != Leaving {
		return l // nothing, or it is used: as the copy, or by who goes on with it
	}
	l.keys = []string{is.key(), is.originKey()}
	if is.Upload != nil {
		l.upload = is.Upload.ID
	}
	return l
}

// discard has something deleted. There is no hurry, and what cannot be deleted is
// found by the sweep.
func (s *shift) discard(l leftover) {
	select {
	case s.litter <- l:
	default:
	}
}

// tidy deletes what was discarded.
func (s *shift) tidy() {
	var over time.Time // once the shift has ended
	for l := range s.litter {
		switch {
		case s.ctx.Err() == nil:
		case over.IsZero():
			over = time.Now().Add(s.copier.tidyLimit)
		case time.Now().After(over):
			continue // nobody is to wait for that
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), s.copier.tidyLimit)
		var err error
		if l.upload != "" {
			err = l.place.Bucket.AbortMultipart(ctx, l.keys[0], l.upload)
		}
		if err := errors.Join(err, l.place.Bucket.Delete(ctx, l.keys...)); err != nil {
			s.copier.mirror.log.Warn("cannot delete what is left of an attempt to copy; the sweep will", "region", l.place.Name, "err", err)
		}
		cancel()
	}
}

const maxLitter = 1000
