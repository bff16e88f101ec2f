package ring

import (
	"context"
	"fmt"
	"slices"

	"github.com/taskfleet/taskfleet/seal"
)

// Sealing is the purpose of keys: to seal and open, as they are root keys at first.
// Move has everything be sealed anew that keys do not seal as Current.
func Sealing(doc string, root, keys *seal.Keys, move func(ctx context.Context) error) Purpose {
	return Purpose{
		Doc:  doc,
		New:  func() string { return seal.NewKey().Text() },
		Name: func(text string) (string, error) { k, err := seal.ParseKey(text); return k.ID(), err },
		Take: func(_ context.Context, list []Key) error {
			// What the root keys have sealed they go on opening. They seal until another one
			// does. What is accepted only is before them.
			next := []seal.Key{}
			for _, k := range slices.Backward(list) { // the used one is the last, then
				parsed, err := seal.ParseKey(k.Secret)
				if err != nil {
					return fmt.Errorf("the key %s cannot be read: %w", k.ID, err)
				}
				next = append(next, parsed)
			}
			if len(list) == 0 || list[0].State != Used {
				next = append(next, root.All()...)
			} else {
				next = append(root.All(), next...)
			}
			return keys.Replace(next...)
		},
		Try: func(_ context.Context, k Key) error {
			parsed, err := seal.ParseKey(k.Secret)
			if err != nil {
				return err
			}
			alone, err := seal.NewKeys(parsed)
			if err != nil {
				return err
			}
			if text, err := alone.Open(k.probe, k.probed()); err != nil || string(text) != k.ID {
				return fmt.Errorf("what was sealed with it elsewhere cannot be opened: %w", err)
			}
			if text, err := keys.Open(parsed.Seal([]byte("probe"), "probe"), "probe"); err != nil || string(text) != "probe" {
				return fmt.Errorf("what is sealed with it here cannot be opened: %w", err)
			}
			return nil
		},
		Move: move,
	}
}
