package monitoring

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"

	"github.com/signalfx/signalfx-go"
	"github.com/signalfx/signalfx-go/detector"
)

type detectors = things[detector.Detector, DetectorSpec]

var severities = []Severity{"Critical", "Major", "Warning", "Minor", "Info"}

func newDetectors(s *site) *detectors {
	request := func(d *detector.Detector) (*detector.CreateUpdateDetectorRequest, error) {
		d.CustomProperties = nil // which is an object in answers, and a text in requests
		return as[detector.CreateUpdateDetectorRequest](d)
	}
	return &detectors{
		site: s, token: TokenDetector, noun: "detector",
		check: checkDetector,
		text:  func(s *DetectorSpec) *string { return &s.Description },
		head:  func(d *detector.Detector) head { return head{&d.Id, &d.Name, &d.Description, d.Created} },
		search: func(ctx context.Context, c *signalfx.Client, name string, offset int) (int, []*detector.Detector, error) {
			page, err := c.SearchDetectors(ctx, pageSize, name, offset, "")
			if err != nil {
				return 0, nil, err
			}
			return int(page.Count), pointers(page.Results), nil
		},
		get: func(ctx context.Context, c *signalfx.Client, id string) (*detector.Detector, error) {
			return c.GetDetector(ctx, id)
		},
		create: func(ctx context.Context, c *signalfx.Client, d *detector.Detector) (*detector.Detector, error) {
			r, err := request(d)
			if err != nil {
				return nil, err
			}
			return c.CreateDetector(ctx, r)
		},
		update: func(ctx context.Context, c *signalfx.Client, id string, d *detector.Detector) (*detector.Detector, error) {
			r, err := request(d)
			if err != nil {
				return nil, err
			}
			return c.UpdateDetector(ctx, id, r)
		},
		remove: func(ctx context.Context, c *signalfx.Client, id string) error { return c.DeleteDetector(ctx, id) },
		write: func(_ context.Context, _ *signalfx.Client, d *detector.Detector, s DetectorSpec) error {
			return writeDetector(d, s)
		},
		read: func(_ context.Context, _ *signalfx.Client, d *detector.Detector, state *stateOf[DetectorSpec]) (DetectorSpec, map[string]any, error) {
			var was DetectorSpec
			if state != nil {
				was = state.spec
			}
			s, err := readDetector(d, was)
			return s, nil, err
		},
	}
}

func checkDetector(s *DetectorSpec) []error {
	problems := append(checkProgram(&s.Program), checkDescription(s.Description))
	problems = append(problems, checkIDs("teams", s.Teams)...)
	if len(s.Rules) == 0 || len(s.Rules) > mostRules {
		problems = append(problems, problem("rules", "has %d rules; it must have 1 to %d", len(s.Rules), mostRules))
	}
	labels := published(s.Program)
	for i := range s.Rules {
		r, at := &s.Rules[i], fmt.Sprintf("rules[%d]", i)
		switch {
		case !slices.Contains(labels, r.Label):
			problems = append(problems, problem(at+".label", "is %q; the program publishes nothing under it", r.Label))
		case slices.ContainsFunc(s.Rules[:i], func(x Rule) bool { return x.Label == r.Label }):
			problems = append(problems, problem(at+".label", "is %q, as that of another rule", r.Label))
		}
		if !slices.Contains(severities, r.Severity) {
			problems = append(problems, problem(at+".severity", "is %q; it must be one of %v", r.Severity, severities))
		}
		if u, err := url.Parse(r.Runbook); r.Runbook != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil) {
			problems = append(problems, problem(at+".runbook", "must be a URL without a user"))
		}
		if len(r.Description) > mostText || len(r.Tip) > mostText {
			problems = append(problems, problem(at, "must have a description and a tip of up to %d bytes", mostText))
		}
		problems = append(problems, checkNotifications(at+".notifications", r.Notifications)...)
	}
	slices.SortFunc(s.Rules, func(a, b Rule) int { return cmp.Compare(a.Label, b.Label) })
	return problems
}

// writeDetector leaves texts of messages and what else there is as it is.
func writeDetector(d *detector.Detector, s DetectorSpec) error {
	d.ProgramText = s.Program
	d.Teams = append([]string{}, s.Teams...)
	if d.Tags == nil {
		d.Tags = []string{}
	}
	var rules []*detector.Rule
	for _, r := range s.Rules {
		rule := &detector.Rule{DetectLabel: r.Label}
		if i := slices.IndexFunc(d.Rules, func(x *detector.Rule) bool { return x.DetectLabel == r.Label }); i >= 0 {
			rule = d.Rules[i]
		}
		rule.Severity, rule.Description, rule.RunbookUrl, rule.Tip, rule.Disabled = detector.Severity(r.Severity), r.Description, r.Runbook, r.Tip, r.Disabled
		var err error
		if rule.Notifications, err = sent(r.Notifications); err != nil {
			return err
		}
		rules = append(rules, rule)
	}
	d.Rules = rules
	return nil
}

func readDetector(d *detector.Detector, was DetectorSpec) (s DetectorSpec, err error) {
	s = DetectorSpec{Program: d.ProgramText, Teams: slices.Clone(d.Teams)}
	slices.Sort(s.Teams)
	for _, rule := range d.Rules {
		var before []Notification
		for _, r := range was.Rules {
			if r.Label == rule.DetectLabel {
				before = r.Notifications
			}
		}
		r := Rule{Label: rule.DetectLabel, Severity: Severity(rule.Severity), Description: rule.Description, Runbook: rule.RunbookUrl, Tip: rule.Tip, Disabled: rule.Disabled}
		if r.Notifications, err = shown(rule.Notifications, before); err != nil {
			return s, err
		}
		s.Rules = append(s.Rules, r)
	}
	slices.SortFunc(s.Rules, func(a, b Rule) int { return cmp.Compare(a.Label, b.Label) })
	return s, nil
}
