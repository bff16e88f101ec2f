package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// A Manifest is what a deployment says of itself: its output "manifest". No secret is in it.
type Manifest struct {
	Version        int               `json:"version"` // 1
	Deployment     string            `json:"deployment"`
	AccountID      string            `json:"account_id"`
	ServiceRegion  string            `json:"service_region"` // in which the platform itself runs; "": that of its key
	Regions        map[string]Region `json:"regions"`
	Database       *Database         `json:"database"`
	Broker         json.RawMessage   `json:"broker"` // null without one
	ArtifactBucket string            `json:"artifact_bucket"`
	KMSKeyARN      string            `json:"kms_key_arn"` // in the service region
	Cluster        string            `json:"cluster_name"`
	Service        string            `json:"service_name"`
}

// A Region is what a deployment has in one region for workers. What it does not have is "".
type Region struct {
	WorkerSecurityGroup string `json:"worker_security_group_id"`
	LaunchTemplate      string `json:"launch_template_id"`
	EventQueue          string `json:"event_queue_url"`
	MirrorBucket        string `json:"mirror_bucket"`
	ArtifactBucket      string `json:"artifact_bucket"`
}

// A Database is the deployment's PostgreSQL.
type Database struct {
	Endpoint string `json:"endpoint"` // a host, or host:port
}

const largestManifest = 1 << 20

// ReadManifest reads a manifest, or the outputs of a deployment as terraform output -json prints them.
func ReadManifest(r io.Reader) (m Manifest, err error) {
	text, err := io.ReadAll(io.LimitReader(r, largestManifest+1))
	if err != nil {
		return m, fmt.Errorf("read the manifest: %w", err)
	}
	if len(text) > largestManifest {
		return m, fmt.Errorf("the manifest has more than %d bytes: this is not one", largestManifest)
	}
	var outputs struct {
		Manifest *struct{ Value json.RawMessage }
	}
	if json.Unmarshal(text, &outputs) == nil && outputs.Manifest != nil {
		text = outputs.Manifest.Value
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&m); err != nil {
		return m, fmt.Errorf("the manifest is not as it should be: %w. It is what terraform output -json manifest prints", err)
	}
	return m, m.check()
}

var (
	deploymentName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 _.:/=+@-]*$`) // without a bound: those make large programs at each start
	regionName     = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$`)
)

const longestTag = 128 // characters of a deployment's name

func (m *Manifest) check() error {
	if m.Version != 1 {
		return fmt.Errorf("the manifest's version is %d, and this program knows version 1: is it a manifest? A later one needs a later taskfleet", m.Version)
	}
	if len(m.Deployment) > longestTag || !deploymentName.MatchString(m.Deployment) {
		return fmt.Errorf("the manifest's deployment is %.200q; it must be the value of the tag Deployment", m.Deployment)
	}
	for _, r := range slices.Sorted(maps.Keys(m.Regions)) {
		if !regionName.MatchString(r) {
			return fmt.Errorf("the manifest's regions have %.100q; it must be a region of AWS, such as us-east-1", r)
		}
	}
	if m.KMSKeyARN != "" {
		key, err := arn.Parse(m.KMSKeyARN)
		if err != nil || key.Service != "kms" || !regionName.MatchString(key.Region) || !strings.HasPrefix(key.Resource, "key/") {
			return fmt.Errorf("the manifest's kms_key_arn is %.200q; it must be the ARN of a KMS key", m.KMSKeyARN)
		}
	}
	if m.ServiceRegion != "" && !regionName.MatchString(m.ServiceRegion) {
		return fmt.Errorf("the manifest's service_region is %.100q; it must be a region of AWS, such as us-east-1", m.ServiceRegion)
	}
	if len(m.regions()) == 0 {
		return errors.New("the manifest names no region: it needs regions or service_region")
	}
	return nil
}

// home is the region in which the platform itself runs. It is "" if that is not known.
func (m *Manifest) home() string {
	if m.ServiceRegion != "" {
		return m.ServiceRegion
	}
	key, _ := arn.Parse(m.KMSKeyARN)
	return key.Region
}

// regions are those in which the deployment has something, in order.
func (m *Manifest) regions() []string {
	list := slices.Collect(maps.Keys(m.Regions))
	if home := m.home(); home != "" {
		list = append(list, home)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// A namedBucket is one that the manifest names.
type namedBucket struct {
	region string // "" if that is not known
	copies bool   // what is in it is elsewhere, too
}

func (m *Manifest) buckets() map[string]namedBucket {
	list := map[string]namedBucket{}
	for name, r := range m.Regions {
		list[r.MirrorBucket] = namedBucket{region: name, copies: true}
	}
	for _, r := range m.Regions {
		list[r.ArtifactBucket] = namedBucket{region: m.home()}
	}
	list[m.ArtifactBucket] = namedBucket{region: m.home()}
	delete(list, "")
	return list
}
