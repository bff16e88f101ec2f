//go:build unix

package deploy

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain is also the process that is killed.
func TestMain(m *testing.M) {
	dir, at := os.Getenv("TASKFLEET_TEST_DEPLOY_DIR"), os.Getenv("TASKFLEET_TEST_DEPLOY_AT")
	if dir == "" {
		os.Exit(m.Run())
	}
	w := &world{dir: dir, fail: map[string]error{}, bad: os.Getenv("TASKFLEET_TEST_DEPLOY_BAD"), at: at}
	w.stop = func() {
		fmt.Println("here")
		time.Sleep(time.Hour) // to be killed
	}
	fmt.Println("ended:", w.deploy().Run(context.Background(), New))
	os.Exit(1)
}

// TestDeployIsResumedAfterItWasKilled kills a process that deploys, at each step, and goes on in this one.
func TestDeployIsResumedAfterItWasKilled(t *testing.T) {
	for _, c := range []struct {
		at, bad string
		resumed string // what is done afterwards
		image   string // in the end
	}{
		{at: "plan", resumed: everything},
		{at: "apply", resumed: "plan, manifest, preview platform, agree, up v2, preview access+pools, agree, up access+pools, smoke"},
		{at: "manifest", resumed: "manifest, preview platform, agree, up v2, preview access+pools, agree, up access+pools, smoke"},
		{at: "preview platform", resumed: "preview platform, agree, up v2, preview access+pools, agree, up access+pools, smoke"},
		{at: "up v2", resumed: "preview platform, agree, up v2, preview access+pools, agree, up access+pools, smoke"},
		{at: "up access+pools", resumed: "preview access+pools, smoke"},
		{at: "smoke", resumed: "smoke"},
		{at: "up v1", bad: "v2", resumed: "preview platform+access+pools, agree, up v1, smoke", image: "v1"},
	} {
		t.Run(c.at, func(t *testing.T) {
			t.Parallel()
			w := withRelease(t)
			p := exec.CommandContext(t.Context(), os.Args[0])
			p.Env = append(os.Environ(), "TASKFLEET_TEST_DEPLOY_DIR="+w.dir, "TASKFLEET_TEST_DEPLOY_AT="+c.at, "TASKFLEET_TEST_DEPLOY_BAD="+c.bad)
			out, err := p.StdoutPipe()
			if err == nil {
				err = p.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			said, _ := bufio.NewReader(out).ReadString('\n')
			if said != "here\n" {
				t.Fatalf("the process said %q", said)
			}
			if err := w.deploy().Run(t.Context(), Resume); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("already, by process %d", p.Process.Pid)) {
				t.Errorf("beside one that is at work, a deploy was answered with %v", err)
			}
			if err := p.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := p.Wait(); err == nil {
				t.Fatal("the process was not killed")
			}
			w.calls()

			w.bad = c.bad
			err = w.deploy().Run(t.Context(), Resume)
			if c.image == "v1" {
				o := outcome(t, err, RolledBack)
				if o.Before != "v1" || !strings.Contains(o.Error(), "no such file") {
					t.Errorf("it told %v", o)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if got := w.calls(); got != c.resumed {
				t.Errorf("it did %s,\nwant %s", got, c.resumed)
			}
			want := "v2"
			if c.image != "" {
				want = c.image
			}
			if w.read("image") != want || w.read("half") != "" {
				t.Errorf("the image is %s", w.read("image"))
			}
		})
	}
}
