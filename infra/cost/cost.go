// Package cost estimates what a deployment costs a month, before and after a plan of Terraform.
//
// What is paid by the hour follows from the plan and from prices.json, a dated table of list prices. What is paid by use
// follows from assumptions, which a deployment changes in cost.yml, for all resources or for some. What is
// not counted is said: an estimate that leaves out silently is a wrong one. It takes no network and no account.
package cost

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// MaxPlan is how many bytes of a plan's JSON are read.
const MaxPlan = 64 << 20

// A Bill is an estimate. Amounts are dollars a month of 730 hours, rounded to cents.
type Bill struct {
	Currency    string       `json:"currency"`
	PricesAsOf  string       `json:"prices_as_of"`
	PriceNote   string       `json:"price_note"`
	Before      float64      `json:"before"`
	After       float64      `json:"after"`
	Difference  float64      `json:"difference"`
	Modules     []Module     `json:"modules"`   // by their addresses; "" is the root module
	Resources   []Resource   `json:"resources"` // those that cost something, by their addresses
	Assumptions []Assumption `json:"assumptions"`
	LeftOut     []string     `json:"left_out"` // sentences
}

// A Module is what the resources of a module that the root module calls cost, with the modules in it.
type Module struct {
	Address    string  `json:"address"`
	Before     float64 `json:"before"`
	After      float64 `json:"after"`
	Difference float64 `json:"difference"`
}

// A Resource is what one resource costs.
type Resource struct {
	Address    string  `json:"address"`
	Type       string  `json:"type"`
	Region     string  `json:"region"`
	Before     float64 `json:"before"`
	After      float64 `json:"after"`
	Difference float64 `json:"difference"`
	Parts      []Part  `json:"parts"` // of After; of Before where it goes
}

// A Part is something of a resource that has a price.
type Part struct {
	What     string  `json:"what"`
	Quantity float64 `json:"quantity"` // a month
	Unit     string  `json:"unit"`
	Price    float64 `json:"price"` // of a unit
	Cost     float64 `json:"cost"`
	Assumed  bool    `json:"assumed,omitempty"` // the quantity is an assumption
}

// hours of a month, as AWS counts in its calculator.
const hours = 730

//go:embed prices.json
var priceFile []byte

type priceTable struct {
	AsOf     string                        `json:"as_of"`
	Currency string                        `json:"currency"`
	Source   string                        `json:"source"`
	Note     string                        `json:"note"`
	Regions  map[string]map[string]float64 `json:"regions"`
}

var prices = sync.OnceValues(func() (t priceTable, err error) {
	d := json.NewDecoder(bytes.NewReader(priceFile))
	d.DisallowUnknownFields()
	if err = d.Decode(&t); err != nil {
		return t, fmt.Errorf("prices.json: %w", err)
	}
	return t, nil
})

// plan is what is read of a plan's JSON
// (https://developer.hashicorp.com/terraform/internals/json-format).
type plan struct {
	FormatVersion   string                         `json:"format_version"`
	Errored         bool                           `json:"errored"`
	Variables       map[string]struct{ Value any } `json:"variables"`
	ResourceChanges []change                       `json:"resource_changes"`
	PlannedValues   json.RawMessage                `json:"planned_values"`
	Configuration   struct {
		ProviderConfig map[string]struct {
			Expressions map[string]json.RawMessage `json:"expressions"`
		} `json:"provider_config"`
		RootModule module `json:"root_module"`
	} `json:"configuration"`
}

type change struct {
	Address       string `json:"address"`
	ModuleAddress string `json:"module_address"`
	Mode          string `json:"mode"`
	Type          string `json:"type"`
	Name          string `json:"name"`
	Index         any    `json:"index"`
	Change        struct {
		Actions []string       `json:"actions"`
		Before  map[string]any `json:"before"`
		After   map[string]any `json:"after"`
		Unknown map[string]any `json:"after_unknown"`
	} `json:"change"`
}

type module struct {
	Resources []struct {
		Address           string                     `json:"address"`
		ProviderConfigKey string                     `json:"provider_config_key"`
		Expressions       map[string]json.RawMessage `json:"expressions"`
	} `json:"resources"`
	ModuleCalls map[string]struct{ Module module } `json:"module_calls"`
}

// declared is what the files say of a resource.
type declared struct {
	provider   string
	references map[string][]string // by attribute
}

// Estimate estimates what a plan, given as terraform show -json prints it, makes of the monthly costs.
func Estimate(planJSON []byte, a Assumptions) (*Bill, error) {
	if len(planJSON) > MaxPlan {
		return nil, fmt.Errorf("the plan's JSON has %d bytes, and %d at most are read; split the deployment", len(planJSON), MaxPlan)
	}
	var p plan
	if err := json.Unmarshal(planJSON, &p); err != nil {
		return nil, fmt.Errorf("the plan is not JSON of terraform: %w; make it with terraform show -json PLANFILE", err)
	}
	switch {
	case !strings.HasPrefix(p.FormatVersion, "1."):
		return nil, fmt.Errorf("this is no plan, or one of another format: format_version is %q, and should be 1.x; make it with terraform show -json PLANFILE", p.FormatVersion)
	case p.PlannedValues == nil && p.ResourceChanges == nil:
		return nil, errors.New("this is a state and no plan: it has no resource_changes; make it with terraform show -json PLANFILE")
	case p.Errored:
		return nil, errors.New("the plan was not finished: terraform met an error while it planned; mend that and plan again")
	}
	table, err := prices()
	if err != nil {
		return nil, err
	}
	e := &estimator{plan: &p, table: table, own: a, declared: map[string]declared{}, used: map[string]bool{}, without: map[string]int{}, notes: map[string]bool{}}
	if err := e.own.check(table); err != nil {
		return nil, err
	}
	e.collect(&p.Configuration.RootModule, "")
	return e.bill(), nil
}

// estimator is an estimate that is being made.
type estimator struct {
	plan     *plan
	table    priceTable
	own      Assumptions
	declared map[string]declared // by address, without indices
	used     map[string]bool     // assumptions
	without  map[string]int      // what has no price here: how many resources
	notes    map[string]bool
}

// collect notes what the files say of the resources of a module, and of those that it calls.
func (e *estimator) collect(m *module, prefix string) {
	for _, r := range m.Resources {
		d := declared{provider: r.ProviderConfigKey, references: map[string][]string{}}
		for name, raw := range r.Expressions {
			var expression struct{ References []string }
			if json.Unmarshal(raw, &expression) == nil { // a block is an array
				d.references[name] = expression.References
			}
		}
		e.declared[prefix+r.Address] = d
	}
	for name, call := range m.ModuleCalls {
		e.collect(&call.Module, prefix+"module."+name+".")
	}
}

var indices = regexp.MustCompile(`\[("([^"\\]|\\.)*"|[0-9]+)\]`)

func static(address string) string { return indices.ReplaceAllString(address, "") }

func (e *estimator) bill() *Bill {
	b := &Bill{Currency: e.table.Currency, PricesAsOf: e.table.AsOf, PriceNote: e.table.Note, Modules: []Module{}, Resources: []Resource{}, Assumptions: []Assumption{}}
	modules := map[string]*Module{}
	for i := range e.plan.ResourceChanges {
		c := &e.plan.ResourceChanges[i]
		if c.Mode != "managed" {
			continue
		}
		if slices.Equal(c.Change.Actions, []string{"forget"}) {
			c.Change.After = c.Change.Before // it stays, and goes on to cost
			if c.Change.After != nil && !free(c.Type) && pricers[c.Type] != nil {
				e.notes["Resources that a removed block has Terraform forget: they are counted, as they stay in the account."] = true
			}
		}
		before, after := e.count(c, true), e.count(c, false)
		if len(before.parts)+len(after.parts) == 0 {
			continue
		}
		r := Resource{Address: c.Address, Type: c.Type, Region: cmp.Or(after.region, before.region), Before: before.cost(), After: after.cost(), Parts: after.parts}
		if len(r.Parts) == 0 {
			r.Parts = before.parts
		}
		r.Difference = cents(r.After - r.Before)
		b.Resources = append(b.Resources, r)
		name := moduleOf(c.ModuleAddress)
		m := modules[name]
		if m == nil {
			m = &Module{Address: name}
			modules[name] = m
		}
		m.Before += r.Before
		m.After += r.After
		b.Before += r.Before
		b.After += r.After
	}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		m := modules[name]
		m.Before, m.After = cents(m.Before), cents(m.After)
		m.Difference = cents(m.After - m.Before)
		b.Modules = append(b.Modules, *m)
	}
	slices.SortFunc(b.Resources, func(x, y Resource) int { return strings.Compare(x.Address, y.Address) })
	b.Before, b.After = cents(b.Before), cents(b.After)
	b.Difference = cents(b.After - b.Before)
	for _, a := range known {
		if e.used[a.Name] {
			b.Assumptions = append(b.Assumptions, e.own.named(a))
		}
	}
	b.LeftOut = e.leftOut()
	return b
}

// leftOut says what the estimate does not have: first what is in the plan, then what no plan has.
func (e *estimator) leftOut() (out []string) {
	for _, what := range slices.Sorted(maps.Keys(e.without)) {
		out = append(out, fmt.Sprintf("%s (%s)", what, countOf(e.without[what])))
	}
	out = append(out, slices.Sorted(maps.Keys(e.notes))...)
	return append(out,
		"Workers: instances, volumes and their traffic; taskfleet provisioner cost tells what they have cost.",
		"Data transfer: to the Internet, between regions and between zones.",
		"Free tiers, reserved capacity and savings plans, credits, support and taxes.",
	)
}

func countOf(n int) string {
	if n == 1 {
		return "1 resource"
	}
	return fmt.Sprintf("%d resources", n)
}

// moduleOf is the call of the root module that a module belongs to: module.a["x"] for module.a["x"].module.b.
func moduleOf(address string) string {
	at := 0
	for quoted, i := false, 0; i < len(address); i++ {
		switch {
		case address[i] == '\\':
			i++
		case address[i] == '"':
			quoted = !quoted
		case address[i] == '.' && !quoted:
			if at++; at == 2 {
				return address[:i]
			}
		}
	}
	return address
}

func cents(x float64) float64 { return math.Round(100*x) / 100 }

// count prices a resource as it is before or after the apply. It has no parts where it is not there.
func (e *estimator) count(c *change, before bool) *counter {
	n := &counter{e: e, change: c, before: before, values: c.Change.After}
	if before {
		n.values = c.Change.Before
	}
	if n.values == nil {
		return n
	}
	price, priced := pricers[c.Type]
	switch {
	case !priced && (!strings.HasPrefix(c.Type, "aws_") || free(c.Type)):
		return n
	case !priced:
		n.leave("No price is known of " + c.Type)
		return n
	}
	if n.region = e.region(c, n.values); n.region == "" {
		n.leave("The region is not known of " + c.Type + "; set region in cost.yml")
		return n
	}
	if n.prices = e.table.Regions[n.region]; n.prices == nil && e.own.Prices[n.region] == nil {
		n.leave("There are no prices of the region " + n.region + " for " + c.Type)
		return n
	}
	price(n)
	return n
}

var (
	inARN  = regexp.MustCompile(`^arn:[a-z-]+:[a-z0-9-]+:([a-z0-9-]+):`)
	inZone = regexp.MustCompile(`^([a-z]+(?:-[a-z]+)+-[0-9])[a-z]$`)
)

// region is where a resource is: as it says itself, as its ARN or zone says, or as its provider does.
func (e *estimator) region(c *change, values map[string]any) string {
	if s, _ := values["region"].(string); s != "" {
		return s
	}
	if s, _ := values["arn"].(string); inARN.MatchString(s) {
		return inARN.FindStringSubmatch(s)[1]
	}
	if s, _ := values["availability_zone"].(string); inZone.MatchString(s) {
		return inZone.FindStringSubmatch(s)[1]
	}
	key := e.declared[static(c.Address)].provider
	provider, ok := e.plan.Configuration.ProviderConfig[key]
	if !ok {
		provider = e.plan.Configuration.ProviderConfig[key[strings.LastIndex(key, ":")+1:]] // of a module: module.a:aws
	}
	var expression struct {
		Constant   any      `json:"constant_value"`
		References []string `json:"references"`
	}
	if raw := provider.Expressions["region"]; raw != nil && json.Unmarshal(raw, &expression) == nil {
		if s, ok := expression.Constant.(string); ok {
			return s
		}
		if len(expression.References) == 1 {
			if name, is := strings.CutPrefix(expression.References[0], "var."); is {
				if s, ok := e.plan.Variables[name].Value.(string); ok {
					return s
				}
			}
		}
	}
	return e.own.Region
}
