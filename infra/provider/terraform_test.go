package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-testing/config"
	acceptance "github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/timestamp"
)

// The example is there twice. A platform that was empty is the same after either, and after all is destroyed it is as it was.
func TestTerraformAndYAMLLeadToTheSame(t *testing.T) {
	const key = `{"key":"hunter2<&>"}`
	each(t, func(t *testing.T, _ cli, c *client.Client) {
		before := export(t, c)
		example, err := os.ReadFile("../../examples/terraform/main.tf")
		if err != nil {
			t.Fatal(err)
		}
		wanted, err := resource.Load(nil, "../../examples/terraform/resources.yml")
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, d := range wanted.Definitions {
			names = append(names, resource.ID(d.Kind, regexp.QuoteMeta(d.Name)))
		}
		if err := wanted.ReadValues(func(string) (string, bool) { return key, true }); err != nil {
			t.Fatal(err)
		}
		apply(t, c, wanted)
		byYAML := export(t, c)

		nothing := &resource.Set{}
		for _, name := range names {
			p, err := resource.ParsePattern(name)
			if err != nil {
				t.Fatal(err)
			}
			nothing.Managed = append(nothing.Managed, p)
		}
		apply(t, c, nothing)
		if after := export(t, c); after != before || byYAML == before {
			t.Fatalf("there was\n%s\nthen\n%s\nand then\n%s", before, byYAML, after)
		}

		acceptance.Test(t, acceptance.TestCase{
			ProtoV6ProviderFactories: factories,
			Steps: []acceptance.TestStep{{
				Config:          string(example),
				ConfigVariables: config.Variables{"nightly_key": config.StringVariable(key)},
				Check: func(*terraform.State) error {
					if byHCL := export(t, c); byHCL != byYAML {
						t.Errorf("by YAML there is\n%s\nand by HCL\n%s", byYAML, byHCL)
					}
					return nil
				},
			}},
			CheckDestroy: func(*terraform.State) error {
				if after := export(t, c); after != before {
					t.Errorf("there was\n%s\nand after destroy\n%s", before, after)
				}
				return nil
			},
		})
	})
}

const header = `
terraform {
  required_providers {
    taskfleet = { source = "taskfleet/taskfleet" }
  }
}
`

// one is a thing of each kind, spelled in ways in which the platform does not spell it.
const one = header + `
resource "taskfleet_role" "x" {
  role_id     = "terraform:role"
  description = "It is <b>& more"
  scopes      = ["b:x", "a:x", "b:x"]
}
resource "taskfleet_client" "x" {
  client_id = "terraform/client"
  scopes    = [for role in [taskfleet_role.x.role_id] : "assume:${role}"]
  expires   = "2035-01-31T13:00:00+01:00"
  disabled  = true
}
resource "taskfleet_secret" "x" {
  name    = "terraform/secret"
  value   = "{\"b\": 1.0, \"a\": \"hunter2 <&>\"}"
  expires = "2036-01-01T00:00:00Z"
}
resource "taskfleet_worker_pool" "x" {
  worker_pool_id = "terraform/pool"
  provider_id    = "local"
  owner          = "a@example.com"
  email_on_error = true
  config         = <<-EOT
    {"maxCapacity": 2.0, "workerConfig": {"idleTimeoutSecs": 3e1}}
  EOT
}
resource "taskfleet_hook" "x" {
  hook_id        = "terraform/hook/one"
  name           = "<Nightly>"
  description    = "lines\n"
  owner          = "a@example.com"
  email_on_error = false
  schedule       = ["0 0 3 * * *", "0 0 1 * * *"]
  bindings       = [
    { exchange = "exchange/taskcluster-queue/v1/task-failed", routing_key_pattern = "route.x" },
    { exchange = "exchange/taskcluster-queue/v1/task-completed", routing_key_pattern = "#" },
  ]
  task           = jsonencode({ "$if" = "a < b", then = { n = 1.50, none = null } })
  trigger_schema = "{\"type\":\"object\"}"
}
resource "taskfleet_denylist_address" "x" {
  address = "email/Terraform@Example.com"
}
`

// ids are of the things of one.
var ids = map[*kind]string{
	roles: "terraform:role", clients: "terraform/client", secrets: "terraform/secret", workerPools: "terraform/pool", hooks: "terraform/hook/one",
	denylist: "email/Terraform@Example.com",
}

// there is one as the platform has it.
var there = map[*kind]string{
	roles:       `{"description":"It is <b>& more","scopes":["a:x","b:x"]}`,
	clients:     `{"description":"","scopes":["assume:terraform:role"],"expires":"2035-01-31T12:00:00.000Z","deleteOnExpiration":false,"disabled":true}`,
	secrets:     `{"expires":"2036-01-01T00:00:00.000Z","value":{"a":"hunter2 <&>","b":1}}`,
	workerPools: `{"providerId":"local","description":"","owner":"a@example.com","emailOnError":true,"config":{"maxCapacity":2,"workerConfig":{"idleTimeoutSecs":30}}}`,
	hooks: `{"name":"<Nightly>","description":"lines\n","owner":"a@example.com","emailOnError":false,"schedule":["0 0 3 * * *","0 0 1 * * *"],` +
		`"bindings":[{"exchange":"exchange/taskcluster-queue/v1/task-failed","routingKeyPattern":"route.x"},{"exchange":"exchange/taskcluster-queue/v1/task-completed","routingKeyPattern":"#"}],` +
		`"task":{"$if":"a < b","then":{"n":1.5,"none":null}},"triggerSchema":{"type":"object"}}`,
	denylist: `{}`,
}

// documents are what is there of one.
func documents(t *testing.T, c *client.Client) map[*kind]string {
	t.Helper()
	out := map[*kind]string{}
	for k, name := range ids {
		d, err := k.Read(t.Context(), c, name)
		if err != nil {
			t.Fatal(err)
		}
		out[k] = string(d)
	}
	return out
}

// planned expects what is to be done with all of one, but for those in other.
func planned(action plancheck.ResourceActionType, other map[*kind]plancheck.ResourceActionType) acceptance.ConfigPlanChecks {
	var checks acceptance.ConfigPlanChecks
	for _, k := range kinds {
		does := action
		if a, ok := other[k]; ok {
			does = a
		}
		checks.PreApply = append(checks.PreApply, plancheck.ExpectResourceAction(k.typeName+".x", does))
	}
	return checks
}

// The acceptance tests look by themselves after each step whether the next plan is empty.
func TestTerraformLivesOfAllKinds(t *testing.T) {
	each(t, func(t *testing.T, _ cli, c *client.Client) {
		expect := func(want map[*kind]string) acceptance.TestCheckFunc {
			return func(*terraform.State) error {
				is := documents(t, c)
				for k := range ids {
					if is[k] != want[k] {
						t.Errorf("the %s is\n%s\nwant\n%s", k.Noun(), is[k], want[k])
					}
					if is[k] == "" {
						continue
					}
					all, err := members(json.RawMessage(is[k]))
					if err != nil {
						t.Fatal(err)
					}
					for member := range all {
						if !slices.ContainsFunc(k.attributes, func(a attribute) bool { return a.member == member }) {
							t.Errorf("there is no attribute of a %s for %s", k.Noun(), member)
						}
					}
				}
				return nil
			}
		}
		// Behind its back everything is changed, but for the address, which is deleted: it cannot be changed.
		meddle := func() {
			for k, name := range ids {
				d := strings.NewReplacer(`"description":""`, `"description":"other"`, `& more`, `meddled`, "hunter2", "hunter3", `"lines\n"`, `""`, `"disabled":true`, `"disabled":false`, `"value":{`, `"value":{"c":2,`).Replace(there[k])
				err := k.Update(t.Context(), c, name, json.RawMessage(d))
				if k == denylist {
					err = k.Delete(t.Context(), c, name)
				}
				if err != nil || k != denylist && d == there[k] {
					t.Fatal(k.Noun(), err, d)
				}
			}
		}
		remove := func() {
			for k, name := range ids {
				if err := k.Delete(t.Context(), c, name); err != nil {
					t.Fatal(err)
				}
			}
		}
		respelled := strings.NewReplacer(`["b:x", "a:x", "b:x"]`, `["a:x", "b:x"]`, "13:00:00+01:00", "12:00:00Z", "3e1", "30", `1.0, \"a\"`, `1, \"a\"`, "Terraform@", "terraform@",
			`jsonencode({ "$if" = "a < b", then = { n = 1.50, none = null } })`, `"{\"then\":{\"none\":null, \"n\": 15e-1}, \"$if\":\"a < b\"}"`).Replace(one)

		// Each argument another one. What is left out is its default, or stays as it is.
		const two = header + `
resource "taskfleet_role" "x" {
  role_id = "terraform:role"
}
resource "taskfleet_client" "x" {
  client_id            = "terraform/client"
  description          = "other"
  scopes               = []
  delete_on_expiration = true
}
resource "taskfleet_secret" "x" {
  name             = "terraform/secret"
  value_wo         = jsonencode({ a = "hunter4" })
  value_wo_version = 1
}
resource "taskfleet_worker_pool" "x" {
  worker_pool_id = "terraform/pool"
  description    = "other"
  provider_id    = "local"
  owner          = "b@example.com"
  config         = jsonencode({ maxCapacity = 3 })
}
resource "taskfleet_hook" "x" {
  hook_id = "terraform/hook/one"
  name    = "other"
  owner   = "b@example.com"
  task    = jsonencode({})
}
resource "taskfleet_denylist_address" "x" {
  address = "slack-channel/terraform"
}
data "taskfleet_role" "x" {
  role_id = taskfleet_role.x.role_id
}
data "taskfleet_worker_pool" "x" {
  worker_pool_id = taskfleet_worker_pool.x.worker_pool_id
}
ephemeral "taskfleet_secret" "x" {
  name = taskfleet_secret.x.name
}
resource "taskfleet_secret" "copy" {
  name             = "terraform/copy"
  value_wo         = ephemeral.taskfleet_secret.x.value
  value_wo_version = 1
}
`
		then := map[*kind]string{
			roles:       `{"description":"","scopes":[]}`,
			clients:     `{"description":"other","scopes":[],"expires":"3000-01-01T00:00:00.000Z","deleteOnExpiration":true,"disabled":true}`,
			secrets:     `{"expires":"2036-01-01T00:00:00.000Z","value":{"a":"hunter4"}}`,
			workerPools: `{"providerId":"local","description":"other","owner":"b@example.com","emailOnError":false,"config":{"maxCapacity":3}}`,
			hooks:       `{"name":"other","description":"","owner":"b@example.com","emailOnError":true,"schedule":[],"bindings":[],"task":{},"triggerSchema":{"additionalProperties":false,"type":"object"}}`,
		}
		acceptance.Test(t, acceptance.TestCase{
			ProtoV6ProviderFactories: factories,
			Steps: []acceptance.TestStep{
				{Config: one, Check: expect(there), ConfigPlanChecks: planned(plancheck.ResourceActionCreate, nil)},
				{Config: respelled, PlanOnly: true},
				{Config: one, PreConfig: meddle, Check: expect(there), ConfigPlanChecks: planned(plancheck.ResourceActionUpdate, map[*kind]plancheck.ResourceActionType{denylist: plancheck.ResourceActionCreate})},
				{Config: one, PreConfig: remove, Check: expect(there), ConfigPlanChecks: planned(plancheck.ResourceActionCreate, nil)},
				{
					Config:           two,
					ConfigPlanChecks: planned(plancheck.ResourceActionUpdate, map[*kind]plancheck.ResourceActionType{denylist: plancheck.ResourceActionReplace}),
					Check: acceptance.ComposeTestCheckFunc(expect(then),
						acceptance.TestCheckResourceAttr("data.taskfleet_role.x", "scopes.#", "0"),
						acceptance.TestCheckResourceAttr("data.taskfleet_worker_pool.x", "config", `{"maxCapacity":3}`),
						func(s *terraform.State) error {
							copied, err := secrets.Read(t.Context(), c, "terraform/copy")
							if err != nil || !strings.Contains(string(copied), `{"a":"hunter4"}`) {
								t.Errorf("the copy of the secret is %s, %v", copied, err)
							}
							if text := fmt.Sprint(s); strings.Contains(text, "hunter") {
								t.Errorf("the secret is in the state:\n%s", text)
							}
							return nil
						}),
				},
			},
			CheckDestroy: func(*terraform.State) error {
				return expect(map[*kind]string{denylist: ""})(nil)
			},
		})
	})
}

// What is there already is not taken over, but can be imported, which changes nothing.
func TestTerraformTakesNothingOverInSilence(t *testing.T) {
	each(t, func(t *testing.T, _ cli, c *client.Client) {
		text := one
		for _, line := range []string{`value   = "{\"b\": 1.0, \"a\": \"hunter2 <&>\"}"`, `expires = "2036-01-01T00:00:00Z"`, "disabled  = true"} {
			text = strings.Replace(text, line, "", 1)
		}
		imports := text
		for _, k := range kinds {
			imports += fmt.Sprintf("import {\n to = %s.x\n id = %q\n}\n", k.typeName, ids[k])
		}
		create := func() {
			for _, k := range kinds {
				document := strings.Replace(there[k], `,"disabled":true`, "", 1)
				if k == secrets {
					document = `{"value":{"mine":true}}`
				}
				if err := k.Kind.Create(t.Context(), c, ids[k], json.RawMessage(document)); err != nil {
					t.Fatal(err)
				}
			}
		}
		acceptance.Test(t, acceptance.TestCase{
			ProtoV6ProviderFactories: factories,
			Steps: []acceptance.TestStep{
				{Config: text, PreConfig: create, ExpectError: regexp.MustCompile(`is\s+there\s+already`)},
				{Config: imports, ConfigPlanChecks: planned(plancheck.ResourceActionNoop, nil)},
			},
		})
	})
}

// A client that is to be disabled takes two calls. Who may make one of them has it tainted, and who may make both has it replaced.
func TestTerraformKeepsWhatIsHalfMade(t *testing.T) {
	each(t, func(t *testing.T, _ cli, c *client.Client) {
		few, err := auth.New(c).CreateClient(t.Context(), "terraform/few", &auth.CreateClientRequest{
			Scopes: []string{"auth:create-client:terraform/half"}, Expires: timestamp.Now().Add(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer clients.Delete(context.WithoutCancel(t.Context()), c, few.ClientID)
		const text = header + `
resource "taskfleet_client" "x" {
  client_id = "terraform/half"
  disabled  = true
}
`
		disabled := func(want string) error {
			is, err := clients.Read(t.Context(), c, "terraform/half")
			if err == nil && !strings.Contains(string(is), `"disabled":`+want) {
				err = fmt.Errorf("the client is %s", is)
			}
			return err
		}
		acceptance.Test(t, acceptance.TestCase{
			ProtoV6ProviderFactories: factories,
			Steps: []acceptance.TestStep{
				{
					Config:      text + fmt.Sprintf("provider \"taskfleet\" {\n  client_id = %q\n  access_token = %q\n}\n", few.ClientID, few.AccessToken),
					ExpectError: regexp.MustCompile(`(?s)auth:disable-client:terraform/half.*tainted`),
				},
				{
					Config: text, PreConfig: func() {
						if err := disabled("false"); err != nil {
							t.Error(err)
						}
					},
					ConfigPlanChecks: acceptance.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectResourceAction("taskfleet_client.x", plancheck.ResourceActionReplace)}},
					Check:            func(*terraform.State) error { return disabled("true") },
				},
				{ResourceName: "taskfleet_client.x", ImportState: true, ImportStateId: "terraform/none", ExpectError: regexp.MustCompile("non-existent")},
			},
		})
	})
}

// The program as it is built and installed, with terraform's log as talkative as it can be.
func TestTerraformHasTheProgramAndTellsNobodySecrets(t *testing.T) {
	program := filepath.Join(scratch, "terraform-provider-taskfleet")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "-ldflags", "-s -w -X main.version=0.0.1", "../../cmd/terraform-provider-taskfleet").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), program, "--version").Output(); err != nil || string(out) != "0.0.1\n" {
		t.Errorf("its version is %q, %v", out, err)
	}
	const kept, unkept, worse = "planted-and-kept", "planted-and-unkept", "planted-in-what-is-wrong"
	each(t, func(t *testing.T, with cli, c *client.Client) {
		dir := t.TempDir()
		mirror := filepath.Join(dir, "mirror", with.host, "taskfleet", "taskfleet", "0.0.1", runtime.GOOS+"_"+runtime.GOARCH)
		settings, log := filepath.Join(dir, "cli.tfrc"), filepath.Join(dir, "log")
		t.Setenv("TF_CLI_CONFIG_FILE", settings)
		t.Setenv("TF_LOG", "TRACE")
		t.Setenv("TF_LOG_PATH", log)
		write := func(file, text string) {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(mirror, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(program, filepath.Join(mirror, filepath.Base(program))); err != nil {
			t.Fatal(err)
		}
		write("cli.tfrc", fmt.Sprintf("provider_installation {\n  filesystem_mirror { path = %q }\n}\n", filepath.Join(dir, "mirror")))
		write("main.tf", header+`
variable "unkept" {
  type      = string
  sensitive = true
  ephemeral = true
}
resource "taskfleet_secret" "kept" {
  name  = "terraform/kept"
  value = jsonencode({ key = "`+kept+`" })
}
resource "taskfleet_secret" "unkept" {
  name             = "terraform/unkept"
  value_wo         = var.unkept
  value_wo_version = 1
}
`)
		t.Setenv("TF_VAR_unkept", `{"key": "`+unkept+`"}`)
		all := []string{unkept, kept, worse, running.AccessToken}
		has := func(what, text string, secrets ...string) {
			t.Helper()
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("%s has %s in it:\n%s", what, secret, text)
				}
			}
		}
		run := func(fails bool, args ...string) string {
			t.Helper()
			cmd := exec.CommandContext(t.Context(), with.path, args...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if fails == (err == nil) {
				t.Fatalf("%s: %v\n%s", args, err, out)
			}
			return string(out)
		}
		example, err := filepath.Abs("../../examples/terraform")
		if err != nil {
			t.Fatal(err)
		}
		run(false, "fmt", "-check", "-diff", example)
		run(false, "init", "-no-color")
		// What is wrong is told, not what it is.
		t.Setenv("TF_VAR_unkept", `{"key": "`+worse+`"`)
		wrong := run(true, "plan", "-no-color")
		has("an error", wrong, all...)
		if !strings.Contains(wrong, "it is not JSON, as byte") {
			t.Errorf("the error is\n%s", wrong)
		}
		t.Setenv("TF_VAR_unkept", `{"key": "`+unkept+`"}`)
		has("a plan", run(false, "plan", "-no-color", "-out", "plan"), all...)
		has("a saved plan", run(false, "show", "-no-color", "plan"), all...)
		if text := run(false, "show", "-json", "plan"); !strings.Contains(text, kept) {
			t.Errorf("a saved plan has not even what it has to have:\n%s", text)
		} else {
			has("a saved plan", text, unkept, running.AccessToken)
		}
		has("an apply", run(false, "apply", "-no-color", "plan"), all...)
		read := func(file string) string {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		if text := read(filepath.Join(dir, "terraform.tfstate")); !strings.Contains(text, kept) {
			t.Errorf("the state has not even what it has to have:\n%s", text)
		} else {
			has("the state", text, unkept, running.AccessToken)
		}
		// What a plan was made from is what it changes, or it changes nothing.
		text := read(filepath.Join(dir, "main.tf"))
		write("main.tf", strings.Replace(text, kept, kept+"-2", 1))
		run(false, "plan", "-no-color", "-out", "plan")
		const meddled = `{"value":{"key":"meddled"},"expires":"2040-01-01T00:00:00.000Z"}`
		if err := secrets.Update(t.Context(), c, "terraform/kept", json.RawMessage(meddled)); err != nil {
			t.Fatal(err)
		}
		changed := run(true, "apply", "-no-color", "plan")
		has("an apply", changed, all...)
		if is, err := secrets.Read(t.Context(), c, "terraform/kept"); err != nil || !strings.Contains(string(is), "meddled") || !strings.Contains(changed, "Plan again") {
			t.Errorf("the secret is %s, %v, after\n%s", is, err, changed)
		}
		write("main.tf", text)
		// What is there is taken over, by the program as those have it who change it.
		odd := `terraform:odd "${x}" %{y}`
		if err := roles.Kind.Create(t.Context(), c, odd, json.RawMessage(`{"scopes":["a"]}`)); err != nil {
			t.Fatal(err)
		}
		defer roles.Kind.Delete(t.Context(), c, odd)
		out, err := exec.CommandContext(t.Context(), program, "--imports", "Secret=terraform/.*", "Role=terraform:.*").Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "imported"), 0o755); err != nil {
			t.Fatal(err)
		}
		write("imported/main.tf", header+string(out))
		write("cli.tfrc", fmt.Sprintf("provider_installation {\n  dev_overrides { \"taskfleet/taskfleet\" = %q }\n}\n", filepath.Dir(program)))
		imported := run(false, "-chdir=imported", "plan", "-no-color", "-generate-config-out=generated.tf")
		if !strings.Contains(imported, "Plan: 3 to import, 0 to add, 0 to change, 0 to destroy.") {
			t.Errorf("the plan of what is imported is\n%s\nby\n%s", imported, out)
		}
		has("a plan", imported, all...)

		has("a destroy", run(false, "destroy", "-no-color", "-auto-approve"), all...)
		text = read(log)
		if !strings.Contains(text, "provider.terraform-provider-taskfleet") {
			t.Error("the log has nothing of the provider")
		}
		has("the log", text, all...)
	})
}
