package auth

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/hawk"
)

// nonces remembers which requests were made, so that none can be made twice.
//
// A request is known by the first 8 bytes of its MAC, under the minute of its
// timestamp. Minutes that no fresh timestamp can lie in are forgotten. If more
// requests come in than there is room for, the oldest minute is forgotten
// early, and from then on timestamps as old as that are refused: memory is
// bounded, and a replay never passes. What it costs is tolerance for slow
// clocks, at a load where capacity requests come within MaxSkew.
//
// Requests dated ahead may take half of the room only. Otherwise a client that
// floods the server with them would leave no room for the present.
//
// Only genuine requests are put here, so nobody can fill it without
// credentials. It is the memory of one process: another replica, or the same
// one after a restart, does not know what was made before. Closing that gap
// would take a write per request, or shutting out all clients with a slow
// clock for MaxSkew after each restart; what it would prevent is that somebody
// who sees the contents of TLS connections repeats one request, once, within
// 15 minutes, if the server restarts in between.
type nonces struct {
	mu       sync.Mutex
	capacity int
	size     int
	minutes  map[int64]map[uint64]struct{}
	oldest   int64 // the oldest minute that may still be in minutes
	floor    int64 // minutes before this one are refused
	ahead    int   // entries that were dated ahead of the clock in aheadOf
	aheadOf  int64
}

// nonceCapacity is enough for 2,300 requests a second over the whole window. A
// request takes some 34 bytes, so 70 MiB when it is full.
const nonceCapacity = 1 << 21

func newNonces(capacity int) *nonces {
	return &nonces{capacity: capacity, minutes: map[int64]map[uint64]struct{}{}}
}

var (
	errReplayed = errors.New("this very request was made before. Sign every request anew, with a nonce of its own; do not repeat one as it was")
	errFlooded  = errors.New("the server has seen too many requests to tell a new one with this timestamp from a repeated one. Set the clock right, or try again later")
)

// use records a request whose timestamp is fresh at now, or tells why it must
// not be accepted.
func (n *nonces) use(mac hawk.MAC, timestamp int64, now time.Time) error {
	minute, present := timestamp/60, now.Unix()/60
	key := binary.BigEndian.Uint64(mac[:8])
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forget((now.Unix() - int64(hawk.MaxSkew/time.Second)) / 60)
	if minute < n.floor {
		return errFlooded
	}
	set := n.minutes[minute]
	if _, known := set[key]; known {
		return errReplayed
	}
	if n.aheadOf != present { // what was ahead then is partly present now
		n.aheadOf, n.ahead = present, 0
		for m, s := range n.minutes {
			if m > present {
				n.ahead += len(s)
			}
		}
	}
	if minute > present && n.ahead >= n.capacity/2 {
		return errFlooded
	}
	for n.size >= n.capacity {
		if n.oldest >= present || n.oldest >= minute {
			return errFlooded
		}
		n.floor = n.oldest + 1
		n.forget(n.floor)
	}
	if set == nil {
		set = map[uint64]struct{}{}
		n.minutes[minute] = set
		if len(n.minutes) == 1 || minute < n.oldest {
			n.oldest = minute
		}
	}
	set[key] = struct{}{}
	n.size++
	if minute > present {
		n.ahead++
	}
	return nil
}

// forget drops the minutes before one.
func (n *nonces) forget(before int64) {
	if n.size == 0 {
		return
	}
	for ; n.oldest < before; n.oldest++ {
		n.size -= len(n.minutes[n.oldest])
		delete(n.minutes, n.oldest)
		if n.size == 0 {
			return
		}
	}
}
