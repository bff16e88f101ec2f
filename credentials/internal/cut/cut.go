// Package cut lets the conformance suite of the kinds interrupt a rotation where
// it likes. Nothing else uses it: without a Hook in the context nothing happens.
package cut

import "context"

// A Hook is told of every point that is come to. The error that it returns is
// taken for the failure of what is there; one that never returns is a process that
// was killed.
type Hook func(point string) error

type key struct{}

// With returns a context whose points are told to hook.
func With(ctx context.Context, hook Hook) context.Context {
	return context.WithValue(ctx, key{}, hook)
}

// At is a point.
func At(ctx context.Context, point string) error {
	if hook, ok := ctx.Value(key{}).(Hook); ok {
		return hook(point)
	}
	return nil
}

// Around runs f between two points: one before it has an effect, and one after it
// has had it.
func Around(ctx context.Context, name string, f func() error) error {
	if err := At(ctx, name+" before"); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return At(ctx, name+" after")
}
