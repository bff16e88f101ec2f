package provider

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStrangersAreNotServed(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := guarded{listener}.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "welcome\n")
			c.Close()
		}
	}()
	if got := call(t, listener.Addr().String(), nil); got != "welcome\n" {
		t.Errorf("we are told %q", got)
	}

	// A socket of nobody's, or of the wrong pair, is nobody we know.
	if err := mine(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, listener.Addr()); err == nil || !strings.Contains(err.Error(), "is not in") {
		t.Errorf("a socket that is not there is taken for ours: %v", err)
	}
	if os.Geteuid() != 0 {
		return // to be somebody else takes root
	}
	if got := call(t, listener.Addr().String(), &syscall.Credential{Uid: 65534, Gid: 65534}); got != "" {
		t.Errorf("somebody else is told %q", got)
	}
}

// call is what a process of another user, or of ours, is told at an address.
func call(t *testing.T, address string, as *syscall.Credential) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = []string{callVariable + "=" + address}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the caller failed: %v\n%s", err, out)
	}
	return string(out)
}

// callVariable has the address that the program of the tests is to call, instead of running them.
const callVariable = "TASKFLEET_TEST_CALL"

func TestMain(m *testing.M) {
	if address := os.Getenv(callVariable); address != "" {
		c, err := net.DialTimeout("tcp", address, time.Minute)
		if err != nil {
			log.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		told, _ := io.ReadAll(c) // a connection that is reset tells nothing
		fmt.Print(string(told))
		os.Exit(0)
	}
	os.Exit(m.Run())
}
