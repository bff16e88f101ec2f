package event

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
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

// Who is woken by news reads once for each, and not for what it has all of.
func TestATailIsReadWhenThereAreNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logInMemory{most: 100}
		news := make(chan struct{}, 1)
		reads, broken := 0, false
		tail := newTail(func(ctx context.Context, after int64, limit int) ([]*entry, bool, error) {
			if reads++; broken {
				return nil, false, errors.New("broken")
			}
			return log.read(ctx, after, limit)
		}, log.span)
		tail.news = news
		step := func(what string, at int64, want, wantReads int) {
			t.Helper()
			reads = 0
			list, more, err := tail.heard(t.Context(), at, batch)
			if len(list) != want || reads != wantReads || (err != nil) != broken || more {
				t.Errorf("%s: %d messages in %d reads, more: %t, %v", what, len(list), reads, more, err)
			}
		}
		log.publish(3)
		step("at first", 0, 3, 1)
		step("another reader", 0, 3, 0)
		step("at the end", 3, 0, 0)
		log.publish(1)
		step("without news", 3, 0, 0)
		news <- struct{}{}
		step("with news", 3, 1, 1)
		step("when they are read", 4, 0, 0)
		time.Sleep(tailTrust)
		step("after a while", 4, 0, 1)
		log.publish(1)
		news <- struct{}{}
		broken = true
		step("a look that fails", 4, 0, 1)
		broken = false
		step("the next one", 4, 1, 1)
		log.publish(1)
		news <- struct{}{}
		if list, more, err := tail.heard(t.Context(), 4, batch); len(list) != 1 || !more || err != nil {
			t.Errorf("who gets what is in memory while there are news: %d messages, more: %t, %v", len(list), more, err)
		}
		step("and the rest", 5, 1, 1)

		// Placed here: the first reader waits for it, and nobody reads.
		f := feed{tail: tail}
		f.begin()
		if !f.begun {
			t.Fatal("it has not begun")
		}
		news <- struct{}{}
		got := make(chan int)
		go func() {
			list, _, err := tail.heard(t.Context(), 6, batch)
			if err != nil {
				t.Error(err)
			}
			got <- len(list)
		}()
		synctest.Wait()
		reads = 0
		log.publish(2)
		f.add(6, log.list[6:])
		f.end()
		if n := <-got; n != 2 || reads != 0 {
			t.Errorf("%d messages in %d reads", n, reads)
		}
		step("after the feed", 8, 0, 0)

		// Not what follows the tail.
		f.begin()
		log.publish(2)
		f.add(9, log.list[9:])
		f.end()
		news <- struct{}{}
		step("after a feed of something else", 8, 2, 1)

		// Others have placed something, too.
		f.begin()
		news <- struct{}{}
		tail.known(0, 1)
		news <- struct{}{}
		log.publish(2)
		f.add(10, log.list[10:11])
		f.end()
		if list, more, err := tail.heard(t.Context(), 10, batch); len(list) != 1 || !more || err != nil {
			t.Errorf("%d messages, more: %t, %v", len(list), more, err)
		}
		step("what others placed", 11, 1, 1)
	})
}
