package taskfleet

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/taskfleet/taskfleet"

// layers, lowest first. A package belongs to the layer that names it or one of
// its parents, and imports only packages of its own layer's floor or below it;
// within the kit, the client and the surface, packages may also use each other.
var layers = []struct {
	name     string
	packages []string
	apart    bool // packages of the layer do not import each other
}{
	{"vocabulary", []string{"task", "scope", "slugid", "timestamp", "hawk", "cred", "jsone", "plain"}, false},
	{"kit", []string{"api", "event", "store", "blob", "loop", "seal", "schedule", "monitor", "ownbody"}, false},
	{"client", []string{"client"}, false},
	{"services", []string{"auth", "queue", "provisioner", "worker", "index", "hooks", "secrets", "purgecache", "object", "notify", "mirror", "credentials"}, true},
	{"surface", []string{"cmd", "graph", "resource", "project", "infra", "stacks", "deploy", "packaging", "bench", "references", "examples", "test"}, false},
}

// homes are the only places that may import an SDK.
var homes = []struct{ sdk, home, reason string }{
	{"github.com/aws/aws-sdk-go-v2", "blob provisioner/aws worker/ec2 auth/aws notify/ses seal/kms credentials/aws infra/verify infra/statetest stacks/platform ownbody", "S3 is behind blob, EC2 behind provisioner/aws, the instance that a worker runs on behind worker/ec2, STS behind auth/aws, SES behind notify/ses, KMS behind seal/kms, whose keys are rotated behind credentials/aws; infra/verify reads an account back, infra/statetest lends tests a bucket, and stacks/platform rolls releases out"},
	{"github.com/versity/versitygw", "blob/gateway", "the S3 gateway is behind blob/gateway"},
	{"github.com/jackc/pgx", "store credentials/postgres", "databases are behind store, but for those whose passwords are rotated"},
	{"modernc.org/sqlite", "store", "databases are behind store"},
	{"database/sql", "store", "databases are behind store"},
	{"github.com/Azure/azure-sdk-for-go", "auth/azure", "Azure is behind auth/azure"},
	{"github.com/rabbitmq/amqp091-go", "event/rabbit credentials/rabbitmq", "the broker is behind event/rabbit, but for whose users are rotated"},
	{"github.com/getsentry/sentry-go", "monitor", "reports go to Sentry from monitor"},
	{"github.com/hashicorp/terraform-exec", "infra", "terraform is behind infra"},
	{"github.com/hashicorp/hc-install", "infra", "terraform is behind infra"},
	{"github.com/hashicorp/terraform-plugin-go", "infra/stub infra/provider", "the stand-in for the AWS provider, and the provider taskfleet"},
	{"github.com/hashicorp/terraform-plugin-framework", "infra/provider", "the provider taskfleet is all that is written with it"},
	{"github.com/hashicorp/hcl", "infra/provider", "HCL is written by infra/provider alone"},
	{"github.com/pulumi", "stacks", "Pulumi is behind stacks"},
	{"github.com/signalfx/signalfx-go", "credentials/signalfx stacks/monitoring", "tokens are rotated by credentials/signalfx, dashboards made by stacks/monitoring"},
	{"github.com/google/go-containerregistry", "packaging", "images are made by packaging"},
	{"github.com/CycloneDX/cyclonedx-go", "packaging", "lists of what is in an image are written by packaging"},
	{"github.com/open-policy-agent/opa", "infra/policy", "plans are judged by infra/policy"},
	{"github.com/spf13/cobra", "cmd", "commands are in cmd/taskfleet"},
	{"github.com/santhosh-tekuri/jsonschema", "api worker hooks infra packaging", "methods' schemas are checked by api, payloads' by worker and hooks, the manifest by infra"},
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func TestLayers(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		from, ok := strings.CutPrefix(p.ImportPath, module+"/")
		if !ok {
			continue // this package: nothing but tests
		}
		floor, room := place(from)
		if floor < 0 {
			t.Errorf("%s is in no layer: add it to arch_test.go, and to ARCHITECTURE.md with the reason for a new room", from)
			continue
		}
		for _, imp := range p.Imports {
			checkImport(t, from, floor, room, imp)
		}
	}
}

// place finds the layer of a package and the room in it: "provisioner" for
// provisioner/local.
func place(pkg string) (floor int, room string) {
	for i, l := range layers {
		for _, p := range l.packages {
			if pkg == p || strings.HasPrefix(pkg, p+"/") {
				return i, p
			}
		}
	}
	return -1, ""
}

func checkImport(t *testing.T, from string, floor int, room, imp string) {
	t.Helper()
	if to, ours := strings.CutPrefix(imp, module+"/"); ours {
		toFloor, toRoom := place(to)
		switch {
		case toFloor > floor:
			t.Errorf("%s (%s) imports %s (%s): imports point down only. Turn it round: declare what you need as an interface and let cmd/taskfleet hand it over",
				from, layers[floor].name, to, layers[toFloor].name)
		case toFloor == floor && layers[floor].apart && toRoom != room:
			t.Errorf("%s imports %s: services never import each other. Declare the methods you need as an interface of your own, or subscribe to an event", from, to)
		}
		return
	}
	// Test support may open what it tests.
	if floor == len(layers)-1 && room == "test" {
		return
	}
	for _, h := range homes {
		if imp != h.sdk && !strings.HasPrefix(imp, h.sdk+"/") {
			continue
		}
		if !slices.ContainsFunc(strings.Fields(h.home), func(home string) bool { return from == home || strings.HasPrefix(from, home+"/") }) {
			t.Errorf("%s imports %s, which belongs in %s: %s", from, imp, h.home, h.reason)
		}
	}
}
