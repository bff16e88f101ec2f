// Package faulty is an HTTP origin that misbehaves, for tests of whatever
// fetches from one.
//
// Its objects are made up from a seed, so they may have any size and take no
// memory, and everybody can tell what they ought to be ([Origin.Content],
// [Origin.SHA256]). Which request has which fault is decided by a [Plan]: by a
// list ([Script]) or by a seed ([Seeded]), and not by time or by the order in
// which goroutines run. All requests are counted.
//
//	o := faulty.New(1)
//	o.Put("/pub/a", faulty.Object{Size: 1 << 30, Plan: faulty.Script(faulty.Truncate, faulty.None)})
//	server := httptest.NewServer(o)
//
// In a bubble of testing/synctest, where no network can be, [Listen] has one
// of pipes.
package faulty

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"sync"
	"time"
)

// An Origin is an http.Handler. It is safe for concurrent use.
type Origin struct {
	// Plan is for objects without one of their own; nil means no faults.
	Plan Plan
	// Every is how long a [Trickle] waits before each byte; 0 means a second.
	Every time.Duration
	// Metadata is where [RedirectToMetadata] leads; "" means
	// http://169.254.169.254/latest/meta-data/.
	Metadata string

	seed    uint64
	mu      sync.Mutex
	objects map[string]*object
}

// An Object is what there is to know of one before it is asked for.
type Object struct {
	Size int64
	// ContentType is text/plain where it is empty; see also [NoType].
	ContentType, ContentEncoding, ContentDisposition string
	// WeakETag and NoETag take away the strong one.
	WeakETag, NoETag bool
	// Redirect is where the object is instead.
	Redirect string
	// Always are faults that all requests have, such as NoHead.
	Always []Fault
	// Plan adds faults to single requests, and replaces that of the Origin.
	Plan Plan
}

// Count is what was asked for, and how many bytes of bodies were sent. Gets
// are of any range.
type Count struct {
	Heads, Gets int
	Bytes       int64
}

type object struct {
	Object
	path    string
	version int // a change makes it another object
	asked   int // requests that had a fault chosen
	Count
}

// New is an origin without objects.
func New(seed uint64) *Origin { return &Origin{seed: seed, objects: map[string]*object{}} }

// Put adds an object under a path, which is given decoded. What was there
// before is changed.
func (o *Origin) Put(path string, x Object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	version := 0
	if old := o.objects[path]; old != nil {
		version = old.version + 1
	}
	o.objects[path] = &object{Object: x, path: path, version: version}
}

// Change replaces the object's bytes by others, of the same number.
func (o *Origin) Change(path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.objects[path].version++
}

// Count is what was asked for of the object.
func (o *Origin) Count(path string) Count {
	o.mu.Lock()
	defer o.mu.Unlock()
	if x := o.objects[path]; x != nil {
		return x.Count
	}
	return Count{}
}

// Content is what the object is at present.
func (o *Origin) Content(path string) *io.SectionReader {
	o.mu.Lock()
	defer o.mu.Unlock()
	x := o.objects[path]
	return io.NewSectionReader(noise(o.key(x)), 0, x.Size)
}

// SHA256 is the hash of Content, in hexadecimal.
func (o *Origin) SHA256(path string) string {
	h := sha256.New()
	if _, err := io.Copy(h, o.Content(path)); err != nil {
		panic(err) // noise has no errors
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ETag is the object's at present, without quotes.
func (o *Origin) ETag(path string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprintf("%016x", o.key(o.objects[path]))
}

// key identifies a version of an object.
func (o *Origin) key(x *object) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %d %d %s", o.seed, x.version, x.Size, x.path)
	return mix(h.Sum64())
}

// noise is bytes without end that a number makes up.
type noise uint64

// ReadAt is the eight bytes of each word, lowest first.
func (n noise) ReadAt(p []byte, at int64) (int, error) {
	for i := 0; i < len(p); {
		word := mix(uint64(n) + uint64(at>>3))
		if at&7 == 0 && len(p)-i >= 8 {
			binary.LittleEndian.PutUint64(p[i:], word)
			i, at = i+8, at+8
			continue
		}
		for b := at & 7; b < 8 && i < len(p); b++ {
			p[i] = byte(word >> (8 * b))
			i++
			at++
		}
	}
	return len(p), nil
}

// mix is the finaliser of splitmix64: every bit of x changes half the bits.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// modified is when all objects were, more or less.
var modified = time.Date(2016, 4, 4, 12, 0, 0, 0, time.UTC)

// ServeHTTP answers GET and HEAD, with ranges and conditions, but for the
// faults.
func (o *Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	x := o.objects[r.URL.Path]
	if x == nil {
		o.mu.Unlock()
		http.NotFound(w, r)
		return
	}
	faults := o.choose(x, r)
	if has(faults, Changed) {
		x.version++
	}
	key, version, o1 := o.key(x), x.version, x.Object
	o.mu.Unlock()

	if o1.Redirect != "" {
		http.Redirect(w, r, o1.Redirect, http.StatusFound)
		return
	}
	if o.refuse(w, r, faults) {
		return
	}
	h := w.Header()
	h["Content-Type"] = nil // so that nobody guesses
	if !has(faults, NoType) {
		h.Set("Content-Type", otherwise(o1.ContentType, "text/plain"))
	}
	if o1.ContentDisposition != "" {
		h.Set("Content-Disposition", o1.ContentDisposition)
	}
	switch {
	case o1.NoETag:
	case o1.WeakETag:
		h.Set("ETag", fmt.Sprintf(`W/"%016x"`, key))
	default:
		h.Set("ETag", fmt.Sprintf(`"%016x"`, key))
	}
	if has(faults, NoRanges) {
		r.Header.Del("Range")
	}
	if has(faults, WrongBytes) {
		key ^= 1
	}
	content := io.NewSectionReader(noise(key), 0, o1.Size)
	at := modified.Add(time.Duration(version) * time.Hour)
	http.ServeContent(&saboteur{ResponseWriter: w, origin: o, object: x, request: r, faults: faults, encoding: o1.ContentEncoding}, r, "", at, content)
}

// choose counts the request, and finds its faults.
func (o *Origin) choose(x *object, r *http.Request) []Fault {
	if r.Method == http.MethodHead {
		x.Heads++
		return x.Always
	}
	x.Gets++
	plan := x.Plan
	if plan == nil {
		plan = o.Plan
	}
	if plan == nil {
		return x.Always
	}
	x.asked++
	return append(x.Always[:len(x.Always):len(x.Always)], plan(x.path, x.asked-1))
}

func otherwise[T comparable](value, otherwise T) T {
	if zero := *new(T); value == zero {
		return otherwise
	}
	return value
}
