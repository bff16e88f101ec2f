package bench

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, test := range []struct {
		sorted []time.Duration
		p      int
		want   time.Duration
	}{
		{[]time.Duration{7}, 50, 7}, {[]time.Duration{7}, 99, 7}, {[]time.Duration{1, 2}, 50, 1}, {[]time.Duration{1, 2, 3}, 50, 2},
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {append(hundred, 101), 99, 100},
	} {
		if got := percentile(test.sorted, test.p); got != test.want {
			t.Errorf("percentile %d of %d values is %d, want %d", test.p, len(test.sorted), got, test.want)
		}
	}
}

func TestCPUTimeGrowsWithWork(t *testing.T) {
	if none, err := cpuTime(nil); none != 0 || err != nil {
		t.Errorf("of no process it is %v, %v", none, err)
	}
	if _, err := cpuTime([]int{1 << 30}); err == nil {
		t.Error("there is a CPU time of a process that is not there")
	}
	if runtime.GOOS != "linux" {
		return
	}
	first, err := cpuTime([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		now, err := cpuTime([]int{os.Getpid()})
		if err != nil {
			t.Fatal(err)
		}
		if now > first {
			return
		}
	}
	t.Errorf("it has been %v for a minute", first)
}
