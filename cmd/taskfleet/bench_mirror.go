//go:build !agent

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/bench"
)

// mirrorBench are the commands that measure the mirror.
func mirrorBench() []*cobra.Command {
	return []*cobra.Command{newBenchMirrorCommand(), newMirrorLoadCommand()}
}

func newBenchMirrorCommand() *cobra.Command {
	var o bench.MirrorOptions
	var sizes []string
	var data string
	var asJSON, check bool
	cmd := &cobra.Command{
		Use: "mirror", Short: "Measure how fast the mirror copies and redirects, beside a plain loop and rclone",
		Long: `Runs a mirror of its own, with SQLite and two S3 gateways in this process, all of it with fsync, and measures:

- copying, between two buckets of a gateway, which copies by itself (server-side), and from one gateway to the other
  (streamed); beside a loop that does nothing but copy, and look at what a gateway is to copy, or not even that; and with
  --rclone beside rclone copy of small objects;
- the memory of this process while it copies the largest size;
- redirects to copies that are there, asked for by a second process at a steady rate;
- how long it takes to find the region of an address;
- many who ask at once for an object that there is no copy of: how often it is fetched, and when the last of them has an
  answer after the copy is there; and if it does not come, how long they wait beyond the limit of the route.

What is compared is measured in turn, in rounds. Sizes that the disk has no room for are left out, unless they were asked
for. The exit code is 0 whatever the figures are, unless --check is given.`,
		Example: `  taskfleet bench mirror --rclone /usr/bin/rclone
  taskfleet bench mirror --size 1KiB --objects 10000 --data /mnt/disk --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Objects < 1 || o.Rounds < 1 || o.Transfers < 1 || o.Rate < 1 || o.Waiters < 1 || o.Duration <= 0 {
				return usagef("--objects, --rounds, --transfers, --rate, --waiters and --duration must be above 0")
			}
			for _, text := range sizes {
				n, err := parseBytes(text)
				if err != nil || n < 1 {
					return usagef("--size has %q; give sizes such as 1KiB,1MiB,1GiB", text)
				}
				o.Sizes = append(o.Sizes, n)
			}
			if o.Directory, err = os.MkdirTemp(data, "taskfleet-bench-"); err != nil {
				return fmt.Errorf("--data: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(o.Directory)) }()
			o.Optional = !cmd.Flags().Changed("size")
			o.Generate = generateElsewhere
			tuneMemory() // as serve does
			return runMirrorBench(cmd, o, asJSON, check)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&sizes, "size", []string{"1KiB", "1MiB", "1GiB"}, "sizes of objects to copy")
	f.IntVar(&o.Objects, "objects", 3000, "objects of each size, but no more than make 512 MiB together")
	f.IntVar(&o.Rounds, "rounds", 3, "rounds of each measure of copying, and of waiting")
	f.IntVar(&o.Transfers, "transfers", 16, "transfers at a time")
	f.StringVar(&o.Rclone, "rclone", "", "the program rclone, to be measured too")
	f.StringVar(&data, "data", "", "a directory on the disk that is to be measured (default: that for temporary files)")
	f.IntVar(&o.Rate, "rate", 5000, "redirects per second")
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "length of the measure of redirects")
	f.IntVar(&o.Waiters, "waiters", 1000, "how many ask for one object at once")
	f.BoolVar(&check, "check", false, "exit with 1 if a goal is not met")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runMirrorBench(cmd *cobra.Command, o bench.MirrorOptions, asJSON, check bool) error {
	out := cmd.OutOrStdout()
	o.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
	if !asJSON {
		fmt.Fprintf(out, mirrorLayout, "WHAT", "MIRROR", "BESIDE", "", "RATIO", "GOAL", "MET")
		o.Report = func(f bench.MirrorFigure) { io.WriteString(out, mirrorLine(f)) }
	}
	r, err := bench.Mirror(cmd.Context(), o)
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(out, r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(out, "\n%d transfers, %s, %s\n", r.Transfers, plural(r.Rounds, "round"), plural(r.Processors, "processor"))
		for _, line := range r.LeftOut {
			fmt.Fprintf(out, "Not measured: %s\n", line)
		}
	}
	missed := 0
	for _, f := range r.Figures {
		if !f.Met {
			missed++
		}
	}
	if check && missed > 0 {
		return fmt.Errorf("%d of %d goals were not met", missed, len(r.Figures))
	}
	return nil
}

const mirrorLayout = "%-25s %10s %-11s %10s %5s %10s %s\n" // 80 columns

// mirrorLine is a figure in the table.
func mirrorLine(f bench.MirrorFigure) string {
	against, other, ratio, goal := "", "", "", "<= "+mirrorValue(f.Unit, f.Goal)
	if f.Unit == bench.Nanoseconds && f.Goal > 1000 {
		goal = fmt.Sprintf("<= %gms", f.Goal/1e6)
	}
	if f.Against != "" {
		against, other = f.Against, mirrorValue(f.Unit, f.Other)
		ratio, goal = fmt.Sprintf("%.0f %%", 100*f.Ratio), fmt.Sprintf(">= %.0f %%", 100*f.Goal)
	}
	met := "no"
	switch {
	case f.Goal == 0:
		goal, met = "", ""
	case f.Met:
		met = "yes"
	}
	line := strings.TrimRight(fmt.Sprintf(mirrorLayout, f.What, mirrorValue(f.Unit, f.Value), against, other, ratio, goal, met), " \n") + "\n"
	if f.OtherCPU > 0 {
		cpu := fmt.Sprintf(mirrorLayout, "  CPU of an object", milliseconds(f.CPU), against, milliseconds(f.OtherCPU),
			fmt.Sprintf("%.0f %%", 100*float64(f.CPU)/float64(f.OtherCPU)), "", "")
		line += strings.TrimRight(cpu, " \n") + "\n"
	}
	return line
}

// mirrorValue words a figure.
func mirrorValue(unit string, v float64) string {
	switch unit {
	case bench.ObjectsPerSecond:
		return fmt.Sprintf("%.0f/s", v)
	case bench.BytesPerSecond:
		if v >= 10<<30 {
			return fmt.Sprintf("%.1f GiB/s", v/(1<<30))
		}
		return fmt.Sprintf("%.0f MiB/s", v/(1<<20))
	case bench.Bytes:
		return fmt.Sprintf("%.0f MiB", v/(1<<20))
	case bench.Nanoseconds:
		if v <= 1000 {
			return fmt.Sprintf("%.0fns", v)
		}
		return fmt.Sprintf("%.2fms", v/1e6)
	}
	return fmt.Sprintf("%.0f", v)
}

// generateElsewhere has a second process of this program send the requests.
func generateElsewhere(ctx context.Context, load bench.MirrorLoad) (r bench.MirrorLoadResult, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	text, err := json.Marshal(load)
	if err != nil {
		return r, err
	}
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, self, "bench", "mirror-load")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &out, &errOut
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("the process that sends requests: %w: %s", err, strings.TrimSpace(errOut.String()))
	}
	return r, json.Unmarshal(out.Bytes(), &r)
}

// newMirrorLoadCommand is that second process.
func newMirrorLoadCommand() *cobra.Command {
	return &cobra.Command{
		Use: "mirror-load", Short: "Send the requests of bench mirror", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var load bench.MirrorLoad
			if err := json.NewDecoder(cmd.InOrStdin()).Decode(&load); err != nil {
				return fmt.Errorf("reading from standard input what to send: %w", err)
			}
			r, err := load.Run(cmd.Context())
			if err != nil {
				return err
			}
			return printLine(cmd.OutOrStdout(), r)
		},
	}
}
