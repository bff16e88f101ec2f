package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/mirror"
)

func newMirrorVerifyCommand() *cobra.Command {
	v := &mirrorVerify{}
	var yes bool
	cmd := &cobra.Command{
		Use: "verify [URL|ID...] [--region REGION]", Short: "Compare copies with their bytes, now",
		Long: `Has copies compared with what is in the buckets: their size, their ETag and, where it is known, their SHA-256, for which
all bytes are read. Those of some URLs, in one region or all, or all copies of a region, or all there are. One that
differs is not served any more from that moment on, and made anew. The exit code is 1 if one does.

The server does this by itself all the time, a bounded number of bytes an hour.

` + copyDoc,
		Example: `  taskfleet mirror verify fN1SbArXTPSVFNUvaOlinQ/0/public/build/target.tar.gz
  taskfleet mirror verify --region eu-central-1`,
		RunE: withSession(client.Retry{}, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			v.client, v.out, v.errOut = mirror.New(s.core), cmd.OutOrStdout(), cmd.ErrOrStderr()
			if len(args) == 0 && v.region == "" {
				if err := confirm(cmd, yes, "Read all copies of all regions?"); err != nil {
					return err
				}
			}
			return v.run(ctx, s, args)
		}),
	}
	regionFlag(cmd, &v.region, "only in this region (default: in all)")
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &v.asJSON)
	return cmd
}

// A mirrorVerify has copies compared, some at a time.
type mirrorVerify struct {
	region string
	asJSON bool

	client      *mirror.Client
	out, errOut io.Writer

	mu     sync.Mutex
	count  syncCount
	meter  *meter
	report verifyReport
}

// A verifyReport is what has come of it.
type verifyReport struct {
	Intact  int64                 `json:"intact"`
	Bytes   int64                 `json:"bytes"`
	Gone    int64                 `json:"gone"` // before it was their turn
	Damaged []mirror.Verification `json:"damaged"`
}

const verifiedAtATime = 4

func (v *mirrorVerify) run(ctx context.Context, s *session, args []string) error {
	v.report.Damaged = []mirror.Verification{}
	v.meter = newMeter(v.errOut, v.asJSON, time.Now())
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	copies := make(chan mirror.Copy)
	var workers sync.WaitGroup
	for range verifiedAtATime {
		workers.Go(func() {
			for c := range copies {
				if err := v.verify(ctx, &c); err != nil {
					cancel(err)
				}
			}
		})
	}
	err := v.each(ctx, s, args, func(c mirror.Copy) error {
		select {
		case copies <- c:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(copies)
	workers.Wait()
	v.meter.clear()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return aboutMirror(err)
	}
	return v.tell()
}

// each calls f for the copies that are to be compared.
func (v *mirrorVerify) each(ctx context.Context, s *session, args []string, f func(mirror.Copy) error) error {
	if len(args) > 0 {
		found, err := findCopies(ctx, s, args, v.region)
		if err != nil {
			return err
		}
		for _, x := range found {
			if x.copy != nil && x.copy.State == "present" {
				v.expect(1, size(x.copy))
				if err := f(*x.copy); err != nil {
					return err
				}
			}
		}
		return nil
	}
	// How much there is, for who looks at the progress. Without the scope for it
	// that is not known.
	if status, err := v.client.Status(ctx); err == nil {
		for _, r := range status.Regions {
			if v.region == "" || r.Region == v.region {
				v.expect(r.States.Present.Objects, r.States.Present.Bytes)
			}
		}
	}
	for c, err := range v.client.ListCopiesAll(ctx, mirror.ListCopiesOptions{Region: v.region, State: "present", Limit: most}) {
		if err == nil {
			err = f(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *mirrorVerify) expect(objects, bytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count.Objects += objects
	v.count.Bytes += bytes
	v.count.Listed = true
}

func (v *mirrorVerify) verify(ctx context.Context, c *mirror.Copy) error {
	x, err := v.client.VerifyCopy(ctx, c.Region, c.ID)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case client.IsNotFound(err) || client.IsConflict(err):
		v.report.Gone++
	case err != nil:
		return err
	case !x.Intact:
		v.report.Damaged = append(v.report.Damaged, *x)
	default:
		v.report.Intact++
		v.report.Bytes += size(c)
	}
	v.count.Copied++
	v.count.CopiedBytes += size(c)
	v.count.Objects = max(v.count.Objects, v.count.Copied)
	v.meter.show(&v.count, time.Now())
	return nil
}

func size(c *mirror.Copy) int64 {
	if c.Size == nil {
		return 0
	}
	return *c.Size
}

func (v *mirrorVerify) tell() error {
	r := &v.report
	var err error
	if len(r.Damaged) > 0 {
		err = silentError{fmt.Errorf("%s damaged", numbered(int64(len(r.Damaged)), "copy is", "copies are"))}
	}
	if v.asJSON {
		if e := printJSON(v.out, r); e != nil {
			return e
		}
		return err
	}
	if r.Intact+r.Gone == 0 && len(r.Damaged) == 0 {
		_, err := fmt.Fprintln(v.out, "there is no copy to compare; taskfleet mirror copies lists those there are")
		return err
	}
	parts := []string{fmt.Sprintf("%s (%s)", numbered(r.Intact, "copy is intact", "copies are intact"), volume(r.Bytes))}
	if r.Gone > 0 {
		parts = append(parts, numbered(r.Gone, "was gone", "were gone")+" before it was their turn")
	}
	if n := len(r.Damaged); n > 0 {
		parts = append(parts, numbered(int64(n), "is damaged:", "are damaged:"))
	}
	fmt.Fprintln(v.out, strings.Join(parts, ", "))
	for _, x := range r.Damaged {
		fmt.Fprint(v.out, bullet(fmt.Sprintf("%s, %s: %s", x.Copy.Region, shownOrigin(x.Copy.Origin), x.Message), lineWidth(v.out)))
	}
	return err
}
