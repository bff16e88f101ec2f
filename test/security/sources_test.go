package security

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// secretName is what values are called that must not be compared in a time that
// tells how much of them was right.
var secretName = regexp.MustCompile(`(?i)(token|secret|password|proof|mac|signature|bewit|credential|nonce|accesskey|sealkeys?)s?$`)

// harmless are comparisons of what is called like a secret and is none.
var harmless = map[string]string{
	"client/list.go": "a continuation token",
	"cmd/taskfleet/credentials_bootstrap_serve.go": "the name of a token",
	"credentials/aws/keys.go":                      "the name of a credential, in a tag",
	"credentials/rabbitmq/rabbitmq.go":             "likewise",
	"credentials/rotatortest/world.go":             "what a test has made",
	"event/connect.go":                             "a word of a header",
	"infra/verify/network.go":                      "a setting of AWS",
	"resource/read.go":                             "a kind of resource",
	"resource/set.go":                              "likewise",
	"mirror/ending.go":                             "what tells one attempt at a copy from another, part of a key",
	"mirror/leaving.go":                            "likewise",
	"mirror/scrub.go":                              "likewise",
	"mirror/sweep.go":                              "likewise",
	"mirror/want.go":                               "likewise",
	"stacks/change.go":                             "Pulumi's mark of a secret, and a kind of resource",
	"stacks/platform/secret.go":                    "what a secret is to hold: a word of a definition",
	"stacks/provider/resources.go":                 "a kind of resource",
}

// Secrets are compared in constant time, by crypto/subtle or crypto/hmac: no
// program text compares them with == or by a library that stops at the first
// difference.
func TestSecretsAreComparedInConstantTime(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		files++
		if within, err := filepath.Rel(root, file); err != nil || harmless[filepath.ToSlash(within)] != "" {
			return err
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			var sides []ast.Expr
			switch n := n.(type) {
			case *ast.BinaryExpr:
				if n.Op == token.EQL || n.Op == token.NEQ {
					sides = []ast.Expr{n.X, n.Y}
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.SelectorExpr); ok && len(n.Args) == 2 {
					switch name(f.X) + "." + f.Sel.Name {
					case "bytes.Equal", "bytes.Compare", "strings.Compare", "strings.EqualFold", "slices.Equal", "slices.Contains", "reflect.DeepEqual", "bytes.HasPrefix", "strings.HasPrefix":
						sides = n.Args
					}
				}
			case *ast.SwitchStmt:
				if n.Tag != nil && secretName.MatchString(name(n.Tag)) {
					sides = []ast.Expr{n.Tag, n.Tag}
				}
			}
			if len(sides) == 2 && !known(sides[0]) && !known(sides[1]) && (secretName.MatchString(name(sides[0])) || secretName.MatchString(name(sides[1]))) {
				t.Errorf("%s compares %s with %s; use crypto/subtle or hmac.Equal", set.Position(n.Pos()), name(sides[0]), name(sides[1]))
			}
			return true
		})
		return nil
	})
	if err != nil || files < 200 {
		t.Errorf("%v, after %d files", err, files)
	}
}

// name is the last name of an expression: Token of request.Token[0].
func name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.IndexExpr:
		return name(e.X)
	case *ast.SliceExpr:
		return name(e.X)
	case *ast.StarExpr:
		return name(e.X)
	case *ast.ParenExpr:
		return name(e.X)
	case *ast.CallExpr:
		if len(e.Args) == 1 {
			return name(e.Args[0]) // a conversion, mostly
		}
		return name(e.Fun)
	}
	return ""
}

// known reports whether an expression's value is in the program.
func known(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.Ident:
		return e.Name == "nil" || e.Name == "true" || e.Name == "false"
	case *ast.CallExpr:
		f, ok := e.Fun.(*ast.Ident)
		return ok && f.Name == "len"
	}
	return false
}
