package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// standardMethods are those that every service has.
func standardMethods[S any](s *Server) []Method[S] {
	monitoring := func(name, route, title, doc string) Spec {
		return Spec{Name: name, Route: "GET " + route, Stability: Stable, Category: "Monitoring", Title: title, Doc: doc}
	}
	type ping struct {
		Alive  bool    `json:"alive"`
		Uptime float64 `json:"uptime"` // seconds
	}
	return []Method[S]{
		Declare(monitoring("ping", "/ping", "Ping", "Answers at once while the process serves requests. Needs no credentials."),
			func(context.Context, S, Call[None, None]) (ping, error) {
				return ping{true, time.Since(s.started).Seconds()}, nil
			}),
		Declare(monitoring("lbheartbeat", "/__lbheartbeat__", "Load balancer heartbeat", "Tells a load balancer that this process takes requests."),
			func(context.Context, S, Call[None, None]) (None, error) { return None{}, nil }),
		Declare(monitoring("version", "/__version__", "Version", "Tells which build is running."),
			func(context.Context, S, Call[None, None]) (Version, error) { return s.opts.Version, nil }),
		Declare(monitoring("heartbeat", "/__heartbeat__", "Heartbeat", "Tells that the process serves requests, as the load balancer's heartbeat does."),
			func(context.Context, S, Call[None, None]) (None, error) { return None{}, nil }),
	}
}

// Reference is the machine-readable description of a service's methods.
func (v Service[S]) Reference() map[string]any {
	var entries []any
	for _, m := range slices.Concat(v.Methods, standardMethods[S](&Server{})) {
		if m.Unpublished {
			continue
		}
		e := map[string]any{
			"type": "function", "method": strings.ToLower(m.route.verb), "route": m.route.text,
			"name": m.Name, "args": orEmpty(m.route.params()), "query": orEmpty(m.Query),
			"stability": m.Stability, "category": m.Category, "title": m.Title, "description": m.Doc,
		}
		if m.Scopes != nil {
			e["scopes"] = m.Scopes
		}
		if m.Input != "" {
			e["input"] = m.Input
		}
		if m.Output != "" {
			e["output"] = m.Output
		}
		entries = append(entries, e)
	}
	return map[string]any{
		"$schema": "/schemas/common/api-reference-v0.json#", "serviceName": v.Name, "apiVersion": v.Version,
		"title": v.Title, "description": v.Doc, "entries": entries,
	}
}

func (v Service[S]) exchangesReference() map[string]any {
	if len(v.Exchanges) == 0 {
		return nil
	}
	var entries []any
	for _, x := range v.Exchanges {
		var keys []any
		for _, k := range x.RoutingKey {
			key := map[string]any{"name": k.Name, "summary": k.Summary, "required": k.Required, "multipleWords": k.MultipleWords}
			if k.Constant != "" {
				key["constant"] = k.Constant
			}
			keys = append(keys, key)
		}
		entries = append(entries, map[string]any{
			"type": "topic-exchange", "exchange": x.Exchange, "name": x.Name, "title": x.Title,
			"description": x.Doc, "routingKey": keys, "schema": x.Schema,
		})
	}
	return map[string]any{
		"$schema": "/schemas/common/exchanges-reference-v0.json#", "serviceName": v.Name, "apiVersion": v.Version,
		"title": v.Title, "description": v.Doc, "exchangePrefix": "exchange/taskcluster-" + v.Name + "/" + v.Version + "/",
		"entries": entries,
	}
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// Published returns every reference and schema by its path ("/references/
// queue/v1/api.json"), with $id and $schema below root. It is what the server
// serves and what the generated client is made from.
func (s *Server) Published(root string) (map[string]any, error) {
	out := map[string]any{}
	var references []string
	publish := func(path string, doc map[string]any) error {
		b, err := encodeJSON(doc) // a deep copy, in plain JSON types
		if err != nil {
			return err
		}
		var c map[string]any
		if err := json.Unmarshal(b, &c); err != nil {
			return err
		}
		c["$id"] = root + path + "#"
		if sch, ok := c["$schema"].(string); ok && strings.HasPrefix(sch, "/") {
			c["$schema"] = root + sch
		}
		out[path] = c
		return nil
	}
	for key, m := range s.services {
		if err := publish("/references/"+key+"/api.json", m.reference); err != nil {
			return nil, err
		}
		references = append(references, root+"/references/"+key+"/api.json")
		if m.exchanges != nil {
			if err := publish("/references/"+key+"/exchanges.json", m.exchanges); err != nil {
				return nil, err
			}
			references = append(references, root+"/references/"+key+"/exchanges.json")
		}
		for name, doc := range m.schemas.source {
			if err := publish("/schemas/"+key+"/"+name, withSchema(doc, "/schemas/common/metaschema.json#")); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(references)
	for name, doc := range commonSchemas {
		if err := publish("/schemas/common/"+name, withSchema(doc, "http://json-schema.org/draft-07/schema#")); err != nil {
			return nil, err
		}
	}
	out["/references/manifest.json"] = map[string]any{
		"$schema": root + "/schemas/common/manifest-v3.json#", "references": references,
	}
	return out, nil
}

func withSchema(doc map[string]any, meta string) map[string]any {
	c := map[string]any{"$schema": meta}
	for k, v := range doc {
		c[k] = v
	}
	return c
}

func (s *Server) servePublished(w http.ResponseWriter, r *http.Request, path string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		notFound(w, r)
		return
	}
	docs, err := s.published()
	if err != nil {
		incident := uuid.NewString()
		s.opts.Log.Error("publishing references", "incidentId", incident, "err", err)
		http.Error(w, "the references could not be built; see the server's log, incident id "+incident, http.StatusInternalServerError)
		return
	}
	doc, ok := docs[path]
	if !ok {
		notFound(w, r)
		return
	}
	writeJSON(w, r, http.StatusOK, doc)
}

func object(title string, required []string, properties map[string]any) map[string]any {
	return map[string]any{"type": "object", "title": title, "required": required, "properties": properties}
}

// commonSchemas describe the references themselves.
var commonSchemas = func() map[string]map[string]any {
	text := map[string]any{"type": "string"}
	list := func(of any) map[string]any { return map[string]any{"type": "array", "items": of} }
	reference := func(title string, entry map[string]any, more map[string]any) map[string]any {
		props := map[string]any{
			"$schema": text, "$id": text, "serviceName": text, "apiVersion": text,
			"title": text, "description": text, "entries": list(entry),
		}
		for k, v := range more {
			props[k] = v
		}
		return object(title, []string{"$schema", "serviceName", "apiVersion", "title", "description", "entries"}, props)
	}
	return map[string]map[string]any{
		"metaschema.json": {"title": "Schema of the schemas", "$ref": "http://json-schema.org/draft-07/schema#"},
		"manifest-v3.json": object("Manifest of a deployment's references", []string{"$schema", "references"},
			map[string]any{"$schema": text, "references": list(map[string]any{"type": "string", "format": "uri"})}),
		"api-reference-v0.json": reference("Reference of a service's methods", object("Method",
			[]string{"type", "method", "route", "args", "name", "stability", "title", "description"},
			map[string]any{
				"type":   map[string]any{"enum": []string{"function"}},
				"method": map[string]any{"enum": []string{"get", "head", "post", "put", "delete", "options", "patch"}},
				"route":  text, "args": list(text), "query": list(text), "name": text,
				"stability": map[string]any{"enum": []Stability{Stable, Experimental, Deprecated}},
				"category":  text, "title": text, "description": text, "input": text, "output": text,
				"scopes": map[string]any{"description": "A scope, or an expression over scopes"},
			}), nil),
		"exchanges-reference-v0.json": reference("Reference of a service's exchanges", object("Exchange",
			[]string{"type", "exchange", "name", "title", "description", "routingKey", "schema"},
			map[string]any{
				"type": map[string]any{"enum": []string{"topic-exchange"}}, "exchange": text, "name": text,
				"title": text, "description": text, "schema": text,
				"routingKey": list(object("Element of the routing key", []string{"name", "summary", "required", "multipleWords"},
					map[string]any{
						"name": text, "summary": text, "constant": text,
						"required": map[string]any{"type": "boolean"}, "multipleWords": map[string]any{"type": "boolean"},
					})),
			}), map[string]any{"exchangePrefix": text}),
	}
}()
