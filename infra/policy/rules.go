package policy

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// Limits of a deployment's own rules.
const (
	maxRuleFiles = 100
	maxRuleFile  = 256 << 10 // bytes
)

//go:embed rules/*.rego lib/*.rego
var embedded embed.FS

// A Rule is what is asked of plans.
type Rule struct {
	ID          string `json:"id"`
	Severity    string `json:"severity"`
	Title       string `json:"title"`
	Description string `json:"description,omitempty"`
	File        string `json:"file"`
	Own         bool   `json:"own,omitempty"` // of the deployment
}

// List returns the rules, ours and those of a folder, nil for none, by their ids.
func List(ctx context.Context, own fs.FS) ([]Rule, error) {
	ours, err := builtin()
	if err != nil {
		return nil, err
	}
	theirs, err := compileOwn(ctx, own)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(ours.rules, theirs.rules)
	slices.SortFunc(all, func(a, b Rule) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// rules are some that are compiled together.
type rules struct {
	rules []Rule
	query rego.PreparedEvalQuery
}

func (s *rules) has(id string) bool {
	return slices.ContainsFunc(s.rules, func(r Rule) bool { return r.ID == id })
}

const within = "taskfleet.policy."

// builtin compiles our rules once for all plans that a process judges: that takes longer than judging.
var builtin = sync.OnceValues(func() (*rules, error) {
	modules, err := library()
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(embedded, "rules/*.rego")
	if err != nil {
		return nil, err
	}
	var list []Rule
	for _, file := range files {
		text, err := embedded.ReadFile(file)
		if err != nil {
			return nil, err
		}
		module, rule, err := parse(file, string(text))
		if err != nil {
			return nil, err
		}
		modules, list = append(modules, module), append(list, rule)
	}
	return compile(context.Background(), modules, list)
})

// library are the modules of lib, parsed anew: a compiler changes its modules.
func library() (modules []*ast.Module, err error) {
	files, err := fs.Glob(embedded, "lib/*.rego")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := embedded.ReadFile(file)
		if err != nil {
			return nil, err
		}
		module, err := ast.ParseModuleWithOpts(file, string(text), parsing)
		if err != nil {
			return nil, err
		}
		modules = append(modules, module)
	}
	return modules, nil
}

var parsing = ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1}

// compileOwn compiles the rules of a deployment, apart from ours.
func compileOwn(ctx context.Context, folder fs.FS) (*rules, error) {
	if folder == nil {
		return &rules{}, nil
	}
	files, err := fs.Glob(folder, "*.rego")
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.rego") }) // of opa test
	if len(files) > maxRuleFiles {
		return nil, fmt.Errorf("there are %d files of own rules, and %d at most may be; put some together", len(files), maxRuleFiles)
	}
	if len(files) == 0 {
		return &rules{}, nil
	}
	ours, err := builtin()
	if err != nil {
		return nil, err
	}
	modules, err := library()
	if err != nil {
		return nil, err
	}
	var list []Rule
	for _, file := range files {
		text, err := readLimited(folder, file)
		if err != nil {
			return nil, err
		}
		module, rule, err := parse(file, text)
		if err != nil {
			return nil, fmt.Errorf("own rule: %w", err)
		}
		if ours.has(rule.ID) {
			return nil, fmt.Errorf("own rule %s: there is a rule %s already; choose another name for the package", file, rule.ID)
		}
		rule.Own = true
		modules = append(modules, module)
		if i := slices.IndexFunc(list, func(r Rule) bool { return r.ID == rule.ID }); i >= 0 {
			return nil, fmt.Errorf("own rule %s: %s has package %s%s already; a rule is one file", file, list[i].File, within, rule.ID)
		}
		list = append(list, rule)
	}
	set, err := compile(ctx, modules, list)
	if err != nil {
		return nil, fmt.Errorf("own rules: %w", err)
	}
	return set, nil
}

func readLimited(folder fs.FS, file string) (string, error) {
	f, err := folder.Open(file)
	if err != nil {
		return "", fmt.Errorf("own rule: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxRuleFile+1))
	if err != nil {
		return "", fmt.Errorf("own rule %s: %w", file, err)
	}
	if len(text) > maxRuleFile {
		return "", fmt.Errorf("own rule %s has more than %d KiB; split it", file, maxRuleFile>>10)
	}
	return string(text), nil
}

// parse reads a rule, and what its METADATA says of it.
func parse(file, text string) (*ast.Module, Rule, error) {
	module, err := ast.ParseModuleWithOpts(file, text, parsing)
	if err != nil {
		return nil, Rule{}, err
	}
	name := strings.TrimPrefix(module.Package.Path.String(), "data.")
	id, ok := strings.CutPrefix(name, within)
	if !ok || strings.ContainsAny(id, `.["`) {
		return nil, Rule{}, fmt.Errorf("%s: the package is %s; call it %sNAME, with letters, digits and _", file, name, within)
	}
	rule := Rule{ID: id, Severity: SeverityError, Title: id, File: path.Base(file)}
	for _, a := range module.Annotations {
		if a.Scope != "package" {
			continue
		}
		rule.Title, rule.Description = cmp.Or(a.Title, id), strings.TrimSpace(a.Description)
		if s, has := a.Custom["severity"]; has {
			if s != SeverityError && s != SeverityWarning {
				return nil, Rule{}, fmt.Errorf("%s:%d: the severity is %v; it must be %s or %s", file, a.Location.Row, s, SeverityError, SeverityWarning)
			}
			rule.Severity = s.(string)
		}
	}
	if !slices.ContainsFunc(module.Rules, func(r *ast.Rule) bool { return r.Head.Name == "deny" || r.Head.Ref().String() == "deny" }) {
		return nil, Rule{}, fmt.Errorf("%s: the package has no deny; write deny contains {...} if {...}", file)
	}
	return module, rule, nil
}

// capabilities are the functions that rules may use: those alone whose result follows from their arguments. So no rule
// reaches the network, the environment or the clock. Those that make much of little at once are left out too, but memory is
// not limited otherwise: whoever writes a deployment's rules can make its judging fail.
var capabilities = sync.OnceValue(func() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		switch b.Name {
		case "net.cidr_expand", "strings.render_template", "trace", "rego.parse_module", "opa.runtime":
			return true
		}
		return b.Nondeterministic || strings.HasPrefix(b.Name, "io.jwt.") || strings.HasPrefix(b.Name, "crypto.") ||
			strings.HasPrefix(b.Name, "graphql.") || strings.HasPrefix(b.Name, "providers.") || strings.HasPrefix(b.Name, "rand.")
	})
	c.AllowNet = []string{} // not even for the schemas of a METADATA
	return c
})

func compile(ctx context.Context, modules []*ast.Module, list []Rule) (*rules, error) {
	options := []func(*rego.Rego){
		rego.Query("data." + strings.TrimSuffix(within, ".")), rego.Capabilities(capabilities()), rego.StrictBuiltinErrors(false),
	}
	for _, m := range modules {
		options = append(options, rego.ParsedModule(m))
	}
	query, err := rego.New(options...).PrepareForEval(ctx)
	if err != nil {
		return nil, err
	}
	return &rules{list, query}, nil
}

// judge returns what the rules find, in no order.
func (s *rules) judge(ctx context.Context, input map[string]any) (found []Violation, err error) {
	if len(s.rules) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, MaxTime, errTooLong)
	defer cancel()
	results, err := s.query.Eval(ctx, rego.EvalInput(input), rego.EvalTime(time.Unix(0, 0)))
	switch {
	case errors.Is(context.Cause(ctx), errTooLong):
		return nil, fmt.Errorf("judging was stopped after %s: a rule, or the plan, is too large; run it without the folder policies to see which", MaxTime)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("judging: %w", err)
	case len(results) != 1 || len(results[0].Expressions) != 1:
		return nil, errors.New("judging: the rules have no result")
	}
	packages, _ := results[0].Expressions[0].Value.(map[string]any)
	for _, rule := range s.rules {
		values, _ := packages[rule.ID].(map[string]any)
		for _, key := range []string{"deny", "unknown"} {
			list, err := items(values[key])
			if err != nil {
				return nil, fmt.Errorf("rule %s (%s): %s %w", rule.ID, rule.File, key, err)
			}
			for _, item := range list {
				v := Violation{Rule: rule.ID, Severity: rule.Severity, Address: item.Address, Attribute: item.Attribute, Message: item.Message, Fix: item.Fix}
				switch {
				case v.Address == "":
					return nil, fmt.Errorf("rule %s (%s): %s has something without an address; add the address of the resource", rule.ID, rule.File, key)
				case key == "unknown":
					v.Unknown, v.Severity = true, SeverityWarning
					v.Message = cmp.Or(v.Message, "only the apply will tell; plan once more after it")
				case v.Message == "":
					return nil, fmt.Errorf("rule %s (%s): %s has something of %s without a message", rule.ID, rule.File, key, v.Address)
				}
				found = append(found, v)
			}
		}
	}
	return found, nil
}

var errTooLong = errors.New("too long")

type item struct{ Address, Attribute, Message, Fix string }

// items reads a set of findings. Sets of Rego are arrays here.
func items(v any) (list []item, err error) {
	if v == nil {
		return nil, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, errors.New(`has to hold objects of text: {"address": ..., "attribute": ..., "message": ..., "fix": ...}`)
	}
	return list, nil
}
