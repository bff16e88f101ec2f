package awsfake

import (
	"encoding/base64"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// selected keeps what passes every filter: each passes when one of its values
// matches one of the thing's. value gives the values of a thing for a filter's
// name, and false for a name that it does not know.
func selected[T any](all []T, filters []types.Filter, value func(T, string) ([]string, bool)) ([]T, error) {
	if len(filters) == 0 {
		return all, nil
	}
	var kept []T
	for _, t := range all {
		ok, err := passes(t, filters, value)
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, t)
		}
	}
	return kept, nil
}

func passes[T any](t T, filters []types.Filter, value func(T, string) ([]string, bool)) (bool, error) {
	for i := range filters {
		name := aws.ToString(filters[i].Name)
		values, known := value(t, name)
		if !known {
			return false, failure("InvalidParameterValue", "The filter '%s' is invalid", name)
		}
		if !anyMatches(filters[i].Values, values) {
			return false, nil
		}
	}
	return true, nil
}

func anyMatches(patterns, values []string) bool {
	for _, p := range patterns {
		if slices.Contains(values, p) {
			return true
		}
	}
	for _, p := range patterns {
		if isPattern(p) &&
			slices.ContainsFunc(values, func(v string) bool { return wildMatch(p, v) }) {
			return true
		}
	}
	return false
}

func isPattern(p string) bool {
	return strings.IndexByte(p, '*') >= 0 || strings.IndexByte(p, '?') >= 0
}

// wildMatch matches * and ? as EC2's filters do.
func wildMatch(pattern, value string) bool {
	escaped := strings.NewReplacer("[", `\[`, "/", "\x00").Replace(pattern)
	ok, err := path.Match(escaped, strings.ReplaceAll(value, "/", "\x00"))
	return ok && err == nil
}

// tagFilter answers the filters tag:KEY and tag-key.
func tagFilter(tags []types.Tag, name string) ([]string, bool) {
	if key, ok := strings.CutPrefix(name, "tag:"); ok {
		for _, t := range tags {
			if *t.Key == key {
				return []string{*t.Value}, true
			}
		}
		return nil, true
	}
	if name == "tag-key" {
		var keys []string
		for _, t := range tags {
			keys = append(keys, *t.Key)
		}
		return keys, true
	}
	return nil, false
}

// pageOf cuts a page out of a list. A token is the index at which the next page
// starts; real ones are opaque, and so is this.
func pageOf[T any](all []T, size *int32, token *string, least, most int32) (page []T, next *string, err error) {
	from := 0
	if token != nil && *token != "" {
		if from, err = readToken(*token); err != nil || from > len(all) {
			return nil, nil, badToken(*token)
		}
	}
	all = all[from:]
	if size == nil {
		return all, nil, nil
	}
	if *size < least || *size > most {
		return nil, nil, failure("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value between %d and %d.", *size, least, most)
	}
	if len(all) > int(*size) {
		return all[:*size], makeToken(from + int(*size)), nil
	}
	return all, nil, nil
}

func makeToken(n int) *string {
	return aws.String(base64.RawURLEncoding.EncodeToString([]byte("page from " + strconv.Itoa(n))))
}

func readToken(token string) (int, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimPrefix(string(raw), "page from "))
	if err != nil || n < 0 {
		return 0, badToken(token)
	}
	return n, nil
}

func badToken(token string) *Error {
	return failure("InvalidParameterValue", "Invalid value '%s' for NextToken.", token)
}
