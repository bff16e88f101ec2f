package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"

	"github.com/taskfleet/taskfleet/references"
)

// A reference is api.json or exchanges.json of a service, as far as its page
// tells of it.
type reference struct {
	Service     string `json:"serviceName"`
	Version     string `json:"apiVersion"`
	Title       string
	Description string
	Prefix      string `json:"exchangePrefix"`
	Entries     []entry
}

type entry struct {
	Name, Title, Description, Stability, Category string

	// Of methods.
	Method, Route, Input, Output string
	Query                        []string
	Scopes                       any

	// Of exchanges.
	Exchange, Schema string
	RoutingKey       []struct {
		Name, Summary, Constant string
		Required, MultipleWords bool
	}
}

// pages are docs/api/*.md and docs/compatibility.md by their path below docs.
func pages(published map[string]any) (map[string][]byte, error) {
	services, err := read(published)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	var index []reference
	for _, name := range slices.Sorted(maps.Keys(services)) {
		s := services[name]
		index = append(index, s.api)
		var b bytes.Buffer
		if err := page.Execute(&b, map[string]any{"API": s.api, "Exchanges": s.exchanges.Entries, "Prefix": s.exchanges.Prefix}); err != nil {
			return nil, fmt.Errorf("page of %s: %w", name, err)
		}
		out["api/"+name+".md"] = b.Bytes()
	}
	var b bytes.Buffer
	if err := contents.Execute(&b, index); err != nil {
		return nil, fmt.Errorf("page of contents: %w", err)
	}
	out["api/README.md"] = b.Bytes()
	out["compatibility.md"], err = compatibility(services)
	return out, err
}

type service struct{ api, exchanges reference }

func read(published map[string]any) (map[string]service, error) {
	services := map[string]service{}
	for name, doc := range published {
		kind := path.Base(name)
		if !strings.HasPrefix(name, "/references/") || kind != "api.json" && kind != "exchanges.json" {
			continue
		}
		text, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		var r reference
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		s := services[r.Service]
		if kind == "api.json" {
			s.api = r
		} else {
			s.exchanges = r
		}
		services[r.Service] = s
	}
	return services, nil
}

var functions = template.FuncMap{
	"upper":  strings.ToUpper,
	"first":  func(s string) string { p, _, _ := strings.Cut(s, "\n\n"); return strings.ReplaceAll(p, "\n", " ") },
	"schema": schemaLink,
	"scopes": scopesText,
	"path": func(r reference, e entry) string {
		route := e.Route
		if len(e.Query) > 0 {
			route += "?" + strings.Join(e.Query, "&")
		}
		return "/api/" + r.Service + "/" + r.Version + route
	},
	"key": func(e entry) string {
		var words []string
		for _, k := range e.RoutingKey {
			switch {
			case k.Constant != "":
				words = append(words, k.Constant)
			default:
				words = append(words, "<"+k.Name+">")
			}
		}
		return strings.Join(words, ".")
	},
}

// schemaLink names a schema and leads to its file.
func schemaLink(service, ref string) string {
	file := strings.TrimSuffix(ref, "#")
	return fmt.Sprintf("[%s](../../references/schemas/%s/%s)", strings.TrimSuffix(path.Base(file), ".json"), service, file)
}

// scopesText says in words what an expression demands.
func scopesText(x any) string {
	if x == nil {
		return "none: anybody may call it"
	}
	return phrase(x, false)
}

func phrase(x any, inner bool) string {
	m, ok := x.(map[string]any)
	if !ok {
		return fmt.Sprintf("`%v`", x)
	}
	for _, kind := range []struct{ key, joint string }{{"AllOf", " and "}, {"AnyOf", " or "}} {
		list, ok := m[kind.key].([]any)
		if !ok {
			continue
		}
		var parts []string
		for _, y := range list {
			parts = append(parts, phrase(y, len(list) > 1))
		}
		text := strings.Join(parts, kind.joint)
		if inner && len(parts) > 1 {
			text = "(" + text + ")"
		}
		return text
	}
	if in, ok := m["in"]; ok {
		return fmt.Sprintf("`%v` for each %v of %v", m["each"], m["for"], in)
	}
	text := fmt.Sprintf("%s if %v", phrase(m["then"], true), m["if"])
	if e, ok := m["else"]; ok {
		text += ", else " + phrase(e, true)
	}
	return text
}

const generated = "<!-- Written by `make generate` from the declarations in the code. -->\n"

var contents = template.Must(template.New("contents").Funcs(functions).Parse(generated + `
# The API

Every method is reached under the root URL of the deployment; requests are signed with [Hawk](../../hawk). What each
service publishes about itself is also served: ` + "`/references/manifest.json`" + ` leads to it.

| service | what it does |
|---|---|
{{range .}}| [{{.Title}}]({{.Service}}.md) | {{first .Description}} |
{{end}}`))

var page = template.Must(template.New("page").Funcs(functions).Parse(generated + `
# {{.API.Title}}

{{.API.Description}}
{{$r := .API}}{{range .API.Entries}}
## {{.Title}}

` + "`{{upper .Method}} {{path $r .}}`" + ` · {{.Name}} · {{.Stability}}

{{.Description}}

- scopes: {{scopes .Scopes}}
{{- if .Input}}
- request: {{schema $r.Service .Input}}{{end}}
{{- if .Output}}
- reply: {{schema $r.Service .Output}}{{end}}
{{end}}{{$prefix := .Prefix}}{{if .Exchanges}}
# Messages
{{range .Exchanges}}
## {{.Title}}

` + "`{{$prefix}}{{.Exchange}}`" + ` · {{.Name}}

{{.Description}}

- routing key: ` + "`{{key .}}`" + `
- payload: {{schema $r.Service .Schema}}
{{end}}{{end}}`))

// compatibility is the page that tells what there is of the API that clients
// know, and where it differs.
func compatibility(services map[string]service) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(generated + `
# Compatibility

Taskfleet speaks the HTTP API of Taskcluster, so that clients, workers and tools that exist work unmodified. The services
below have every method and every exchange that Taskcluster publishes for them, with the same routes, parameters, scopes,
stability and shapes of requests and replies. What differs is listed at the end, with the reason. Services that are
Taskfleet's own are not listed here: see [the API](api/README.md).

`)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		s := services[name]
		if own[name] {
			continue
		}
		fmt.Fprintf(&b, "## %s\n\n| method | route | stability | state |\n|---|---|---|---|\n", name)
		for _, e := range s.api.Entries {
			fmt.Fprintf(&b, "| %s | `%s %s` | %s | %s |\n", e.Name, strings.ToUpper(e.Method), e.Route, e.Stability, state(name, e))
		}
		for _, e := range s.exchanges.Entries {
			fmt.Fprintf(&b, "| %s | exchange `%s` | | complete |\n", e.Name, e.Exchange)
		}
		b.WriteString("\n")
	}
	b.WriteString("## Behaviour\n\nWhere the same call does something else than it may elsewhere:\n\n")
	for _, text := range references.Behaviours {
		fmt.Fprintf(&b, "- %s\n", text)
	}
	b.WriteString("\n## Deviations of the schemas\n\n| where | why |\n|---|---|\n")
	for _, where := range slices.Sorted(maps.Keys(references.Deviations)) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", where, references.Deviations[where])
	}
	return b.Bytes(), nil
}

// own are the services that Taskcluster does not have.
var own = map[string]bool{"provisioner": true, "events": true, "loops": true, "schedules": true, "mirror": true, "credentials": true, "credentials-audit": true}

func state(service string, e entry) string {
	if note := references.Notes[service+"."+e.Name]; note != "" {
		return note
	}
	return "complete"
}
