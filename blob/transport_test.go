package blob

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestASilentConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		c := impatientConn{here, silenceLimit}
		start := time.Now()
		for range 10 { // what moves goes on for as long as it takes
			go func() {
				time.Sleep(silenceLimit - time.Second)
				there.Write([]byte("x"))
			}()
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatalf("a slow read failed: %v", err)
			}
		}
		if d := time.Since(start); d < 15*time.Minute {
			t.Errorf("the reads took %v", d)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read of nothing: %v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write that nobody reads: %v", err)
		}
	})
}

func TestARequestGivesAWaitingReadNewTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		c := impatientConn{here, silenceLimit}
		read := make(chan error, 1)
		go func() { // like the transport's, of a connection that is idle
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		time.Sleep(silenceLimit - time.Second)
		go io.ReadFull(there, make([]byte, 1))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(silenceLimit - time.Second)
		there.Write([]byte("y"))
		if err := <-read; err != nil {
			t.Errorf("the answer came in time for its request, but: %v", err)
		}
	})
}
