//go:build !agent

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// MirrorOptions say what to measure of the mirror, and beside what.
type MirrorOptions struct {
	Directory string  // an empty one, on the disk that is to be measured
	Sizes     []int64 // of the objects to copy
	Optional  bool    // sizes that the disk has no room for are left out, not refused
	Objects   int     // of each size, but no more than make 512 MiB together
	Rounds    int     // of each measure of copying
	Transfers int     // at a time
	Rclone    string  // path of the program; "" leaves it out

	Rate     int           // redirects per second
	Duration time.Duration // of the redirects
	Waiters  int           // that ask for the same object

	// Generate sends requests, best from a process of its own: Load.Run there.
	Generate func(context.Context, MirrorLoad) (MirrorLoadResult, error)

	Progress func(string)       // called before each measure; may be nil
	Report   func(MirrorFigure) // called with each figure as it comes; may be nil
}

// A MirrorFigure is something that was measured of the mirror, and its goal.
type MirrorFigure struct {
	What    string  `json:"what"`
	Against string  `json:"against,omitempty"` // what was measured beside it
	Unit    string  `json:"unit"`
	Value   float64 `json:"value"`
	Other   float64 `json:"other,omitempty"` // of what was measured beside it
	Ratio   float64 `json:"ratio,omitempty"` // of the two

	// CPU is the time of processors per object, of this process, which is what
	// remains the same on a machine that has other work: that of the gateways and
	// of the database is in it. It is left out beside another program.
	CPU      time.Duration `json:"cpuPerObjectNs,omitempty"`
	OtherCPU time.Duration `json:"otherCpuPerObjectNs,omitempty"`

	// Goal is of the ratio where there is one, or else of the value. A ratio has
	// to be as much, a value no more. 0: there is none.
	Goal float64 `json:"goal,omitempty"`
	Met  bool    `json:"met"`
}

// The units of figures.
const (
	ObjectsPerSecond = "objects/s"
	BytesPerSecond   = "bytes/s"
	Bytes            = "bytes"
	Nanoseconds      = "ns"
	Requests         = "requests"
)

// MirrorReport is what was measured of the mirror.
type MirrorReport struct {
	Processors int            `json:"processors"`
	Transfers  int            `json:"transfers"`
	Rounds     int            `json:"rounds"`
	Figures    []MirrorFigure `json:"figures"`
	LeftOut    []string       `json:"leftOut"` // what was not measured, and why
}

// The goals.
const (
	goalPlain    = 0.9 // of the rate of the plain loop
	goalRclone   = 1.2 // of that of rclone
	goalMemory   = 256 << 20
	goalRedirect = 300 * time.Microsecond // of processors
	goalLatency  = 5 * time.Millisecond   // 99 of 100
	goalAddress  = time.Microsecond
	goalFetches  = 1
	goalAnswers  = 50 * time.Millisecond
	goalLate     = 100 * time.Millisecond
)

// Mirror measures a mirror that it runs itself, with its database on the disk as
// by default, and gateways in the same process for S3. It asks the mirror for
// copies over HTTP, as anybody does.
//
// What is compared is measured in turn, in rounds in which the order alternates,
// so that a machine that has something else to do is slow for both. The plain loop
// is the least that copies what may be of any size, with the same library and
// gateway: as many goroutines as the mirror has transfers, which check nothing but
// what the library checks, and write nothing down. What a gateway is to copy they
// look at first, as one request copies no more than 5 GiB. The blind loop does not
// even do that.
//
// One gateway has the originals. Copies to another bucket there are made by the
// gateway (server-side); those to the second gateway go through the process
// (streamed).
func Mirror(ctx context.Context, o MirrorOptions) (r MirrorReport, err error) {
	if len(o.Sizes) == 0 || o.Objects < 1 || o.Rounds < 1 || o.Transfers < 1 || o.Rate < 1 || o.Duration <= 0 || o.Waiters < 1 || o.Generate == nil {
		return r, errors.New("bench: sizes, numbers above 0 and something that sends requests are needed")
	}
	m, err := newMirrorSite(ctx, o)
	if err != nil {
		return r, fmt.Errorf("bench: %w", err)
	}
	err = errors.Join(m.measure(ctx), m.close())
	return m.report, err
}

func (m *mirrorSite) measure(ctx context.Context) error {
	for _, step := range []func(context.Context) error{m.copying, m.redirects, m.addresses, m.crowds} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	return nil
}

// say tells what is measured next.
func (m *mirrorSite) say(format string, args ...any) {
	if m.Progress != nil {
		m.Progress(fmt.Sprintf(format, args...))
	}
}

// found adds a figure to the report.
func (m *mirrorSite) found(f MirrorFigure) {
	if f.Other > 0 {
		f.Ratio = f.Value / f.Other
		f.Met = f.Ratio >= f.Goal
	} else {
		f.Met = f.Value <= f.Goal
	}
	m.report.Figures = append(m.report.Figures, f)
	if m.Report != nil {
		m.Report(f)
	}
}

// foundTime adds a length of time.
func (m *mirrorSite) foundTime(what string, d, goal time.Duration) {
	m.found(MirrorFigure{What: what, Unit: Nanoseconds, Value: float64(d), Goal: float64(goal)})
}

// leaveOut notes what is not measured.
func (m *mirrorSite) leaveOut(format string, args ...any) {
	m.report.LeftOut = append(m.report.LeftOut, fmt.Sprintf(format, args...))
}

// objectsOf is how many objects of a size are copied.
func (o *MirrorOptions) objectsOf(size int64) int {
	const together = 512 << 20
	return int(max(1, min(int64(o.Objects), together/max(size, 1))))
}

// sizeName is a size as it is called in a report.
func sizeName(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
