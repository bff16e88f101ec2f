package packages

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/taskfleet/taskfleet/test/server"
)

const chart = "packaging/helm/taskfleet/"

func TestValues(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(root, chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	values := func(changes ...func(map[string]any)) any {
		text, err := yaml.YAMLToJSON([]byte(read(t, chart+"values.yaml")))
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range changes {
			change(document.(map[string]any))
		}
		return document
	}
	if err := schema.Validate(values()); err != nil {
		t.Errorf("the values that the chart comes with: %v", err)
	}
	in := func(part string) func(map[string]any) map[string]any {
		return func(v map[string]any) map[string]any { return v[part].(map[string]any) }
	}
	for what, change := range map[string]func(map[string]any){
		"a misspelt entry":                   func(v map[string]any) { v["replica"] = 3 },
		"a tag as the digest":                func(v map[string]any) { in("image")(v)["digest"] = "v1.2.3" },
		"no root URL":                        func(v map[string]any) { delete(in("configuration")(v), "rootUrl") },
		"a root URL with a slash":            func(v map[string]any) { in("configuration")(v)["rootUrl"] = "https://tasks.example.com/" },
		"an address of one's own":            func(v map[string]any) { in("configuration")(v)["listen"] = "127.0.0.1:80" },
		"a secret in the configuration":      func(v map[string]any) { in("configuration")(v)["metricsToken"] = "x" },
		"no bucket":                          func(v map[string]any) { in("configuration")(v)["s3"] = map[string]any{"region": "eu-central-1"} },
		"no secret for the server":           func(v map[string]any) { in("secrets")(v)["server"].(map[string]any)["name"] = "" },
		"less time than the server may take": func(v map[string]any) { v["terminationGracePeriodSeconds"] = 30 },
	} {
		if schema.Validate(values(change)) == nil {
			t.Errorf("the schema takes %s", what)
		}
	}
	// An entry that the schema does not know could not be set.
	var known struct{ Properties map[string]any }
	if err := yaml.Unmarshal([]byte(read(t, chart+"values.schema.json")), &known); err != nil {
		t.Fatal(err)
	}
	for name := range values().(map[string]any) {
		if known.Properties[name] == nil {
			t.Errorf("the schema does not know %s", name)
		}
	}
}

// Each value is used by a template, and each that a template uses is there.
func TestTemplatesAndValues(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, chart, "templates", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	used := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.Values\.([a-zA-Z]+)`).FindAllStringSubmatch(string(text), -1) {
			used[m[1]] = true
		}
	}
	var values map[string]any
	if err := yaml.Unmarshal([]byte(read(t, chart+"values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(values)); !slices.Equal(got, want) {
		t.Errorf("templates use\n%q\nand values are\n%q", got, want)
	}
}

// What the configuration names is mounted, and so that the server takes it: root's, for a group that is the pod's alone.
func TestSecretsAreMounted(t *testing.T) {
	deployment := read(t, chart+"templates/deployment.yaml")
	named := regexp.MustCompile(`"(?:file:)?/etc/taskfleet/secrets/([a-z0-9.-]+)"`).FindAllStringSubmatch(read(t, chart+"templates/_helpers.tpl"), -1)
	if len(named) != 4 {
		t.Errorf("the configuration names %q", named)
	}
	for _, n := range named {
		if !strings.Contains(deployment, ` "`+n[1]+`"`) {
			t.Errorf("nobody mounts %s", n[1])
		}
	}
	for _, want := range []string{"mountPath: /etc/taskfleet/secrets,", "defaultMode: 0440\n", "fsGroup: 10001\n"} {
		if !strings.Contains(deployment, want) {
			t.Errorf("the deployment has no %q", want)
		}
	}
}

// The garbage collector's limit follows from the container's. One of 0 would have it do nothing but collect.
func TestMemoryLimit(t *testing.T) {
	helper := regexp.MustCompile(`(?s){{- define "taskfleet.memory" -}}.*`).FindString(read(t, chart+"templates/_helpers.tpl")) // the last
	integers := func(f func(a, b int) int) func(...int) int {
		return func(all ...int) int {
			for _, n := range all[1:] {
				all[0] = f(all[0], n)
			}
			return all[0]
		}
	}
	helm, err := template.New("").Funcs(template.FuncMap{ // as Helm has them
		"toString":   func(v any) string { return fmt.Sprint(v) },
		"regexMatch": regexp.MatchString,
		"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
		"int":        func(s string) (int, error) { return strconv.Atoi(s) },
		"mul":        integers(func(a, b int) int { return a * b }),
		"div":        integers(func(a, b int) int { return a / b }),
	}).Parse(helper)
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[any]string{
		"1Gi": "921MiB", "4Gi": "3686MiB", "512Mi": "460MiB", "1.5Gi": "off", "0.5Mi": "off", "1G": "off", "": "off", 1073741824.0: "off",
	} {
		var got strings.Builder
		if err := helm.ExecuteTemplate(&got, "taskfleet.memory", limit); err != nil || strings.TrimSpace(got.String()) != want {
			t.Errorf("%v: %q, %v; want %s", limit, got.String(), err, want)
		}
	}
}

// The program has the command line, the configuration and the paths that the chart gives it.
func TestTheChartFitsTheProgram(t *testing.T) {
	deployment := read(t, chart+"templates/deployment.yaml")
	args := regexp.MustCompile(`args: \[([^\]{]*)`).FindStringSubmatch(deployment)
	if args == nil {
		t.Fatal("the deployment has no args")
	}
	checkCommandLine(t, strings.FieldsFunc(args[1], func(r rune) bool { return r == ',' || r == ' ' }))

	// What the chart itself writes into the configuration, and what values do.
	var configuration strings.Builder
	helpers := read(t, chart+"templates/_helpers.tpl")
	own := regexp.MustCompile(`(?s)\$own := dict(.*?)-}}`).FindStringSubmatch(helpers)
	if own == nil {
		t.Fatal("the chart decides nothing of the configuration")
	}
	for _, m := range regexp.MustCompile(`"([a-zA-Z]+)"\s+"([^"]+)"`).FindAllStringSubmatch(own[1], -1) {
		configuration.WriteString(m[1] + ": " + m[2] + "\n")
	}
	for _, m := range regexp.MustCompile(`set \$own "([a-zA-Z]+)" "([^"]+)"`).FindAllStringSubmatch(helpers, -1) {
		configuration.WriteString(m[1] + ": " + m[2] + "\n")
	}
	var values struct{ Configuration map[string]any }
	if err := yaml.Unmarshal([]byte(read(t, chart+"values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	given, err := yaml.Marshal(values.Configuration)
	if err != nil {
		t.Fatal(err)
	}
	configuration.Write(given)
	file := filepath.Join(t.TempDir(), "taskfleet.yml")
	if err := os.WriteFile(file, []byte(configuration.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), binary, "config", "check", "--config", file).CombinedOutput(); err != nil {
		t.Errorf("%s\n%s", out, configuration.String())
	}

	s, err := server.Start(t.Context(), server.Options{Binary: binary, Data: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	paths := regexp.MustCompile(`path: (/[a-z_]+)[,\n]`).FindAllStringSubmatch(deployment+read(t, chart+"templates/servicemonitor.yaml"), -1)
	if len(paths) < 4 {
		t.Errorf("probes and metrics are at %q", paths)
	}
	for _, p := range paths {
		r, err := http.Get(s.Address + p[1])
		if err != nil {
			t.Fatal(err)
		}
		if r.Body.Close(); r.StatusCode != http.StatusOK {
			t.Errorf("%s answers %s", p[1], r.Status)
		}
	}
}
