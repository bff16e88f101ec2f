package monitoring

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A metric is one that the server declares.
type metric struct {
	histogram bool
	literals  map[string]bool // all texts in the file that declares it, its labels and their values among them
}

// declared finds the metrics that the code of the module declares: names in prometheus.NewDesc and in
// options, and those that a function gets to put a prefix before.
// words are all texts in the code, that labels can have as values.
func declared(t *testing.T) (found map[string]*metric, words map[string]bool) {
	t.Helper()
	found, words = map[string]*metric{}, map[string]bool{}
	files := token.NewFileSet()
	text := func(e ast.Expr) string {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s, _ := strconv.Unquote(lit.Value)
			return s
		}
		return ""
	}
	elsewhere := []string{"../../client", "../../cmd", "../../infra", "../../references", "../../stacks", "../../test"} // nobody counts there
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "../.." || slices.Contains(elsewhere, path)) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok {
				words[text(lit)] = true
			}
			return true
		})
		if !slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return text(i.Path) == "github.com/prometheus/client_golang/prometheus" }) {
			return nil
		}
		literals, prefixes := map[string]bool{}, map[string]string{} // what a function of a name puts before
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok {
				literals[text(lit)] = true
			}
			if a, ok := n.(*ast.AssignStmt); ok && len(a.Rhs) == 1 {
				if fn, ok := a.Rhs[0].(*ast.FuncLit); ok {
					ast.Inspect(fn, func(n ast.Node) bool {
						if b, ok := n.(*ast.BinaryExpr); ok && strings.HasPrefix(text(b.X), "taskfleet_") {
							prefixes[a.Lhs[0].(*ast.Ident).Name] = text(b.X)
						}
						return true
					})
				}
			}
			return true
		})
		add := func(name string, histogram bool) {
			if strings.HasPrefix(name, "taskfleet_") {
				found[name] = &metric{histogram, literals}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.CompositeLit:
				for _, e := range x.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Name" {
							of, _ := x.Type.(*ast.SelectorExpr)
							add(text(kv.Value), of != nil && of.Sel.Name == "HistogramOpts")
						}
					}
				}
			case *ast.CallExpr:
				if len(x.Args) == 0 {
					break
				}
				if fn, ok := x.Fun.(*ast.Ident); ok && prefixes[fn.Name] != "" {
					add(prefixes[fn.Name]+text(x.Args[0]), false)
				}
				if fn, ok := x.Fun.(*ast.SelectorExpr); ok && fn.Sel.Name == "NewDesc" {
					add(text(x.Args[0]), false)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, words
}

var (
	dataPattern    = regexp.MustCompile(`data\('([^']*)'(?:, filter=((?:(?: and )?(?:not )?filter\([^)]*\))+))?(?:, rollup='rate')?\)(?:\.([a-z]+)\((?:by=\[([^\]]*)\])?\))?`)
	filtersPattern = regexp.MustCompile(`filter\([^)]*\)`)
	filterPattern  = regexp.MustCompile(`filter\('([^']*)'`)
	quoted         = regexp.MustCompile(`'([^']*)'`)
)

// Every figure that our dashboards and detectors look at is one that the server has, with the
// dimensions that they use.
func TestOursLooksAtWhatTheServerTells(t *testing.T) {
	metrics, words := declared(t)
	for _, name := range []string{"taskfleet_api_requests_total", "taskfleet_pool_pending_tasks", "taskfleet_mirror_answers_total", "taskfleet_event_lag"} {
		if metrics[name] == nil {
			t.Errorf("%s was not found in the code: of %v", name, slices.Sorted(maps.Keys(metrics)))
		}
	}
	things, err := Config{SignalFx: &SignalFx{Realm: "eu0", TokenFrom: Source{Env: "X"}, Ours: true}}.Things("prod")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, x := range things {
		if x.Token != TokenChart && x.Token != TokenDetector {
			continue
		}
		var s struct{ Program string }
		if err := json.Unmarshal(x.Spec, &s); err != nil {
			t.Fatal(err)
		}
		streams := dataPattern.FindAllStringSubmatch(s.Program, -1)
		if len(streams) != strings.Count(s.Program, "data(") {
			t.Errorf("%s: %d of %d streams are understood by this test: %s", x.Name, len(streams), strings.Count(s.Program, "data("), s.Program)
		}
		for _, m := range streams {
			name, m1 := m[1], metrics[m[1]]
			for _, part := range []string{"_sum", "_count"} {
				if base, ok := strings.CutSuffix(name, part); ok && m1 == nil && metrics[base] != nil && metrics[base].histogram {
					m1 = metrics[base]
				}
			}
			if m1 == nil || m1.histogram && metrics[name] != nil {
				t.Errorf("%s: the server has no %s", x.Name, name)
				continue
			}
			used[name] = true
			if counted, rate := strings.HasSuffix(name, "_total") || m1.histogram, strings.Contains(m[0], "rollup='rate'"); counted != rate {
				t.Errorf("%s: what is counted is looked at as a rate, and nothing else: %s", x.Name, m[0])
			}
			for _, filter := range filtersPattern.FindAllString(m[2], -1) {
				for _, value := range quoted.FindAllStringSubmatch(filter, -1)[1:] {
					if _, err := strconv.Atoi(strings.TrimSuffix(value[1], "*")); err != nil && !words[value[1]] {
						t.Errorf("%s: nothing has the value %s: %s", x.Name, value[1], m[0])
					}
				}
			}
			labels := quoted.FindAllStringSubmatch(m[4], -1)
			for _, label := range append(labels, filterPattern.FindAllStringSubmatch(m[2], -1)...) {
				if !m1.literals[label[1]] {
					t.Errorf("%s: %s has no dimension %s", x.Name, name, label[1])
				}
			}
		}
	}
	if len(used) < 25 {
		t.Errorf("only %d metrics are looked at", len(used))
	}
}
