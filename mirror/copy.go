package mirror

import (
	"encoding/json"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A State is where a copy is in its life.
type State string

// The states of a copy.
const (
	Waiting State = "waiting"
	Copying State = "copying"
	Present State = "present"
	Failed  State = "failed"
	Leaving State = "leaving"
)

// A Priority is how urgent a copy is. A higher one goes first.
type Priority int

// The priorities.
const (
	Bulk   Priority = 0 // somebody moves a whole set
	Ahead  Priority = 1 // it will be asked for
	Waited Priority = 2 // somebody waits for it
)

// A Copy is a row of mirror_copy.
type Copy struct {
	Region string
	ID     string // of the origin
	Origin Origin

	State    State
	Priority Priority
	Pinned   bool // stays though nobody reads it, until it expires
	Again    bool // of one that is leaving: it is wanted, and made anew once its bytes are gone

	Size   int64  // of the origin; -1: not known yet
	ETag   string // of the origin, which must not change while it is copied; "": not known
	SHA256 string // lower-case hex; "": not known
	Token  string // of the object in the bucket, or of the attempt: see key
	Stored string // the ETag of the object in the bucket, once present

	Upload *upload // of an attempt under way in parts
	Done   int64   // bytes of the attempt that are in the bucket

	Requested  timestamp.Time // since when it is wanted; of one that is present, when it became so
	Due        timestamp.Time // not to be tried before
	Attempts   int            // that failed in a row
	Error      string         // of the last of them
	Lease      string         // of the copier
	LeaseUntil timestamp.Time

	Expires  timestamp.Time
	Read     timestamp.Time // last asked for
	Verified timestamp.Time // last compared with what is in the bucket
}

// An upload is how far a multipart upload has come.
type upload struct {
	ID       string      `json:"id"`
	PartSize int64       `json:"partSize"`        // 0: it grows with their number
	Parts    []blob.Part `json:"parts"`           // that are there, from the first, without gaps
	Hash     []byte      `json:"hash,omitempty"`  // the state of SHA-256 after them, where bytes came by here
	Stuck    int         `json:"stuck,omitempty"` // attempts in a row in which the bucket did not take the next one
}

// key is where the bytes of the copy are, or of the attempt.
func (c *Copy) key() string { return keysOf(c.ID) + "." + c.Token }

// keysOf is what the keys of copies begin with whose id begins like that:
// "copies/<first two>/<id>". Where keys are files it matters that neither each
// copy has a directory of its own nor all are in one.
func keysOf(id string) string {
	if len(id) < 2 {
		return keyPrefix + id
	}
	return keyPrefix + id[:2] + "/" + id
}

// bytes is what the copy counts for in its region.
func (c *Copy) bytes() int64 { return max(c.Size, 0) }

// A kind is what copies are apart by that are made beside each other (desk): those
// that take long, and those of which nobody knows how long they take, keep none of
// the others waiting.
type kind int

const (
	small   kind = iota
	unknown      // its size
	large
	kinds
)

// largeSize is more than what small ones have.
const largeSize = 32 << 20

// laneOf is the kind of what has that size.
func laneOf(size int64) kind {
	switch {
	case size < 0:
		return unknown
	case size > largeSize:
		return large
	}
	return small
}

// settled tells that nothing becomes of the copy without somebody asking for it
// again: it is there, or waiting for it is in vain.
func (c *Copy) settled() bool {
	switch c.State {
	case Present, Failed:
		return true
	case Leaving:
		return !c.Again
	}
	return false
}

// restart makes the copy one that is to be made, from nothing. What is in the
// bucket under its key is not its any more. What was learned of the origin the
// last time is forgotten, as it may be another by now.
func (c *Copy) restart() {
	now := timestamp.Now()
	c.forget()
	c.State, c.Again, c.Requested, c.Due, c.Attempts, c.Error = Waiting, false, now, now, 0, ""
	c.Lease, c.LeaseUntil = "", 0
}

// forget gives up an attempt, and what is known of the origin.
func (c *Copy) forget() {
	c.Token, c.Stored, c.Upload, c.Done = "", "", nil, 0
	c.ETag, c.SHA256 = "", ""
	if c.Origin.URL != "" {
		c.Size = -1
	}
}

// leave has the copy not be served any more. Its bytes go, and then its row,
// unless it is wanted again by then (changes.left), with the SHA-256 that it has then. A copier that is at work on it
// finds out when it wants to finish.
func (c *Copy) leave() {
	c.State, c.Again, c.Pinned, c.SHA256 = Leaving, false, false, ""
	c.Lease, c.LeaseUntil, c.Due = "", 0, 0
}

const copyColumns = `region, id, origin, state, priority, pinned, again, size, etag, sha256, token, stored, upload, done,
	requested, due, attempts, error, lease, lease_until, expires, read, verified`

func scanCopy(row store.Scanner) (*Copy, error) {
	var c Copy
	var origin, up string
	err := row.Scan(&c.Region, &c.ID, &origin, &c.State, &c.Priority, &c.Pinned, &c.Again, &c.Size, &c.ETag, &c.SHA256, &c.Token, &c.Stored, &up, &c.Done,
		&c.Requested, &c.Due, &c.Attempts, &c.Error, &c.Lease, &c.LeaseUntil, &c.Expires, &c.Read, &c.Verified)
	if err == nil {
		c.Origin, err = ParseOrigin(origin)
	}
	if err == nil && up != "" {
		err = json.Unmarshal([]byte(up), &c.Upload)
	}
	return &c, err
}
