package replicas

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const jump = 10 * time.Minute

// clockFaults have the clock of one replica jump, and back.
var clockFaults = []fault{
	{name: "a clock jumps forwards", clock: true, do: func(ctx context.Context, p *platform) error { return p.jumping(ctx, jump) }},
	{name: "a clock jumps back", clock: true, do: func(ctx context.Context, p *platform) error { return p.jumping(ctx, -jump) }},
}

// jumping is one at a time: where the clocks of two replicas are ten minutes off in opposite directions, a claim that one
// of them has just made has expired for the other.
func (p *platform) jumping(ctx context.Context, d time.Duration) error {
	p.turning.Lock()
	defer p.turning.Unlock()
	r := p.any()
	r.mu.Lock() // it is not restarted meanwhile
	defer r.mu.Unlock()
	c, err := r.clock()
	if err != nil {
		return err
	}
	if err := c.set(d); err != nil {
		return err
	}
	sleep(ctx, 2*time.Second)
	return c.set(0)
}

// clock is that of the process that the replica is now.
func (r *replica) clock() (*clock, error) {
	if c := r.taken; c != nil && c.pid == r.PID() {
		return c, nil
	}
	c, err := clockOf(r.PID())
	r.taken = c
	return c, err
}

// A clock is the wall clock of one process of ours, which we can set wrong while it runs. That of the machine stays right,
// and so does the time that the process measures durations by, as where an administrator or a virtual machine that was
// suspended has the clock jump.
//
// A process asks for the time in the vDSO, code that the kernel puts into its memory. There we put code of our own, which
// asks the kernel and adds an offset. It is written through /proc/PID/mem, as a debugger would, into this process alone.
type clock struct {
	pid    int
	offset int64 // the address of the offset, in seconds
}

// askAndAdd is clock_gettime(which, *timespec), with the offset at its end.
var askAndAdd = []byte{
	0xb8, 228, 0, 0, 0, //       mov  eax, SYS_clock_gettime
	0x0f, 0x05, //               syscall
	0x85, 0xff, //               test edi, edi       ; CLOCK_REALTIME is 0
	0x75, 10, //                 jne  done
	0x48, 0x8b, 0x0d, 14, 0, 0, 0, // mov rcx, [offset]
	0x48, 0x01, 0x0e, //         add  [rsi], rcx     ; the seconds
	0xc3, //               done: ret
	0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
	0, 0, 0, 0, 0, 0, 0, 0, // offset
}

const offsetAt = 32

// clockOf takes over the clock of a process, which goes on to be right.
func clockOf(pid int) (_ *clock, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("taking over the clock of process %d, which takes what a debugger may: %w", pid, err)
		}
	}()
	memory, err := memoryOf(pid)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	start, image, err := vdso(pid, memory)
	if err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return nil, err
	}
	entry := int64(0)
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" {
			entry = start + int64(s.Value)
		}
	}
	used := (len(bytes.TrimRight(image, "\x00")) + 63) &^ 15
	if entry == 0 || used+len(askAndAdd) > len(image) {
		return nil, fmt.Errorf("the vDSO is not as expected: clock_gettime is at %#x, and %d of %d bytes are used", entry, used, len(image))
	}
	code := start + int64(used)
	jump := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(int32(code-(entry+5))))

	// No thread may be in the middle of what is replaced.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return nil, err
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	if err := stopped(pid); err != nil {
		return nil, err
	}
	if _, err := memory.WriteAt(askAndAdd, code); err != nil {
		return nil, err
	}
	if _, err := memory.WriteAt(jump, entry); err != nil {
		return nil, err
	}
	return &clock{pid, code + offsetAt}, nil
}

// stopped waits until all threads of a process that was told to stop have done so.
func stopped(pid int) error {
	for running := true; running; time.Sleep(time.Millisecond) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("it has no threads: %v", err)
		}
		running = false
		for _, thread := range threads {
			if text, err := os.ReadFile(thread); err == nil { // else it has ended
				_, state, _ := strings.Cut(string(text), ") ")
				running = running || !strings.HasPrefix(state, "T")
			}
		}
	}
	return nil
}

// set has the process's clock be wrong by d from now on.
func (c *clock) set(d time.Duration) error {
	memory, err := memoryOf(c.pid)
	if err != nil {
		return err
	}
	defer memory.Close()
	_, err = memory.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(int64(d/time.Second))), c.offset)
	return err
}

func memoryOf(pid int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
}

// vdso returns where it is and what is there.
func vdso(pid int, memory *os.File) (start int64, image []byte, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, nil, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		var end int64
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
			return 0, nil, err
		}
		image = make([]byte, end-start)
		_, err := memory.ReadAt(image, start)
		return start, image, err
	}
	return 0, nil, fmt.Errorf("it has no vDSO")
}
