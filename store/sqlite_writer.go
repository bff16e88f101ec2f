package store

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// sqliteWriter is the one connection that writes. Transactions take turns on
// it, first come first served, and share commits: what makes a commit slow is
// waiting for the disk, and the disk takes as long for many as for one.
//
// A transaction that ends its turn while others wait does not commit; it hands
// the connection on, with the SQLite transaction open, and waits. Those that
// follow run in a savepoint each, so that one that fails undoes only its own.
// The last one, behind which nobody waits, commits for all. With nobody waiting
// a batch is one transaction, at no extra cost.
//
// None of a batch is told that it committed before the batch has, and neither is
// one that fails told so: what it fails of may be what another of the batch has
// written. If SQLite gives up the whole transaction, as it does when the disk is
// full or a statement is interrupted, those that wait for it are run again.
type sqliteWriter struct {
	connect func(context.Context) (*session, error)

	mu    sync.Mutex
	taken bool      // somebody has the turn
	queue list.List // of *place: those that wait for it

	// These belong to whoever has the turn.
	session *session // nil if there is no connection yet
	batch   *batch   // whom the open transaction holds, nil if it holds nobody
}

// A batch is transactions that wait for a common commit.
type batch struct {
	began time.Time
	size  int
	done  chan struct{} // closed when err says what came of it
	err   error
}

// A place is one in the line for the turn.
type place struct {
	turn  chan struct{} // closed when the turn comes
	taken bool          // out of the line: the turn comes, or is there
}

// A batch that has cost more than a commit does has gained what there is to
// gain; its first transaction should not wait for more.
const (
	maxBatch    = 64
	maxBatchAge = 10 * time.Millisecond
)

var errBatchUndone = errors.New("undone together with another transaction that was to share its commit")

func (w *sqliteWriter) begin(ctx context.Context) (*session, error) {
	if err := w.wait(ctx); err != nil {
		return nil, err
	}
	if w.session == nil {
		s, err := w.connect(ctx)
		if err != nil {
			w.leave()
			return nil, err
		}
		w.session = s
	}
	var err error
	if w.batch == nil {
		_, err = w.session.exec(ctx, "BEGIN IMMEDIATE", nil) // taking the write lock later could fail
	} else {
		err = w.exec("SAVEPOINT turn")
	}
	if err != nil {
		w.abandon(errBatchUndone)
		return nil, err
	}
	return w.session, nil
}

func (w *sqliteWriter) commit() error {
	if w.batch != nil {
		if err := w.exec("RELEASE turn"); err != nil {
			w.abandon(errBatchUndone)
			return err
		}
	} else {
		w.batch = &batch{began: time.Now(), done: make(chan struct{})}
	}
	b := w.batch
	b.size++
	w.end()
	<-b.done
	return b.err
}

func (w *sqliteWriter) rollback() error {
	b := w.batch
	switch {
	case b == nil:
		w.abandon(nil)
		return nil
	case w.exec("ROLLBACK TO turn") != nil || w.exec("RELEASE turn") != nil:
		w.abandon(errBatchUndone)
		return nil // by what the transaction itself has failed of
	}
	w.end()
	<-b.done
	return b.err
}

// end ends a turn after which the transaction, if it holds a batch, is as it
// should be committed: by the next in line, or by us if there is none.
func (w *sqliteWriter) end() {
	if w.batch != nil {
		if w.batch.size < maxBatch && time.Since(w.batch.began) < maxBatchAge && w.handOn() {
			return
		}
		if err := w.exec("COMMIT"); err != nil {
			w.abandon(err)
			return
		}
		w.settle(nil)
	}
	w.leave()
}

// abandon undoes the whole transaction and ends the turn. Who waits for its
// commit gets err.
func (w *sqliteWriter) abandon(err error) {
	w.session = w.session.closeIf(!rollBack(w.session))
	w.settle(err)
	w.leave()
}

func (w *sqliteWriter) settle(err error) {
	if w.batch != nil {
		w.batch.err = err
		close(w.batch.done)
		w.batch = nil
	}
}

// exec runs a statement that nothing interrupts.
func (w *sqliteWriter) exec(statement string) error {
	_, err := w.session.exec(context.Background(), statement, nil)
	return err
}

// wait waits for the turn.
func (w *sqliteWriter) wait(ctx context.Context) error {
	w.mu.Lock()
	if !w.taken {
		w.taken = true
		w.mu.Unlock()
		return nil
	}
	p := &place{turn: make(chan struct{})}
	element := w.queue.PushBack(p)
	w.mu.Unlock()
	select {
	case <-p.turn:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	taken := p.taken
	if !taken {
		w.queue.Remove(element)
	}
	w.mu.Unlock()
	if taken { // somebody may rely on us to commit
		<-p.turn
		w.end()
	}
	return context.Cause(ctx)
}

// leave ends a turn with no transaction open.
func (w *sqliteWriter) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken = w.handOnLocked()
}

// handOn gives the turn to the next in line, if there is one, together with
// the transaction that is open.
func (w *sqliteWriter) handOn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.handOnLocked()
}

func (w *sqliteWriter) handOnLocked() bool {
	front := w.queue.Front()
	if front == nil {
		return false
	}
	p := w.queue.Remove(front).(*place)
	p.taken = true
	close(p.turn)
	return true
}

// close closes the connection. Nobody uses it any more.
func (w *sqliteWriter) close() error {
	if w.session == nil {
		return nil
	}
	return w.session.close()
}
