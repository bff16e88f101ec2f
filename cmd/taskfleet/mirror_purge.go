package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/mirror"
)

// A mirrorPurge has copies deleted.
type mirrorPurge struct {
	region     string // or all
	everywhere bool
	asJSON     bool

	client *mirror.Client
	out    io.Writer
	report purgeReport
	missed int // arguments of which there are copies with another query only
}

// A purgeReport is what has come of it.
type purgeReport struct {
	Purged []mirror.Copy `json:"purged"`
	Others []mirror.Copy `json:"others"` // of the same with other queries, where nothing was purged
}

func newMirrorPurgeCommand() *cobra.Command {
	p := &mirrorPurge{}
	var yes bool
	cmd := &cobra.Command{
		Use: "purge URL|ID... (--region REGION | --everywhere)", Short: "Delete copies",
		Long: `Has copies deleted, in one region or everywhere. From the moment that the command returns nobody is sent to them any
more; who has been sent there before may be reading for as long as that takes. Who asks next has a new copy made: to have
none made, change the route. The URL need not be allowed any more. On a terminal --everywhere asks first.

That there was nothing to purge is said. The exit code is 1 if there are copies of something, but with another query in its
URL than was given; then it says their ids.

` + copyDoc,
		Example: `  taskfleet mirror purge https://archive.example.com/pub/toolchain.tar.xz --everywhere
  taskfleet mirror purge fN1SbArXTPSVFNUvaOlinQ/0/public/build/target.tar.gz --region eu-central-1
  taskfleet mirror copies --prefix https://cdn.example.com/pub/file --ids`,
		Args: cobra.MinimumNArgs(1),
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			p.client, p.out = mirror.New(s.core), cmd.OutOrStdout()
			urls, err := originURLs(ctx, s, args)
			if err != nil {
				return err
			}
			if p.everywhere {
				if err := confirm(cmd, yes, fmt.Sprintf("Delete the copies of %s in all regions?", count(len(urls), "origin"))); err != nil {
					return err
				}
			}
			return p.run(ctx, s, args, urls)
		}),
	}
	regionFlag(cmd, &p.region, "the region")
	cmd.Flags().BoolVar(&p.everywhere, "everywhere", false, "in all regions")
	cmd.MarkFlagsMutuallyExclusive("region", "everywhere")
	cmd.MarkFlagsOneRequired("region", "everywhere")
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &p.asJSON)
	return cmd
}

func (p *mirrorPurge) run(ctx context.Context, s *session, args, urls []string) error {
	p.report = purgeReport{Purged: []mirror.Copy{}, Others: []mirror.Copy{}}
	for i, u := range urls {
		if err := p.purge(ctx, s, withoutQuery(args[i]), u); err != nil {
			return err
		}
	}
	if p.asJSON {
		if err := printJSON(p.out, p.report); err != nil {
			return err
		}
	}
	if p.missed > 0 {
		return silentError{errors.New("of some there are copies with another query")}
	}
	return nil
}

// What the calls name in the place of a region, and the only service of the purge of
// 2016.
const (
	allRegions = "all"
	ofCaller   = "caller"
	s3Service  = "s3"
)

func (p *mirrorPurge) purge(ctx context.Context, s *session, argument, u string) error {
	where, about, in := p.region, p.region, "in "+p.region
	if p.everywhere {
		where, about, in = allRegions, ofCaller, "in all regions"
	}
	id, origin, err := identify(ctx, s, argument, u, about)
	if forbidden(err) {
		// Who may purge need not be one who may ask what there is.
		if err := p.client.Purge(ctx, s3Service, where, u); err != nil {
			return aboutMirror(err)
		}
		return p.say("purged %s, if there was any (the scope mirror:explain is needed to tell): %s\n", in, argument)
	} else if err != nil {
		return err
	}
	reply, err := p.client.PurgeCopy(ctx, where, id)
	if err == nil && origin != "" {
		// While an index is made anew this keeps those away, too, that it has not yet.
		err = p.client.Purge(ctx, s3Service, where, u)
	}
	if err != nil {
		return aboutMirror(err)
	}
	if len(reply.Copies) > 0 {
		p.report.Purged = append(p.report.Purged, reply.Copies...)
		var regions []string
		for _, c := range reply.Copies {
			regions = append(regions, c.Region)
		}
		return p.say("purged %s (%s): %s\n", numbered(int64(len(regions)), "copy", "copies"), strings.Join(regions, ", "), argument)
	}
	if err := p.say("nothing to purge %s: %s\n", in, argument); err != nil {
		return err
	}
	others := sameButQuery(ctx, s, origin, id, p.region)
	if len(others) == 0 {
		return nil
	}
	p.report.Others = append(p.report.Others, others...)
	p.missed++
	return p.say("There are copies of it with another query, which is not shown. They go by their ids:\n  %s\n", strings.Join(idsOf(others), "\n  "))
}

func (p *mirrorPurge) say(format string, args ...any) error {
	if p.asJSON {
		return nil
	}
	_, err := fmt.Fprintf(p.out, format, args...)
	return err
}

// mostOthers is how many copies of the same with other queries are looked for.
const mostOthers = 10

// sameButQuery are copies, in one region or all, of what has the same URL but for
// its query. It is a hint: what cannot be found out is left out.
func sameButQuery(ctx context.Context, s *session, origin, id, region string) (list []mirror.Copy) {
	if !strings.HasPrefix(origin, "http") {
		return nil
	}
	for c, err := range mirror.New(s.core).ListCopiesAll(ctx, mirror.ListCopiesOptions{Region: region, Prefix: origin, Limit: most}) {
		if err != nil || len(list) == mostOthers {
			break
		}
		if c.Origin == origin && c.ID != id && c.State != "leaving" {
			list = append(list, c)
		}
	}
	return list
}

// idsOf are the ids of copies, each once.
func idsOf(list []mirror.Copy) (ids []string) {
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
