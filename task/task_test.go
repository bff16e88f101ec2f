package task

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestPriorities(t *testing.T) {
	for i, p := range Priorities {
		if PriorityOf(p.Rank()) != p || p.Rank() != len(Priorities)-1-i {
			t.Errorf("%s has rank %d", p, p.Rank())
		}
	}
	if PriorityOf(Priority("normal").Rank()) != "lowest" {
		t.Errorf("what is no priority has rank %d", Priority("normal").Rank())
	}
	if got := Priority("high").AtLeast(); !reflect.DeepEqual(got, []string{"highest", "very-high", "high"}) {
		t.Errorf("at least high: %v", got)
	}
}

func TestSameIgnoresSpellingOfPayloadsOnly(t *testing.T) {
	a := Definition{Payload: json.RawMessage(`{"a":1,"b":[1.0,"x"]}`), Extra: json.RawMessage(`{}`)}
	b := Definition{Payload: json.RawMessage(`{ "b": [1.0, "\u0078"], "a": 1 }`), Extra: json.RawMessage(`{}`)}
	if same, diff := a.Same(&b); !same {
		t.Errorf("differ in %s", diff)
	}
	b.Payload = json.RawMessage(`{"a":2,"b":[1.0,"x"]}`)
	if same, diff := a.Same(&b); same || diff != "payload" {
		t.Errorf("same=%v, difference %q", same, diff)
	}
	b = a
	b.Retries = 3
	if same, diff := a.Same(&b); same || diff != "retries" {
		t.Errorf("same=%v, difference %q", same, diff)
	}
}
