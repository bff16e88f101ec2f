package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

func TestTheLifeOfAThing(t *testing.T) {
	k := newBoxes()
	s := newStory(t, boxToken, k)
	if err := s.create("a", `{"size": 1.0, "tags": ["y", "x"], "config": {"token": "hunter2", "max": 3}}`); err != nil {
		t.Fatal(err)
	}
	expect(t, "the inputs", text(t, property.New(s.inputs)),
		`{"name":"a","spec":{"color":"white","config":{"max":3,"token":"<\"hunter2\">"},"size":1,"tags":["x","y"]}}`)
	expect(t, "the state", s.stateText(),
		`{"computed":{"key":"<\"key-of-a\">","url":"https://boxes/a"},"name":"a","spec":{"color":"white","config":{"max":3,"token":"<\"hunter2\">"},"size":1,"tags":["x","y"]}}`)

	for _, x := range []struct{ spec, want string }{
		{`{"size": 1, "tags": ["x", "y"], "config": {"token": "hunter2", "max": 3}}`, ""},
		{`{"size": 1, "tags": ["y", "x"], "config": {"max": 3.0, "token": "hunter2"}, "color": "white"}`, ""},
		{`{"size": 2, "tags": ["a", "x", "y"], "config": {"token": "hunter3", "max": 3, "a.b": 1}}`,
			`update spec.config.token, add spec.config["a.b"], update spec.size, update spec.tags[0], update spec.tags[1], add spec.tags[2]`},
		{`{"size": 1}`, `delete spec.config, delete spec.tags[0], delete spec.tags[1]`},
		{`{"size": 1, "tags": ["x", "y"], "config": {"token": "hunter2", "max": 3}, "room": "b"}`, `add&replace spec.room, delete first`},
		{`{"size": 1, "tags": ["x", "y"], "config": {"token": {"now": "an object"}, "max": 3}}`, `update spec.config.token`},
	} {
		expect(t, "the difference to "+x.spec, s.differs(x.spec), x.want)
	}
	expect(t, "the difference of the name", lineOf(s.diff(s.checked(inputs("b", value(t, `{"size": 1, "tags": ["x", "y"], "config": {"token": "hunter2", "max": 3}, "room": "r"}`))))),
		`update&replace name, add&replace spec.room`)

	if err := s.update(`{"size": 2, "note": "hello"}`); err != nil {
		t.Fatal(err)
	}
	expect(t, "the state", s.stateText(),
		`{"computed":{"key":"<\"key-of-a\">","url":"https://boxes/a"},"name":"a","spec":{"color":"white","note":"hello","size":2,"tags":[]}}`)
	expect(t, "the difference to what leaves the note out", s.differs(`{"size": 2}`), "")
	if err := s.update(`{"size": 3}`); err != nil {
		t.Fatal(err)
	}

	// Somebody changes it behind our back.
	k.there["a"] = json.RawMessage(`{"size": 3, "color": "red", "tags": [], "note": "theirs", "config": {"token": "stolen"}, "url": "https://boxes/a", "key": "new"}`)
	if !s.refresh() {
		t.Fatal("it is gone")
	}
	expect(t, "the state", s.stateText(),
		`{"computed":{"key":"<\"new\">","url":"https://boxes/a"},"name":"a","spec":{"color":"red","config":{"token":"<\"stolen\">"},"note":"theirs","size":3,"tags":[]}}`)
	expect(t, "the inputs, which say nothing of note and config", text(t, property.New(s.inputs)), `{"name":"a","spec":{"color":"red","size":3,"tags":[]}}`)
	expect(t, "the drift", s.differs(`{"size": 3}`), "update spec.color, delete spec.config")

	// Imported, it is told with all that it has.
	imported := newStory(t, boxToken, k)
	imported.id = "a"
	if !imported.refresh() {
		t.Fatal("it cannot be imported")
	}
	expect(t, "the imported inputs", text(t, property.New(imported.inputs)),
		`{"name":"a","spec":{"color":"red","config":{"token":"<\"stolen\">"},"note":"theirs","size":3,"tags":[]}}`)

	s.remove()
	if len(k.there) > 0 {
		t.Error("it is still there")
	}
	s.remove() // again is no error
	if s.refresh() {
		t.Error("it is read though it is gone")
	}
	if imported.id = "nobody"; imported.refresh() {
		t.Error("what is not there is imported")
	}
}

// A refresh compares what it has found with what it has found before, which need not be what a program may ask for.
func TestWhatNobodyMayWriteIsComparedAsItIs(t *testing.T) {
	k := newBoxes()
	s := newStory(t, boxToken, k)
	if err := s.create("a", `{"size": 1}`); err != nil {
		t.Fatal(err)
	}
	k.there["a"] = json.RawMessage(`{"size":-1,"color":"darkred","tags":[],"url":"https://boxes/a","key":"key-of-a"}`)
	s.refresh()
	expect(t, "the difference to itself", lineOf(s.diff(s.inputs)), "")
	expect(t, "what would lead back", s.differs(`{"size": 1}`), "update spec.color, update spec.size")
	k.there["a"] = json.RawMessage(`{"size":1,"color":"white","tags":["04da6b54-80e4-46f7-96ec-b56ff0331ba9"],"config":{"a":[9007199254740993],"4dabf18193072939515e22adb298388d":1},"url":"u","key":"k"}`)
	if !s.refresh() {
		t.Fatal("it is gone")
	}
	expect(t, "what would lead back from what Pulumi cannot keep", s.differs(`{"size": 1}`), "delete spec.config, delete spec.tags[0]")
	expect(t, "the state of it", text(t, s.state.Get("spec").AsMap().Get("config")),
		`{"4dabf18193072939515e22adb298388d (Pulumi cannot keep it as it is)":1,"a":["9007199254740993 (Pulumi cannot keep it as it is)"]}`)

	k.there["a"] = json.RawMessage(`{"size":-1,"color":"darkred","tags":[],"url":"https://boxes/a","key":"key-of-a"}`)
	s.refresh()
	was := s.inputs
	k.there["a"] = json.RawMessage(`{"size":-2,"color":"darkred","tags":[],"url":"https://boxes/a","key":"key-of-a"}`)
	s.refresh()
	expect(t, "the difference to what it was before", lineOf(s.diff(was)), "update spec.size")
	if err := s.update(`{"size": 1}`); err != nil {
		t.Fatal(err)
	}
	expect(t, "the difference", s.differs(`{"size": 1}`), "")
}

func TestWhatIsThereIsTakenOverOrLeftAlone(t *testing.T) {
	k := newBoxes()
	k.there["a"] = json.RawMessage(`{"size":1,"color":"white","tags":[],"note":"theirs","url":"https://boxes/a","key":"k"}`)
	s := newStory(t, boxToken, k)
	if err := s.create("a", `{"size": 1}`); err != nil {
		t.Fatal(err)
	}
	expect(t, "the state", s.stateText(), `{"computed":{"key":"<\"k\">","url":"https://boxes/a"},"name":"a","spec":{"color":"white","note":"theirs","size":1,"tags":[]}}`)

	before := string(k.there["a"])
	for _, preview := range []bool{true, false} {
		_, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: s.checked(inputs("a", value(t, `{"size": 2, "color": "red"}`))), DryRun: preview})
		if err == nil || !strings.Contains(err.Error(), "is there already, and differs in spec.color, spec.size: write into the definition how it is") {
			t.Errorf("the error is %v", err)
		}
	}
	expect(t, "what was there", string(k.there["a"]), before)
}

func TestAReplacementIsPreviewedThoughTheOldThingIsThere(t *testing.T) {
	k := newBoxes()
	s := newStory(t, boxToken, k)
	if err := s.create("a", `{"room": "x"}`); err != nil {
		t.Fatal(err)
	}
	in := s.checked(inputs("a", value(t, `{"room": "y"}`)))
	if d := s.diff(in); !d.DeleteBeforeReplace {
		t.Fatalf("it is not replaced: %v", d)
	}
	if _, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in, DryRun: true}); err != nil {
		t.Errorf("the preview fails: %v", err)
	}
	if _, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in}); err == nil {
		t.Error("it is made over the one that is there")
	}
	s.remove()
	if _, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in}); err != nil {
		t.Error(err)
	}
}

func TestPreviewsChangeNothing(t *testing.T) {
	k := newBoxes()
	s := newStory(t, boxToken, k)
	in := s.checked(inputs("a", value(t, `{"size": 1, "config": {"token": "hunter2"}}`)))
	r, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the outputs", text(t, property.New(r.Properties)),
		`{"computed":{"key":"<\"?\">","url":"?"},"name":"a","spec":{"color":"white","config":{"token":"<\"hunter2\">"},"size":1,"tags":[]}}`)
	if len(k.there) > 0 {
		t.Fatal("the preview made it")
	}
	if err := s.create("a", `{"size": 1, "note": "n"}`); err != nil {
		t.Fatal(err)
	}
	u, err := s.server.Update(p.UpdateRequest{ID: "a", Urn: s.urn, State: s.state, OldInputs: s.inputs, Inputs: s.checked(inputs("a", value(t, `{"size": 2}`))), DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the outputs", text(t, property.New(u.Properties)),
		`{"computed":{"key":"<\"key-of-a\">","url":"https://boxes/a"},"name":"a","spec":{"color":"white","note":"n","size":2,"tags":[]}}`)
	if !strings.Contains(string(k.there["a"]), `"size":1`) {
		t.Error("the preview changed it")
	}
}

func TestAPreviewBeforeTheFirstDeploymentDoesNotAskForEachThing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newBoxes()
		k.there["b"] = json.RawMessage(`{"size":1,"color":"white","tags":[]}`)
		k.silent = true
		s := newStory(t, boxToken, k)
		began := time.Now()
		preview := func(name string) error {
			_, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: s.checked(inputs(name, value(t, `{"size": 2}`))), DryRun: true})
			return err
		}
		for i := range 100 {
			if err := preview(fmt.Sprint("a", i)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != lookLimit {
			t.Errorf("a preview of 100 things that nobody tells of took %v", took)
		}
		time.Sleep(lookPause)
		k.silent = false
		if err := preview("b"); err == nil {
			t.Error("after that nothing is asked any more")
		}
	})
}

func TestWhatIsNotKnownYetIsCheckedAsFarAsItIs(t *testing.T) {
	k := newBoxes()
	s := newStory(t, boxToken, k)
	if err := s.create("a", `{"size": 1, "color": "red", "note": "n", "tags": ["x"]}`); err != nil {
		t.Fatal(err)
	}
	unknown := property.New(property.Computed)
	spec := func(text string, member string) property.Value {
		v := value(t, text)
		return property.New(v.AsMap().Set(member, unknown))
	}
	deep := value(t, `{"size": 1, "color": "red", "tags": ["x"]}`)
	deep = property.New(deep.AsMap().Set("config", spec(`{"max": 1}`, "token")))
	for _, x := range []struct {
		what          string
		spec          property.Value
		checked, diff string
	}{
		{"a text", spec(`{"size": 1, "tags": ["x"]}`, "color"), `{"color":"?","size":1,"tags":["x"]}`, "update spec.color"},
		{"a member deep inside", deep, `{"color":"red","config":{"max":1,"token":"<\"?\">"},"size":1,"tags":["x"]}`, "add spec.config"},
		// There the form is not known: a number is no text. What is left out is not said to go.
		{"a number", spec(`{"color": "red"}`, "size"), `{"color":"red","size":"?"}`, "update spec.size"},
		{"a list", spec(`{"size": 2, "color": "red"}`, "tags"), `{"color":"red","size":2,"tags":"?"}`, "update spec.size, update spec.tags"},
		// It may be another room.
		{"all", unknown, `"?"`, "update&replace spec, delete first"},
	} {
		in, failures := s.check(inputs("a", x.spec))
		if len(failures) > 0 {
			t.Errorf("%s that is not known is refused: %v", x.what, failures)
			continue
		}
		expect(t, "the checked spec with "+x.what, text(t, in.Get("spec")), x.checked)
		expect(t, "the difference with "+x.what, lineOf(s.diff(in)), x.diff)
		if _, err := s.server.Update(p.UpdateRequest{ID: "a", Urn: s.urn, State: s.state, Inputs: in, DryRun: true}); err != nil {
			t.Errorf("the preview of an update with %s that is not known fails: %v", x.what, err)
		}
		if _, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in, DryRun: true}); err != nil && !errors.Is(err, errDiffers) && !strings.Contains(err.Error(), "differs") {
			t.Errorf("the preview of a creation with %s that is not known fails: %v", x.what, err)
		}
		if property.New(in).HasComputed() {
			if _, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in}); err == nil || !strings.Contains(err.Error(), "is not known yet") {
				t.Errorf("something is made of what is not known: %v", err)
			}
		}
	}
	// What is known and wrong is told all the same.
	_, failures := s.check(inputs("a", spec(`{"size": -1, "config": {"maxCapacity": -1}}`, "color")))
	expect(t, "the failures", fmt.Sprint(failures), "[{spec.size must be at least 0} {spec.config.maxCapacity must be at least 0}]")

	in, failures := s.check(property.NewMap(map[string]property.Value{"name": unknown, "spec": value(t, `{"size": 1}`)}))
	if len(failures) > 0 {
		t.Errorf("a name that is not known is refused: %v", failures)
	}
	r, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in, DryRun: true})
	if err != nil || r.ID != "" || !r.Properties.Get("name").IsComputed() {
		t.Errorf("the preview of a thing whose name is not known is %v, %v", r, err)
	}
	expect(t, "the difference of a name that is not known", lineOf(s.diff(in)), "update&replace name, update spec.color, delete spec.tags[0]")
}

func TestInputsAreRefusedByTheirPaths(t *testing.T) {
	s := newStory(t, boxToken, newBoxes())
	for _, x := range []struct {
		in   property.Map
		want string
	}{
		{inputs("a", value(t, `{"size": -1, "config": {"maxCapacity": -2}}`)), "[{spec.size must be at least 0} {spec.config.maxCapacity must be at least 0}]"},
		{inputs("a", value(t, `{"colour": "red"}`)), `[{ json: unknown field "colour"}]`},
		{inputs("", value(t, `{}`)), "[{name must be a text: what the thing is called}]"},
		{property.NewMap(map[string]property.Value{"name": property.New(3.0), "specs": property.New("x")}), "[{specs is unknown; a resource has name and spec} {name must be a text: what the thing is called}]"},
		{inputs("a", property.New("text")), "[{spec must be an object}]"},
		{inputs("a", property.New(map[string]property.Value{"config": property.New(map[string]property.Value{
			"a-b": property.New([]property.Value{property.New(property.ResourceReference{})})})})),
			`[{spec.config["a-b"][0] is an asset, an archive or a resource; it must be a value of JSON}]`},
	} {
		_, failures := s.check(x.in)
		expect(t, fmt.Sprintf("the failures of %.60v", x.in), fmt.Sprint(failures), x.want)
	}
	if _, err := s.server.Check(p.CheckRequest{Urn: presource.NewURN("s", "p", "", "taskfleet:test:Bag", "it")}); err == nil || !strings.Contains(err.Error(), "there is no taskfleet:test:Bag; there are taskfleet:test:Box") {
		t.Errorf("the error of an unknown type is %v", err)
	}
	r, err := s.server.CheckConfig(p.CheckRequest{Inputs: property.NewMap(map[string]property.Value{"version": property.New("1.2.3"), "url": property.New("x")})})
	if err != nil || fmt.Sprint(r.Failures) != "[{url the provider taskfleet has no configuration; leave it out}]" {
		t.Errorf("a configuration is answered with %v, %v", r, err)
	}
}

func TestAPartialFailureIsKeptAndRepaired(t *testing.T) {
	k := newBoxes()
	s := newStory(t, boxToken, k)
	in := s.checked(inputs("a", value(t, `{"size": 1, "config": {"token": "hunter2"}}`)))

	k.fail = errors.New("no paint")
	r, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in})
	if err == nil || err.Error() != "no paint" || r.ID != "" || r.PartialState != nil {
		t.Fatalf("a creation that made nothing is %v, %v", r, err)
	}

	k.fail, k.partial = errors.New("no paint, says hunter2"), true
	r, err = s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in})
	if err == nil || r.ID != "a" || r.PartialState == nil {
		t.Fatalf("a creation that made half of it is %v, %v", r, err)
	}
	expect(t, "the reasons", fmt.Sprint(r.PartialState.Reasons, err), "[no paint, says (hidden)] no paint, says (hidden)")
	s.id, s.state, s.inputs = r.ID, r.Properties, in
	expect(t, "the state", s.stateText(), `{"computed":{"url":"https://boxes/a"},"name":"a","spec":{"color":"white","config":{"token":"<\"hunter2\">"},"size":1,"tags":[]}}`)

	// The engine updates it though nothing differs.
	if err := s.update(`{"size": 1, "config": {"token": "hunter2"}}`); err != nil {
		t.Fatal(err)
	}
	expect(t, "the state", s.stateText(), `{"computed":{"key":"<\"key-of-a\">","url":"https://boxes/a"},"name":"a","spec":{"color":"white","config":{"token":"<\"hunter2\">"},"size":1,"tags":[]}}`)

	k.fail, k.partial = errors.New("no paint"), false
	before := s.stateText()
	if err := s.update(`{"size": 2}`); err == nil {
		t.Error("an update that failed is none")
	}
	expect(t, "the state after an update that did nothing", s.stateText(), before)
	k.fail, k.partial = errors.New("no paint"), true
	if err := s.update(`{"size": 2}`); err == nil {
		t.Error("an update that failed is none")
	}
	if !strings.Contains(s.stateText(), `"size":2`) {
		t.Errorf("the state after half an update is %s", s.stateText())
	}
}

func TestWhatIsMadeAndCannotBeKeptIsRemembered(t *testing.T) {
	k := newBoxes()
	k.odd = true
	s := newStory(t, boxToken, k)
	in := s.checked(inputs("a", value(t, `{"size": 1}`)))
	r, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in})
	if err == nil || r.PartialState == nil || r.ID != "a" || !strings.Contains(err.Error(), "it is done, but what there is now cannot be kept: spec.config.serial: is a number") {
		t.Fatalf("it is answered with %v, %v", r, err)
	}
	expect(t, "the state", text(t, property.New(r.Properties)), `{"computed":{},"name":"a","spec":{"color":"white","size":1,"tags":[]}}`)
}

func TestErrorsDoNotTellSecrets(t *testing.T) {
	secret := "pa\"ss\nword"
	k := newBoxes()
	s := newStory(t, boxToken, k)
	spec := property.New(map[string]property.Value{
		"size":   property.New(1.0),
		"color":  property.New("dark" + secret).WithSecret(true), // by the program alone
		"config": property.New(map[string]property.Value{"token": property.New(secret), "more": property.New("known")}),
	})
	_, failures := s.check(inputs("a", spec))
	expect(t, "the failures", fmt.Sprint(failures), "[{spec.color must be a light one, and is (hidden)}]")

	in := s.checked(inputs("a", property.New(spec.AsMap().Set("color", property.New("red").WithSecret(true)))))
	expect(t, "the inputs", text(t, in.Get("spec")), `{"color":"<\"red\">","config":{"more":"known","token":"<\"pa\\\"ss\\nword\">"},"size":1,"tags":[]}`)
	for _, spelling := range []string{secret, fmt.Sprintf("%q", secret), `{"token":"pa\"ss\nword"}`} {
		k.fail = fmt.Errorf("the server says: %s, known", spelling)
		_, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in})
		if err == nil || strings.Contains(err.Error(), "word") || !strings.Contains(err.Error(), "known") || !strings.Contains(err.Error(), "(hidden)") {
			t.Errorf("the error is %v", err)
		}
	}
	r, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Properties.Get("spec").AsMap().Get("color").Secret() {
		t.Error("what the program says is secret is not so in the outputs")
	}
}

func TestCancelEndsWhatIsUnderWay(t *testing.T) {
	k := newBoxes()
	s := newStory(t, boxToken, k)
	started := make(chan struct{})
	k.block = func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}
	in := s.checked(inputs("a", value(t, `{}`)))
	ended := make(chan error)
	go func() {
		_, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in})
		ended <- err
	}()
	<-started
	if err := s.server.Cancel(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("the cancelled creation is %v", err)
	}
	k.block = nil
	if _, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in}); err != nil {
		t.Errorf("after that nothing is made any more: %v", err)
	}
	k.block = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	if _, err := s.server.Update(p.UpdateRequest{ID: "a", Urn: s.urn, Inputs: in, Timeout: 0.01}); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("an update that takes too long is %v", err)
	}
}

func TestTheSchemaIsOfTheKinds(t *testing.T) {
	prov, err := New("v1.2.3", append(Resources(nil), newBoxes())...)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := p.GetSchema(t.Context(), Name, "1.2.3", prov)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the types", strings.Join(slices.Sorted(maps.Keys(schema.Resources)), " "),
		"taskfleet:index:Client taskfleet:index:DenylistAddress taskfleet:index:Hook taskfleet:index:Role taskfleet:index:Secret taskfleet:index:WorkerPool taskfleet:test:Box")
	box := schema.Resources[boxToken]
	expect(t, "the name of the package", schema.Name+" "+schema.Version, "taskfleet 1.2.3")
	expect(t, "the needed inputs", fmt.Sprint(box.RequiredInputs, []any{box.InputProperties["name"].Type, box.InputProperties["spec"].Type, box.InputProperties["name"].WillReplaceOnChanges}), "[name spec] [string object true]")
	for _, word := range []string{"config.token", "room"} {
		if !strings.Contains(box.InputProperties["spec"].Description, word) {
			t.Errorf("the spec is described without %s: %s", word, box.InputProperties["spec"].Description)
		}
	}
	if of := box.Properties["computed"]; !strings.Contains(of.Description, "Members: url, key.") {
		t.Errorf("the computed members are not described: %s", of.Description)
	}

	for _, x := range []struct {
		kinds []Kind
		want  string
	}{
		{[]Kind{newBoxes(), newBoxes()}, "there are two kinds taskfleet:test:Box"},
		{[]Kind{odd{newBoxes(), "aws:s3:Bucket", "a"}}, `the token of a kind is "aws:s3:Bucket"`},
		{[]Kind{odd{newBoxes(), boxToken, "a[0]"}}, `has a member "a[0]"`},
	} {
		if _, err := New("dev", x.kinds...); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("the error is %v and should say %s", err, x.want)
		}
	}
}

type odd struct {
	*boxes
	token, secret string
}

func (o odd) Token() string     { return o.token }
func (o odd) Secrets() []string { return []string{o.secret} }
