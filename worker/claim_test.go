package worker

import (
	"testing"
	"time"
)

func TestALeaseIsRenewedWithAThirdLeft(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		started, until time.Time // by the queue's clock
		elapsed        time.Duration
		want           time.Duration
	}{
		"at once":                 {now, now.Add(30 * time.Minute), 0, 20 * time.Minute},
		"later":                   {now, now.Add(30 * time.Minute), 15 * time.Minute, 5 * time.Minute},
		"due":                     {now, now.Add(30 * time.Minute), 20 * time.Minute, 0},
		"long due":                {now, now.Add(30 * time.Minute), time.Hour, 0},
		"our clock is slow":       {now.Add(time.Hour), now.Add(90 * time.Minute), 0, 20 * time.Minute},
		"our clock is fast":       {now.Add(-time.Hour), now.Add(-30 * time.Minute), 0, 20 * time.Minute},
		"no beginning is told":    {time.Time{}, now.Add(30 * time.Minute), 0, 20 * time.Minute},
		"no beginning, over":      {time.Time{}, now.Add(-time.Minute), time.Second, 0},
		"ends before it begins":   {now.Add(time.Minute), now, time.Second, 0},
		"ten seconds are missing": {now, now.Add(30 * time.Second), 10 * time.Second, 10 * time.Second},
	} {
		l := newLease(now, test.started, test.until)
		if got := l.wait(now.Add(test.elapsed)); got != test.want {
			t.Errorf("%s: wait %v, want %v", name, got, test.want)
		}
	}
}

func TestRenewalsGoByTheQueuesClock(t *testing.T) {
	now := time.Now()
	theirs := now.Add(-3 * time.Hour)
	l := newLease(now, theirs, theirs.Add(20*time.Minute))
	for i := range 10 { // each after 12 minutes, and each for 20
		asked := now.Add(time.Duration(i+1) * 12 * time.Minute)
		l = l.renewed(asked, theirs.Add(time.Duration(i+1)*12*time.Minute+20*time.Minute))
		if got, want := l.wait(asked), 20*time.Minute*2/3; got != want {
			t.Errorf("after %d renewals: wait %v, want %v", i+1, got, want)
		}
	}
	// A renewal that the queue gave late, or a machine that slept, gains nothing.
	if late := l.renewed(l.at.Add(time.Minute), l.until.Add(10*time.Hour)); late.left != 20*time.Minute {
		t.Errorf("%v are left", late.left)
	}
	// One that the queue did not lengthen loses what has passed.
	if same := l.renewed(l.at.Add(5*time.Minute), l.until); same.left != 15*time.Minute {
		t.Errorf("%v are left", same.left)
	}
}

// TestASleepIsNoticed takes the monotonic clock for the one that stopped: a time
// without it is all wall clock.
func TestASleepIsNoticed(t *testing.T) {
	now := time.Now()
	l := newLease(now, now, now.Add(30*time.Minute))
	if got := l.wait(now.Round(0).Add(25 * time.Minute)); got != 0 {
		t.Errorf("wait %v after a sleep of 25 minutes", got)
	}
	if got := l.wait(now.Add(time.Minute).Round(0).Add(-time.Hour)); got > 20*time.Minute {
		t.Errorf("wait %v after the clock was set back", got)
	}
}
