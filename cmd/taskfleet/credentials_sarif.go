package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/client/credentialsaudit"
	"github.com/taskfleet/taskfleet/timestamp"
)

// What SARIF 2.1.0 has of an audit: rules with help, and a result for each place.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		Results     []sarifResult     `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string             `json:"id"`
		Short   sarifText          `json:"shortDescription"`
		Full    sarifText          `json:"fullDescription"`
		Help    sarifText          `json:"help"`
		Default sarifConfiguration `json:"defaultConfiguration"`
		Tags    sarifTags          `json:"properties"`
	}
	sarifConfiguration struct {
		Level string `json:"level"`
	}
	sarifTags struct {
		Tags []string `json:"tags"`
	}
	sarifText struct {
		Text     string `json:"text"`
		Markdown string `json:"markdown,omitempty"`
	}
	sarifInvocation struct {
		Successful    bool                `json:"executionSuccessful"`
		Start         timestamp.Time      `json:"startTimeUtc,omitzero"`
		End           timestamp.Time      `json:"endTimeUtc,omitzero"`
		Notifications []sarifNotification `json:"toolExecutionNotifications,omitempty"`
	}
	sarifNotification struct {
		Level   string    `json:"level"`
		Message sarifText `json:"message"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		RuleIndex    int                `json:"ruleIndex"`
		Level        string             `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations"`
		Fingerprints map[string]string  `json:"partialFingerprints"`
		Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	}
	sarifLocation struct {
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int64 `json:"startLine"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Status        string `json:"status"`
		Justification string `json:"justification"`
	}
)

func sarifOf(a *credentialsaudit.Audit, found sortedFindings, url func(credentialsaudit.AuditPlace) string) sarifLog {
	run := sarifRun{
		Tool:        sarifTool{sarifDriver{Name: "taskfleet credentials audit", Version: buildVersion().Version, Rules: []sarifRule{}}},
		Invocations: []sarifInvocation{{Successful: true, Start: a.Started, End: a.Ended}},
		Results:     []sarifResult{},
	}
	for _, r := range a.Report.Rules {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
			ID: r.ID, Short: sarifText{Text: r.Title}, Full: sarifText{Text: r.Title + "."}, Help: sarifText{strings.ReplaceAll(r.Help, "`", ""), r.Help},
			Default: sarifConfiguration{r.Level}, Tags: sarifTags{[]string{"security", r.Check}},
		})
	}
	for _, note := range a.Report.Notes {
		n := &run.Invocations[0].Notifications
		*n = append(*n, sarifNotification{"note", sarifText{Text: note}})
	}
	add := func(f credentialsaudit.AuditFinding, s []sarifSuppression) {
		rule := slices.IndexFunc(a.Report.Rules, func(r credentialsaudit.AuditRule) bool { return r.ID == f.Rule })
		kind, name, _ := strings.Cut(f.Subject, " ")
		r := sarifResult{
			RuleID: f.Rule, RuleIndex: rule, Level: f.Level, Message: sarifText{Text: f.Subject + ": " + f.Message},
			Locations:    []sarifLocation{{Logical: []sarifLogical{{name, kind}}}},
			Fingerprints: map[string]string{"finding/v1": f.ID}, Suppressions: s,
		}
		if len(f.Places) == 0 {
			run.Results = append(run.Results, r)
		}
		for _, p := range f.Places {
			r := r
			r.Locations = []sarifLocation{{&sarifPhysical{sarifArtifact{url(p)}, sarifRegion{p.Line}}, r.Locations[0].Logical}}
			r.Fingerprints = map[string]string{"finding/v1": fmt.Sprintf("%s %s/%d/%s", f.ID, p.TaskID, p.RunID, p.Name)}
			run.Results = append(run.Results, r)
		}
	}
	for _, f := range found.counted {
		add(f, nil)
	}
	for _, f := range found.accepted {
		x := f.Exception
		add(f, []sarifSuppression{{"external", "accepted", fmt.Sprintf("%s (%s, until %s)", x.Reason, x.Name, x.Until)}})
	}
	return sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}}
}
