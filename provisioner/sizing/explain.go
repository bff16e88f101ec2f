package sizing

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// explain says what there was and what is done. Why is what the policy has to
// say of its own.
func (d *Decision) explain(in Inputs, s supply, missing int64, why string) {
	d.term("pending", float64(in.Pending))
	d.term("free", float64(in.Spare+s.idle))
	d.term("booting", float64(s.booting))
	d.term("working", float64(in.Working))
	d.term("stopping", float64(in.Stopping))

	var b strings.Builder
	if in.Pending == 0 {
		b.WriteString("no task is pending")
	} else {
		b.WriteString(tasks(in.Pending) + " pending")
	}
	fmt.Fprintf(&b, "; capacity %d is free, %d boots, %d works", in.Spare+s.idle, s.booting, in.Working-in.Spare)
	if in.Stopping > 0 {
		fmt.Fprintf(&b, ", %d is stopping", in.Stopping)
	}
	if why != "" {
		b.WriteString("; " + why)
	}
	switch {
	case d.Start > 0 && in.Min-s.live >= d.Start:
		fmt.Fprintf(&b, ": start capacity %d, to have the minimum of %d", d.Start, in.Min)
	case d.Start > 0:
		fmt.Fprintf(&b, ": start capacity %d", d.Start)
	case d.Excess > 0:
		fmt.Fprintf(&b, ": capacity %d is beyond the maximum of %d; the oldest workers get nothing more", d.Excess, in.Max)
	case missing <= 0:
		b.WriteString(": start none")
	}
	if d.Start < missing && d.Excess == 0 {
		if d.Start == 0 {
			b.WriteString(": start none")
		}
		fmt.Fprintf(&b, ", though more is wanted: the maximum of %d leaves no room", in.Max)
		if in.Stopping > 0 {
			b.WriteString(" until stopping workers are gone")
		}
	}
	switch n := len(d.Drain); {
	case n == 1:
		b.WriteString("; 1 idle worker may go")
	case n > 1:
		fmt.Fprintf(&b, "; %d idle workers may go", n)
	}
	d.Reason = b.String()
}

func (d *Decision) explainForecast(in Inputs, s supply, o *outlook, free int64, value float64, n int64, next start) {
	due := o.due[perBoot-1]
	d.Terms = make([]Term, 0, 20)
	d.term("waitPrice", o.price)
	d.term("boot", o.boot)
	d.term("startCost", o.cost)
	d.term("arrivedLately", o.st.Rises.fading(in.Now))
	d.term("willEnd", o.ends)
	d.term("willCome", due)
	d.term("willRegister", o.booting)
	d.term("kept", float64(free))
	d.term("keepLast", value)
	d.term("nextSaves", next.saved)
	d.term("nextNeeded", next.needed)
	d.term("nextSpare", next.spare)
	d.term("nextLater", next.later)

	var b strings.Builder
	fmt.Fprintf(&b, "a worker takes %s to register", seconds(o.boot))
	if due >= .5 {
		fmt.Fprintf(&b, ", within which %.0f known tasks become pending", due)
	}
	if o.ends >= .5 {
		fmt.Fprintf(&b, ", within which %.0f tasks more end than come unannounced", o.ends)
	}
	if next.worth {
		n++ // that there is no room for
	} else {
		fmt.Fprintf(&b, "; one worker more would save %s of waiting, worth %s of machine, and be started in vain with a probability of %.0f %%",
			seconds(next.saved), seconds(next.saved*o.price), 100*next.spare)
	}
	if len(d.Drain) > 0 && value < 0 {
		fmt.Fprintf(&b, "; to keep the last one that goes would cost %s more of machine than it brings", seconds(-value))
	}
	d.explain(in, s, n*s.per, b.String())
}

func seconds(s float64) string {
	if s >= 120 {
		return (time.Duration(math.Round(s)) * time.Second).Round(time.Minute / 10).String()
	}
	return fmt.Sprintf("%.0f s", s)
}

func tasks(n int64) string {
	if n == 1 {
		return "1 task is"
	}
	return fmt.Sprintf("%d tasks are", n)
}
