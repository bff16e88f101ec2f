package auth

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/scope"
)

// rolesOf reads lines "roleId -> scope scope …".
func rolesOf(text string) map[string]*role {
	roles := map[string]*role{}
	for line := range strings.Lines(text) {
		id, scopes, ok := strings.Cut(line, "->")
		if ok {
			id = strings.TrimSpace(id)
			roles[id] = &role{RoleID: id, Scopes: strings.Fields(scopes)}
		}
	}
	return roles
}

func TestExpansion(t *testing.T) {
	for _, c := range []struct{ name, roles, in, want string }{
		{"no roles", "", "a b:* assume:x", "a assume:x b:*"},
		{"a role", "x -> a b", "assume:x c", "a assume:x b c"},
		{"its scopes are not the role", "x -> a", "a assume:y x", "a assume:y x"},
		{"roles of roles", "x -> a assume:y\n y -> b assume:z\n z -> c", "assume:x", "a assume:x assume:y assume:z b c"},
		{"a circle", "x -> a assume:y\n y -> b assume:x", "assume:y", "a assume:x assume:y b"},
		{"itself", "x -> a assume:x", "assume:x", "a assume:x"},
		{"normal form", "x -> a:* b\n y -> a:b", "assume:x assume:y a:c", "a:* assume:x assume:y b"},
		{"everything", "x -> *\n y -> a", "assume:x b", "*"},
		{"everything to begin with", "x -> a", "*", "*"},

		{"a role with a star", "x:* -> a", "assume:x:1 assume:x", "a assume:x assume:x:1"},
		{"matches the empty rest", "x:* -> a:<..>", "assume:x:", "a: assume:x:"},
		{"several match", "x* -> a\n xy* -> b\n xyz -> c\n xz* -> d", "assume:xyz", "a assume:xyz b c"},
		{"neighbours in the order do not", "x:a* -> a\n x:ab -> b\n x:b* -> c", "assume:x:az", "a assume:x:az"},

		{"a scope with a star", "x:1 -> a\n x:2* -> b\n y -> c", "assume:x:*", "a assume:x:* b"},
		{"of a longer role", "x* -> a:<..>", "assume:xyz*", "a:yz* assume:xyz*"},
		{"of the same role", "x* -> a:<..>:b", "assume:x*", "a:* assume:x*"},
		{"of a shorter one", "xyz* -> a:<..>:b", "assume:x*", "a:* assume:x*"},
		{"all roles", "x -> a\n y* -> b:<..>", "assume:*", "a assume:* b:*"},
		{"all roles, within more", "x -> b", "a*", "a* b"},
		{"not one that stops before", "x -> b", "assum", "assum"},
		{"a star in the middle is a letter", "a*b -> c\n a -> d", "assume:a*b", "assume:a*b c"},

		{"parameter", "hook:* -> queue:<..> tasks:<..>:run all", "assume:hook:g/h", "all assume:hook:g/h queue:g/h tasks:g/h:run"},
		{"parameter with star swallows the rest", "hook:* -> tasks:<..>:run", "assume:hook:g/*", "assume:hook:g/* tasks:g/*"},
		{"parameter is text in other roles", "x -> a:<..>", "assume:x", "a:<..> assume:x"},
		{"parameter names a role", "all:* -> assume:<..>\n one -> a", "assume:all:one", "a assume:all:one assume:one"},
		{"parameter through roles", "p:* -> assume:q:<..>:x\n q:* -> a:<..>", "assume:p:1", "a:1:x assume:p:1 assume:q:1:x"},
		{"parameter in a circle", "p:* -> assume:q:<..> a:<..>\n q:* -> assume:p:<..>", "assume:p:1", "a:1 assume:p:1 assume:q:1"},
		{"star is a parameter too", "p:* -> a:<..>\n x -> assume:p:*", "assume:x", "a:* assume:p:* assume:x"},
		{"made from parameters alone", "p:* -> <..>", "assume:p:a:b", "a:b assume:p:a:b"},
		{"which may be everything", "p:* -> <..>", "assume:p:*", "*"},
		{"two parameters meet", "a* -> q:<..>\n b* -> q:<..>", "assume:a1 assume:b2*", "assume:a1 assume:b2* q:1 q:2*"},
		{"literal star after the parameter", "p:* -> a:<..>/*", "assume:p:x", "a:x/* assume:p:x"},
	} {
		set, err := newRules(rolesOf(c.roles)).expand(strings.Fields(c.in)...)
		if got := strings.Join(set, " "); got != c.want || err != nil {
			t.Errorf("%s: %s expands to\n %s, %v; want\n %s", c.name, c.in, got, err, c.want)
		}
	}
}

// naive is expansion as one would explain it: take each role and each scope
// until nothing new comes out.
func naive(roles map[string]*role, scopes []string) scope.Set {
	set := slices.Clone(scopes)
	for i := 0; i < len(set); i++ {
		s := set[i]
		for id, r := range roles {
			pattern := assume + id
			byRole, byScope := scope.Grants(pattern, strings.TrimSuffix(s, "*")) && strings.HasSuffix(pattern, "*"), scope.Grants(s, strings.TrimSuffix(pattern, "*")) && strings.HasSuffix(s, "*")
			if s != pattern && !byRole && !byScope {
				continue
			}
			param := "*"
			if byRole {
				param = s[len(pattern)-1:]
			}
			for _, g := range r.Scopes {
				if head, tail, ok := strings.Cut(g, paramMark); ok && strings.HasSuffix(id, "*") {
					if g = head + param; !strings.HasSuffix(s, "*") {
						g += tail
					}
				}
				if !slices.Contains(set, g) {
					set = append(set, g)
				}
			}
		}
	}
	return scope.NewSet(set...)
}

// generator makes small worlds in which everything meets everything.
type generator struct{ *rand.Rand }

func (g generator) word(n int) string {
	b := make([]byte, g.IntN(n+1))
	for i := range b {
		b[i] = "ab:"[g.IntN(3)]
	}
	return string(b)
}

func (g generator) scope(template bool) string {
	s := g.word(3)
	if g.IntN(2) == 0 {
		s = assume + s
	}
	if template && g.IntN(2) == 0 {
		s += paramMark + g.word(1)
	}
	if g.IntN(4) == 0 && !strings.HasSuffix(s, paramMark) {
		s += "*"
	}
	return s
}

func (g generator) scopes(template bool) (list []string) {
	for range g.IntN(4) {
		list = append(list, g.scope(template))
	}
	return list
}

// roles are written one after the other; refused are those that would bring a
// circle.
func (g generator) roles() (roles map[string]*role, refused int) {
	roles = map[string]*role{}
	for range g.IntN(8) {
		id := g.word(3)
		if g.IntN(2) == 0 {
			id += "*"
		}
		r := &role{RoleID: id, Scopes: g.scopes(true)}
		if id == "" || checkRole(id, r.Scopes) != nil {
			continue
		}
		next := maps.Clone(roles)
		next[id] = r
		if newRules(next).cycle(id) != nil {
			refused++
			continue
		}
		roles = next
	}
	return roles, refused
}

// In thousands of random worlds: expansion agrees with its explanation, is a
// fixpoint, keeps what it is given, and is monotone: who has more gets more.
// The last is what makes it safe to check a certificate's scopes before they
// are expanded.
func TestExpansionProperties(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(3, 4))}
	refused, worlds := 0, 0
	for worlds < 20_000 {
		roles, n := g.roles()
		refused += n
		rs := newRules(roles)
		worlds++
		in := g.scopes(false)
		out, err := rs.expand(in...)
		if err != nil {
			t.Fatal(err)
		}
		describe := func() string {
			var b strings.Builder
			for id, r := range roles {
				fmt.Fprintf(&b, "%s -> %s\n", id, strings.Join(r.Scopes, " "))
			}
			return b.String()
		}
		if want := naive(roles, in); !slices.Equal(out, want) {
			t.Fatalf("%s%q expands to %q, want %q", describe(), in, out, want)
		}
		if again, err := rs.expand(out...); err != nil || !slices.Equal(again, out) {
			t.Fatalf("%s%q is not a fixpoint: it expands to %q, %v", describe(), out, again, err)
		}
		if !out.HasAll(in) {
			t.Fatalf("%s%q is not within its expansion %q", describe(), in, out)
		}
		more, err := rs.expand(append(g.scopes(false), in...)...)
		if err != nil || !more.HasAll(out) {
			t.Fatalf("%s%q and more expands to %q, which lacks some of %q, %v", describe(), in, more, out, err)
		}
		for _, s := range in { // whatever a star stands for has no more than the star
			if p, ok := strings.CutSuffix(s, "*"); ok {
				one, err := rs.expand(p + g.word(2))
				if err != nil || !out.HasAll(one) {
					t.Fatalf("%s%s expands to %q, %q to %q, %v", describe(), s, out, p, one, err)
				}
			}
		}
	}
	if refused < 1000 {
		t.Errorf("in %d worlds %d roles were refused for a circle: the test does not test", worlds, refused)
	}
}

func TestCirclesOfRolesAreFound(t *testing.T) {
	for roles, want := range map[string]string{
		"a -> assume:a": "a a",
		"a -> assume:c\n b -> assume:c\n c -> assume:a":        "a c a",
		"a* -> assume:c\n b* -> assume:c\n c* -> assume:a":     "a* c* a*",
		"a -> assume:b*\n bc -> assume:a":                      "a bc a",
		"a -> x assume:b\n b -> y assume:c z\n c -> assume:a*": "a b c a",
		"a -> ass*":           "a a",
		"a -> assume:*":       "a a",
		"a* -> assume:ax":     "a* a*",
		"a* -> assume:a<..>":  "a* a*",
		"a* -> assume:a<..>x": "a* a*",
		"a* -> assume:b<..>x\n b* -> assume:a<..>":        "a* b* a*",
		"a* -> assume:b<..>\n b* -> assume:a<..>":         "a* b* a*",
		"a* -> assume:other<..>x\n other* -> assume:<..>": "a* other* a*",
		"a* -> <..>":    "a* a*",
		"a* -> as<..>x": "a* a*",
		"a:* -> assume:b\n a: -> x\n b -> assume:a:": "a:* b a:*",

		"":                                   "",
		"a -> *":                             "", // it has all roles already, and none through another
		"a -> x\n b -> assume:a":             "",
		"a -> assume:a<..>":                  "", // no star, so no parameter
		"a -> assume:ab\n ab -> x":           "",
		"a* -> assume:b<..>x\n b* -> c:<..>": "",
		"a -> assume:b assume:c\n b -> assume:d\n c -> assume:d\n d -> x":                                "",
		"a -> assume:b\n b -> assume:c\n c -> assume:b":                                                  "", // not through a
		"a* -> assume:repo:<..>:push hooks:<..>/*\n repo:* -> assume:org:<..>\n org:* -> secrets:<..>/x": "",
	} {
		id := "a"
		for _, x := range []string{"a*", "a:*"} {
			if strings.HasPrefix(roles, x+" ") {
				id = x
			}
		}
		if got := strings.Join(newRules(rolesOf(roles)).cycle(id), " "); got != want {
			t.Errorf("%q: through %s goes the circle %q, want %q", roles, id, got, want)
		}
	}
}

// Whether a role is on a circle agrees with its explanation: follow every scope,
// with anything for a parameter, to every role that may match.
func TestCirclesAgreeWithTheirExplanation(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(5, 6))}
	found, none := 0, 0
	for range 20_000 {
		roles := map[string]*role{}
		for range g.IntN(5) {
			id := g.word(3) + []string{"", "*"}[g.IntN(2)]
			if r := (&role{RoleID: id, Scopes: g.scopes(true)}); id != "" && checkRole(id, r.Scopes) == nil {
				roles[id] = r
			}
		}
		next := func(id string) (list []string) {
			for _, s := range roles[id].Scopes {
				if s == "*" {
					continue
				}
				if head, _, ok := strings.Cut(s, paramMark); ok && strings.HasSuffix(id, "*") {
					s = head + "*"
				}
				for other := range roles {
					p := assume + other
					if scope.Grants(s, strings.TrimSuffix(p, "*")) || scope.Grants(p, strings.TrimSuffix(s, "*")) {
						list = append(list, other)
					}
				}
			}
			return list
		}
		for id := range roles {
			seen := map[string]bool{}
			list := next(id)
			for i := 0; i < len(list); i++ {
				if !seen[list[i]] {
					seen[list[i]] = true
					list = append(list, next(list[i])...)
				}
			}
			c := newRules(roles).cycle(id)
			if (c != nil) != seen[id] {
				t.Fatalf("%v: %s is on a circle: %v; found %q", roles, id, seen[id], c)
			}
			if c == nil {
				none++
				continue
			}
			found++
			for i := range c[:len(c)-1] {
				if !slices.Contains(next(c[i]), c[i+1]) || c[0] != id || c[len(c)-1] != id {
					t.Fatalf("%v: %q is no circle through %s", roles, c, id)
				}
			}
		}
	}
	if found < 1000 || none < 1000 {
		t.Errorf("%d circles and %d roles on none: the test does not test", found, none)
	}
}

// Roles that pass the check can still imply exponentially many scopes. That
// fails for who uses them, quickly.
func TestExpansionIsBounded(t *testing.T) {
	roles := map[string]*role{}
	for i := range 40 {
		id := fmt.Sprintf("r%02d:*", i)
		next := fmt.Sprintf("assume:r%02d:", i+1)
		roles[id] = &role{RoleID: id, Scopes: []string{next + "<..>a", next + "<..>b"}}
	}
	rs := newRules(roles)
	if c := rs.cycle("r00:*"); c != nil {
		t.Fatal(c)
	}
	if _, ok := errors.AsType[*expansionError](func() error { _, err := rs.expand("assume:r00:x"); return err }()); !ok {
		t.Error("2^40 scopes were not refused")
	}
	if set, err := rs.expand("assume:r00:x*"); err != nil || len(set) != 41 {
		t.Errorf("with a star there are few: %d, %v", len(set), err)
	}
	long := map[string]*role{"a*": {RoleID: "a*"}}
	for i := range 1000 {
		long["a*"].Scopes = append(long["a*"].Scopes, fmt.Sprintf("%d:<..>", i))
	}
	if _, err := newRules(long).expand("assume:a" + strings.Repeat("x", 16_000)); err == nil {
		t.Error("16 MB of scopes were not refused")
	}
}

// A deployment of 5,000 roles: projects with teams, repositories and hooks,
// one in five with a star.
func manyRoles(n int) map[string]*role {
	roles := map[string]*role{}
	add := func(id string, scopes ...string) { roles[id] = &role{RoleID: id, Scopes: scopes} }
	for i := range n / 5 {
		p := fmt.Sprintf("project-%04d", i)
		add("team:"+p, "assume:repo:example.com/"+p+"/*", "secrets:get:project/"+p+"/*", "queue:create-task:low:"+p+"/*", "assume:project-admin:"+p)
		add("repo:example.com/"+p+"/*", "queue:create-task:high:"+p+"/<..>", "queue:route:index."+p+".<..>", "assume:hook-id:"+p+"/<..>", "assume:base:"+p)
		add("hook-id:"+p+"/nightly", "queue:create-task:lowest:"+p+"/ci", "queue:scheduler-id:"+p)
		add("base:"+p, "queue:scheduler-id:-", "object:upload:"+p+":*", "index:insert-task:"+p+".*", "notify:email:*")
		add("client:"+p, "assume:team:"+p, "worker-manager:*", "auth:create-client:"+p+"/*")
	}
	add("project-admin:*", "auth:create-role:hook-id:<..>/*", "auth:update-role:hook-id:<..>/*", "secrets:set:project/<..>/*", "hooks:modify-hook:<..>/*")
	return roles
}

func BenchmarkExpand(b *testing.B) {
	rs := newRules(manyRoles(5000))
	for _, c := range []struct{ name, scopes string }{
		{"one role deep", "assume:client:project-0500"},
		{"task scopes", "queue:create-task:high:project-0500/ci queue:route:index.a queue:route:index.b assume:repo:example.com/project-0500/x:branch:main secrets:get:a secrets:get:b"},
		{"all roles", "assume:*"},
	} {
		b.Run(c.name, func(b *testing.B) {
			scopes := strings.Fields(c.scopes)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rs.expand(scopes...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewRules(b *testing.B) {
	roles := manyRoles(5000)
	for b.Loop() {
		newRules(roles)
	}
}

func BenchmarkCycle(b *testing.B) {
	rs := newRules(manyRoles(5000))
	for b.Loop() {
		if c := rs.cycle("client:project-0500"); c != nil {
			b.Fatal(c)
		}
	}
}
