package aws

import "strings"

// A quota is how many virtual processors the account may have in the region, of
// one class of instance types and paid for in one way. What one class is refused
// says nothing about the others.
type quota struct {
	class   string
	limit   int64 // 0: not known
	used    int64 // by our instances
	planned int64 // by intents without answer
	breaker breaker
}

type quotaKey struct {
	class string
	spot  bool
}

// quotaCodes are those of the standard instance families, on demand and as spot,
// in the service ec2. Quotas of other classes are learnt by running into them.
var quotaCodes = [2]string{"L-1216C47A", "L-34B43A08"}

// standard is the class of most instance types: A, C, D, H, I, M, R, T and Z.
const standard = "standard"

// classOf is the class of an instance type that shares a quota with others, by
// the letters that it begins with. The high-memory types of U are one, and so
// are those of G and VT.
func classOf(instanceType string) string {
	letters := instanceType
	if i := strings.IndexFunc(instanceType, func(r rune) bool { return r < 'a' || r > 'z' }); i >= 0 {
		letters = instanceType[:i]
	}
	switch letters {
	case "vt", "gr":
		return "g"
	case "dl", "f", "g", "hpc", "inf", "mac", "p", "trn", "u", "x":
		return letters
	}
	return standard
}

// quota finds or makes that of an instance type, or of a class. The caller holds the provider's mu.
func (pl *place) quota(kind string, spot bool) *quota {
	key := quotaKey{classOf(kind), spot}
	q := pl.quotas[key]
	if q == nil {
		q = &quota{class: key.class}
		pl.quotas[key] = q
	}
	return q
}
