package jsone

import (
	"maps"
	"slices"
)

// Operators that make something else of a value as a whole.

func reverseOperator(r *renderer, o operation, s *scope) (any, error) {
	members, err := r.arrayArgument(o, s, "value must evaluate to an array of objects")
	if err != nil {
		return nil, err
	}
	reversed := slices.Clone(members)
	slices.Reverse(reversed)
	return reversed, nil
}

// arrayArgument is the rendered argument of an operator that stands alone, an
// array. It counts a step for each member.
func (r *renderer) arrayArgument(o operation, s *scope, otherwise string) ([]any, error) {
	if err := o.alone(); err != nil {
		return nil, err
	}
	value, err := r.render(o.argument(), s)
	if err != nil {
		return nil, err
	}
	members, ok := value.([]any)
	if !ok {
		return nil, o.errorf("%s", otherwise)
	}
	return members, r.work(len(members))
}

func flattenOperator(r *renderer, o operation, s *scope) (any, error) {
	members, err := r.arrayArgument(o, s, "value must evaluate to an array")
	if err != nil {
		return nil, err
	}
	flat := make([]any, 0, len(members))
	for _, member := range members {
		inner, ok := member.([]any)
		if !ok {
			flat = append(flat, member)
			continue
		}
		if err := r.work(len(inner)); err != nil {
			return nil, err
		}
		flat = append(flat, inner...)
	}
	return flat, nil
}

func flattenDeepOperator(r *renderer, o operation, s *scope) (any, error) {
	members, err := r.arrayArgument(o, s, "value must evaluate to an array")
	if err != nil {
		return nil, err
	}
	return r.flattenDeep(make([]any, 0, len(members)), members, 1)
}

func (r *renderer) flattenDeep(flat, members []any, depth int) ([]any, error) {
	if depth > r.limits.Depth {
		return nil, r.tooDeep("a value")
	}
	if err := r.work(len(members)); err != nil {
		return nil, err
	}
	for _, member := range members {
		inner, ok := member.([]any)
		if !ok {
			flat = append(flat, member)
			continue
		}
		var err error
		if flat, err = r.flattenDeep(flat, inner, depth+1); err != nil {
			return nil, err
		}
	}
	return flat, nil
}

// objectsArgument is arrayArgument for arrays of objects.
func (r *renderer) objectsArgument(o operation, s *scope) ([]map[string]any, error) {
	const otherwise = "value must evaluate to an array of objects"
	members, err := r.arrayArgument(o, s, otherwise)
	if err != nil {
		return nil, err
	}
	objects := make([]map[string]any, len(members))
	for i, member := range members {
		var ok bool
		if objects[i], ok = member.(map[string]any); !ok {
			return nil, o.errorf("%s", otherwise)
		}
	}
	return objects, nil
}

// properties counts what it takes to go through an object, to copy it or to
// look up its keys in another one.
func (r *renderer) properties(object map[string]any) error {
	if err := r.work(objectCost + len(object)); err != nil {
		return err
	}
	for key := range object {
		if err := r.bytes(len(key)); err != nil {
			return err
		}
	}
	return nil
}

func mergeOperator(r *renderer, o operation, s *scope) (any, error) {
	objects, err := r.objectsArgument(o, s)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, object := range objects {
		size += len(object)
		if err := r.properties(object); err != nil {
			return nil, err
		}
	}
	merged := make(map[string]any, size)
	for _, object := range objects {
		maps.Copy(merged, object)
	}
	return merged, nil
}

func mergeDeepOperator(r *renderer, o operation, s *scope) (any, error) {
	objects, err := r.objectsArgument(o, s)
	if err != nil {
		return nil, err
	}
	var merged any = map[string]any{}
	for _, object := range objects {
		if merged, err = r.mergeDeep(merged, object, 1); err != nil {
			return nil, err
		}
	}
	return merged, nil
}

// mergeDeep is right, or where both are arrays or objects, right added to left.
func (r *renderer) mergeDeep(left, right any, depth int) (any, error) {
	if depth > r.limits.Depth {
		return nil, r.tooDeep("a value")
	}
	switch right := right.(type) {
	case []any:
		if left, ok := left.([]any); ok {
			if err := r.work(len(left) + len(right)); err != nil {
				return nil, err
			}
			return append(append(make([]any, 0, len(left)+len(right)), left...), right...), nil
		}
	case map[string]any:
		left, ok := left.(map[string]any)
		if !ok {
			break
		}
		if err := r.properties(left); err != nil {
			return nil, err
		}
		if err := r.properties(right); err != nil {
			return nil, err
		}
		merged := maps.Clone(left)
		for _, key := range sortedKeys(right) {
			value := right[key]
			if old, ok := left[key]; ok {
				var err error
				if value, err = r.mergeDeep(old, value, depth+1); err != nil {
					return nil, err
				}
			}
			merged[key] = value
		}
		return merged, nil
	}
	return right, r.work(1)
}

func jsonOperator(r *renderer, o operation, s *scope) (any, error) {
	if err := o.alone(); err != nil {
		return nil, err
	}
	value, err := r.render(o.argument(), s)
	if err != nil {
		return nil, err
	}
	if value == nothing {
		value = nil
	}
	text, err := r.appendJSON(nil, value, 1)
	return string(text), err
}

func fromNowOperator(r *renderer, o operation, s *scope) (any, error) {
	if err := o.only(func(key string) bool { return key == "from" }); err != nil {
		return nil, err
	}
	value, err := r.render(o.argument(), s)
	if err != nil {
		return nil, err
	}
	span, ok := value.(string)
	if !ok {
		return nil, o.errorf("expects a string")
	}
	if err := r.bytes(len(span)); err != nil {
		return nil, err
	}
	from, err := r.render(o.template["from"], s)
	if err != nil {
		return nil, err
	}
	if from == nothing || !truthy(from) {
		from, _ = s.lookup("now")
	}
	then, err := fromNow(span, from)
	if err != nil {
		return nil, o.errorf("cannot tell the time: %v", err)
	}
	return then, nil
}
