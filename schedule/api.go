package schedule

import (
	"context"
	"strconv"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/schedule/cron"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

// API is the service under /api/schedules/v1/.
var API = api.Service[*Schedule]{
	Name: "schedules", Version: "v1", Title: "Schedules",
	Doc: `What the platform does at certain times, and what came of it.

A *job* is due at the dates of a cron expression in a time zone. Each date is a *run*, which happens once, on any of the
replicas: it is *due*, *running*, *done*, *failed*, or *missed* where it could not begin within a minute and the job does not
make up for it. A run whose replica is lost is begun again by another.

Jobs are made by the platform's own services: here they are shown, paused and asked to run. Hooks have schedules of their
own, which ` + "`listOthers`" + ` shows.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"name":       `^[A-Za-z0-9][A-Za-z0-9._/-]{0,149}$`,
		"count":      `^[0-9]{1,4}$`,
		"state":      `^(due|running|done|failed|missed)$`,
		"expression": `^[^\x00]+$`,
		"zone":       `^[A-Za-z0-9_+/-]{1,100}$`,
		"seed":       `^[^\x00]{0,200}$`,
	},
	Methods: []api.Method[*Schedule]{
		listJobs, listOthers, getJob, nextDates, listRuns, getRun, pauseJob, resumeJob, runJob, explainExpression,
	},
	Exchanges: []api.Exchange{runFinished},
}

type jobPath struct {
	Name string `path:"name"`
}

// missing says that there is no such job, where that is why something failed.
func (p jobPath) missing(err error) error {
	if isNotFound(err) {
		return api.Errorf(api.ResourceNotFound, "There is no job %s. GET /jobs lists those that there are.", p.Name)
	}
	return err
}

const (
	mayList = scope.Scope("schedules:list")
	mayGet  = scope.Scope("schedules:get:<name>")
)

type jobList struct {
	Jobs              []status `json:"jobs"`
	ContinuationToken string   `json:"continuationToken,omitempty"`
}

var listJobs = api.Declare(api.Spec{
	Name: "listJobs", Route: "GET /jobs", Query: []string{"continuationToken", "limit"}, Scopes: mayList, Output: "v1/job-list.json#",
	Stability: api.Experimental, Category: "Jobs", Title: "List jobs",
	Doc: "Lists jobs by name, each with the run that is under way or waits, and with the last one that is over.",
}, func(ctx context.Context, s *Schedule, c api.Call[api.None, api.None]) (out jobList, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	if out.Jobs, err = s.statuses(ctx, page.Text(0), page.Limit+1); err != nil {
		return out, err
	}
	if len(out.Jobs) > page.Limit {
		out.Jobs = out.Jobs[:page.Limit]
		out.ContinuationToken = page.Token(out.Jobs[page.Limit-1].Name)
	}
	return out, nil
})

type otherList struct {
	Others []Shown `json:"others"`
}

var listOthers = api.Declare(api.Spec{
	Name: "listOthers", Route: "GET /others", Scopes: mayList, Output: "v1/other-list.json#",
	Stability: api.Experimental, Category: "Jobs", Title: "List other schedules",
	Doc: "Lists what is done at certain times but is no job: hooks with a schedule, the first 1000 by the date that comes next, and background work of the process that answers.",
}, func(ctx context.Context, s *Schedule, _ api.Call[api.None, api.None]) (out otherList, err error) {
	out.Others, err = s.shown(ctx)
	return out, err
})

var getJob = api.Declare(api.Spec{
	Name: "getJob", Route: "GET /jobs/<name>", Scopes: mayGet, Output: "v1/job.json#",
	Stability: api.Experimental, Category: "Jobs", Title: "Describe a job",
	Doc: "Returns how a job is.",
}, func(ctx context.Context, s *Schedule, c api.Call[jobPath, api.None]) (status, error) {
	v, err := s.find(ctx, c.Path.Name)
	return v, c.Path.missing(err)
})

// A date is one that is to come.
type date struct {
	Due    timestamp.Time `json:"due"`
	Starts timestamp.Time `json:"starts"`
	Local  string         `json:"local"`
}

type dateList struct {
	Expression string `json:"expression"`
	Zone       string `json:"zone"`
	Dates      []date `json:"dates"`
}

const (
	usualDates = 10
	mostDates  = 1000
)

// counted is how many dates are asked for.
func counted(text string) (int, error) {
	if text == "" {
		return usualDates, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > mostDates {
		return 0, api.Errorf(api.InvalidRequestArguments, "count is %q; it must be a number from 1 to %d", text, mostDates)
	}
	return n, nil
}

// upcoming are the dates of a job after t.
func (j *Job) upcoming(x *cron.Expression, t timestamp.Time, n int) dateList {
	out := dateList{Expression: j.Expression, Zone: j.Zone, Dates: []date{}}
	if out.Zone == "" {
		out.Zone = "UTC"
	}
	for d := after(x, t); d != 0 && len(out.Dates) < n; d = following(x, d) {
		out.Dates = append(out.Dates, date{d, j.starts(d), x.Local(d.Time())})
	}
	return out
}

var nextDates = api.Declare(api.Spec{
	Name: "nextDates", Route: "GET /jobs/<name>/dates", Query: []string{"count"}, Scopes: mayGet, Output: "v1/date-list.json#",
	Stability: api.Experimental, Category: "Jobs", Title: "List the next dates of a job",
	Doc: "Lists the dates of a job that come next, 10 of them or `count`, in UTC and as a clock in its time zone shows them, and when the run of each begins: that is later where the job has a jitter.",
}, func(ctx context.Context, s *Schedule, c api.Call[jobPath, api.None]) (out dateList, err error) {
	n, err := counted(c.Query("count"))
	if err != nil {
		return out, err
	}
	j, err := s.Job(ctx, c.Path.Name)
	if err != nil {
		return out, c.Path.missing(err)
	}
	x, err := j.dates()
	if err != nil {
		return out, err
	}
	return j.upcoming(x, timestamp.Now(), n), nil
})

type runList struct {
	Runs              []*run `json:"runs"`
	ContinuationToken string `json:"continuationToken,omitempty"`
}

var listRuns = api.Declare(api.Spec{
	Name: "listRuns", Route: "GET /jobs/<name>/runs", Query: []string{"state", "continuationToken", "limit"}, Scopes: mayGet, Output: "v1/run-list.json#",
	Stability: api.Experimental, Category: "Runs", Title: "List the runs of a job",
	Doc: "Lists runs of a job, the latest first, of one state or all. They are kept for 90 days, and 10,000 of a job at most.",
}, func(ctx context.Context, s *Schedule, c api.Call[jobPath, api.None]) (out runList, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	before := timestamp.Max
	if page.After != nil {
		n, err := page.Int(0)
		if err != nil {
			return out, err
		}
		before = timestamp.Time(n)
	}
	if out.Runs, err = s.runs(ctx, c.Path.Name, before, State(c.Query("state")), page.Limit+1); err != nil {
		return out, c.Path.missing(err)
	}
	if len(out.Runs) > page.Limit {
		out.Runs = out.Runs[:page.Limit]
		out.ContinuationToken = page.Token(strconv.FormatInt(int64(out.Runs[page.Limit-1].Due), 10))
	}
	return out, nil
})

type runPath struct {
	Name string         `path:"name"`
	Due  timestamp.Time `path:"due"`
}

var getRun = api.Declare(api.Spec{
	Name: "getRun", Route: "GET /jobs/<name>/runs/<due>", Scopes: mayGet, Output: "v1/run.json#",
	Stability: api.Experimental, Category: "Runs", Title: "Describe a run",
	Doc: "Returns a run of a job by the date that it was due.",
}, func(ctx context.Context, s *Schedule, c api.Call[runPath, api.None]) (out *run, err error) {
	list, err := s.runs(ctx, c.Path.Name, c.Path.Due+1, "", 1)
	if err != nil {
		return nil, jobPath{c.Path.Name}.missing(err)
	}
	if len(list) == 0 || list[0].Due != c.Path.Due {
		return nil, api.Errorf(api.ResourceNotFound, "There is no run of %s that was due %s. GET /jobs/<name>/runs lists those that there are.", c.Path.Name, c.Path.Due)
	}
	return list[0], nil
})

var pauseJob = api.Declare(api.Spec{
	Name: "pauseJob", Route: "POST /jobs/<name>/pause", Scopes: scope.Scope("schedules:pause:<name>"), Output: "v1/job.json#",
	Stability: api.Experimental, Category: "Jobs", Title: "Pause a job",
	Doc: "Has no run begin that the schedule asks for, until the job is resumed. A run that is under way goes on.",
}, func(ctx context.Context, s *Schedule, c api.Call[jobPath, api.None]) (v status, err error) {
	if err = s.Pause(ctx, c.Path.Name, c.Caller().ClientID); err == nil {
		v, err = s.find(ctx, c.Path.Name)
	}
	return v, c.Path.missing(err)
})

var resumeJob = api.Declare(api.Spec{
	Name: "resumeJob", Route: "POST /jobs/<name>/resume", Scopes: scope.Scope("schedules:resume:<name>"), Output: "v1/job.json#",
	Stability: api.Experimental, Category: "Jobs", Title: "Resume a job",
	Doc: "Lets a job go on that was paused. Dates that have passed are made up for as `catchUp` of the job says.",
}, func(ctx context.Context, s *Schedule, c api.Call[jobPath, api.None]) (v status, err error) {
	if err = s.Resume(ctx, c.Path.Name, c.Caller().ClientID); err == nil {
		v, err = s.find(ctx, c.Path.Name)
	}
	return v, c.Path.missing(err)
})

var runJob = api.Declare(api.Spec{
	Name: "runJob", Route: "POST /jobs/<name>/run", Scopes: scope.Scope("schedules:run:<name>"), Output: "v1/run.json#",
	Stability: api.Experimental, Category: "Runs", Title: "Run a job now",
	Doc: "Has a job run as soon as no run of it is under way, also while it is paused, and returns the run. Where one that was asked for has not begun yet, it is that one.",
}, func(ctx context.Context, s *Schedule, c api.Call[jobPath, api.None]) (*run, error) {
	r, err := s.runNow(ctx, c.Path.Name, c.Caller().ClientID)
	return &r, c.Path.missing(err)
})

var explainExpression = api.Declare(api.Spec{
	Name: "explainExpression", Route: "GET /dates", Query: []string{"expression", "zone", "seed", "count"}, Scopes: mayList, Output: "v1/date-list.json#",
	Stability: api.Experimental, Category: "Expressions", Title: "List the dates of an expression",
	Doc: "Lists the dates of a cron expression that come next, 10 of them or `count`, in `zone` or UTC, as those of a job would be. `seed` decides what H is: for a job that is its name.",
}, func(ctx context.Context, s *Schedule, c api.Call[api.None, api.None]) (out dateList, err error) {
	n, err := counted(c.Query("count"))
	if err != nil {
		return out, err
	}
	j := Job{Name: c.Query("seed"), Expression: c.Query("expression"), Zone: c.Query("zone")}
	x, err := j.dates()
	if err != nil {
		return out, api.Errorf(api.InvalidRequestArguments, "The expression %.100q: %v.", j.Expression, err)
	}
	return j.upcoming(x, timestamp.Now(), n), nil
})
