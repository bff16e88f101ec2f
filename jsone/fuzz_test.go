package jsone

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"
)

// Whatever the template and the context are: no panic, no hang, the same result
// twice, a result that is JSON of the size that was allowed, and arguments that
// are as they were.
func FuzzRender(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		for _, c := range readCases(f, file) {
			context, _ := c["context"].(map[string]any)
			if context == nil {
				context = map[string]any{}
			}
			f.Add(shown(stringKeys(c["template"])), shown(stringKeys(context)))
		}
	}
	limits := Limits{Steps: 20_000, Depth: 60, Output: 5_000}
	f.Fuzz(func(t *testing.T, templateText, contextText string) {
		var template any
		var context map[string]any
		if json.Unmarshal([]byte(templateText), &template) != nil || json.Unmarshal([]byte(contextText), &context) != nil {
			return
		}
		if context == nil {
			context = map[string]any{}
		}
		if _, ok := context["now"]; !ok {
			context["now"] = "2024-02-29T12:00:00.000Z"
		}
		before := shown([]any{template, context})
		begin := time.Now()
		got, err := RenderWith(limits, template, context)
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("rendering took %v", took)
		}
		again, errAgain := RenderWith(limits, template, context)
		if after := shown([]any{template, context}); after != before {
			t.Fatalf("the arguments were\n%s and are\n%s", before, after)
		}
		if err != nil {
			e, ok := err.(*Error)
			if !ok || e.Kind == "" || e.Message == "" || len(e.Error()) > 2000 {
				t.Fatalf("a strange error: %#v", err)
			}
			if errAgain == nil || errAgain.Error() != err.Error() {
				t.Fatalf("%v, then %v", err, errAgain)
			}
			return
		}
		if errAgain != nil || shown(again) != shown(got) {
			t.Fatalf("%s, then %s, %v", shown(got), shown(again), errAgain)
		}
		r := renderer{limits: Limits{Steps: 1 << 30, Depth: 1 << 10}, steps: 1 << 30}
		text, err := r.appendJSON(nil, got, 1)
		if err != nil || len(text) > limits.Output {
			t.Fatalf("%d bytes where %d are allowed, %v", len(text), limits.Output, err)
		}
		var read any
		if err := json.Unmarshal(text, &read); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if shown(read) != shown(got) {
			t.Fatalf("%s as JSON is %s", shown(got), text)
		}
	})
}

// Whatever the expression is.
func FuzzExpression(f *testing.F) {
	for _, source := range []string{"a + b * -c ** 2", "a[1:-1].b['c'](d, 'e')", "{a: [1, 2.5], 'b': null,}", "!a in b == c && d || e", "((", "1 +", "\"", "ż"} {
		f.Add(source)
	}
	context := map[string]any{"a": "text", "b": []any{1.0, "x", nil}, "c": map[string]any{"d": 2.0}, "d": 3.5, "now": "2024-02-29T12:00:00.000Z"}
	f.Fuzz(func(t *testing.T, source string) {
		for _, template := range []any{eval(source), "${" + source + "}", source} {
			got, err := RenderWith(Limits{Steps: 10_000, Depth: 60}, template, context)
			if err != nil && got != nil {
				t.Fatalf("%v with %v", got, err)
			}
			if _, ok := err.(*Error); err != nil && !ok {
				t.Fatalf("a strange error: %#v", err)
			}
		}
	})
}
