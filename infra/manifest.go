package infra

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// A Manifest is what a deployment has, for what is built on it: its output of that name, with the state it was read from.
// Secrets are named in it, never shown. manifest.schema.json describes it.
type Manifest struct {
	Version int           `json:"version"` // 1
	Written time.Time     `json:"written"`
	State   ManifestState `json:"state"`

	Deployment    string `json:"deployment"`
	RootURL       string `json:"root_url"`
	AccountID     string `json:"account_id"`
	ServiceRegion string `json:"service_region"`

	Regions  map[string]ManifestRegion `json:"regions"`
	Database *ManifestDatabase         `json:"database"` // nil: none
	Broker   *ManifestBroker           `json:"broker"`   // nil: none

	ArtifactBucket string `json:"artifact_bucket"`
	KMSKeyARN      string `json:"kms_key_arn"`
	LogGroup       string `json:"log_group"`
	AlarmTopicARN  string `json:"alarm_topic_arn"`

	ClusterName       string `json:"cluster_name"`
	ServiceName       string `json:"service_name"`
	TaskDefinitionARN string `json:"task_definition_arn"` // that releases are made of

	ConfigurationSections   []string          `json:"configuration_sections"`    // that the deployment sets, and nobody else may
	ConfigurationSecretARNs map[string]string `json:"configuration_secret_arns"` // for further ones, by the stack: platform, mirror, schedules
	ServerSecretARN         string            `json:"server_secret_arn"`
	MetricsSecretARN        string            `json:"metrics_secret_arn"`
}

// A ManifestState is the state of Terraform that a manifest was read from.
type ManifestState struct {
	Lineage string `json:"lineage"`
	Serial  uint64 `json:"serial"`
}

// A ManifestRegion is what workers stand on in a region. Buckets and queues that are not there are "".
type ManifestRegion struct {
	VPCID                    string   `json:"vpc_id"`
	SubnetIDs                []string `json:"subnet_ids"`
	WorkerSecurityGroupID    string   `json:"worker_security_group_id"`
	WorkerInstanceProfileARN string   `json:"worker_instance_profile_arn"`
	LaunchTemplateID         string   `json:"launch_template_id"`
	EventQueueURL            string   `json:"event_queue_url"`
	MirrorBucket             string   `json:"mirror_bucket"`
	ArtifactBucket           string   `json:"artifact_bucket"`
}

// A ManifestDatabase is where PostgreSQL is, and the secret with the user and the password.
type ManifestDatabase struct {
	Endpoint  string `json:"endpoint"`
	Port      int    `json:"port"`
	Name      string `json:"name"`
	SecretARN string `json:"secret_arn"`
}

// A ManifestBroker is where RabbitMQ is, and the secret with the user and the password.
type ManifestBroker struct {
	Endpoints  []string `json:"endpoints"`
	ConsoleURL string   `json:"console_url"`
	SecretARN  string   `json:"secret_arn"`
}

const (
	manifestVersion = 1
	largestManifest = 1 << 20 // bytes
)

//go:embed manifest.schema.json
var manifestSchemaText []byte

var manifestSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(manifestSchemaText))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("manifest.schema.json", document); err != nil {
		return nil, err
	}
	return c.Compile("manifest.schema.json")
})

// ReadManifest reads a file that WriteManifest, or taskfleet infra output --manifest, has written.
func ReadManifest(path string) (*Manifest, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w. taskfleet infra output --manifest -o %s writes it", err, path)
	}
	if info.Size() > largestManifest {
		return nil, fmt.Errorf("%s has %d bytes: it is no manifest", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	m, err := ParseManifest(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// ParseManifest reads a manifest. The error names all that is missing, or not as it should be.
func ParseManifest(text []byte) (*Manifest, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("the manifest is no JSON: %w. taskfleet infra output --manifest writes one", err)
	}
	// A version comes before all else, as another one has other members.
	object, _ := document.(map[string]any)
	if v, is := object["version"].(json.Number); is && v.String() != strconv.Itoa(manifestVersion) {
		return nil, fmt.Errorf("the manifest's version is %s, and this program knows version %d: use the taskfleet that has written it, or write it anew with this one", v, manifestVersion)
	}
	schema, err := manifestSchema()
	if err != nil {
		return nil, err
	}
	if err := schema.Validate(document); err != nil {
		invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
		if !ok {
			return nil, err
		}
		return nil, wrongManifest(invalid)
	}
	m := new(Manifest)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("the manifest is not as it should be: %w", err)
	}
	return m, nil
}

// wrongManifest makes an error of what a schema says.
func wrongManifest(invalid *jsonschema.ValidationError) error {
	var missing, wrong []string
	printer := message.NewPrinter(language.English)
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		at := strings.Join(e.InstanceLocation, ".")
		if r, ok := e.ErrorKind.(*kind.Required); ok {
			for _, name := range r.Missing {
				missing = append(missing, strings.TrimPrefix(at+"."+name, "."))
			}
			return
		}
		if len(e.Causes) == 0 {
			if at == "" {
				at = "it"
			}
			wrong = append(wrong, at+": "+e.ErrorKind.LocalizedString(printer))
		}
		for _, c := range e.Causes {
			walk(c)
		}
	}
	walk(invalid)
	slices.Sort(missing)
	slices.Sort(wrong)
	switch {
	case slices.Contains(missing, "written") || slices.Contains(missing, "state"):
		return errors.New("this is not what taskfleet infra output --manifest writes, but an output alone, or something else: it does not say which state it is of. Write it with that command")
	case len(missing) > 0:
		return fmt.Errorf("the manifest lacks %s: the deployment's output manifest does not have it. Take outputs.tf from the example that comes with this version (taskfleet infra init), "+
			"apply, and write the manifest anew: taskfleet infra output --manifest", strings.Join(missing, ", "))
	}
	return fmt.Errorf("the manifest is not as it should be: %s", strings.Join(slices.Compact(wrong), "; "))
}

// Manifest reads the manifest of the deployment from its state, as it is now.
func (d *Deployment) Manifest(ctx context.Context) (*Manifest, error) {
	m, _, err := d.manifest(ctx)
	return m, err
}

// ManifestText is the text that WriteManifest writes.
func (d *Deployment) ManifestText(ctx context.Context) ([]byte, error) {
	_, text, err := d.manifest(ctx)
	return text, err
}

// manifest is that, and its text, with what only others know.
func (d *Deployment) manifest(ctx context.Context) (*Manifest, []byte, error) {
	if err := d.prepare(ctx); err != nil {
		return nil, nil, err
	}
	pulled, err := d.tf.StatePull(ctx)
	if err != nil {
		return nil, nil, d.fail("read the state", err, nil)
	}
	var state struct {
		position
		Outputs map[string]struct {
			Value json.RawMessage `json:"value"`
		} `json:"outputs"`
	}
	if text := strings.TrimSpace(pulled); text != "" {
		if err := json.Unmarshal([]byte(text), &state); err != nil {
			return nil, nil, fmt.Errorf("read the state: %w", err)
		}
	}
	output, is := state.Outputs["manifest"]
	if !is {
		return nil, nil, fmt.Errorf("the state of %s has no output manifest: it was not applied yet, or its outputs.tf has none. taskfleet infra plan and apply make it", d.Directory)
	}
	members := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(output.Value))
	decoder.UseNumber()
	if err := decoder.Decode(&members); err != nil {
		return nil, nil, fmt.Errorf("the output manifest of %s is no object: %w", d.Directory, err)
	}
	members["written"] = time.Now().UTC().Truncate(time.Second)
	members["state"] = ManifestState(state.position)
	text, err := json.MarshalIndent(members, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	m, err := ParseManifest(text)
	return m, append(text, '\n'), err
}

// WriteManifest writes the manifest of the deployment, as it is now, into a file: whole or not at all.
func (d *Deployment) WriteManifest(ctx context.Context, path string) (*Manifest, error) {
	m, text, err := d.manifest(ctx)
	if err != nil {
		return nil, err
	}
	defer os.Remove(path + ".writing") // if it does not get its name
	if err := os.WriteFile(path+".writing", text, 0o644); err != nil {
		return nil, err
	}
	return m, os.Rename(path+".writing", path)
}

// CheckManifest looks whether a manifest is of the deployment, and of its state as it is now.
func (d *Deployment) CheckManifest(ctx context.Context, m *Manifest) error {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	at, _, err := d.state(ctx)
	if err != nil {
		return err
	}
	anew := fmt.Sprintf("Write it anew: taskfleet infra output --dir %s --manifest -o FILE", d.Directory)
	switch of := position(m.State); {
	case at.Lineage != of.Lineage:
		return fmt.Errorf("the manifest of %s is of another state than that of %s. %s", m.Deployment, d.Directory, anew)
	case at.Serial != of.Serial:
		return fmt.Errorf("the manifest is stale: it was written %s, of version %d of the state, which is at version %d now. %s",
			m.Written.UTC().Format("2006-01-02 15:04 UTC"), of.Serial, at.Serial, anew)
	}
	return nil
}
