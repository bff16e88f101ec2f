package sentryfake

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	f := s.fault(r.Method, r.URL.Path)
	s.mu.Unlock()
	api := strings.HasPrefix(r.URL.Path, "/api/0/")
	begun := time.Now()
	if f != nil && f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			s.called(api, Call{begun, r.Method, r.URL.RequestURI(), 0})
			return
		}
	}
	var a answer
	if f == nil || f.Status == 0 && !f.Cut || f.After {
		a = s.answer(r, api)
	}
	if f != nil && (f.Status != 0 || f.Cut) {
		a = answer{status: f.Status, body: map[string]string{"detail": http.StatusText(f.Status)}, header: http.Header{}}
		if f.Body != "" {
			a.body = json.RawMessage(f.Body)
		}
		if f.RetryAfter != "" {
			a.header.Set("Retry-After", f.RetryAfter)
		}
	}
	s.called(api, Call{begun, r.Method, r.URL.RequestURI(), a.status})
	if f != nil && f.Cut {
		panic(http.ErrAbortHandler)
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.Header().Set("Date", s.now().Format(http.TimeFormat))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	if a.body != nil {
		_ = json.NewEncoder(w).Encode(a.body) // a client that is gone
	}
}

func (s *Server) called(api bool, c Call) {
	if !api {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, c)
}

type answer struct {
	status int
	body   any
	header http.Header
}

func says(status int, detail string) answer {
	return answer{status: status, body: map[string]string{"detail": detail}}
}

var missing = says(http.StatusNotFound, "The requested resource does not exist")

const maxBody = 4 << 20

func (s *Server) answer(r *http.Request, api bool) answer {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return says(http.StatusBadRequest, "the body cannot be read")
	}
	if !api {
		return s.envelope(r, body)
	}
	if r.Header.Get("Authorization") != "Bearer "+s.o.Token {
		return says(http.StatusUnauthorized, "Invalid token")
	}
	in := map[string]any{}
	if len(body) > 0 && json.Unmarshal(body, &in) != nil {
		return says(http.StatusBadRequest, "JSON parse error")
	}
	if !strings.HasSuffix(r.URL.Path, "/") {
		return missing
	}
	parts := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/api/0/"), "/"), "/")
	if len(parts) < 3 || parts[1] != s.o.Organization {
		return missing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch parts[0] {
	case "organizations":
		if len(parts) == 3 {
			return s.organization(r, parts[2], in)
		}
	case "teams":
		return s.ofTeam(r, s.team(parts[2]), parts[3:], in)
	case "projects":
		if p := s.project(parts[2]); p != nil {
			return s.ofProject(r, p, parts[3:], in)
		}
	}
	return missing
}

var slug = regexp.MustCompile(`^[a-z0-9_-]+$`)

func goodSlug(text string, most int) bool {
	return len(text) <= most && slug.MatchString(text) && strings.Trim(text, "0123456789") != ""
}

func (s *Server) organization(r *http.Request, what string, in map[string]any) answer {
	switch r.Method + " " + what {
	case "GET projects":
		return page(s, r, s.projects, s.projectJSON)
	case "GET teams":
		return page(s, r, s.teams, teamJSON)
	case "POST teams":
		name, _ := in["slug"].(string)
		if !goodSlug(name, 50) {
			return answer{status: 400, body: map[string]any{"slug": []string{"Enter a valid slug."}}}
		}
		if s.team(name) != nil {
			return says(http.StatusConflict, "A team with this slug already exists.")
		}
		return answer{status: 201, body: teamJSON(s.addTeam(name))}
	case "GET detectors":
		var list []map[string]any
		for _, p := range s.projects {
			if asked(r, p) {
				for i, kind := range []string{"error", "issue_stream"} {
					list = append(list, map[string]any{"id": strconv.FormatInt(p.id*10+int64(i), 10), "projectId": strconv.FormatInt(p.id, 10), "type": kind,
						"name": kind, "enabled": true, "workflowIds": []string{}, "config": map[string]any{}})
				}
			}
		}
		return page(s, r, list, func(m map[string]any) any { return m })
	case "GET workflows":
		var list []*alert
		for _, a := range s.alerts {
			if p := s.project(strconv.FormatInt(a.project, 10)); p != nil && asked(r, p) {
				list = append(list, a)
			}
		}
		return page(s, r, list, s.alertJSON)
	case "POST workflows":
		return s.addAlert(in)
	}
	return missing
}

// asked tells that a list is to have what is of a project.
func asked(r *http.Request, p *project) bool {
	of := r.URL.Query()["project"]
	return len(of) == 0 || slices.Contains(of, p.slug) || slices.Contains(of, strconv.FormatInt(p.id, 10))
}

func (s *Server) addAlert(in map[string]any) answer {
	name, _ := in["name"].(string)
	if name == "" || len(name) > 256 {
		return answer{status: 400, body: map[string]any{"name": []string{"This field is required."}}}
	}
	if !s.tellsTeam(in) {
		return answer{status: 400, body: map[string]any{"actionFilters": []string{"Invalid action."}}}
	}
	a := &alert{id: s.id(), name: name, enabled: in["enabled"] != false}
	monitors, _ := in["detectorIds"].([]any)
	for _, m := range monitors {
		n, _ := m.(float64)
		p := s.project(strconv.FormatInt(int64(n)/10, 10))
		if p == nil {
			return answer{status: 400, body: map[string]any{"detectorIds": []string{"Some detectors do not exist."}}}
		}
		a.project = p.id
		a.monitors = append(a.monitors, strconv.FormatInt(int64(n), 10))
	}
	if c, ok := in["config"].(map[string]any); ok {
		n, _ := c["frequency"].(float64)
		a.frequency = int(n)
	}
	s.alerts = append(s.alerts, a)
	return answer{status: 201, body: s.alertJSON(a)}
}

// tellsTeam tells that an alert has something that triggers it, and emails a team.
func (s *Server) tellsTeam(in map[string]any) bool {
	var d struct {
		Triggers struct {
			LogicType  string `json:"logicType"`
			Conditions []struct {
				Type       string `json:"type"`
				Comparison bool   `json:"comparison"`
			} `json:"conditions"`
		} `json:"triggers"`
		ActionFilters []struct {
			LogicType string `json:"logicType"`
			Actions   []struct {
				Type   string `json:"type"`
				Config struct {
					TargetType       string `json:"targetType"`
					TargetIdentifier string `json:"targetIdentifier"`
				} `json:"config"`
			} `json:"actions"`
		} `json:"actionFilters"`
	}
	text, err := json.Marshal(in)
	if err != nil || json.Unmarshal(text, &d) != nil || d.Triggers.LogicType == "" || len(d.Triggers.Conditions) == 0 ||
		len(d.ActionFilters) != 1 || len(d.ActionFilters[0].Actions) != 1 {
		return false
	}
	action := d.ActionFilters[0].Actions[0]
	return action.Type == "email" && action.Config.TargetType == "team" && slices.ContainsFunc(s.teams, func(t *team) bool { return t.id == action.Config.TargetIdentifier })
}

func (s *Server) ofTeam(r *http.Request, t *team, rest []string, in map[string]any) answer {
	if t == nil {
		return missing
	}
	switch {
	case len(rest) == 0 && r.Method == http.MethodGet:
		return answer{status: 200, body: teamJSON(t)}
	case len(rest) == 1 && rest[0] == "projects" && r.Method == http.MethodPost:
		name, _ := in["name"].(string)
		short, _ := in["slug"].(string)
		platform, _ := in["platform"].(string)
		alerts, given := in["default_rules"].(bool)
		if name == "" || len(name) > 50 {
			return answer{status: 400, body: map[string]any{"name": []string{"Ensure this field has no more than 50 characters."}}}
		}
		if !goodSlug(short, 100) {
			return answer{status: 400, body: map[string]any{"slug": []string{"Enter a valid slug."}}}
		}
		if s.project(short) != nil {
			return says(http.StatusConflict, "A project with this slug already exists.")
		}
		return answer{status: 201, body: s.projectJSON(s.addProject(t, short, name, platform, alerts || !given))}
	}
	return missing
}

func (s *Server) ofProject(r *http.Request, p *project, rest []string, in map[string]any) answer {
	switch {
	case len(rest) == 0 && r.Method == http.MethodGet:
		return answer{status: 200, body: s.projectJSON(p)}
	case len(rest) == 0 && r.Method == http.MethodPut:
		if platform, ok := in["platform"].(string); ok {
			p.platform = platform
		}
		return answer{status: 200, body: s.projectJSON(p)}
	case len(rest) == 2 && rest[0] == "teams" && r.Method == http.MethodPost:
		t := s.team(rest[1])
		if t == nil {
			return missing
		}
		if !slices.Contains(p.teams, t) {
			p.teams = append(p.teams, t)
		}
		return answer{status: 201, body: s.projectJSON(p)}
	case len(rest) == 1 && rest[0] == "keys" && r.Method == http.MethodGet:
		list := slices.Clone(p.keys)
		slices.Reverse(list) // Sentry has the newest first
		return page(s, r, list, func(k *key) any { return s.keyJSON(p, k) })
	case len(rest) == 1 && rest[0] == "keys" && r.Method == http.MethodPost:
		name, _ := in["name"].(string)
		if len(name) > 64 {
			return answer{status: 400, body: map[string]any{"name": []string{"Ensure this field has no more than 64 characters."}}}
		}
		if err := s.limit(&key{}, in); err != nil {
			return answer{status: 400, body: map[string]any{"rateLimit": []string{err.Error()}}}
		}
		k := s.addKey(p, name)
		_ = s.limit(k, in)
		return answer{status: 201, body: s.keyJSON(p, k)}
	case len(rest) >= 2 && rest[0] == "keys":
		if k := p.key(rest[1]); k != nil {
			return s.ofKey(r, p, k, rest[2:], in)
		}
	}
	return missing
}

// limit limits a key as a request says.
func (s *Server) limit(k *key, in map[string]any) error {
	given, ok := in["rateLimit"]
	if !ok || s.o.NoLimits {
		return nil
	}
	l, _ := given.(map[string]any)
	count, _ := l["count"].(float64)
	window, _ := l["window"].(float64)
	if count < 0 || window < 0 || window > 86400 {
		return fmt.Errorf("Ensure this value is less than or equal to 86400.")
	}
	k.count, k.window = int(count), int(window)
	return nil
}

func (s *Server) ofKey(r *http.Request, p *project, k *key, rest []string, in map[string]any) answer {
	switch {
	case len(rest) == 1 && rest[0] == "stats" && r.Method == http.MethodGet:
		since, _ := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
		list := []map[string]int64{}
		for hour := s.now().Truncate(time.Hour).Unix(); hour >= since && len(list) < 24*90; hour -= 3600 {
			list = append(list, map[string]int64{"ts": hour, "total": k.used[hour], "accepted": k.used[hour], "filtered": 0, "dropped": 0})
		}
		slices.Reverse(list)
		return answer{status: 200, body: list}
	case len(rest) > 0:
	case r.Method == http.MethodGet:
		return answer{status: 200, body: s.keyJSON(p, k)}
	case r.Method == http.MethodPut:
		if active, ok := in["isActive"].(bool); ok {
			k.active = active
		}
		if name, ok := in["name"].(string); ok {
			k.name = name
		}
		if err := s.limit(k, in); err != nil {
			return answer{status: 400, body: map[string]any{"rateLimit": []string{err.Error()}}}
		}
		return answer{status: 200, body: s.keyJSON(p, k)}
	case r.Method == http.MethodDelete:
		p.keys = slices.DeleteFunc(p.keys, func(x *key) bool { return x == k })
		return answer{status: 204}
	}
	return missing
}

// page is a page of a list, with the way to the next one.
func page[T any](s *Server, r *http.Request, all []T, show func(T) any) answer {
	size := s.o.PageSize
	if n, err := strconv.Atoi(r.URL.Query().Get("per_page")); err == nil && n > 0 {
		size = min(size, n)
	}
	at := 0
	if cursor := r.URL.Query().Get("cursor"); cursor != "" {
		parts := strings.Split(cursor, ":")
		if len(parts) != 3 {
			return says(http.StatusBadRequest, "Invalid cursor parameter.")
		}
		at, _ = strconv.Atoi(parts[1])
	}
	list := []any{}
	for _, x := range all[min(at, len(all)):min(at+size, len(all))] {
		list = append(list, show(x))
	}
	q := r.URL.Query()
	link := func(rel string, to int, more bool) string {
		cursor := fmt.Sprintf("0:%d:0", to)
		q.Set("cursor", cursor)
		return fmt.Sprintf(`<%s%s?%s>; rel="%s"; results="%t"; cursor="%s"`, s.o.URL, r.URL.Path, q.Encode(), rel, more, cursor)
	}
	return answer{status: 200, body: list, header: http.Header{"Link": {link("previous", max(at-size, 0), at > 0) + ", " + link("next", at+size, at+size < len(all))}}}
}

func teamJSON(t *team) any {
	return map[string]any{"id": t.id, "slug": t.slug, "name": t.slug}
}

func (s *Server) projectJSON(p *project) any {
	teams := []any{}
	for _, t := range p.teams {
		teams = append(teams, teamJSON(t))
	}
	m := map[string]any{"id": strconv.FormatInt(p.id, 10), "slug": p.slug, "name": p.name, "platform": nil, "teams": teams, "dateCreated": p.created, "firstEvent": nil}
	if p.platform != "" {
		m["platform"] = p.platform
	}
	if !p.first.IsZero() {
		m["firstEvent"] = p.first
	}
	return m
}

func (s *Server) keyJSON(p *project, k *key) any {
	m := map[string]any{"id": k.id, "name": k.name, "label": k.name, "public": k.id, "secret": k.secret, "projectId": p.id, "isActive": k.active, "rateLimit": nil,
		"dateCreated": k.created, "dsn": map[string]string{"secret": s.dsn(p, k, true), "public": s.dsn(p, k, false)}}
	if k.count > 0 {
		m["rateLimit"] = map[string]int{"count": k.count, "window": k.window}
	}
	return m
}

func (s *Server) alertJSON(a *alert) any {
	return map[string]any{"id": a.id, "name": a.name, "enabled": a.enabled, "detectorIds": a.monitors, "config": map[string]int{"frequency": a.frequency}}
}
