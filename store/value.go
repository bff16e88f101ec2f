package store

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

// arguments brings what Go has to the few types that mean the same to both
// databases: int64, float64, bool, string and nil.
func arguments(args []any) ([]any, error) {
	out := make([]any, len(args))
	for i, a := range args {
		v, err := argument(a)
		if err != nil {
			return nil, fmt.Errorf("argument $%d: %w", i+1, err)
		}
		out[i] = v
	}
	return out, nil
}

func argument(a any) (any, error) {
	switch a := a.(type) {
	case nil, int64, float64, bool:
		return a, nil
	case int:
		return int64(a), nil
	case string:
		return text(a)
	case []byte:
		if a == nil {
			return nil, nil
		}
		return text(string(a))
	case []string:
		if len(a) == 0 {
			return "[]", nil // also nil: no scopes are not unknown scopes
		}
		for _, s := range a {
			if _, err := text(s); err != nil {
				return nil, err // JSON would write it in another way
			}
		}
		var j strings.Builder
		e := json.NewEncoder(&j)
		e.SetEscapeHTML(false)
		if err := e.Encode(a); err != nil {
			return nil, err
		}
		return strings.TrimSuffix(j.String(), "\n"), nil
	case time.Time:
		return nil, fmt.Errorf("is a time.Time: store its UnixMilli")
	case driver.Valuer:
		if v := reflect.ValueOf(a); v.Kind() == reflect.Pointer && v.IsNil() {
			return nil, nil
		}
		v, err := a.Value()
		if err != nil {
			return nil, err
		}
		return argument(v)
	}
	v := reflect.ValueOf(a)
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil, nil
		}
		return argument(v.Elem().Interface())
	case reflect.String:
		return text(v.String())
	case reflect.Bool:
		return v.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if u := v.Uint(); u>>63 == 0 {
			return int64(u), nil
		}
		return nil, fmt.Errorf("%d does not fit a BIGINT", v.Uint())
	case reflect.Float32, reflect.Float64:
		return v.Float(), nil
	case reflect.Slice:
		switch v.Type().Elem().Kind() {
		case reflect.Uint8:
			return argument(v.Bytes())
		case reflect.String:
			s := make([]string, v.Len())
			for i := range s {
				s[i] = v.Index(i).String()
			}
			return argument(s)
		}
	}
	return nil, fmt.Errorf("a %T cannot be stored: give a string, number, bool, []byte, []string or nil", a)
}

func text(s string) (any, error) {
	if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
		return nil, ErrInvalidText
	}
	return s, nil
}

// destinations lets Scan fill what database/sql cannot.
func destinations(dest []any) []any {
	out := make([]any, len(dest))
	for i, d := range dest {
		switch d := d.(type) {
		case *json.RawMessage:
			out[i] = (*[]byte)(d)
		case *[]string:
			out[i] = (*stringsColumn)(d)
		default:
			out[i] = d
		}
	}
	return out
}

// stringsColumn reads a JSON array of strings; NULL is none.
type stringsColumn []string

func (c *stringsColumn) Scan(src any) error {
	var j []byte
	switch src := src.(type) {
	case nil:
		*c = nil
		return nil
	case string:
		j = []byte(src)
	case []byte:
		j = src
	default:
		return fmt.Errorf("a JSON array of strings is expected, not a %T", src)
	}
	var s []string
	if err := json.Unmarshal(j, &s); err != nil {
		return fmt.Errorf("a JSON array of strings is expected: %w", err)
	}
	*c = s
	return nil
}
