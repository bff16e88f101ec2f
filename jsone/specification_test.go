package jsone

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.yaml.in/yaml/v3"
)

// The time at which the published cases, and ours, are rendered.
var testTime = time.Date(2017, 1, 19, 16, 27, 20, 974e6, time.UTC)

// atTestTime runs f in a bubble whose clock has come to testTime.
func atTestTime(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(testTime))
		f(t)
	})
}

// The published specification consists of cases, each a document of a YAML file.
// Its errors are texts, or true where only that there is one is specified.
func TestPublishedSpecification(t *testing.T) {
	path := os.Getenv("TASKFLEET_JSONE_SPECIFICATION")
	if path == "" {
		t.Log("nothing to compare with: TASKFLEET_JSONE_SPECIFICATION names no file with the published cases")
		return
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	type published struct {
		Section, Title    string
		Template, Context any
		Result, Error     any
	}
	count := 0
	atTestTime(t, func(t *testing.T) {
		section := ""
		for d := yaml.NewDecoder(f); ; {
			var c published
			if err := d.Decode(&c); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if c.Section != "" {
				section = c.Section
			}
			if c.Title == "" {
				continue
			}
			count++
			context, ok := decoded(t, c.Context).(map[string]any)
			if !ok {
				t.Errorf("%s: %s: the context is no object", section, c.Title)
				continue
			}
			got, err := Render(decoded(t, c.Template), context)
			if complaint := compare(got, err, decoded(t, c.Result), c.Error); complaint != "" {
				t.Errorf("%s: %s: %s", section, c.Title, complaint)
			}
		}
	})
	t.Logf("%d published cases", count)
	if count < 600 {
		t.Errorf("%s has %d cases; the published suite has more than 600", path, count)
	}
}

// compare says what is wrong with what a case has come to.
func compare(got any, err error, want, wantError any) string {
	switch {
	case err != nil && wantError == nil:
		return fmt.Sprintf("%v, want %s", err, shown(want))
	case err == nil && wantError != nil:
		return fmt.Sprintf("%s, want the error %v", shown(got), wantError)
	case err != nil && wantError != true && err.Error() != wantError:
		return fmt.Sprintf("the error is\n  %s, want\n  %s", err, wantError)
	case err == nil && !reflect.DeepEqual(got, want):
		return fmt.Sprintf("%s, want %s", shown(got), shown(want))
	}
	return ""
}

func shown(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// decoded is what encoding/json would have made of the YAML value v.
func decoded(t testing.TB, v any) any {
	t.Helper()
	b, err := json.Marshal(stringKeys(v))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	var out any
	if err := d.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func stringKeys(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, value := range v {
			m[key] = stringKeys(value)
		}
		return m
	case map[any]any:
		m := make(map[string]any, len(v))
		for key, value := range v {
			m[fmt.Sprint(key)] = stringKeys(value)
		}
		return m
	case []any:
		items := make([]any, len(v))
		for i, item := range v {
			items[i] = stringKeys(item)
		}
		return items
	}
	return v
}
