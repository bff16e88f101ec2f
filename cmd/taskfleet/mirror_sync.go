package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/mirror"
)

func newMirrorSyncCommand() *cobra.Command {
	s := &mirrorSync{}
	cmd := &cobra.Command{
		Use: "sync --to REGION (--task ID | --task-group ID | --urls FILE)", Short: "Copy a whole set to regions",
		Long: `Has a whole set copied to one region or several, shows how far it has come, and ends when all of it is there or has
failed: the artifacts of tasks that have ended, of their latest runs, or what is at URLs, whatever the routes say. Copies
that somebody waits for go first. What is there already is not copied again, so the same command goes on where another
one was interrupted; what that one had asked for goes on being copied meanwhile.

--dry-run copies nothing and says what would be copied. --json prints a report at the end, and on standard error, if that
is no terminal, a line of JSON every few seconds. The exit code is 1 if something could not be copied.`,
		Example: `  taskfleet mirror sync --to eu-central-1 --task-group fN1SbArXTPSVFNUvaOlinQ --artifact 'public/build/*'
  taskfleet mirror sync --to eu-central-1 --to us-east-1 --task fN1SbArXTPSVFNUvaOlinQ --dry-run
  taskfleet mirror copies --region us-east-1 --prefix s3:// --json | jq -r .origin | taskfleet mirror sync --to eu-central-1 --urls -`,
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return s.set.check() },
		RunE: withSession(client.Patient, func(ctx context.Context, session *session, cmd *cobra.Command, _ []string) error {
			s.client, s.session = mirror.New(session.core), session
			s.in, s.out, s.errOut = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return s.run(ctx)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&s.regions, "to", nil, "a region to copy to; may be repeated")
	cobra.CheckErr(cmd.MarkFlagRequired("to"))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("to", completeRegions))
	s.set.flags(cmd)
	f.BoolVar(&s.pinned, "pin", false, "keep the copies though nobody reads them")
	f.BoolVar(&s.dryRun, "dry-run", false, "copy nothing, and say what would be copied")
	jsonFlag(cmd, &s.asJSON)
	return cmd
}

// A mirrorSync copies a set to regions.
type mirrorSync struct {
	set                    mirrorSet
	regions                []string
	pinned, dryRun, asJSON bool

	client      *mirror.Client
	session     *session
	in          io.Reader
	out, errOut io.Writer

	listed  listing
	learned int64 // bytes of sizes that the lister did not know
	sized   int64 // objects of which that was learned, or does not matter any more
	begun   bool  // something was asked for

	troubles map[string]bool // that were told
	count    syncCount
	report   syncReport
	queues   []*syncQueue
	meter    *meter
}

// A listing is how much a set is, as far as it is listed.
type listing struct {
	mu                      sync.Mutex
	objects, bytes, unsized int64
	complete                bool
}

// A syncQueue is what a region was asked for and has not come to an end.
type syncQueue struct {
	region string
	items  []syncItem
}

type syncItem struct {
	wanted
	done     int64 // bytes of it that are in the count
	troubled bool  // an attempt has failed
}

// A syncReport is what has come of a sync.
type syncReport struct {
	Regions  []string      `json:"regions"`
	DryRun   bool          `json:"dryRun,omitempty"`
	Complete bool          `json:"complete"` // all of it came to an end
	Seconds  float64       `json:"seconds"`
	Skipped  int64         `json:"skipped"`    // artifacts without bytes of their own
	Running  int64         `json:"unresolved"` // tasks, whose artifacts were left out
	Failures []syncFailure `json:"failures"`   // the first of them
	syncCount
}

type syncFailure struct {
	Region string `json:"region"`
	Origin string `json:"origin"`
	Error  string `json:"error"`
}

const (
	askedTogether = 500  // in a call
	mostUnderWay  = 4000 // of a region, that were asked for and have not ended
	mostFailures  = 1000 // that are remembered
	lookSoonest   = 200 * time.Millisecond
	lookLatest    = 3 * time.Second
)

func (s *mirrorSync) run(ctx context.Context) error {
	start := time.Now()
	s.report = syncReport{Regions: s.regions, DryRun: s.dryRun, Failures: []syncFailure{}}
	s.meter, s.troubles = newMeter(s.errOut, s.asJSON, start), map[string]bool{}
	for _, region := range s.regions {
		s.queues = append(s.queues, &syncQueue{region: region})
	}
	err := s.move(ctx)
	s.meter.clear()
	s.report.syncCount = s.count
	s.report.Complete = err == nil
	s.report.Seconds = time.Since(start).Seconds()
	s.report.Skipped, s.report.Running = s.set.skipped.Load(), s.set.running.Load()
	if err != nil && !s.begun && ctx.Err() == nil {
		return aboutMirror(err)
	}
	if s.asJSON {
		if e := printJSON(s.out, &s.report); e != nil {
			return e
		}
	} else {
		s.report.print(s.out)
	}
	switch {
	case ctx.Err() != nil && s.dryRun:
		return silentError{ctx.Err()}
	case ctx.Err() != nil:
		fmt.Fprintf(s.errOut, "taskfleet: interrupted. What was asked for (%s) is being copied all the same; the same command goes on from here.\n",
			count(s.count.UnderWay, "object"))
		return silentError{ctx.Err()}
	case err != nil:
		return fmt.Errorf("%w\nThe same command goes on from here", aboutMirror(err))
	case s.count.Objects == 0:
		return s.nothing()
	case s.count.Failed > 0:
		return silentError{fmt.Errorf("%s failed", count(s.count.Failed, "copy"))}
	}
	return nil
}

// nothing is the error of a set that is empty, which nobody asks for.
func (s *mirrorSync) nothing() error {
	switch {
	case s.report.Running > 0:
		return fmt.Errorf("there is nothing to copy yet: %s not ended", numbered(s.report.Running, "task has", "tasks have"))
	case len(s.set.patterns) > 0:
		return fmt.Errorf("there is nothing to copy: no artifact has a name like %s", strings.Join(s.set.patterns, " or "))
	case s.set.urls != "":
		return errors.New("there is nothing to copy: no URLs came")
	}
	return errors.New("there is nothing to copy: the tasks have no artifacts with bytes of their own")
}

// move lists the set and asks for it, a bounded part of it at a time.
func (s *mirrorSync) move(ctx context.Context) error {
	list, err := newSpool[wanted]()
	if err != nil {
		return err
	}
	lister := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(lister)
		list.end(s.list(ctx, list))
	}()
	defer func() {
		cancel()
		if s.set.urls != "-" { // which nobody can stop reading
			<-lister
		}
		list.close()
	}()
	pause := lookSoonest
	for ended := false; ; {
		moved := false
		for !ended && s.room() {
			some, err := list.take(ctx, askedTogether, s.count.UnderWay == 0)
			if ended = errors.Is(err, io.EOF); err != nil && !ended {
				return err
			}
			if len(some) == 0 {
				break
			}
			moved = true
			if err := s.begin(ctx, some); err != nil {
				return err
			}
			s.show()
		}
		s.total()
		if ended && s.count.UnderWay == 0 {
			return nil
		}
		before := s.count.ended()
		if err := s.look(ctx); err != nil {
			return err
		}
		if pause = min(2*pause, lookLatest); moved || s.count.ended() > before {
			pause = lookSoonest
		}
		if err := s.rest(ctx, pause); err != nil {
			return err
		}
	}
}

// list puts the set on a spool, and counts it.
func (s *mirrorSync) list(ctx context.Context, to *spool[wanted]) error {
	err := s.set.list(ctx, s.session, s.in, func(some ...wanted) error {
		s.listed.mu.Lock()
		s.listed.objects += int64(len(some))
		for _, w := range some {
			s.listed.bytes += max(w.Size, 0)
			if w.Size < 0 {
				s.listed.unsized++
			}
		}
		s.listed.mu.Unlock()
		return to.put(some...)
	})
	s.listed.mu.Lock()
	defer s.listed.mu.Unlock()
	s.listed.complete = err == nil
	return err
}

// total brings the count up to what has been listed.
func (s *mirrorSync) total() {
	s.listed.mu.Lock()
	defer s.listed.mu.Unlock()
	n := int64(len(s.regions))
	s.count.Objects, s.count.Bytes, s.count.Listed = n*s.listed.objects, n*s.listed.bytes+s.learned, s.listed.complete
	s.count.Unsized = n*s.listed.unsized - s.sized
}

func (s *mirrorSync) show() {
	s.total()
	s.meter.show(&s.count, time.Now())
}

// room reports whether more may be asked for.
func (s *mirrorSync) room() bool {
	for _, q := range s.queues {
		if len(q.items)+askedTogether > mostUnderWay {
			return false
		}
	}
	return true
}

// begin asks for some in all regions.
func (s *mirrorSync) begin(ctx context.Context, some []wanted) error {
	for _, q := range s.queues {
		items := make([]syncItem, len(some))
		for i, w := range some {
			items[i].wanted = w
		}
		s.count.UnderWay += int64(len(items))
		left, err := s.ask(ctx, q.region, items, true)
		if err != nil {
			return err
		}
		q.items = append(q.items, left...)
	}
	return nil
}

// look asks how far those are that were asked for.
func (s *mirrorSync) look(ctx context.Context) error {
	for _, q := range s.queues {
		var left []syncItem
		for some := range slices.Chunk(q.items, askedTogether) {
			more, err := s.ask(ctx, q.region, some, false)
			if err != nil {
				return err
			}
			left = append(left, more...)
			s.show()
		}
		q.items = left
	}
	return nil
}

// ask asks for copies, and returns those that have not come to an end.
func (s *mirrorSync) ask(ctx context.Context, region string, items []syncItem, first bool) (left []syncItem, err error) {
	in := &mirror.WantCopiesRequest{Region: region, Pinned: s.pinned, DryRun: s.dryRun}
	for i := range items {
		c := mirror.WantCopiesRequestCopy{URL: items[i].url(s.session)}
		if items[i].Size >= 0 {
			c.Size = &items[i].Size
		}
		in.Copies = append(in.Copies, c)
	}
	reply, err := s.client.WantCopies(ctx, in)
	if err != nil {
		return nil, err
	}
	s.begun = true
	if len(reply.Copies) != len(items) {
		return nil, fmt.Errorf("the server was asked for %d copies and told of %d", len(items), len(reply.Copies))
	}
	for i := range items {
		if s.settle(region, &items[i], &reply.Copies[i], first) {
			left = append(left, items[i])
		}
	}
	return left, nil
}

// settle counts what has become of a copy, and reports whether it is still under
// way.
func (s *mirrorSync) settle(region string, x *syncItem, p *mirror.WantCopiesResponseCopy, first bool) bool {
	c := &s.count
	if p.Size != nil && *p.Size != x.Size {
		s.learned += *p.Size - max(x.Size, 0)
		if x.Size < 0 {
			s.sized++
		}
		x.Size = *p.Size
	}
	c.PartBytes -= x.done
	x.done = 0
	size := max(x.Size, 0)
	switch {
	case p.State == "present" && first:
		c.There++
		c.ThereBytes += size
	case p.State == "present":
		c.Copied++
		c.CopiedBytes += size
	case p.State == "refused", p.State == "failed" && !s.dryRun:
		c.Failed++
		c.FailedBytes += size
		if x.Size < 0 {
			s.sized++
		}
		if len(s.report.Failures) < mostFailures {
			s.report.Failures = append(s.report.Failures, syncFailure{region, x.String(), p.Error})
		}
	case s.dryRun:
		c.Copied++
		c.CopiedBytes += size
	default:
		if p.Error != "" && !x.troubled {
			x.troubled = true
			s.trouble(region, x, reason(p.Error))
		}
		x.done = p.Done
		c.PartBytes += x.done
		return true
	}
	c.UnderWay--
	return false
}

// toldTroubles is how many reasons are told for which attempts fail.
const toldTroubles = 10

// trouble tells what keeps a copy from coming, once for each reason: what fails is
// tried again for minutes.
func (s *mirrorSync) trouble(region string, x *syncItem, why string) {
	if k := region + " " + why; len(s.troubles) < toldTroubles && !s.troubles[k] {
		s.troubles[k] = true
		s.meter.note(fmt.Sprintf("%s, %s is tried again: %s", region, x, sentence(why)))
	}
}

// rest waits, and shows meanwhile that it is alive.
func (s *mirrorSync) rest(ctx context.Context, d time.Duration) error {
	until := time.Now().Add(d)
	for time.Now().Before(until) {
		s.show()
		select {
		case <-time.After(min(drawInterval, time.Until(until))):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// shownFailures is how many are told of one by one.
const shownFailures = 20

func (r *syncReport) print(w io.Writer) {
	to := strings.Join(r.Regions, " and ")
	var parts []string
	switch {
	case r.DryRun:
		text := fmt.Sprintf("%s (%s) would be copied to %s", count(r.Copied, "object"), volume(r.CopiedBytes), to)
		if r.Unsized > 0 {
			text = fmt.Sprintf("%s (%s, and %s of unknown size) would be copied to %s", count(r.Copied, "object"), volume(r.CopiedBytes), number(r.Unsized), to)
		}
		parts = append(parts, text)
	case r.Copied > 0 || r.Objects > 0:
		objects := count(r.Copied, "object")
		if !r.Complete {
			objects = fmt.Sprintf("%d of %s", r.Copied, count(r.Objects, "object"))
		}
		text := fmt.Sprintf("%s (%s) copied to %s in %s", objects, volume(r.CopiedBytes), to, took(seconds(r.Seconds)))
		if r.CopiedBytes > 0 && r.Seconds > 0 {
			text += fmt.Sprintf(", %s/s", volume(int64(float64(r.CopiedBytes)/r.Seconds)))
		}
		parts = append(parts, text)
	}
	if r.There > 0 {
		parts = append(parts, fmt.Sprintf("%s there before (%s)", numbered(r.There, "was", "were"), volume(r.ThereBytes)))
	}
	if r.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%s failed", number(r.Failed)))
	}
	if len(parts) > 0 {
		fmt.Fprint(w, wrap(strings.Join(parts, "; ")+".", lineWidth(w), ""))
	}
	note := func(n int64, one, many string) {
		if n > 0 {
			fmt.Fprint(w, wrap(numbered(n, one, many), lineWidth(w), ""))
		}
	}
	note(r.Skipped, "artifact is a link, a reference or an error, and was left out: it has no bytes of its own.",
		"artifacts are links, references or errors, and were left out: they have no bytes of their own.")
	note(r.Running, "task has not ended, and was left out: its artifacts can change.", "tasks have not ended, and were left out: their artifacts can change.")
	r.printFailures(w)
}

// printFailures lists what failed for one reason together.
func (r *syncReport) printFailures(w io.Writer) {
	type key struct{ region, reason string }
	alike := map[key][]string{}
	var order []key
	for _, f := range r.Failures {
		k := key{f.Region, reason(f.Error)}
		if alike[k] == nil {
			order = append(order, k)
		}
		alike[k] = append(alike[k], f.Origin)
	}
	for i, k := range order {
		if i == shownFailures {
			fmt.Fprintf(w, "and %d more reasons; --json lists them\n", len(order)-i)
			return
		}
		fmt.Fprint(w, bullet(fmt.Sprintf("%s, %s: %s", k.region, some(alike[k], 3), sentence(k.reason)), lineWidth(w)))
	}
}
