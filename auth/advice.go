package auth

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
)

// Advise implements api.Adviser. To a caller who lacks scopes it tells
//
//   - that the credentials have them, and through which of the caller's roles,
//     where it was the request's own authorizedScopes that left them out;
//   - otherwise a few roles that would give them: those that have the scope
//     themselves, rather than through others, the narrowest first.
//
// A role is named to those only who could look it up: they have auth:list-roles
// or auth:get-role:<roleId>. On a deployment whose role anonymous has neither,
// an anonymous caller is told nothing. Of the client that has issued temporary
// credentials nothing is told to their holder, who is somebody else.
func (a *Auth) Advise(r api.Credential, who api.Identity, missing scope.Need) string {
	s := a.current.Load()
	have := who.Scopes
	full := s.unrestricted(r)
	if full != nil {
		have = full
	}
	offers, more := s.rules.offers(missing, func(roleID string) bool {
		return have.Has("auth:list-roles") || have.Has("auth:get-role:"+roleID)
	})
	if full != nil && missing.SatisfiedBy(full) {
		offers = slices.DeleteFunc(offers, func(o offer) bool { return !holds(full, o.role) })
		through := ""
		if len(offers) > 0 {
			through = fmt.Sprintf(", through your role `%s`", offers[0].role)
		}
		return "The credentials have what is missing" + through + "; the authorizedScopes of this request leave it out."
	}
	if len(offers) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("Roles that would give what is missing:\n\n")
	for _, o := range offers {
		fmt.Fprintf(&b, "* `%s`%s\n", o.role, o.detail())
	}
	if more {
		b.WriteString("* and others\n")
	}
	b.WriteString("\nWhoever may change the client or one of its roles can add the scope `assume:<role>` for one of these.")
	return b.String()
}

// holds reports whether who has scopes has a role, or one that it stands for.
func holds(have scope.Set, role string) bool {
	prefix, star := strings.CutSuffix(assume+role, "*")
	return have.Has(assume+role) || star && slices.ContainsFunc(have, func(s string) bool { return strings.HasPrefix(s, prefix) })
}

// unrestricted is what the credentials of a request may do without its
// authorizedScopes; nil where it has none.
func (s *snapshot) unrestricted(r api.Credential) scope.Set {
	p, err := readProof(r)
	if p == nil || err != nil {
		return nil
	}
	if e, err := cred.ParseExt(p.ext); err != nil || e.AuthorizedScopes == nil {
		return nil
	}
	d := s.directory()
	g, err := d.grant(p.id, p.ext)
	if err != nil {
		return nil
	}
	key, ok := p.key(g)
	if !ok {
		return nil
	}
	g.ext.AuthorizedScopes = nil
	if g.authorize(d, key) != nil {
		return nil
	}
	return g.scopes
}

// An offer is a role that gives some of the scopes asked for.
type offer struct {
	role  string // with the parameter filled in
	of    string // the id of the role, where that is another
	given []string
	width int // how many characters of a scope are left open, over all of given
}

func (o offer) detail() string {
	var b strings.Builder
	if o.of != o.role {
		fmt.Fprintf(&b, " (as the role `%s` has it)", o.of)
	}
	const shown = 3
	for i, s := range o.given[:min(len(o.given), shown)] {
		fmt.Fprintf(&b, "%s `%s`", []string{" gives", ","}[min(i, 1)], s)
	}
	if n := len(o.given) - shown; n > 0 {
		fmt.Fprintf(&b, " and %d more", n)
	}
	return b.String()
}

const (
	maxOffers  = 5
	maxAsked   = 20  // scopes that are looked up for one call
	maxGivers  = 100 // that are looked at for one scope
	maxOffered = 200 // characters of an id or scope that a message can bear
)

// offers are the roles that give most of what is missing, the narrowest among
// equals, and whether there are more than those.
func (rs *rules) offers(missing scope.Need, visible func(roleID string) bool) (list []offer, more bool) {
	found := map[string]*offer{}
	asked := 0
	for s := range missing.Scopes() {
		if asked++; asked > maxAsked {
			break
		}
		looked := 0
		for g, role := range rs.givers().of(s) {
			if looked++; looked > maxGivers {
				more = true
				break
			}
			if len(role)+len(s) > 2*maxOffered || !visible(g.rule.roleID) {
				continue
			}
			o := found[role]
			if o == nil {
				o = &offer{role: role, of: g.rule.roleID}
				found[role] = o
			}
			if !slices.Contains(o.given, s) {
				o.given = append(o.given, s)
				o.width += len(s) - len(g.key)
			}
		}
	}
	for _, o := range slices.SortedFunc(maps.Values(found), func(a, b *offer) int {
		return cmp.Or(cmp.Compare(len(b.given), len(a.given)), cmp.Compare(a.width, b.width), cmp.Compare(a.role, b.role))
	}) {
		if len(list) == maxOffers {
			return list, true
		}
		list = append(list, *o)
	}
	return list, more
}

// givers answers which roles have a scope among their own.
type givers struct {
	prefixes prefixes  // how scopes of roles begin, each once
	by       [][]giver // by the index in prefixes
}

// A giver is one scope of one role: key alone, key and anything, or a template.
type giver struct {
	rule     *rule
	key      string
	open     bool // ends in a star
	template *template
}

func (rs *rules) arrangeGivers() *givers {
	by := map[string][]giver{}
	for _, r := range rs.sorted {
		for _, s := range r.scopes {
			if key, open := strings.CutSuffix(s, "*"); key != "" { // who has everything is no advice
				by[key] = append(by[key], giver{r, key, open, nil})
			}
		}
		for i, t := range r.templates {
			if t.head != "" {
				by[t.head] = append(by[t.head], giver{r, t.head, false, &r.templates[i]})
			}
		}
	}
	g := &givers{prefixes: newPrefixes(slices.Sorted(maps.Keys(by)))}
	for _, key := range g.prefixes.keys {
		g.by = append(g.by, by[key])
	}
	return g
}

// of yields those that give a scope, and the id of the role that it takes; the
// narrowest first.
func (gs *givers) of(s string) func(func(giver, string) bool) {
	return func(yield func(giver, string) bool) {
		for i := gs.prefixes.longest(s); i >= 0; i = gs.prefixes.parent[i] {
			for _, g := range gs.by[i] {
				if role, ok := g.gives(s); ok && !yield(g, role) {
					return
				}
			}
		}
	}
}

// gives reports whether the scope s, which begins with the key, is given, and
// to whom.
func (g giver) gives(s string) (role string, ok bool) {
	rest := s[len(g.key):]
	if g.template == nil {
		return g.rule.roleID, g.open || rest == ""
	}
	param := ""
	if tail, open := strings.CutSuffix(g.template.tail, "*"); open && tail != "" {
		param, _, ok = strings.Cut(rest, tail)
	} else if open {
		param, ok = rest, true
	} else {
		param, ok = strings.CutSuffix(rest, tail)
	}
	return strings.TrimSuffix(g.rule.roleID, "*") + param, ok && param != ""
}
