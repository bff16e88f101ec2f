// Package ec2 is an instance of EC2 as it is seen from inside: who it is, how
// it proves that, what it is there for, and what is about to become of it.
//
// All of it comes from the instance metadata service, in its version 2 only,
// whose session tokens a request that a task was tricked into does not have.
// AWS_EC2_METADATA_SERVICE_ENDPOINT names another endpoint, as for all programs
// that use the SDK. Proxies are not used: the service is on the instance's own
// link.
//
// Machine asks, and knows nothing of workers but the user data with which
// worker-manager starts them. Whatever the service cannot answer may be a
// matter of time, as an instance boots faster than its metadata is there
// sometimes; so Boot waits, as long as its context lasts.
package ec2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"sigs.k8s.io/yaml"
)

// A Machine is the instance that this process runs on.
type Machine struct {
	api *imds.Client
	log *slog.Logger
}

// New returns the instance that the metadata service speaks of. It makes no
// request.
func New(log *slog.Logger) *Machine {
	direct := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.Proxy = nil })
	return &Machine{imds.New(imds.Options{EnableFallback: aws.FalseTernary, HTTPClient: direct}), log}
}

// An Instance is what a worker has to know about the one it runs on.
type Instance struct {
	UserData UserData
	Document Document
	// Proofs are values for workerIdentityProof of worker-manager, the
	// strongest first. They are secret: the first to show one is believed.
	Proofs []json.RawMessage
}

// UserData is what whoever started the instance wants of it. Names that are not
// among these are left to others, such as those of cloud-init.
type UserData struct {
	RootURL      string `json:"rootUrl"`
	WorkerPoolID string `json:"workerPoolId"`
	ProviderID   string `json:"providerId"`
	WorkerGroup  string `json:"workerGroup"` // the region if there is none
	// Shutdown is whether the machine has no other purpose than the worker, so
	// that it is to be powered off when that ends; true unless it says false.
	Shutdown *bool `json:"shutdown"`
}

// A Document is the instance identity document, as far as it is of use here.
type Document struct {
	InstanceID       string `json:"instanceId"`
	InstanceType     string `json:"instanceType"`
	ImageID          string `json:"imageId"`
	Region           string `json:"region"`
	AvailabilityZone string `json:"availabilityZone"`
}

// A NotForWorkers is the error of an instance whose user data is something else
// than what starts a worker. Waiting does not mend it.
type NotForWorkers struct{ reason string }

func (e *NotForWorkers) Error() string {
	return "ec2: the user data of this instance does not start a worker: " + e.reason
}

// between attempts to boot.
const between = time.Second

// Boot asks who the instance is and what it is there for, again and again until
// the metadata service answers all of it or ctx ends. A *NotForWorkers is
// returned at once.
func (m *Machine) Boot(ctx context.Context) (Instance, error) {
	for n := 1; ; n++ {
		instance, err := m.ask(ctx)
		var stranger *NotForWorkers
		if err == nil || errors.As(err, &stranger) {
			return instance, err
		}
		m.log.Warn("the instance metadata is not there yet", "attempt", n, "err", err)
		select {
		case <-time.After(between):
		case <-ctx.Done():
			return Instance{}, fmt.Errorf("ec2: %w, while this was not to be had of the instance metadata service: %w. Is this an instance of EC2, with its metadata service enabled?", context.Cause(ctx), err)
		}
	}
}

func (m *Machine) ask(ctx context.Context) (i Instance, err error) {
	text, err := m.userData(ctx)
	if err != nil {
		return i, err
	}
	if i.UserData, err = parseUserData(text); err != nil {
		return i, err
	}
	document, err := m.dynamic(ctx, "instance-identity/document")
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal([]byte(document), &i.Document); err != nil || i.Document.InstanceID == "" {
		return i, fmt.Errorf("the instance identity document is not valid: %w", errors.Join(err, errors.New("without instanceId")))
	}
	if i.UserData.WorkerGroup == "" {
		i.UserData.WorkerGroup = i.Document.Region
	}
	// The form rsa2048, a PKCS #7 message by a key of 2048 bits, is the better
	// one. The form signature is what every worker-manager takes.
	for _, form := range []struct{ path, name string }{{"rsa2048", "pkcs7"}, {"signature", "signature"}} {
		signature, formErr := m.dynamic(ctx, "instance-identity/"+form.path)
		if formErr != nil {
			err = errors.Join(err, formErr)
			continue
		}
		proof, err := json.Marshal(map[string]string{"document": document, form.name: signature})
		if err != nil {
			return i, err
		}
		i.Proofs = append(i.Proofs, proof)
	}
	if len(i.Proofs) == 0 {
		return i, err
	}
	return i, nil
}

// parseUserData reads JSON, which is what worker-manager writes, and YAML, so
// that the same text can be a configuration of cloud-init's.
func parseUserData(text string) (u UserData, err error) {
	if strings.HasPrefix(text, "#!") {
		return u, &NotForWorkers{"it is a script"}
	}
	if err := yaml.Unmarshal([]byte(text), &u); err != nil {
		return u, &NotForWorkers{"it is neither JSON nor YAML, or its rootUrl, workerPoolId, providerId, workerGroup or shutdown is of the wrong type"}
	}
	var absent []string
	for _, f := range []struct{ name, value string }{
		{"rootUrl", u.RootURL}, {"workerPoolId", u.WorkerPoolID}, {"providerId", u.ProviderID},
	} {
		if f.value == "" {
			absent = append(absent, f.name)
		}
	}
	if len(absent) > 0 {
		return u, &NotForWorkers{"it lacks " + strings.Join(absent, ", ")}
	}
	return u, nil
}

func (m *Machine) userData(ctx context.Context) (string, error) {
	out, err := m.api.GetUserData(ctx, nil)
	if err != nil {
		return "", fmt.Errorf("user-data: %w", err)
	}
	return read(out.Content)
}

func (m *Machine) dynamic(ctx context.Context, path string) (string, error) {
	out, err := m.api.GetDynamicData(ctx, &imds.GetDynamicDataInput{Path: path})
	if err != nil {
		return "", fmt.Errorf("dynamic/%s: %w", path, err)
	}
	return read(out.Content)
}

// metadata is "" if there is nothing under the path.
func (m *Machine) metadata(ctx context.Context, path string) (string, error) {
	out, err := m.api.GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
	var status interface{ HTTPStatusCode() int }
	if errors.As(err, &status) && status.HTTPStatusCode() == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("meta-data/%s: %w", path, err)
	}
	return read(out.Content)
}

// read reads what the client has in memory already.
func read(content io.ReadCloser) (string, error) {
	defer content.Close()
	text, err := io.ReadAll(content)
	return string(text), err
}
