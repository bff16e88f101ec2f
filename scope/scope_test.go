package scope

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestNormalForm(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"a a", "a"},
		{"a b a*", "a* b"},
		{"ab* a* abc", "a*"},
		{"* x", "*"},
		{"a*b a* a", "a*"},
		{"b a", "a b"},
		{"a:b* a:c a:", "a: a:b* a:c"},
	} {
		if got := strings.Join(NewSet(strings.Fields(c.in)...), " "); got != c.want {
			t.Errorf("NewSet(%s) = %s, want %s", c.in, got, c.want)
		}
	}
}

// The binary search must agree with the definition, member by member.
func TestHasAgreesWithTheDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		b := make([]byte, r.IntN(4))
		for i := range b {
			b[i] = "ab:"[r.IntN(3)]
		}
		s := string(b)
		if r.IntN(3) == 0 {
			s += "*"
		}
		return s
	}
	for range 50_000 {
		var list []string
		for range r.IntN(6) {
			list = append(list, word())
		}
		want := word()
		truth := slices.ContainsFunc(list, func(h string) bool { return Grants(h, want) })
		if got := NewSet(list...).Has(want); got != truth {
			t.Fatalf("%q grants %q: got %v, want %v", list, want, got, truth)
		}
	}
}

func TestExpressions(t *testing.T) {
	create := AllOf{
		ForEach{"scope", "scopes", "<scope>"},
		Scope("queue:create-task:project:<projectId>"),
		AnyOf{ForEach{"priority", "priorities", "queue:create-task:<priority>:<queue>"}},
	}
	vars := Vars{"scopes": []string{"x:y"}, "projectId": "p", "queue": "q/r", "priorities": []string{"low", "high"}}
	need, err := Resolve(create, vars)
	if err != nil {
		t.Fatal(err)
	}
	for have, want := range map[string]bool{
		"*": true,
		"x:* queue:create-task:project:p queue:create-task:high:q/r": true,
		"x:* queue:create-task:project:p queue:create-task:high:q/":  false,
		"x:* queue:create-task:project:p":                            false,
		"queue:create-task:*":                                        false,
		"":                                                           false,
	} {
		if got := need.SatisfiedBy(NewSet(strings.Fields(have)...)); got != want {
			t.Errorf("%q satisfies: %v, want %v", have, got, want)
		}
	}
	missing, _ := json.Marshal(need.Missing(NewSet("queue:create-task:*")))
	if string(missing) != `"x:y"` {
		t.Errorf("missing = %s", missing)
	}
	if _, err := Resolve(create, Vars{"scopes": []string{}}); err == nil {
		t.Error("a missing parameter went unnoticed")
	}
	if got := strings.Join(create.Params(), " "); got != "priorities projectId queue scopes" {
		t.Errorf("params = %s", got)
	}
	ref, _ := json.Marshal(create)
	if !strings.Contains(string(ref), `{"AnyOf":[{"each":"queue:create-task:\u003cpriority\u003e:\u003cqueue\u003e","for":"priority","in":"priorities"}]}`) {
		t.Errorf("reference form = %s", ref)
	}
}

func TestAnEmptyAnyOfIsNeverSatisfiedAndAnEmptyAllOfAlways(t *testing.T) {
	never, _ := Resolve(AnyOf{ForEach{"x", "xs", "<x>"}}, Vars{"xs": []string{}})
	always, _ := Resolve(AllOf{ForEach{"x", "xs", "<x>"}}, Vars{"xs": []string{}})
	if never.SatisfiedBy(NewSet("*")) || !always.SatisfiedBy(nil) {
		t.Error("wrong")
	}
}

func TestWhatAnExpressionWasSatisfiedBy(t *testing.T) {
	need, err := Resolve(AllOf{Scope("a:1"), AnyOf{AllOf{Scope("x"), Scope("b:1")}, Scope("c:1"), Scope("b:2")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	have := NewSet("a:*", "b:*", "c:1", "d")
	var got []string
	need.Used(have, func(needed string) {
		granted, ok := have.Granting(needed)
		if !ok {
			t.Errorf("%s is not granted", needed)
		}
		got = append(got, needed+" by "+granted)
	})
	if text := strings.Join(got, ", "); text != "a:1 by a:*, c:1 by c:1" {
		t.Errorf("it is %s", text)
	}
	if member, ok := have.Granting("e"); ok {
		t.Errorf("e is granted by %s", member)
	}
	if !Single("b:<x>").SatisfiedBy(have) {
		t.Error("a single scope is not taken as it is")
	}
}
