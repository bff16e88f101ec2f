package monitoring

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

// Our dashboards and detectors are what somebody needs who is woken by an alert: what is wrong, where, since when.
// They are data in the form of environment.yml, with three words more:
//
//	{{gauge "metric" "label" "value"}}  data(…) of what is now, with filters
//	{{rate "metric" "label" "value"}}   data(…) of what is counted, per second
//	{{environment}}                     its name
//
// A label's value may end with *, name several as a|b, or, as !a, what it is not.
//
//go:embed ours.yml
var oursText string

// dimension is what a dimension and its value may be written with in a program.
var dimension = regexp.MustCompile(`^[A-Za-z0-9_.:/-]{1,128}$`)

// ours are our dashboards and detectors. filter are dimensions that all their figures have, notify
// says by severity who is told.
func ours(environment string, filter map[string]string, notify map[string][]Notification) (boards []DashboardConfig, alarms []DetectorConfig, problems []error) {
	for _, name := range slices.Sorted(maps.Keys(filter)) {
		if !dimension.MatchString(name) || !dimension.MatchString(filter[name]) {
			problems = append(problems, problem("signalfx.filter", "has %q: %q; dimensions and values are letters, digits and _.:/-", name, filter[name]))
		}
	}
	for _, severity := range slices.Sorted(maps.Keys(notify)) {
		if !slices.Contains(severities, Severity(severity)) {
			problems = append(problems, problem("signalfx.notify", "has %q; severities are %v", severity, severities))
		}
		problems = append(problems, within("signalfx", errors.Join(checkNotifications("notify."+severity, notify[severity])...))...)
	}
	if len(problems) > 0 {
		return nil, nil, problems
	}
	data := func(rollup string) func(metric string, labels ...string) string {
		return func(metric string, labels ...string) string {
			var filters []string
			for i := 0; i+1 < len(labels); i += 2 {
				value, not := strings.CutPrefix(labels[i+1], "!")
				text := "filter('" + labels[i] + "', '" + strings.ReplaceAll(value, "|", "', '") + "')"
				if not {
					text = "not " + text
				}
				filters = append(filters, text)
			}
			for _, name := range slices.Sorted(maps.Keys(filter)) {
				filters = append(filters, "filter('"+name+"', '"+filter[name]+"')")
			}
			text := "data('" + metric + "'"
			if len(filters) > 0 {
				text += ", filter=" + strings.Join(filters, " and ")
			}
			return text + rollup + ")"
		}
	}
	var out strings.Builder
	t, err := template.New("ours").Funcs(template.FuncMap{
		"gauge": data(""), "rate": data(", rollup='rate'"), "environment": func() string { return environment },
	}).Parse(oursText)
	if err == nil {
		err = t.Execute(&out, nil)
	}
	var all struct {
		Dashboards []DashboardConfig `json:"dashboards"`
		Detectors  []DetectorConfig  `json:"detectors"`
	}
	if err == nil {
		err = yaml.UnmarshalStrict([]byte(out.String()), &all)
	}
	if err != nil {
		return nil, nil, []error{fmt.Errorf("our own dashboards: %w", err)}
	}
	for _, d := range all.Detectors {
		for i, r := range d.Rules {
			d.Rules[i].Notifications = slices.Clone(notify[string(r.Severity)])
		}
	}
	return all.Dashboards, all.Detectors, nil
}
