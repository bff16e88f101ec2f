package awsfake

import "reflect"

// overlay copies what src sets onto dst, field by field of the same name. The
// SDK has several types for one thing (a request, its launch template, its
// description): their fields agree in name and kind, and what does not is
// left out. Pointers and lists are made anew.
func overlay(dst, src any) {
	overlayValue(reflect.ValueOf(dst).Elem(), reflect.ValueOf(src).Elem())
}

func overlayValue(dst, src reflect.Value) {
	switch {
	case src.Kind() == reflect.Pointer:
		if src.IsNil() {
			return
		}
		if dst.Kind() != reflect.Pointer {
			overlayValue(dst, src.Elem())
			return
		}
		fresh := reflect.New(dst.Type().Elem())
		overlayValue(fresh.Elem(), src.Elem())
		dst.Set(fresh)
	case dst.Kind() == reflect.Pointer:
		if src.IsZero() {
			return
		}
		fresh := reflect.New(dst.Type().Elem())
		overlayValue(fresh.Elem(), src)
		dst.Set(fresh)
	case src.Kind() == reflect.Slice && dst.Kind() == reflect.Slice:
		if src.IsNil() {
			return
		}
		fresh := reflect.MakeSlice(dst.Type(), src.Len(), src.Len())
		for i := range src.Len() {
			overlayValue(fresh.Index(i), src.Index(i))
		}
		dst.Set(fresh)
	case src.Kind() == reflect.Struct && dst.Kind() == reflect.Struct:
		if src.Type() == dst.Type() && src.NumField() > 0 && !src.Type().Field(0).IsExported() {
			dst.Set(src) // time.Time
			return
		}
		for i := range src.NumField() {
			f := src.Type().Field(i)
			if !f.IsExported() || f.Anonymous {
				continue
			}
			if to := dst.FieldByName(f.Name); to.IsValid() && to.CanSet() {
				overlayValue(to, src.Field(i))
			}
		}
	case src.IsZero():
	case src.Type().ConvertibleTo(dst.Type()) && (src.Kind() == dst.Kind()):
		dst.Set(src.Convert(dst.Type()))
	}
}
