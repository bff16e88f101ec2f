package awsfake

import (
	"reflect"
	"strings"
	"time"
)

// DocumentedLimits are the request limits of an action as AWS documents them
// ("Request throttling for the Amazon EC2 API"): each action has its bucket, by
// category. plain says that the call lists without filter, identifier and page
// size, which has a smaller bucket. CreateFleet shares the buckets of RunInstances.
func DocumentedLimits(action string, plain bool) Bucket {
	switch action {
	case "RunInstances", "CreateFleet", "StartInstances":
		return Bucket{5, 2}
	case "TerminateInstances":
		return Bucket{100, 5}
	case "CreateTags":
		return Bucket{100, 10}
	}
	if strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "Get") {
		if plain {
			return Bucket{50, 10}
		}
		return Bucket{100, 20}
	}
	return Bucket{50, 5}
}

// documentedResources are the resource limits: how many instances one may start
// and terminate, in however few calls.
var documentedResources = map[string]Bucket{
	"RunInstances":       {1000, 2},
	"TerminateInstances": {1000, 20},
}

// bucket is the state of a token bucket.
type bucket struct {
	Bucket
	tokens float64
	at     time.Time
}

// take draws up to want tokens and says how many it got.
func (b *bucket) take(now time.Time, want float64) float64 {
	b.tokens = min(b.Capacity, b.tokens+now.Sub(b.at).Seconds()*b.Refill)
	b.at = now
	// A token that is a rounding error short of whole is whole.
	got := min(want, float64(int(b.tokens+1e-6)))
	b.tokens -= got
	return got
}

// give returns tokens that were not used.
func (b *bucket) give(tokens float64) { b.tokens = min(b.Capacity, b.tokens+tokens) }

// bucketOf finds the bucket of a key; nil when it has no limit.
func (r *region) bucketOf(key string, limit Bucket) *bucket {
	if limit.Capacity <= 0 {
		return nil
	}
	b := r.buckets[key]
	if b == nil {
		b = &bucket{Bucket: limit, tokens: limit.Capacity, at: r.cloud.now}
		r.buckets[key] = b
	}
	return b
}

func sharedAction(action string) string {
	if action == "CreateFleet" {
		return "RunInstances"
	}
	return action
}

// charge takes a request token, or says that there is none.
func (r *region) charge(action string, in any) error {
	limits := &r.cloud.config.Limits
	action = sharedAction(action)
	limit, ok := limits.Requests[action]
	key := action
	if !ok && limits.Documented {
		plain := strings.HasPrefix(action, "Describe") && unfiltered(in)
		if plain {
			key += " plain"
		}
		limit = DocumentedLimits(action, plain)
	}
	if b := r.bucketOf(key, limit); b != nil && b.take(r.cloud.now, 1) < 1 {
		return requestLimitExceeded()
	}
	return nil
}

// resources is the bucket of resource tokens of an action; nil for no limit.
func (r *region) resources(action string) *bucket {
	limits := &r.cloud.config.Limits
	limit, ok := limits.Resources[action]
	if !ok && limits.Documented {
		limit = documentedResources[action]
	}
	return r.bucketOf(action+" resources", limit)
}

func requestLimitExceeded() *Error {
	return failure("RequestLimitExceeded", "Request limit exceeded.")
}

// unfiltered tells whether an input lists everything at once: no list, such as
// filters or identifiers, and no page size.
func unfiltered(in any) bool {
	v := reflect.ValueOf(in).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && f.Len() > 0 {
			return false
		}
	}
	for _, name := range []string{"MaxResults", "NextToken"} {
		if f := v.FieldByName(name); f.IsValid() && !f.IsNil() {
			return false
		}
	}
	return true
}
