package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/mirror"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/slugid"
)

// newMirrorCommand is what operators of a mirror use.
func newMirrorCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "mirror", Short: "Look after copies of artifacts near the workers that read them",
		Long: `Looks after copies of artifacts, and of other things that are downloaded over and over, in the regions where they are read.

What is wrong right now:                           taskfleet mirror status
What a download is answered with, and why:         taskfleet mirror explain, routes
What there is, and where:                          taskfleet mirror copies, copies find
To move a whole set before it is asked for:        taskfleet mirror sync
To interfere:                                      taskfleet mirror pin, purge, verify

` + originDoc,
		Example: `  taskfleet mirror status
  taskfleet mirror explain fN1SbArXTPSVFNUvaOlinQ/0/public/build/target.tar.gz --region eu-central-1
  taskfleet mirror sync --to eu-central-1 --task-group fN1SbArXTPSVFNUvaOlinQ`,
	},
		newMirrorStatusCommand(), newMirrorExplainCommand(), newMirrorCopiesCommand(), newMirrorSyncCommand(), newMirrorVerifyCommand(),
		newMirrorPurgeCommand(), newMirrorPinCommand(), newMirrorUnpinCommand(), newMirrorRoutesCommand(),
	)
}

const originDoc = `What there are copies of goes by its URL, or for an artifact by TASK/RUN/NAME, such as fN1SbArXTPSVFNUvaOlinQ/0/public/app.tar.gz.
The queue's URL of an artifact, one of its bucket, signed or not, and s3://BUCKET/KEY mean the same.`

// copyDoc is originDoc where copies go by their ids, too.
const copyDoc = originDoc + `
A copy goes by its id as well, 64 hexadecimal digits: mirror copies --ids shows them. That is the way where a URL has a query, which is
not shown.`

// copyID is what ids of copies look like.
var copyID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// originURL is the URL by which the mirror is asked for what somebody has
// written: it knows an artifact by its run.
func originURL(ctx context.Context, s *session, text string) (string, error) {
	if taskID, rest, ok := strings.Cut(text, "/"); ok && slugid.Valid(taskID) {
		run, name, ok := strings.Cut(rest, "/")
		n, err := strconv.Atoi(run)
		if !ok || err != nil || n < 0 || name == "" {
			return "", usagef("%q is no artifact: write TASK/RUN/NAME, such as %s/0/public/app.tar.gz", text, taskID)
		}
		return artifactURL(s, taskID, n, name), nil
	}
	if u, err := url.Parse(text); err != nil || u.Scheme == "" || u.Host == "" {
		if plain, err := url.PathUnescape(text); err == nil && !strings.Contains(text, "://") && strings.Contains(plain, "://") {
			return "", usagef("%q is percent-encoded: write the URL as it is", clip(withoutQuery(text), 80))
		}
		return "", usagef("%q is no URL and no artifact: write https://…, s3://BUCKET/KEY or TASK/RUN/NAME", text)
	}
	// One of the latest run, as people have it from other places.
	rest, ok := strings.CutPrefix(text, s.core.RootURL()+"/api/queue/v1/task/")
	taskID, name, latest := strings.Cut(rest, "/artifacts/")
	if !ok || !latest || !slugid.Valid(taskID) {
		return text, nil
	}
	reply, err := queue.New(s.core).Status(ctx, taskID)
	if err != nil {
		return "", noSuchTask(err, taskID)
	}
	if len(reply.Status.Runs) == 0 {
		return "", fmt.Errorf("the task %s has no run yet, and so no artifacts", taskID)
	}
	if name, err = url.PathUnescape(name); err != nil {
		return "", usagef("%q is no URL: %v", text, err)
	}
	return artifactURL(s, taskID, reply.Status.Runs[len(reply.Status.Runs)-1].RunID, name), nil
}

func artifactURL(s *session, taskID string, run int, name string) string {
	return fmt.Sprintf("%s/api/queue/v1/task/%s/runs/%d/artifacts/%s", s.core.RootURL(), taskID, run, url.PathEscape(name))
}

// originURLs is originURL for the arguments of a command. Ids stay what they are.
func originURLs(ctx context.Context, s *session, args []string) (list []string, err error) {
	for _, text := range args {
		if !copyID.MatchString(text) {
			if text, err = originURL(ctx, s, text); err != nil {
				return nil, err
			}
		}
		list = append(list, text)
	}
	return list, nil
}

// copyStates are the states of copies, in the order of their lives.
var copyStates = []string{"waiting", "copying", "present", "failed", "leaving"}

func regionFlag(cmd *cobra.Command, region *string, usage string) {
	cmd.Flags().StringVarP(region, "region", "r", "", usage)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("region", completeRegions))
}

// completeRegions offers the regions with copies, if a platform answers.
func completeRegions(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	s, err := connect(cmd, client.Retry{For: -1})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	r, err := mirror.New(s.core).Routes(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return r.Regions, cobra.ShellCompDirectiveNoFileComp
}

// regionsOr is the region that was asked for, or all of them.
func regionsOr(ctx context.Context, s *session, region string) ([]string, error) {
	if region != "" {
		return []string{region}, nil
	}
	r, err := mirror.New(s.core).Routes(ctx)
	if err != nil {
		return nil, aboutMirror(err)
	}
	if len(r.Regions) == 0 {
		return nil, errNoRegions
	}
	return r.Regions, nil
}

var errNoRegions = errors.New("this deployment has no regions with copies; taskfleet config --help shows how the mirror is configured")

var errNoMirror = errors.New("this deployment has no mirror: its configuration lacks the section mirror (see taskfleet config --help), or it is older than this program, or the root URL is not that of a deployment (see taskfleet creds show)")

// aboutMirror says what to do where there is no mirror, or no such region.
func aboutMirror(err error) error {
	e, ok := errors.AsType[*client.Error](err)
	switch {
	case !ok || e.StatusCode != 404:
		return err
	case strings.HasPrefix(e.Message, "Region "):
		return fmt.Errorf("%w\ntaskfleet mirror routes shows them", err)
	case strings.HasPrefix(e.Method, "mirror.") && e.Code == "":
		return errNoMirror
	}
	return err
}

// A namedCopy is what there is in a region of something that a command line is
// about.
type namedCopy struct {
	argument, region string
	id, origin       string
	copy             *mirror.Copy // nil: none
}

// findCopies finds out what there is of the arguments, in one region or all.
func findCopies(ctx context.Context, s *session, args []string, region string) ([]namedCopy, error) {
	urls, err := originURLs(ctx, s, args)
	if err != nil {
		return nil, err
	}
	regions, err := regionsOr(ctx, s, region)
	if err != nil {
		return nil, err
	}
	var list []namedCopy
	for i, u := range urls {
		argument := withoutQuery(args[i])
		id, origin, err := identify(ctx, s, argument, u, regions[0])
		if err != nil {
			return nil, err
		}
		for _, region := range regions {
			c, err := findCopy(ctx, s, region, id)
			if err != nil {
				return nil, err
			}
			if c != nil {
				origin = c.Origin
			}
			list = append(list, namedCopy{argument, region, id, origin, c})
		}
	}
	return list, nil
}

// identify is the id of copies of what is at a URL, or that id itself, and of what
// they are.
func identify(ctx context.Context, s *session, argument, u, region string) (id, origin string, err error) {
	if copyID.MatchString(u) {
		return u, "", nil
	}
	x, err := mirror.New(s.core).Explain(ctx, region, u)
	switch {
	case err != nil:
		return "", "", aboutMirror(err)
	case x.ID == "": // it is refused
		return "", "", fmt.Errorf("%s: %s", argument, strings.Join(x.Summary, " "))
	}
	return x.ID, x.Origin, nil
}

// findCopy returns a copy, or nil if there is none.
func findCopy(ctx context.Context, s *session, region, id string) (*mirror.Copy, error) {
	c, err := mirror.New(s.core).FindCopy(ctx, region, id)
	if e, ok := errors.AsType[*client.Error](err); ok && e.Code == "ResourceNotFound" {
		return nil, nil
	}
	return c, aboutMirror(err)
}

func newMirrorRoutesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "routes", Short: "Show what is copied how, and to which regions",
		Long: `Shows the routes in their order: the first that fits says where copies are made, and what becomes of who asks for one that
is not there yet. With wait they wait for it and get the origin after the time shown; with redirect they get the origin
at once, and the copy is made behind; with stream they get the bytes while they are stored; with off no copy is made.
AHEAD says what is copied before somebody asks: "made", as soon as an artifact is there; "needed", as soon as a task is
about to run that depends on it. Then it shows the regions, and the URLs that may be copied.`,
		Example: "  taskfleet mirror routes",
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			list, err := mirror.New(s.core).Routes(ctx)
			switch {
			case err != nil:
				return aboutMirror(err)
			case asJSON:
				return printJSON(cmd.OutOrStdout(), list)
			}
			// Without the scope for the figures the rest is worth showing.
			status, err := mirror.New(s.core).Status(ctx)
			if err != nil && !forbidden(err) {
				return err
			}
			return printRoutes(cmd.OutOrStdout(), list, status)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newMirrorPinCommand() *cobra.Command {
	var asJSON bool
	var region string
	cmd := &cobra.Command{
		Use: "pin URL|ID... --region REGION", Short: "Keep copies though nobody reads them",
		Long: `Has copies kept though nobody reads them, until they expire or are purged. One that is not there is made. What is pinned
takes room in its region like all else, so that pinning much leaves little for the rest.

` + copyDoc,
		Example: "  taskfleet mirror pin fN1SbArXTPSVFNUvaOlinQ/0/public/image.tar.zst --region eu-central-1",
		Args:    cobra.MinimumNArgs(1),
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			urls, err := originURLs(ctx, s, args)
			if err != nil {
				return err
			}
			list, err := pinAll(ctx, s, region, urls)
			if err != nil {
				return err
			}
			return reportPins(cmd, args, region, list, asJSON)
		}),
	}
	regionFlag(cmd, &region, "the region")
	cobra.CheckErr(cmd.MarkFlagRequired("region"))
	jsonFlag(cmd, &asJSON)
	return cmd
}

// pinAll pins copies by URLs, of which those are made that are not there, and by ids.
// It returns how they are in their order.
func pinAll(ctx context.Context, s *session, region string, urls []string) ([]mirror.WantCopiesResponseCopy, error) {
	m := mirror.New(s.core)
	list := make([]mirror.WantCopiesResponseCopy, len(urls))
	in := &mirror.WantCopiesRequest{Region: region, Pinned: true}
	var places []int // in list, of the copies of in
	for i, u := range urls {
		if !copyID.MatchString(u) {
			in.Copies, places = append(in.Copies, mirror.WantCopiesRequestCopy{URL: u}), append(places, i)
			continue
		}
		c, err := m.PinCopy(ctx, region, u)
		switch e, ok := errors.AsType[*client.Error](err); {
		case ok && e.Code == "ResourceNotFound" && !strings.HasPrefix(e.Message, "Region "):
			list[i] = mirror.WantCopiesResponseCopy{ID: u, State: "refused", Error: e.Message}
		case err != nil:
			return nil, aboutMirror(err)
		default:
			list[i] = mirror.WantCopiesResponseCopy{ID: c.ID, Origin: c.Origin, State: c.State, Size: c.Size, Done: c.Done, Error: c.Error}
		}
	}
	if len(in.Copies) == 0 {
		return list, nil
	}
	reply, err := m.WantCopies(ctx, in)
	if err != nil {
		return nil, aboutMirror(err)
	}
	for i, c := range reply.Copies {
		list[places[i]] = c
	}
	return list, nil
}

func reportPins(cmd *cobra.Command, args []string, region string, list []mirror.WantCopiesResponseCopy, asJSON bool) error {
	out := cmd.OutOrStdout()
	var refused []error
	for i, c := range list {
		text := withoutQuery(args[i])
		switch c.State {
		case "refused":
			refused = append(refused, fmt.Errorf("%s: %s", text, c.Error))
			continue
		case "present":
			text += " stays in " + region
		case "failed":
			text += fmt.Sprintf(" stays in %s once it is there, but copying failed: %s", region, reason(c.Error))
		default:
			text += fmt.Sprintf(" is being copied to %s, and stays", region)
		}
		if !asJSON {
			fmt.Fprintln(out, text)
		}
	}
	if asJSON {
		if err := printJSON(out, list); err != nil {
			return err
		}
	}
	return errors.Join(refused...)
}

func newMirrorUnpinCommand() *cobra.Command {
	var asJSON bool
	var region string
	cmd := &cobra.Command{
		Use: "unpin URL|ID... [--region REGION]", Short: "Take back that copies are kept",
		Long: `Takes back that copies are kept though nobody reads them, in one region or in all. They stay as long as there is room.

` + copyDoc,
		Example: "  taskfleet mirror unpin fN1SbArXTPSVFNUvaOlinQ/0/public/image.tar.zst --region eu-central-1",
		Args:    cobra.MinimumNArgs(1),
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			found, err := findCopies(ctx, s, args, region)
			if err != nil {
				return err
			}
			done := []mirror.Copy{}
			for _, f := range found {
				if f.copy == nil || !f.copy.Pinned {
					continue
				}
				c, err := mirror.New(s.core).UnpinCopy(ctx, f.region, f.id)
				if client.IsNotFound(err) { // gone meanwhile
					continue
				} else if err != nil {
					return err
				}
				done = append(done, *c)
				if !asJSON {
					fmt.Fprintf(cmd.OutOrStdout(), "%s is not pinned in %s any more\n", f.argument, f.region)
				}
			}
			switch {
			case asJSON:
				return printJSON(cmd.OutOrStdout(), done)
			case len(done) == 0:
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "none of it was pinned")
				return err
			}
			return nil
		}),
	}
	regionFlag(cmd, &region, "only in this region (default: in all)")
	jsonFlag(cmd, &asJSON)
	return cmd
}
