package provisioner

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// Retire gives the workers nothing more.
func (s *stage) Retire(_ *store.Tx, list []fleet.Ref) (idle []fleet.Ref, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range list {
		s.draining[r] = true
		if s.claimed[r] == 0 {
			idle = append(idle, r)
		}
	}
	return idle, s.deaf
}

// Admit gives a worker something again.
func (s *stage) Admit(_ *store.Tx, r fleet.Ref) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.draining, r)
	return s.deaf
}

// Record is what the queue remembers of a worker.
func (s *stage) Record(_ context.Context, r fleet.Ref) (*Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[r].IsZero() {
		return nil, s.deaf
	}
	return s.record(r), s.deaf
}

// record is that of a worker that has claimed twice; s.mu is held.
func (s *stage) record(r fleet.Ref) *Record {
	x := &Record{
		Ref: r, FirstClaim: s.active[r], Active: s.active[r], Expires: now(),
		Recent: []RecentTask{{slugid.New(), 0}, {"fN1SbArXTPSVFNUvaOlinQ", 1}},
	}
	if s.quarantined[r] {
		x.QuarantineUntil = now()
		x.Quarantines = []Quarantine{{now(), "tester", now(), "to look at it"}}
	}
	return x
}

// Records are those of workers of a pool.
func (s *stage) Records(_ context.Context, poolID string, quarantined *bool, after *fleet.Ref, limit int) (list []*Record, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.SortedFunc(maps.Keys(s.active), func(a, b fleet.Ref) int { return cmp.Compare(a.String(), b.String()) }) {
		if r.WorkerPoolID == poolID && (quarantined == nil || *quarantined == s.quarantined[r]) && (after == nil || r.String() > after.String()) && len(list) < limit {
			list = append(list, s.record(r))
		}
	}
	return list, s.deaf
}
