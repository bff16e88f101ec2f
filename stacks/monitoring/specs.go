package monitoring

// A Severity is one of SignalFx's: Critical, Major, Warning, Minor or Info.
type Severity string

// A Notification tells somebody of an alert. It is as SignalFx has it, such as {type: Email, email: ops@example.com}.
type Notification map[string]any

// A GroupSpec is a group of dashboards.
type GroupSpec struct {
	Description string   `json:"description,omitempty"`
	Teams       []string `json:"teams,omitempty"` // ids
}

// A DashboardSpec is a dashboard.
type DashboardSpec struct {
	Group       string     `json:"group"` // by its name
	Description string     `json:"description,omitempty"`
	Charts      []Placed   `json:"charts"`
	Variables   []Variable `json:"variables,omitempty"`
}

// A Placed is where a chart is on a dashboard, which has 12 columns.
type Placed struct {
	Chart  string `json:"chart"` // by its name
	Row    int    `json:"row"`
	Column int    `json:"column"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
}

// A Variable is a dimension that whoever looks at a dashboard can filter by.
type Variable struct {
	Property string   `json:"property"`
	Label    string   `json:"label"`            // default: the property
	Values   []string `json:"values,omitempty"` // at first; none: all
}

// A ChartSpec is a chart.
type ChartSpec struct {
	Kind        string `json:"kind"` // time, single or list
	Description string `json:"description,omitempty"`
	Program     string `json:"program"` // SignalFlow

	// Of time charts.
	Plot    string `json:"plot,omitempty"` // line (the default), area or column
	Stacked bool   `json:"stacked,omitempty"`
	Range   string `json:"range,omitempty"` // that is shown, such as 90m, 3h or 7d; none: that of the dashboard
	Axis    *Axis  `json:"axis,omitempty"`

	Sort   string   `json:"sort,omitempty"` // of lists: -value (the default), +value, or + or - and a dimension
	Series []Series `json:"series,omitempty"`
}

// An Axis is the axis of values, on the left.
type Axis struct {
	Label string   `json:"label,omitempty"`
	Min   *float64 `json:"min,omitempty"`
	Max   *float64 `json:"max,omitempty"`
}

// A Series says how what a program publishes under a label is shown.
type Series struct {
	Label  string `json:"label"`
	Name   string `json:"name,omitempty"`
	Unit   string `json:"unit,omitempty"` // one of SignalFx's, such as Second or Byte
	Prefix string `json:"prefix,omitempty"`
	Suffix string `json:"suffix,omitempty"`
}

// A DetectorSpec is a detector.
type DetectorSpec struct {
	Description string   `json:"description,omitempty"`
	Program     string   `json:"program"` // SignalFlow
	Rules       []Rule   `json:"rules"`
	Teams       []string `json:"teams,omitempty"` // ids
}

// A Rule says what is done when what a program detects and publishes under a label is so.
type Rule struct {
	Label         string         `json:"label"`
	Severity      Severity       `json:"severity"`
	Description   string         `json:"description,omitempty"`
	Notifications []Notification `json:"notifications,omitempty"`
	Runbook       string         `json:"runbook,omitempty"` // a URL
	Tip           string         `json:"tip,omitempty"`     // what to do first
	Disabled      bool           `json:"disabled,omitempty"`
}

// A TokenSpec is a token of the organisation.
type TokenSpec struct {
	Description         string         `json:"description,omitempty"`
	Scopes              []string       `json:"scopes"`                        // INGEST (the default), API, RUM; they cannot be changed
	DatapointsPerMinute int32          `json:"datapointsPerMinute,omitempty"` // more are refused; 0: no limit
	Notifications       []Notification `json:"notifications,omitempty"`       // when that is near
	Disabled            bool           `json:"disabled,omitempty"`
}

// A TeamSpec is a team of Sentry, which has nothing but its slug.
type TeamSpec struct{}

// A ProjectSpec is a project of Sentry.
type ProjectSpec struct {
	Team       string `json:"team"`                 // slug
	Platform   string `json:"platform,omitempty"`   // that events come from, such as go
	AlertEvery string `json:"alertEvery,omitempty"` // 5m, 10m, 30m, 1h, 3h, 12h or 24h: between emails of one issue to the team; none: the alert that Sentry makes by itself
}
