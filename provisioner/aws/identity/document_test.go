package identity

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestDocumentsAreReadStrictly(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(document, old, new, 1) }
	for _, c := range []struct{ name, document, want string }{
		{"empty", "", "not a JSON object"},
		{"array", "[]", "not a JSON object"},
		{"cut off", document[:len(document)-2], "not JSON"},
		{"cut off in a name", document[:8], "not JSON"},
		{"followed by another", document + document, "followed by something else"},
		{"a field twice", replace(`"version"`, `"region" : "us-west-2", "version"`), `two fields "region"`},
		{"a field twice, escaped", replace(`"version"`, `"regio\u006e" : "us-west-2", "version"`), `two fields "region"`},
		{"a field we do not use twice", replace(`"version"`, `"billingProducts" : 1, "version"`), `two fields "billingProducts"`},
		{"other case", replace(`"instanceId"`, `"InstanceId"`), "instanceId is not a string"},
		{"missing", replace(`"accountId" : "123456789012",`, ``), "accountId is not a string"},
		{"number", replace(`"123456789012"`, `123456789012`), "accountId is not a string"},
		{"null", replace(`"172.31.17.154"`, `null`), "privateIp is not a string"},
		{"empty field", replace(`"x86_64"`, `""`), "architecture is not a string"},
		{"list", replace(`"c7i.large"`, `["c7i.large"]`), "instanceType is not a string"},
		{"not a time", replace(`2026-02-15T14:12:11Z`, `yesterday`), "pendingTime is not a time"},
		{"not UTF-8", replace("c7i", "c7\xff"), "not UTF-8"},
	} {
		d, err := parse([]byte(c.document))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v; want %q", c.name, err, c.want)
		}
		if err != nil && d != (Document{}) {
			t.Errorf("%s: got a document with the error: %+v", c.name, d)
		}
	}
	if _, err := parse([]byte(replace(`"version"`, `"InstanceId" : {"region": [1, null]}, "version"`))); err != nil {
		t.Errorf("a document with fields that we do not know: %v", err)
	}
}

func TestADocumentIsComparedWithWhatIsKnown(t *testing.T) {
	d, err := parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	known := Expected{
		AccountID: d.AccountID, Architecture: d.Architecture, AvailabilityZone: d.AvailabilityZone, ImageID: d.ImageID,
		InstanceID: d.InstanceID, InstanceType: d.InstanceType, PrivateIP: d.PrivateIP, Region: d.Region,
		Launched: d.PendingTime.Add(3 * time.Second),
	}
	if err := d.Match(known); err != nil {
		t.Errorf("the same instance: %v", err)
	}
	for name, change := range map[string]func(*Expected){
		"accountId":        func(e *Expected) { e.AccountID = "999999999999" },
		"architecture":     func(e *Expected) { e.Architecture = "arm64" },
		"availabilityZone": func(e *Expected) { e.AvailabilityZone = "us-east-1a" },
		"imageId":          func(e *Expected) { e.ImageID = "ami-1" },
		"instanceId":       func(e *Expected) { e.InstanceID = "i-0b02d936754a6d638" },
		"instanceType":     func(e *Expected) { e.InstanceType = "c7i.xlarge" },
		"privateIp":        func(e *Expected) { e.PrivateIP = "" },
		"region":           func(e *Expected) { e.Region = "us-west-2" },
		"pendingTime":      func(e *Expected) { e.Launched = d.PendingTime.Add(6 * time.Minute) },
	} {
		e := known
		change(&e)
		var refused *Error
		if err := d.Match(e); !errors.As(err, &refused) {
			t.Errorf("another %s: got %v", name, err)
			continue
		}
		if !strings.Contains(refused.Error(), name+" is ") || strings.Count(refused.Error(), " is ") > 3 {
			t.Errorf("another %s: the log says %q", name, refused)
		}
		for _, secret := range []string{name, d.InstanceID, e.InstanceType} {
			if strings.Contains(refused.Public, secret) {
				t.Errorf("another %s: the caller is told %q", name, refused.Public)
			}
		}
	}
	known.Launched, known.Window = d.PendingTime.Add(-6*time.Minute), 10*time.Minute
	if err := d.Match(known); err != nil {
		t.Errorf("within a window that was asked for: %v", err)
	}
	if err := d.Match(Expected{}); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("nothing known: got %v", err)
	}
	if err := (Document{}).Match(Expected{}); err == nil {
		t.Error("nothing matches nothing")
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(document))
	f.Add([]byte(`{"region":1,"a":{"region":2}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parse(text)
		if err == nil && (d.Region == "" || d.InstanceID == "" || d.PendingTime.IsZero() && !strings.Contains(string(text), "0001-")) {
			t.Errorf("accepted %+v", d)
		}
		if err != nil && d != (Document{}) {
			t.Errorf("refused, with %+v", d)
		}
	})
}
