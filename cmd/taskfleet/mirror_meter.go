package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// A syncCount is how far a sync has come. Each object in each region is counted
// once.
type syncCount struct {
	Objects int64 `json:"objects"` // that are wanted, as far as they are listed
	Bytes   int64 `json:"bytes"`   // of them, as far as sizes are known
	Unsized int64 `json:"unsized"` // of those that are still to go: of which the size is not known
	Listed  bool  `json:"listed"`  // to the end

	There       int64 `json:"there"` // before
	ThereBytes  int64 `json:"thereBytes"`
	Copied      int64 `json:"copied"`
	CopiedBytes int64 `json:"copiedBytes"`
	UnderWay    int64 `json:"underWay"`      // asked for
	PartBytes   int64 `json:"underWayBytes"` // of those, that are in the bucket
	Failed      int64 `json:"failed"`
	FailedBytes int64 `json:"failedBytes"`
}

// ended is how many have come to an end.
func (c *syncCount) ended() int64 { return c.There + c.Copied + c.Failed }

// moved is how many bytes have gone over the wire.
func (c *syncCount) moved() int64 { return c.CopiedBytes + c.PartBytes }

// left is how many bytes are still to go.
func (c *syncCount) left() int64 {
	return max(c.Bytes-c.ThereBytes-c.CopiedBytes-c.FailedBytes-c.PartBytes, 0)
}

// A meter shows how far a sync has come: on a terminal as a line that is
// drawn again and again, elsewhere as one now and then.
type meter struct {
	out     io.Writer
	file    *os.File // nil without a terminal
	colored brush
	asJSON  bool

	since   time.Time
	due     time.Time // of the next line
	samples []sample  // the oldest first
	drawn   bool
}

// A sample is what had been done at a time.
type sample struct {
	at             time.Time
	bytes, objects int64
}

const (
	plainInterval = 10 * time.Second // between lines that stay
	drawInterval  = 100 * time.Millisecond
	rateWindow    = 20 * time.Second // that rates are of
)

func newMeter(out io.Writer, asJSON bool, now time.Time) *meter {
	m := &meter{out: out, since: now, samples: []sample{{at: now}}}
	if file, ok := terminal(out); ok {
		m.file, m.colored = file, brushFor(out)
	} else {
		m.asJSON = asJSON
		m.due = now.Add(plainInterval)
	}
	return m
}

// show shows where things are, if it is time for that.
func (m *meter) show(c *syncCount, now time.Time) {
	if now.Before(m.due) {
		return
	}
	m.observe(c, now)
	switch {
	case m.file != nil:
		m.due = now.Add(drawInterval)
		width := widthOf(m.file)
		if width <= 20 {
			width = 80
		}
		l := fit([]line{m.bar(c, width-1)}, width-1, 1)[0]
		fmt.Fprintf(m.out, "\r%s\x1b[K", l.text(bool(m.colored)))
		m.drawn = true
	case m.asJSON:
		m.due = now.Add(plainInterval)
		_ = printLine(m.out, struct {
			*syncCount
			BytesPerSecond   int64 `json:"bytesPerSecond"`
			ObjectsPerSecond int64 `json:"objectsPerSecond"`
		}{c, int64(m.rate()), int64(m.pace())})
	default:
		m.due = now.Add(plainInterval)
		fmt.Fprintf(m.out, "%s  %s\n", now.Format(time.TimeOnly), strings.Join(m.words(c), ", "))
	}
}

// note prints a line that stays.
func (m *meter) note(text string) {
	if m.asJSON {
		_ = printLine(m.out, map[string]string{"note": text})
		return
	}
	m.clear()
	fmt.Fprint(m.out, wrap(text, lineWidth(m.out), ""))
}

// clear takes the line away, so that others can be printed.
func (m *meter) clear() {
	if m.drawn {
		fmt.Fprint(m.out, "\r\x1b[K")
		m.drawn = false
	}
}

// observe takes a sample, and drops those that are too old for the rate.
func (m *meter) observe(c *syncCount, now time.Time) {
	for len(m.samples) > 2 && now.Sub(m.samples[1].at) > rateWindow {
		m.samples = m.samples[1:]
	}
	m.samples = append(m.samples, sample{now, c.moved(), c.Copied})
}

// rate is in bytes a second.
func (m *meter) rate() float64 {
	return m.per(func(s sample) int64 { return s.bytes })
}

// pace is in objects a second.
func (m *meter) pace() float64 {
	return m.per(func(s sample) int64 { return s.objects })
}

func (m *meter) per(of func(sample) int64) float64 {
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	d := last.at.Sub(first.at).Seconds()
	if d <= 0 {
		return 0
	}
	return max(float64(of(last)-of(first))/d, 0) // an attempt that starts over has done less than before
}

// eta is how long it will take from now on; false while nobody can know.
func (m *meter) eta(c *syncCount) (time.Duration, bool) {
	objects := c.Objects - c.ended()
	if !c.Listed || objects <= 0 {
		return 0, false
	}
	seconds := -1.0
	if r := m.rate(); r > 0 && c.left() > 0 && c.Unsized == 0 {
		seconds = float64(c.left()) / r
	}
	if r := m.pace(); r > 0 {
		// Of many small objects it is the number that takes the time.
		if s := float64(objects) / r; seconds < 0 || c.left() < objects<<20 && s > seconds {
			seconds = s
		}
	}
	if seconds < 0 || seconds > 1e7 {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// words are what a line says, the most important first.
func (m *meter) words(c *syncCount) []string {
	more := ""
	if !c.Listed {
		more = " or more"
	}
	done := c.ThereBytes + c.moved()
	bytes := volume(done)
	if c.Unsized == 0 {
		bytes += " of " + volume(max(c.Bytes, done))
	}
	w := []string{fmt.Sprintf("%d of %d%s", c.There+c.Copied, c.Objects, more), bytes}
	if c.Failed > 0 {
		w = append(w, fmt.Sprintf("%d failed", c.Failed))
	}
	w = append(w, volume(int64(m.rate()))+"/s")
	if d, ok := m.eta(c); ok && d >= time.Second {
		w = append(w, took(d.Round(time.Second))+" left")
	}
	return w
}

// bar is the line for a terminal. What there is room for of the bar is drawn.
func (m *meter) bar(c *syncCount, width int) line {
	text := "  " + strings.Join(m.words(c), "  ")
	length := min(width-utf8.RuneCountInString(text), maxBar)
	var l line
	if length >= 8 {
		total, done, failed := float64(c.Bytes), float64(c.ThereBytes+c.moved()), float64(c.FailedBytes)
		if c.Bytes == 0 || c.Unsized > 0 {
			total, done, failed = float64(c.Objects), float64(c.There+c.Copied), float64(c.Failed)
		}
		total = max(total, done+failed, 1)
		good := int(done / total * float64(length))
		bad := int((done+failed)/total*float64(length)) - good
		l = line{{strings.Repeat("█", good), green}, {strings.Repeat("█", bad), red}, {strings.Repeat("░", length-good-bad), dim}}
	}
	return append(l, span{text, noColor})
}
