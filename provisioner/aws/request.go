package aws

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// What a pool says about its machines is a request of RunInstances, without the
// parts that are ours. It is checked and completed here as the JSON that it is,
// because it ends up as one of two types of the SDK: a RunInstances request, or
// the data of a launch template.

// ours are the parts of a request that the provider makes itself, with what to
// do instead.
var ours = map[string]string{
	"UserData":              "it is made by the provider; put what is to be added into additionalUserData",
	"MinCount":              "how many instances there are is decided for the pool; use config.minCapacity",
	"MaxCount":              "how many instances there are is decided for the pool; use config.maxCapacity or workerManager.maxCapacity",
	"ClientToken":           "the provider needs it for itself; leave it out",
	"LaunchTemplate":        "what is in it could not be checked, such as its instance profile and what is left behind; give its fields here",
	"DryRun":                "leave it out; `taskfleet provisioner pools validate` makes dry runs",
	"DisableApiTermination": "the instances could not be ended; leave it out",
	"DisableApiStop":        "leave it out; workers are ended, not stopped",
	"PrivateIpAddress":      "several instances cannot share it; leave it out",
	"Ipv6Addresses":         "several instances cannot share them; leave them out",
}

// complete checks a request and adds the defaults. m is changed.
func (p *Provider) complete(at string, m map[string]any) error {
	for name := range m {
		for o, why := range ours {
			if strings.EqualFold(name, o) {
				return fmt.Errorf("%s.%s is not allowed: %s", at, name, why)
			}
		}
	}
	if err := fields(at, reflect.TypeFor[ec2.RunInstancesInput](), m); err != nil {
		return err
	}
	if err := p.checkProfile(at, m["IamInstanceProfile"]); err != nil {
		return err
	}
	if b, has := m["InstanceInitiatedShutdownBehavior"]; has && b != "terminate" {
		return fmt.Errorf("%s.InstanceInitiatedShutdownBehavior is %v: instances that are stopped instead of terminated would be left behind; leave it out", at, b)
	}
	m["InstanceInitiatedShutdownBehavior"] = "terminate"
	options := map[string]any{"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"}
	if own, is := m["MetadataOptions"].(map[string]any); is {
		options = merge(options, own)
	}
	if options["HttpEndpoint"] != "enabled" {
		return fmt.Errorf("%s.MetadataOptions.HttpEndpoint is %v: a worker needs the metadata service to register; leave it out", at, options["HttpEndpoint"])
	}
	if options["HttpTokens"] != "required" {
		return fmt.Errorf("%s.MetadataOptions.HttpTokens is %v: without session tokens (IMDSv2) a task that fetches a URL for somebody can be had to fetch the instance's identity; leave it out", at, options["HttpTokens"])
	}
	m["MetadataOptions"] = options
	if err := keepNothing(at+".BlockDeviceMappings", m["BlockDeviceMappings"], "Ebs"); err != nil {
		return err
	}
	return keepNothing(at+".NetworkInterfaces", m["NetworkInterfaces"], "")
}

// checkProfile lets only the profiles pass that the operator allows.
func (p *Provider) checkProfile(at string, profile any) error {
	if profile == nil {
		return nil
	}
	if m, is := profile.(map[string]any); is {
		for _, name := range m {
			if s, is := name.(string); !is || !slices.Contains(p.config.InstanceProfiles, s) {
				return fmt.Errorf("%s.IamInstanceProfile %v is not one of those that pools may use; whoever runs the provisioner can add it to the provider's instanceProfiles", at, name)
			}
		}
	}
	return nil
}

// keepNothing has each element of a list deleted with its instance.
func keepNothing(at string, list any, inner string) error {
	elements, _ := list.([]any)
	for i, e := range elements {
		m, is := e.(map[string]any)
		where := fmt.Sprintf("%s[%d]", at, i)
		if inner != "" && is {
			m, is = m[inner].(map[string]any)
			where += "." + inner
		}
		if !is {
			continue
		}
		if m["NetworkInterfaceId"] != nil || m["PrivateIpAddress"] != nil {
			return fmt.Errorf("%s names an interface or an address, which several instances cannot share; leave it out", where)
		}
		if keep, has := m["DeleteOnTermination"]; has && keep != true {
			return fmt.Errorf("%s.DeleteOnTermination is %v: what an instance leaves behind would be paid for and used by nobody; leave it out", where, keep)
		}
		m["DeleteOnTermination"] = true
	}
	return nil
}

// fields reports a field that a type does not have, with its path. Names are
// those of EC2's API, which the SDK's types have too.
func fields(at string, t reflect.Type, v any) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return nil // the decoder says so
		}
		for name, inner := range v {
			f, has := t.FieldByName(name)
			if !has || !f.IsExported() {
				return fmt.Errorf("%s has a field %q, which EC2 does not know%s", at, name, similar(t, name))
			}
			if err := fields(at+"."+name, f.Type, inner); err != nil {
				return err
			}
		}
	case []any:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for i, inner := range v {
			if err := fields(at+"["+strconv.Itoa(i)+"]", t.Elem(), inner); err != nil {
				return err
			}
		}
	}
	return nil
}

// similar finds a field that was meant.
func similar(t reflect.Type, name string) string {
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() && (strings.EqualFold(f.Name, name) || strings.EqualFold(strings.TrimSuffix(f.Name, "s"), strings.TrimSuffix(name, "s"))) {
			return "; it is called " + f.Name
		}
	}
	return ""
}

// decode turns a request into a type of the SDK.
func decode(at string, m map[string]any, into any) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fmt.Errorf("%s.%s is a JSON %s, where EC2 takes %s", at, e.Field, e.Value, kindOf(e.Type))
		}
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

// templateData turns a request into the data of a launch template, which knows
// some fields less.
func templateData(at string, m map[string]any) (*types.RequestLaunchTemplateData, error) {
	for name := range m {
		if _, has := reflect.TypeFor[types.RequestLaunchTemplateData]().FieldByName(name); !has {
			return nil, fmt.Errorf("%s.%s cannot be used together with instanceTypes, because launch templates do not have it; leave it out, or write one launch configuration for each instance type", at, name)
		}
	}
	d := &types.RequestLaunchTemplateData{}
	return d, decode(at, m, d)
}

// compact is the JSON of a value without what is null, empty or the zero value.
func compact(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var tree any
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	return json.Marshal(prune(tree))
}

func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			if inner = prune(inner); inner == nil || inner == "" {
				delete(v, name)
			} else {
				v[name] = inner
			}
		}
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
	}
	return v
}
