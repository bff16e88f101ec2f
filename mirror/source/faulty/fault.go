package faulty

import (
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// A Fault is something that goes wrong with a request.
type Fault string

// Faults of what is sent. Those in the middle come after half of the bytes.
const (
	None       Fault = ""
	Truncate   Fault = "truncate"   // the connection is closed in the middle
	Reset      Fault = "reset"      // and with a reset, where it is TCP
	Stall      Fault = "stall"      // nothing comes any more, from the middle on
	Trickle    Fault = "trickle"    // bytes come one by one, from the middle on
	Mute       Fault = "mute"       // no answer comes at all
	WrongBytes Fault = "wrongBytes" // as many as there should be, but others
	// Changed is that the object is another from this request on.
	Changed Fault = "changed"
	// LongLength and ShortLength are a Content-Length of ten bytes more and
	// less than there are; where less is announced, less is sent.
	LongLength  Fault = "longLength"
	ShortLength Fault = "shortLength"
	WrongRange  Fault = "wrongRange" // a Content-Range that is one byte off
	Chunked     Fault = "chunked"    // no Content-Length
)

// Faults instead of the object.
const (
	InternalError      Fault = "internalError"      // 500
	Unavailable        Fault = "unavailable"        // 503
	TooMany            Fault = "tooMany"            // 429, to be tried again in two seconds
	Missing            Fault = "missing"            // 404, with a body
	Empty              Fault = "empty"              // 204
	RedirectLoop       Fault = "redirectLoop"       // 302, to itself
	RedirectToMetadata Fault = "redirectToMetadata" // 302, to the address that gives credentials of a machine
)

// Faults of what the origin can do, for Object.Always.
const (
	NoHead   Fault = "noHead"   // 405
	NoRanges Fault = "noRanges" // 200, whatever part was asked for
	NoType   Fault = "noType"   // no Content-Type
)

// A Plan chooses the fault of a GET: of which object, and how many there were
// of it before.
type Plan func(path string, request int) Fault

// Script is a Plan for the first requests; those after have no faults.
func Script(faults ...Fault) Plan {
	return func(_ string, request int) Fault {
		if request < len(faults) {
			return faults[request]
		}
		return None
	}
}

// Seeded is a Plan in which so many of a thousand requests have one of the
// faults, for every seed others.
func Seeded(seed uint64, perThousand int, faults ...Fault) Plan {
	return func(path string, request int) Fault {
		h := fnv.New64a()
		io.WriteString(h, path)
		dice := mix(mix(seed^h.Sum64()) + uint64(request))
		if int(dice%1000) >= perThousand {
			return None
		}
		return faults[dice/1000%uint64(len(faults))]
	}
}

func has(faults []Fault, f Fault) bool { return slices.Contains(faults, f) }

// refuse answers where a fault leaves nothing of the object.
func (o *Origin) refuse(w http.ResponseWriter, r *http.Request, faults []Fault) bool {
	for _, f := range faults {
		switch f {
		case InternalError:
			http.Error(w, "this is not the object", http.StatusInternalServerError)
		case Unavailable:
			http.Error(w, "this is not the object", http.StatusServiceUnavailable)
		case TooMany:
			w.Header().Set("Retry-After", "2")
			http.Error(w, "this is not the object", http.StatusTooManyRequests)
		case Missing:
			http.Error(w, "this is not the object", http.StatusNotFound)
		case Empty:
			w.WriteHeader(http.StatusNoContent)
		case RedirectLoop:
			http.Redirect(w, r, r.URL.RequestURI(), http.StatusFound)
		case RedirectToMetadata:
			http.Redirect(w, r, otherwise(o.Metadata, "http://169.254.169.254/latest/meta-data/"), http.StatusFound)
		case Mute:
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		case NoHead:
			if r.Method != http.MethodHead {
				continue
			}
			w.WriteHeader(http.StatusMethodNotAllowed)
		default:
			continue
		}
		return true
	}
	return false
}

// A saboteur has the faults of a body that is about to be sent.
type saboteur struct {
	http.ResponseWriter
	origin   *Origin
	object   *object
	request  *http.Request
	faults   []Fault
	encoding string
	half     int64 // of the body: where things go wrong
	limit    int64 // where it ends
	sent     int64
}

// WriteHeader sees what http.ServeContent has made of the request.
func (s *saboteur) WriteHeader(status int) {
	h := s.Header()
	length, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil {
		length = 0
	}
	s.half, s.limit = length/2, length
	if s.encoding != "" {
		h.Set("Content-Encoding", s.encoding) // with it, ServeContent would not say how long it is
	}
	for _, f := range s.faults {
		switch f {
		case LongLength:
			h.Set("Content-Length", strconv.FormatInt(length+10, 10))
		case ShortLength:
			s.limit = max(0, length-10)
			h.Set("Content-Length", strconv.FormatInt(s.limit, 10))
		case Chunked:
			h.Del("Content-Length")
			// Otherwise a small body is given one.
			defer http.NewResponseController(s.ResponseWriter).Flush()
		case NoRanges:
			h.Del("Accept-Ranges")
		case WrongRange:
			var first, last, size int64
			if n, _ := fmt.Sscanf(h.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); n == 3 {
				h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first+1, last+1, size+1))
			}
		}
	}
	s.ResponseWriter.WriteHeader(status)
}

// Write sends up to where something goes wrong.
func (s *saboteur) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := int64(len(p) - done)
		if s.sent < s.half {
			n = min(n, s.half-s.sent)
		} else if n = s.middle(n); n == 0 {
			return len(p), nil // more than was announced
		}
		m, err := s.ResponseWriter.Write(p[done : done+int(n)])
		s.count(int64(m))
		done += m
		if err != nil {
			return done, err
		}
	}
	return len(p), nil
}

func (s *saboteur) count(n int64) {
	s.sent += n
	s.origin.mu.Lock()
	s.object.Bytes += n
	s.origin.mu.Unlock()
}

// middle says how many of n bytes are to be sent next, if any are.
func (s *saboteur) middle(n int64) int64 {
	out := http.NewResponseController(s.ResponseWriter)
	for _, f := range s.faults {
		switch f {
		case Truncate:
			out.Flush()
			panic(http.ErrAbortHandler)
		case Reset:
			out.Flush()
			s.reset(out)
		case Stall:
			out.Flush()
			<-s.request.Context().Done()
			panic(http.ErrAbortHandler)
		case Trickle:
			out.Flush()
			select {
			case <-time.After(otherwise(s.origin.Every, time.Second)):
			case <-s.request.Context().Done():
				panic(http.ErrAbortHandler)
			}
			n = 1
		}
	}
	return min(n, s.limit-s.sent)
}

// reset has the system say that the connection is lost, not that it ends.
func (s *saboteur) reset(out *http.ResponseController) {
	if c, _, err := out.Hijack(); err == nil {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		c.Close()
	}
	panic(http.ErrAbortHandler) // HTTP/2 resets the stream for it
}
