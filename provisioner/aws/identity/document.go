package identity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// A Document is what EC2 says of an instance.
type Document struct {
	AccountID        string // twelve digits
	Architecture     string // x86_64, arm64, ...
	AvailabilityZone string
	ImageID          string
	InstanceID       string
	InstanceType     string
	PrivateIP        string // of the first network interface, at launch
	Region           string
	PendingTime      time.Time // when it was launched, or last started, to the second
}

// Expected is what we know of an instance that we launched, by the same names
// as in a Document. A field that is not known matches nothing.
type Expected struct {
	AccountID        string
	Architecture     string
	AvailabilityZone string
	ImageID          string
	InstanceID       string
	InstanceType     string
	PrivateIP        string
	Region           string
	Launched         time.Time     // as EC2's description of the instance has it, or when we asked for it
	Window           time.Duration // by how much PendingTime may differ from it either way; 0 means 5 minutes
}

const defaultWindow = 5 * time.Minute

// Match reports, by an [*Error], that a document is not that of the instance
// that is expected. Its message names all the fields that differ; what the
// caller may be told does not.
func (d Document) Match(e Expected) error {
	var wrong []string
	for _, f := range []struct{ name, document, expected string }{
		{"privateIp", d.PrivateIP, e.PrivateIP},
		{"accountId", d.AccountID, e.AccountID},
		{"availabilityZone", d.AvailabilityZone, e.AvailabilityZone},
		{"architecture", d.Architecture, e.Architecture},
		{"imageId", d.ImageID, e.ImageID},
		{"instanceId", d.InstanceID, e.InstanceID},
		{"instanceType", d.InstanceType, e.InstanceType},
		{"region", d.Region, e.Region},
	} {
		if f.expected == "" {
			wrong = append(wrong, fmt.Sprintf("%s is %q and what it should be is not known", f.name, f.document))
		} else if f.document != f.expected {
			wrong = append(wrong, fmt.Sprintf("%s is %q and should be %q", f.name, f.document, f.expected))
		}
	}
	window := e.Window
	if window == 0 {
		window = defaultWindow
	}
	if d.PendingTime.Sub(e.Launched).Abs() > window {
		wrong = append(wrong, fmt.Sprintf("pendingTime is %s and should be within %s of %s",
			d.PendingTime.Format(time.RFC3339), window, e.Launched.UTC().Format(time.RFC3339)))
	}
	if wrong == nil {
		return nil
	}
	return &Error{
		Public: "the document is not that of an instance that is expected to register",
		reason: "the document is not that of the expected instance: " + strings.Join(wrong, "; "),
	}
}

var regionName = regexp.MustCompile(`^[a-z]{2,8}(-[a-z]{2,16})+-[0-9]{1,2}$`)

// parse reads a document strictly: one JSON object, UTF-8, every field at most
// once and under its exact name, what we use as strings and not empty. (The
// decoder into structs of encoding/json takes the last of several, and any case.)
// Fields that we do not use may be anything.
func parse(document []byte) (d Document, err error) {
	if !utf8.Valid(document) {
		return d, refusef("the document is not UTF-8")
	}
	fields := map[string]json.RawMessage{}
	in := json.NewDecoder(bytes.NewReader(document))
	if t, err := in.Token(); err != nil || t != json.Delim('{') {
		return d, refusef("the document is not a JSON object")
	}
	for in.More() {
		t, err := in.Token()
		if err != nil {
			return d, refusef("the document is not JSON: %v", err)
		}
		name, _ := t.(string)
		if _, ok := fields[name]; ok {
			return d, refusef("the document has two fields %q", name)
		}
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return d, refusef("the document is not JSON: %v", err)
		}
		fields[name] = value
	}
	if _, err := in.Token(); err != nil {
		return d, refusef("the document is not JSON: %v", err)
	}
	if _, err := in.Token(); err != io.EOF {
		return d, refusef("the document is followed by something else")
	}
	var pending string
	for name, to := range map[string]*string{
		"accountId": &d.AccountID, "architecture": &d.Architecture, "availabilityZone": &d.AvailabilityZone,
		"imageId": &d.ImageID, "instanceId": &d.InstanceID, "instanceType": &d.InstanceType,
		"privateIp": &d.PrivateIP, "region": &d.Region, "pendingTime": &pending,
	} {
		value := fields[name]
		if len(value) == 0 || value[0] != '"' || json.Unmarshal(value, to) != nil || *to == "" {
			return Document{}, refusef("the document's %s is not a string with something in it", name)
		}
	}
	if !regionName.MatchString(d.Region) {
		return Document{}, refusef("the document's region is not the name of a region")
	}
	if d.PendingTime, err = time.Parse(time.RFC3339, pending); err != nil {
		return Document{}, refusef("the document's pendingTime is not a time")
	}
	return d, nil
}
