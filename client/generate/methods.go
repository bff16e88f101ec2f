package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The POST methods that may be sent twice: because they only look, because
// they set something to a value, or because the second time is refused without
// harm. The references do not say so, and a method that is not listed is never
// repeated once a server may have acted upon it. Deliberately absent: claimWork
// (each call takes further tasks), reportWorkerError (each call adds an entry),
// authenticateHawk (a signature holds once).
var repeatable = map[string][]string{
	"auth": {
		"resetAccessToken", "updateClient", "enableClient", "disableClient", "updateRole",
		"expandScopes", "testAuthenticate",
	},
	"queue": {
		"tasks", "statuses", "cancelTaskGroup", "sealTaskGroup", "scheduleTask", "rerunTask", "cancelTask",
		"claimTask", "reclaimTask", "reportCompleted", "reportFailed", "reportException", "createArtifact",
	},
	"worker-manager": {
		"updateWorkerPool", "registerWorker", "reregisterWorker",
	},
}

// Arguments that are not strings.
var argTypes = map[string]string{"runId": "int"}

// methods writes the methods of one service.
type methods struct {
	*service
	source
}

func methodsFile(s *service) ([]byte, error) {
	m := &methods{service: s}
	for _, name := range repeatable[s.API.ServiceName] {
		if !slices.ContainsFunc(s.API.Entries, func(e entry) bool { return e.Name == name && e.Method == "post" }) {
			return nil, fmt.Errorf("the generator lists %s as a POST that may be repeated, but there is no such method", name)
		}
	}
	m.use("context")
	m.use("github.com/taskfleet/taskfleet/client")
	m.printf("\n// A Client calls the service. It is safe for concurrent use.\ntype Client struct{ core *client.Client }\n")
	m.printf("\n// New returns a Client that sends its requests by way of core.\nfunc New(core *client.Client) *Client { return &Client{core} }\n")
	for _, e := range s.API.Entries {
		if err := m.method(e); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	doc := fmt.Sprintf("Package %s is the Go client of the service %s.", s.packageName(), s.API.ServiceName)
	if d := strings.TrimSpace(s.API.Description); d != "" {
		doc += "\n\n" + d
	}
	return m.finish(docComment(0, doc), s.packageName())
}

// method writes the method of an entry, the type of its query options, and its
// iterator if it answers in pages.
func (m *methods) method(e entry) error {
	name := goName(e.Name)
	in, err := m.schemaType(e.Input)
	if err != nil {
		return err
	}
	out, err := m.schemaType(e.Output)
	if err != nil {
		return err
	}
	route, err := m.route(e)
	if err != nil {
		return err
	}
	params, args := []string{"ctx context.Context"}, []string{"ctx"}
	for _, a := range e.Args {
		goType := argTypes[a]
		if goType == "" {
			goType = "string"
		}
		params = append(params, argName(a)+" "+goType)
		args = append(args, argName(a))
	}
	if in != "" {
		params = append(params, "in *"+in)
		args = append(args, "in")
	}
	if len(e.Query) > 0 {
		m.options(name, e)
		params = append(params, "opts "+name+"Options")
		args = append(args, "opts")
	}
	request := fmt.Sprintf("\tr := client.Request{\nName: %q,\nVerb: %q,\n%s", m.API.ServiceName+"."+e.Name, strings.ToUpper(e.Method), route)
	if len(e.Query) > 0 {
		request += "Query: opts.values(),\n"
	}
	if in != "" {
		request += "In: in,\n"
	}
	if e.Method != "post" && e.Method != "patch" || slices.Contains(repeatable[m.API.ServiceName], e.Name) {
		request += "Repeatable: true,\n"
	}
	request += "}\n"

	m.printf("\n%s", docComment(0, methodDoc(name, m.API.ServiceName, e)))
	m.printf("func (c *Client) %s(%s) ", name, strings.Join(params, ", "))
	switch {
	case out == "":
		m.printf("error {\n%s\treturn c.core.Do(ctx, r, nil)\n}\n", request)
	case m.Schemas[schemaFile(e.Output)].Type == "array":
		m.printf("(out %s, err error) {\n%s\terr = c.core.Do(ctx, r, &out)\n\treturn out, err\n}\n", out, request)
	default:
		m.printf("(*%s, error) {\n%s\tout := new(%s)\n\tif err := c.core.Do(ctx, r, out); err != nil {\n\t\treturn nil, err\n\t}\n\treturn out, nil\n}\n", out, request, out)
	}
	return m.iterator(name, e, params, args)
}

// options writes the type of the query parameters.
func (m *methods) options(name string, e entry) {
	m.use("net/url")
	m.printf("\n// %sOptions are the query parameters of %s; zero ones are not sent.\ntype %sOptions struct {\n", name, name, name)
	for _, q := range e.Query {
		m.printf("\t%s %s\n", goName(q), queryType(q))
	}
	m.printf("}\n\nfunc (o %sOptions) values() url.Values {\n\tq := url.Values{}\n", name)
	for _, q := range e.Query {
		if queryType(q) == "int" {
			m.use("strconv")
			m.printf("\tif o.%s != 0 {\n\t\tq.Set(%q, strconv.Itoa(o.%s))\n\t}\n", goName(q), q, goName(q))
		} else {
			m.printf("\tif o.%s != \"\" {\n\t\tq.Set(%q, o.%s)\n\t}\n", goName(q), q, goName(q))
		}
	}
	m.printf("\treturn q\n}\n")
}

func queryType(q string) string {
	if q == "limit" {
		return "int"
	}
	return "string"
}

// iterator writes the sequence over all pages of a method that has them.
func (m *methods) iterator(name string, e entry, params, args []string) error {
	out := m.Schemas[schemaFile(e.Output)]
	if !slices.Contains(e.Query, "continuationToken") || out == nil || out.Properties["continuationToken"] == nil {
		return nil
	}
	var list string
	for _, p := range members(out) {
		if out.Properties[p].Type == "array" {
			if list != "" {
				return fmt.Errorf("a page of %s has two lists, %s and %s", e.Output, list, p)
			}
			list = p
		}
	}
	if list == "" {
		return nil
	}
	n := &nested{types: &types{service: m.service}}
	item, err := n.itemType(typeName(schemaFile(e.Output))+goName(list), out.Properties[list])
	if err != nil {
		return err
	}
	for _, path := range n.imports {
		m.use(path)
	}
	m.use("iter")
	m.printf("\n%s", docComment(0, name+"All is the sequence of what "+name+" returns page by page. It ends with the first error."))
	m.printf("func (c *Client) %sAll(%s) iter.Seq2[%s, error] {\n", name, strings.Join(params, ", "), item)
	m.printf("\treturn client.Pages(opts.ContinuationToken, func(token string) ([]%s, string, error) {\n", item)
	m.printf("\t\topts := opts\n\t\topts.ContinuationToken = token\n\t\tpage, err := c.%s(%s)\n", name, strings.Join(args, ", "))
	m.printf("\t\tif err != nil {\n\t\t\treturn nil, \"\", err\n\t\t}\n\t\treturn page.%s, page.ContinuationToken, nil\n\t})\n}\n", goName(list))
	return nil
}

var parameter = regexp.MustCompile(`<(\w+)>`)

// route is the fields of the request that make up its path.
func (m *methods) route(e entry) (string, error) {
	text := fmt.Sprintf("Route: %q,\n", "/api/"+m.API.ServiceName+"/"+m.API.APIVersion+e.Route)
	var values []string
	for _, x := range parameter.FindAllStringSubmatch(e.Route, -1) {
		if !slices.Contains(e.Args, x[1]) {
			return "", fmt.Errorf("the route has a parameter %s that is not among the arguments", x[1])
		}
		v := argName(x[1])
		if argTypes[x[1]] == "int" {
			m.use("strconv")
			v = "strconv.Itoa(" + v + ")"
		}
		values = append(values, v)
	}
	if len(values) != len(e.Args) {
		return "", fmt.Errorf("the route %s does not have each of the arguments %v once", e.Route, e.Args)
	}
	if len(values) > 0 {
		text += "Args: []string{" + strings.Join(values, ", ") + "},\n"
	}
	return text, nil
}

// schemaType is the Go type of "v1/task.json#", "" for none.
func (m *methods) schemaType(ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	file := schemaFile(ref)
	if m.Schemas[file] == nil {
		return "", fmt.Errorf("there is no schema %s", ref)
	}
	return typeName(file), nil
}

func schemaFile(ref string) string {
	return strings.TrimSuffix(strings.TrimPrefix(ref, "v1/"), "#")
}

func methodDoc(name, service string, e entry) string {
	doc := fmt.Sprintf("%s calls %s.%s.", name, service, e.Name)
	if e.Title != "" {
		doc = fmt.Sprintf("%s calls %s.%s: %s.", name, service, e.Name, strings.TrimSuffix(e.Title, "."))
	}
	if d := strings.TrimSpace(e.Description); d != "" {
		doc += "\n\n" + d
	}
	if e.Scopes != nil {
		doc += "\n\nScopes: " + scopeText(e.Scopes, false) + "."
	}
	switch e.Stability {
	case "experimental":
		doc += "\n\nThe method is experimental and may change."
	case "deprecated":
		doc += "\n\nDeprecated: the service keeps the method for old clients only."
	}
	return doc
}

// scopeText words a scope expression.
func scopeText(x any, within bool) string {
	switch x := x.(type) {
	case string:
		return "`" + x + "`"
	case map[string]any:
		for _, op := range []struct{ key, word string }{{"AllOf", " and "}, {"AnyOf", " or "}} {
			list, ok := x[op.key].([]any)
			if !ok {
				continue
			}
			var parts []string
			for _, y := range list {
				parts = append(parts, scopeText(y, true))
			}
			text := strings.Join(parts, op.word)
			if within && len(parts) > 1 {
				text = "(" + text + ")"
			}
			return text
		}
		if each, ok := x["each"].(string); ok {
			return fmt.Sprintf("`%s` for each %v in `%v`", each, x["for"], x["in"])
		}
		if cond, ok := x["if"].(string); ok {
			text := fmt.Sprintf("if `%s`: %s", cond, scopeText(x["then"], true))
			if otherwise := x["else"]; otherwise != nil {
				text += ", else " + scopeText(otherwise, true)
			}
			return text
		}
	}
	return fmt.Sprint(x)
}
