package sizing

import (
	"encoding/json"
	"math"
	"math/bits"
	"strconv"
	"time"
)

// A histogram counts durations in buckets that are an eighth of an octave
// wide, from a second to some days. What was counted fades as more comes, so
// that it follows what changes.
type histogram struct {
	Count weights `json:"count,omitempty"`

	added int                  // since it was made
	clean bool                 // what follows is of Count
	total float64              // of Count
	above [buckets + 1]float64 // how much is at or above a bucket's lower edge
}

const (
	buckets = 128
	unit    = 1.024 // seconds: a bucket is found with shifts
)

// edges are the lower edges of buckets, in seconds; the last one has none above.
var edges = func() (e [buckets + 1]float64) {
	for i := range e {
		if e[i] = float64(i); i >= 8 {
			e[i] = float64(i%8+8) * float64(uint64(1)<<(i/8-1))
		}
		e[i] *= unit
	}
	return e
}()

// bucketOf is the bucket of a duration in milliseconds.
func bucketOf(ms int64) int {
	u := uint64(max(ms, 0)) >> 10
	if u < 8 {
		return int(u)
	}
	shift := bits.Len64(u) - 4
	return min(8*shift+int(u>>shift), buckets-1)
}

// add counts a duration. Beyond the limit all that was counted is worth half
// from then on.
func (h *histogram) add(d time.Duration, limit float64) {
	if h.Count == nil {
		h.Count = make(weights, buckets)
	}
	h.Count[bucketOf(d.Milliseconds())]++
	h.added++
	h.clean = false
	sum := float32(0)
	for _, n := range h.Count {
		sum += n
	}
	if float64(sum) > limit {
		for i := range h.Count {
			h.Count[i] /= 2
		}
	}
}

// tidy makes what atLeast reads.
func (h *histogram) tidy() {
	if h.clean {
		return
	}
	h.clean = true
	h.above = [buckets + 1]float64{}
	for i := buckets - 1; i >= 0; i-- {
		h.above[i] = h.above[i+1]
		if i < len(h.Count) {
			h.above[i] += float64(max(h.Count[i], 0))
		}
	}
	h.total = h.above[0]
}

// atLeast is how many of what was counted lasted for at least that many
// seconds; within a bucket they are taken to be spread evenly.
func (h *histogram) atLeast(sec float64) float64 {
	b := bucketOf(int64(sec * 1000))
	part := min(max((sec-edges[b])/(edges[b+1]-edges[b]), 0), 1)
	return h.above[b]*(1-part) + h.above[b+1]*part
}

// weights are counts that fade. Their JSON is rounded, and without the zeroes
// at the end.
type weights []float32

// MarshalJSON writes four digits of each.
func (w weights) MarshalJSON() ([]byte, error) {
	n := len(w)
	for n > 0 && w[n-1] == 0 {
		n--
	}
	out := []byte{'['}
	for i, x := range w[:n] {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendFloat(out, float64(x), 'g', 4, 32)
	}
	return append(out, ']'), nil
}

// UnmarshalJSON reads what is a count; anything else is none.
func (w *weights) UnmarshalJSON(text []byte) error {
	var list []float32
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*w = make(weights, max(len(list), buckets))
	for i, x := range list {
		if x > 0 && !math.IsInf(float64(x), 0) {
			(*w)[i] = x
		}
	}
	return nil
}

// normal is the probability that a normally distributed number is below x
// standard deviations above its mean, to three decimals.
func normal(x float64) float64 {
	const steps = 32 // of each standard deviation
	f := (x + 4) * steps
	switch {
	case !(f > 0): // or not a number
		return 0
	case f >= 8*steps:
		return 1
	}
	i := int(f)
	return normals[i] + (normals[i+1]-normals[i])*(f-float64(i))
}

var normals = func() (t [8*32 + 2]float64) {
	for i := range t {
		t[i] = math.Erfc(-(float64(i)/32-4)/math.Sqrt2) / 2
	}
	return t
}()
