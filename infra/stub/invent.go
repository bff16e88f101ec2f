package stub

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// fingerprint tells resources apart by what is known of them before they are made.
func fingerprint(kind, region string, planned tftypes.Value) string {
	// Maps are encoded in the order of their keys.
	b, err := json.Marshal([]any{kind, region, plain(planned)})
	must(err)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// inventor makes up what a resource or data source computes.
type inventor struct {
	kind, seed, region string
	attributes         map[string]*tfprotov5.SchemaAttribute // of the top level
	values             map[string]tftypes.Value              // as far as they are known
	busy               map[string]bool
}

// invent replaces all that is not known.
func invent(b *tfprotov5.SchemaBlock, kind, seed string, planned tftypes.Value, c configuration) tftypes.Value {
	i := &inventor{kind: kind, seed: seed, region: c.region, values: fields(planned), attributes: map[string]*tfprotov5.SchemaAttribute{}, busy: map[string]bool{}}
	for _, a := range b.Attributes {
		i.attributes[a.Name] = a
	}
	if v, ok := i.values["region"]; ok && text(v) != "" {
		i.region = text(v)
	}
	return fill(b, kind, planned, func(path string, a *tfprotov5.SchemaAttribute, v tftypes.Value) tftypes.Value {
		switch {
		case a.WriteOnly:
			return tftypes.NewValue(a.Type, nil)
		case v.IsFullyKnown():
			return v
		case path == kind+"."+a.Name:
			return i.top(a.Name)
		}
		return i.value(path, a.Type, v, a.Computed && !a.Optional)
	})
}

// top gives an attribute of the top level, invented at most once.
func (i *inventor) top(name string) tftypes.Value {
	a, v := i.attributes[name], i.values[name]
	if a == nil {
		panic(fmt.Sprintf("stub: invent.go: %s has no attribute %q", i.kind, name))
	}
	if v.IsFullyKnown() && !(v.IsNull() && a.Computed) {
		return v
	}
	if i.busy[name] {
		panic(fmt.Sprintf("stub: invent.go: %s.%s is made of itself", i.kind, name))
	}
	i.busy[name] = true
	v = i.value(i.kind+"."+name, a.Type, v, a.Computed && !a.Optional)
	delete(i.busy, name)
	i.values[name] = v
	return v
}

// value invents what is not known of v. What nobody may set, AWS sets; of what one may, it leaves most empty.
func (i *inventor) value(path string, t tftypes.Type, v tftypes.Value, always bool) tftypes.Value {
	if v.IsKnown() && !v.IsNull() {
		return i.within(path, t, v, always)
	}
	template, written := templates[path]
	name := path[strings.LastIndex(path, ".")+1:]
	if !written {
		switch {
		case name == "arn":
			template, written = i.arn(), true
		case name == "name" && i.attributes["name_prefix"] != nil && path == i.kind+".name":
			prefix := text(i.values["name_prefix"])
			if prefix == "" {
				prefix = "terraform-"
			}
			template, written = prefix+"{hash:12}", true
		case path == i.kind+".id":
			template, written = i.id(), true
		case strings.HasSuffix(name, "_arn") && always:
			template, written = "arn:{partition}:stub:{region}:{account}:"+strings.TrimSuffix(name, "_arn")+"/{hash:12}", true
		case (name == "owner_id" || name == "account_id") && always:
			template, written = "{account}", true
		case (name == "status" || name == "state") && always:
			template, written = "available", true
		case path == "aws_vpc.ipv6_cidr_block" && plain(i.values["assign_generated_ipv6_cidr_block"]) == true:
			template, written = "2600:1f14:{hash:4}:{hash:2}00::/56", true
		case name == "availability_zone" || name == "preferred_availability_zone":
			template, written = "{region}a", true
		}
	}
	switch {
	case t.Is(tftypes.String):
		if !written && always {
			template = "{hash:16}"
		}
		return str(i.expand(path, template))
	case t.Is(tftypes.Number):
		n := new(big.Float)
		if written {
			if _, _, err := n.Parse(i.expand(path, template), 10); err != nil {
				panic(fmt.Sprintf("stub: invent.go: %s: %v", path, err))
			}
		} else if always {
			n.SetInt64(1)
		}
		return tftypes.NewValue(t, n)
	case t.Is(tftypes.Bool):
		return tftypes.NewValue(t, template == "true")
	case t.Is(tftypes.Map{}):
		return tftypes.NewValue(t, map[string]tftypes.Value{})
	case t.Is(tftypes.List{}), t.Is(tftypes.Set{}):
		elements := []tftypes.Value{}
		switch {
		case written:
			for _, s := range strings.Split(i.expand(path, template), ",") {
				elements = append(elements, str(s))
			}
		case always && element(t).Is(tftypes.Object{}):
			elements = append(elements, i.value(path, element(t), tftypes.NewValue(element(t), tftypes.UnknownValue), true))
		}
		return tftypes.NewValue(t, elements)
	case t.Is(tftypes.Object{}):
		result := map[string]tftypes.Value{}
		for name, ft := range t.(tftypes.Object).AttributeTypes {
			result[name] = i.value(path+"."+name, ft, tftypes.NewValue(ft, tftypes.UnknownValue), always)
		}
		return tftypes.NewValue(t, result)
	}
	return tftypes.NewValue(t, nil)
}

// within invents what is not known inside of a value.
func (i *inventor) within(path string, t tftypes.Type, v tftypes.Value, always bool) tftypes.Value {
	if v.IsFullyKnown() {
		return v
	}
	switch {
	case t.Is(tftypes.Object{}), t.Is(tftypes.Map{}):
		values := fields(v)
		// Objects in a collection differ by what is known of them.
		inner := *i
		inner.seed = fingerprint(i.seed, path, v)
		for name, e := range values {
			if !e.IsFullyKnown() {
				values[name] = inner.value(path+"."+name, e.Type(), e, always)
			}
		}
		return tftypes.NewValue(t, values)
	case t.Is(tftypes.List{}), t.Is(tftypes.Set{}):
		var elements []tftypes.Value
		must(v.As(&elements))
		for n, e := range elements {
			if !e.IsFullyKnown() {
				elements[n] = i.value(path, e.Type(), e, always)
			}
		}
		return tftypes.NewValue(t, elements)
	}
	return v
}

var placeholder = regexp.MustCompile(`\{([a-z0-9_]+)(?::(\d+))?\}`)

// expand replaces {hash:N} by N hexadecimal digits, {number:N} by N decimal ones, {octet:N} by a number of an IPv4 address
// that the Nth byte of the hash gives, {uuid}, {account}, {partition} and {region} by such, {suffix} by the domain of the
// partition's services, and {NAME} by another attribute of the resource.
func (i *inventor) expand(path, template string) string {
	sum := sha256.Sum256([]byte(i.seed + "/" + path))
	digits := hex.EncodeToString(sum[:])
	return placeholder.ReplaceAllStringFunc(template, func(s string) string {
		m := placeholder.FindStringSubmatch(s)
		n := 0
		if m[2] != "" {
			_, err := fmt.Sscan(m[2], &n)
			must(err)
		}
		switch m[1] {
		case "hash":
			return digits[:n]
		case "number":
			return new(big.Int).SetBytes(sum[:]).String()[:n]
		case "uuid":
			return digits[:8] + "-" + digits[8:12] + "-4" + digits[13:16] + "-a" + digits[17:20] + "-" + digits[20:32]
		case "octet":
			return fmt.Sprint(1 + sum[n]%250)
		case "account":
			return Account
		case "partition":
			return partition(i.region)
		case "suffix":
			return suffix(i.region)
		case "region":
			return i.region
		}
		if v := plain(i.top(m[1])); v != nil {
			return fmt.Sprint(v)
		}
		return ""
	})
}

func partition(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

func suffix(region string) string {
	if partition(region) == "aws-cn" {
		return "amazonaws.com.cn"
	}
	return "amazonaws.com"
}

// id is the template of an identifier that has none of its own.
func (i *inventor) id() string {
	for _, name := range []string{"name", "bucket"} {
		if a := i.attributes[name]; named[i.kind] && a != nil {
			return "{" + name + "}"
		}
	}
	return strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(i.kind, "data."), "aws_"), "_", "-") + "-{hash:17}"
}

// arn is the template of an ARN that has none of its own.
func (i *inventor) arn() string {
	short := strings.TrimPrefix(strings.TrimPrefix(i.kind, "data."), "aws_")
	service, rest, found := strings.Cut(short, "_")
	if !found {
		rest = service
	}
	if s, ok := services[strings.TrimPrefix(i.kind, "data.")]; ok {
		service, rest = s[0], s[1]
	}
	region := ":{region}:"
	if service == "iam" || service == "route53" || service == "budgets" {
		region = "::"
	}
	resource := "{hash:17}"
	if i.attributes["id"] != nil {
		resource = "{id}"
	}
	return "arn:{partition}:" + service + region + "{account}:" + strings.ReplaceAll(rest, "_", "-") + "/" + resource
}
