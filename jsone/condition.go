package jsone

// Operators that choose among templates or name values for one.

func evalOperator(r *renderer, o operation, s *scope) (any, error) {
	if err := o.alone(); err != nil {
		return nil, err
	}
	source, ok := o.argument().(string)
	if !ok {
		return nil, o.errorf("must be given a string expression")
	}
	return r.evaluateSource(source, s)
}

func ifOperator(r *renderer, o operation, s *scope) (any, error) {
	if err := o.only(func(key string) bool { return key == "then" || key == "else" }); err != nil {
		return nil, err
	}
	source, ok := o.argument().(string)
	if !ok {
		return nil, o.errorf("can evaluate string expressions only")
	}
	condition, err := r.evaluateSource(source, s)
	if err != nil {
		return nil, err
	}
	branch := "else"
	if truthy(condition) {
		branch = "then"
	}
	if template, ok := o.template[branch]; ok {
		return r.render(template, s)
	}
	return nothing, nil
}

// holding are the conditions among the keys of o's argument that hold, in order.
func (r *renderer) holding(o operation, s *scope, but string) (cases map[string]any, conditions []string, err error) {
	if err := o.alone(); err != nil {
		return nil, nil, err
	}
	cases, ok := o.argument().(map[string]any)
	if !ok {
		return nil, nil, o.errorf("can evaluate objects only")
	}
	if err := r.work(len(cases)); err != nil {
		return nil, nil, err
	}
	for _, condition := range sortedKeys(cases) {
		if condition == but {
			continue
		}
		value, err := r.evaluateSource(condition, s)
		if err != nil {
			return nil, nil, err
		}
		if truthy(value) {
			conditions = append(conditions, condition)
		}
	}
	return cases, conditions, nil
}

func switchOperator(r *renderer, o operation, s *scope) (any, error) {
	const fallback = "$default"
	cases, conditions, err := r.holding(o, s, fallback)
	if err != nil {
		return nil, err
	}
	switch len(conditions) {
	case 0:
		if template, ok := cases[fallback]; ok {
			return r.render(template, s)
		}
		return nothing, nil
	case 1:
		return r.render(cases[conditions[0]], s)
	default:
		return nil, o.errorf("can only have one truthy condition")
	}
}

func matchOperator(r *renderer, o operation, s *scope) (any, error) {
	cases, conditions, err := r.holding(o, s, "")
	if err != nil {
		return nil, err
	}
	items := make([]any, 0, len(conditions))
	for _, condition := range conditions {
		item, err := r.render(cases[condition], s)
		if err != nil {
			return nil, err
		}
		if item != nothing {
			items = append(items, item)
		}
	}
	return items, nil
}

func letOperator(r *renderer, o operation, s *scope) (any, error) {
	if err := o.only(func(key string) bool { return key == "in" }); err != nil {
		return nil, err
	}
	if _, ok := o.argument().(map[string]any); !ok {
		return nil, o.errorf("value must be an object")
	}
	value, err := r.render(o.argument(), s)
	if err != nil {
		return nil, err
	}
	variables, ok := value.(map[string]any)
	if !ok {
		return nil, o.errorf("value must be an object")
	}
	if err := r.properties(variables); err != nil {
		return nil, err
	}
	for name := range variables {
		if !isIdentifier(name) {
			return nil, errorf(TemplateError, "top level keys of $let must follow /[a-zA-Z_][a-zA-Z0-9_]*/")
		}
	}
	in, ok := o.template["in"]
	if !ok {
		return nil, o.errorf("operator requires an `in` clause")
	}
	return r.render(in, s.with(variables))
}
