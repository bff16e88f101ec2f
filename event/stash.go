package event

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A stash has what this process has published until it has its place in the log,
// so that it need not be read back. Nothing relies on its having anything: who
// finds a batch in the database may do so before it is here.
type stash struct {
	mu      sync.Mutex
	open    time.Time // until when anything is put in
	batches map[int64]published
	size    int
}

// A published batch is as it stands in the database.
type published struct {
	text    string
	count   int
	created timestamp.Time
}

// A placed batch has the positions up to one.
type placed struct{ position, batch int64 }

const stashSize = tailSize

// hold keeps the stash open for a while. It is for who places: batches that
// another process places would only lie about.
func (s *stash) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = time.Now().Add(cursorTrust)
}

// put takes in a batch that is committed. Before that its id says nothing: SQLite
// gives the id of one that was undone to another one.
func (s *stash) put(id int64, p published) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().After(s.open) || s.size+len(p.text) > stashSize || len(s.batches) >= tailCount {
		clear(s.batches) // nobody places here, or not as fast: it will be read from the database
		s.size = 0
		return
	}
	s.batches[id] = p
	s.size += len(p.text)
}

// take returns the messages of batches that follow the position start, in order,
// or nothing if not all are there.
func (s *stash) take(start int64, list []placed) (entries []*entry) {
	slices.SortFunc(list, func(a, b placed) int { return cmp.Compare(a.position, b.position) })
	for i, p := range s.find(list) {
		if start += int64(p.count); start != list[i].position {
			return nil
		}
		var err error
		if entries, err = decode(entries, []byte(p.text), p.count, start, p.created); err != nil {
			return nil // who reads it will say so
		}
	}
	return entries
}

func (s *stash) find(list []placed) (found []published) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range list {
		p, ok := s.batches[x.batch]
		if !ok {
			return nil
		}
		found = append(found, p)
	}
	return found
}

// forget drops what has its place: batches up to the mark which are not missing.
func (s *stash) forget(mark int64, missing missingList) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, p := range s.batches {
		if id <= mark && !missing.has(id) {
			s.size -= len(p.text)
			delete(s.batches, id)
		}
	}
}
