package cost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// File is where a deployment says what it knows better.
const File = "cost.yml"

// Limits of cost.yml.
const (
	maxFile      = 1 << 20 // bytes
	maxResources = 500
)

// An Assumption is how much is used of something that is paid by use.
type Assumption struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Meaning string  `json:"meaning"`
	Own     bool    `json:"own,omitempty"` // cost.yml says so, for all resources
}

// known are the assumptions that there are, with what holds unless cost.yml says otherwise: a platform with some
// thousand tasks a day.
var known = []Assumption{
	{Name: "dns_millions", Value: 1, Meaning: "million queries a month of a zone"},
	{Name: "ecr_gb", Value: 5, Meaning: "GB of images in a repository"},
	{Name: "endpoint_gb", Value: 50, Meaning: "GB a month through an interface endpoint"},
	{Name: "flow_logs_gb", Value: 10, Meaning: "GB a month of flow logs"},
	{Name: "kms_requests", Value: 1_000_000, Meaning: "requests a month to a key"},
	{Name: "lb_lcu", Value: 1, Meaning: "capacity units of a load balancer, on average"},
	{Name: "logs_gb", Value: 5, Meaning: "GB a month that come into a log group"},
	{Name: "logs_kept_gb", Value: 20, Meaning: "GB that are kept in a log group, compressed"},
	{Name: "mq_storage_gb", Value: 20, Meaning: "GB on each node of a broker"},
	{Name: "nat_gb", Value: 200, Meaning: "GB a month through a NAT gateway"},
	{Name: "rds_backup_gb", Value: 0, Meaning: "GB of backups beyond the size of the database, which is free"},
	{Name: "s3_gb", Value: 500, Meaning: "GB in a bucket, in the class Standard"},
	{Name: "s3_get_thousands", Value: 2000, Meaning: "thousand requests a month that read a bucket"},
	{Name: "s3_put_thousands", Value: 500, Meaning: "thousand requests a month that write to a bucket"},
	{Name: "secret_requests", Value: 10_000, Meaning: "requests a month for a secret"},
	{Name: "sns_millions", Value: 0.01, Meaning: "million publishes a month of a topic"},
	{Name: "sqs_millions", Value: 3, Meaning: "million requests a month of a queue, empty polls too"},
	{Name: "tasks", Value: 1, Meaning: "tasks of a service, on average; the plan's desired_count unless cost.yml says it"},
	{Name: "waf_millions", Value: 10, Meaning: "million requests a month of a web ACL"},
	{Name: "zones", Value: 2, Meaning: "zones of what names subnets that only the apply tells"},
}

// Assumptions are what a deployment knows better than the defaults. [Load] reads them; the zero value is the defaults.
type Assumptions struct {
	Region    string                        // of resources whose region the plan does not tell
	Usage     map[string]float64            // by the name of an assumption
	Resources []Override                    // the first that says something of a resource counts
	Prices    map[string]map[string]float64 // by region, and by the name in prices.json
}

// An Override is the usage of some resources.
type Override struct {
	Resource string             // an address; * stands for any text
	Usage    map[string]float64 // by the name of an assumption
}

// Load reads cost.yml of a deployment. It does not have to be there.
func Load(directory string) (a Assumptions, err error) {
	f, err := os.Open(filepath.Join(directory, File))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	} else if err != nil {
		return a, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return a, err
	}
	if len(text) > maxFile {
		return a, fmt.Errorf("%s has more than %d KiB", f.Name(), maxFile>>10)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&a); err != nil && !errors.Is(err, io.EOF) {
		return Assumptions{}, fmt.Errorf("%s: %w; it may have region, usage, resources and prices", f.Name(), err)
	}
	table, err := prices()
	if err != nil {
		return Assumptions{}, err
	}
	if err := a.check(table); err != nil {
		return Assumptions{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return a, nil
}

func (a Assumptions) check(table priceTable) error {
	if len(a.Resources) > maxResources {
		return fmt.Errorf("there are %d entries in resources, and %d at most may be", len(a.Resources), maxResources)
	}
	if err := checkUsage("usage", a.Usage); err != nil {
		return err
	}
	for i, o := range a.Resources {
		if o.Resource == "" {
			return fmt.Errorf("resources[%d] names no resource; give an address, in which * stands for any text", i)
		}
		if err := checkUsage(fmt.Sprintf("resources[%d].usage", i), o.Usage); err != nil {
			return err
		}
	}
	for region, list := range a.Prices {
		for name, price := range list {
			if !amount(price) {
				return fmt.Errorf("prices.%s.%s is %v; give dollars, 0 or more", region, name, price)
			}
			if _, ok := table.Regions["us-east-1"][name]; !ok && !strings.HasSuffix(name, "_hour") {
				return fmt.Errorf("prices.%s: there is no price %q; prices.json has the names", region, name)
			}
		}
	}
	return nil
}

func checkUsage(where string, usage map[string]float64) error {
	for name, value := range usage {
		if !slices.ContainsFunc(known, func(a Assumption) bool { return a.Name == name }) {
			var names []string
			for _, a := range known {
				names = append(names, a.Name)
			}
			return fmt.Errorf("%s: there is no assumption %q; there are %s", where, name, strings.Join(names, ", "))
		}
		if !amount(value) {
			return fmt.Errorf("%s.%s is %v; give a number, 0 or more", where, name, value)
		}
	}
	return nil
}

func amount(x float64) bool { return x >= 0 && x < 1e12 && !math.IsNaN(x) }

// named is an assumption with the value that holds for all resources.
func (a Assumptions) named(k Assumption) Assumption {
	if v, ok := a.Usage[k.Name]; ok {
		k.Value, k.Own = v, true
	}
	return k
}

// given is what cost.yml says of an assumption for a resource.
func (a Assumptions) given(name, address string) (float64, bool) {
	for _, o := range a.Resources {
		if v, ok := o.Usage[name]; ok && o.matches(address) {
			return v, true
		}
	}
	v, ok := a.Usage[name]
	return v, ok
}

func (a Assumptions) value(name, address string) float64 {
	if v, ok := a.given(name, address); ok {
		return v
	}
	return known[slices.IndexFunc(known, func(k Assumption) bool { return k.Name == name })].Value
}

func (o Override) matches(address string) bool {
	parts := strings.Split(o.Resource, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(address)
}
