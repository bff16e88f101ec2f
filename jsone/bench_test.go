package jsone

import "testing"

// Rendering the hooks of testdata/tasks.yml, one after the other.
func BenchmarkHooks(b *testing.B) {
	type hook struct {
		template any
		context  map[string]any
	}
	var hooks []hook
	for _, c := range readCases(b, "testdata/tasks.yml") {
		context, _ := decoded(b, c["context"]).(map[string]any)
		hooks = append(hooks, hook{decoded(b, c["template"]), context})
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, h := range hooks {
			if _, err := Render(h.template, h.context); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// A thousand tasks of one template: what a loop costs a member.
func BenchmarkMap(b *testing.B) {
	template := map[string]any{
		"$map": eval("range(0, 1000)"),
		"each(i)": map[string]any{
			"name":    "chunk-${i + 1}-of-${total}",
			"command": []any{"test", "--chunk", "${i}"},
			"slow":    eval("i in [1, 2, 3] || i > 500 && i < 600"),
		},
	}
	context := map[string]any{"total": 1000.0}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Render(template, context); err != nil {
			b.Fatal(err)
		}
	}
}
