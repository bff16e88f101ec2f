package event

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

// logInMemory is a log for a tail: read waits at the gate, if there is one.
type logInMemory struct {
	list []*entry
	most int // messages at once
	gate chan struct{}
}

func (l *logInMemory) publish(n int) {
	for range n {
		l.list = append(l.list, &entry{Message: Message{Position: int64(len(l.list)) + 1}})
	}
}

func (l *logInMemory) read(ctx context.Context, after int64, limit int) ([]*entry, bool, error) {
	list := l.list[after:]
	if l.gate != nil {
		select {
		case <-l.gate:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
	n := min(len(list), limit, l.most)
	return slices.Clone(list[:n]), n < len(list), nil
}

func (l *logInMemory) span(context.Context) (oldest, head int64, err error) {
	return 1, int64(len(l.list)), nil
}

// One reads for all who wait. If that one leaves before it has read anything,
// the others must not believe that there is nothing.
func TestAReaderThatLeavesHasReadForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logInMemory{most: 100}
		tail := newTail(log.read, log.span)
		if _, _, err := tail.after(t.Context(), 0, batch); err != nil {
			t.Fatal(err)
		}
		log.gate = make(chan struct{})
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, _, err := tail.after(ctx, 0, batch)
			left <- err
		}()
		synctest.Wait()
		log.publish(1)
		got := make(chan int, 3)
		for range cap(got) {
			go func() {
				list, _, err := tail.after(t.Context(), 0, batch)
				if err != nil {
					t.Error(err)
				}
				got <- len(list)
			}()
		}
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		close(log.gate)
		for range cap(got) {
			if n := <-got; n != 1 {
				t.Errorf("a reader that came after a message was committed found %d", n)
			}
		}
	})
}

// What is read at once is bounded in bytes: who got fewer messages than it asked
// for, of those that are older than the tail, has not got all of them.
func TestAReaderFarBehindIsToldThatThereIsMore(t *testing.T) {
	log := &logInMemory{most: 3}
	log.publish(tailCount)
	tail := newTail(log.read, log.span)
	for at := int64(0); at < tailCount; {
		list, more, err := tail.after(t.Context(), at, batch)
		if err != nil || len(list) == 0 {
			t.Fatalf("after %d: %d messages, %v", at, len(list), err)
		}
		if at += int64(len(list)); at < tailCount && !more {
			t.Fatalf("at %d of %d there is no more", at, tailCount)
		}
	}
}
