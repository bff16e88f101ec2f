package jsone

import (
	"maps"
	"math/bits"
	"slices"
)

// Operators that go through a collection with a template or an expression.

func mapOperator(r *renderer, o operation, s *scope) (any, error) {
	if err := o.only(func(key string) bool { return parameters(key, "each", 1, 2) != nil }); err != nil {
		return nil, err
	}
	value, err := r.render(o.argument(), s)
	if err != nil {
		return nil, err
	}
	if kindOf(value)&(isArray|isObject) == 0 {
		return nil, o.errorf("value must evaluate to an array or object")
	}
	if len(o.template) != 2 {
		return nil, o.errorf("must have exactly two properties")
	}
	each := o.loop("each", 1, 2, s)
	if members, ok := value.(map[string]any); ok {
		return r.mapObject(o, members, each)
	}
	members := value.([]any)
	items := make([]any, 0, len(members))
	for i, member := range members {
		item, err := r.render(each.body, each.set(member, float64(i)))
		if err != nil {
			return nil, err
		}
		if item != nothing {
			items = append(items, item)
		}
	}
	return items, nil
}

func (r *renderer) mapObject(o operation, members map[string]any, each *loop) (any, error) {
	if err := r.properties(members); err != nil {
		return nil, err
	}
	merged := map[string]any{}
	for _, key := range sortedKeys(members) {
		var first any = members[key]
		if len(each.names) == 1 {
			first = map[string]any{"key": key, "val": members[key]}
		}
		value, err := r.render(each.body, each.set(first, key))
		if err != nil {
			return nil, err
		}
		if value == nothing {
			continue
		}
		properties, ok := value.(map[string]any)
		if !ok {
			return nil, o.errorf("on objects expects each(%s) to evaluate to an object", each.names[0])
		}
		if err := r.properties(properties); err != nil {
			return nil, err
		}
		maps.Copy(merged, properties)
	}
	return merged, nil
}

func reduceOperator(r *renderer, o operation, s *scope) (any, error) {
	err := o.only(func(key string) bool { return key == "initial" || parameters(key, "each", 2, 3) != nil })
	if err != nil {
		return nil, err
	}
	value, err := r.render(o.argument(), s)
	if err != nil {
		return nil, err
	}
	members, ok := value.([]any)
	if !ok {
		return nil, o.errorf("value must evaluate to an array")
	}
	sum, ok := o.template["initial"]
	each := o.loop("each", 2, 3, s)
	if !ok || each == nil || len(o.template) != 3 {
		return nil, o.errorf("must have exactly three properties")
	}
	if err := r.acceptable(sum, 1); err != nil {
		return nil, err
	}
	for i, member := range members {
		next, err := r.render(each.body, each.set(sum, member, float64(i)))
		if err != nil {
			return nil, err
		}
		if next != nothing {
			sum = next
		}
	}
	return sum, nil
}

func findOperator(r *renderer, o operation, s *scope) (any, error) {
	if err := o.only(func(key string) bool { return parameters(key, "each", 1, 2) != nil }); err != nil {
		return nil, err
	}
	value, err := r.render(o.argument(), s)
	if err != nil {
		return nil, err
	}
	members, ok := value.([]any)
	if !ok {
		return nil, o.errorf("value must evaluate to an array")
	}
	if len(o.template) != 2 {
		return nil, o.errorf("must have exactly two properties")
	}
	each := o.loop("each", 1, 2, s)
	source, ok := each.body.(string)
	if !ok {
		return nil, errorf(TemplateError, "each can evaluate string expressions only")
	}
	for i, member := range members {
		found, err := r.evaluateSource(source, each.set(member, float64(i)))
		if err != nil {
			return nil, err
		}
		if truthy(found) {
			return member, nil
		}
	}
	return nothing, nil
}

func sortOperator(r *renderer, o operation, s *scope) (any, error) {
	if err := o.only(func(key string) bool { return parameters(key, "by", 1, 1) != nil }); err != nil {
		return nil, err
	}
	if len(o.template) > 2 {
		return nil, o.errorf("can have only one by(identifier)")
	}
	value, err := r.render(o.argument(), s)
	if err != nil {
		return nil, err
	}
	mixed := errorf(TemplateError, "$sorted values to be sorted must have the same type")
	members, ok := value.([]any)
	if !ok {
		return nil, mixed
	}
	if err := r.work(len(members) * (1 + bits.Len(uint(len(members))))); err != nil {
		return nil, err
	}
	type sortable struct{ by, member any }
	items := make([]sortable, len(members))
	by := o.loop("by", 1, 1, s)
	for i, member := range members {
		items[i] = sortable{member, member}
		if by != nil {
			source, ok := by.body.(string)
			if !ok {
				return nil, o.errorf("by can evaluate string expressions only")
			}
			if items[i].by, err = r.evaluateSource(source, by.set(member)); err != nil {
				return nil, err
			}
		}
		if k := kindOf(items[i].by); k&(isNumber|isString) == 0 || k != kindOf(items[0].by) {
			return nil, mixed
		}
	}
	var spent error // the comparison that ended the steps
	slices.SortStableFunc(items, func(a, b sortable) int {
		if spent != nil {
			return 0
		}
		var order int
		order, spent = r.compare(a.by, b.by)
		return order
	})
	if spent != nil {
		return nil, spent
	}
	sorted := make([]any, len(items))
	for i, item := range items {
		sorted[i] = item.member
	}
	return sorted, nil
}
