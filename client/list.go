package client

import (
	"encoding/json"
	"fmt"
	"iter"
)

// A List is a slice that is [] in JSON when it is nil. Schemas ask for an
// array where Go code has nothing to put in; null would be refused.
type List[T any] []T

// MarshalJSON writes an array, whatever l is.
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]T(l))
}

// Pages turns a method that answers in pages into one sequence of items. Page
// fetches one page: the items, and the token of the next page or "". The
// sequence ends after the last page, or with the first error.
func Pages[T any](first string, page func(token string) (items []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for token := first; ; {
			items, next, err := page(token)
			if err == nil && next != "" && next == token {
				err = fmt.Errorf("client: the server answered a continuation token with the same one")
			}
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, x := range items {
				if !yield(x, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			token = next
		}
	}
}
