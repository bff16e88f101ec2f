package platform

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

const (
	pollEvery  = 5 * time.Second
	settled    = 6                // looks in a row, after which AWS tells of what it was told to do: in half a minute
	backWithin = 15 * time.Minute // until what was before runs again

	migration = "taskfleet-migrate" // says of a task what it is for
)

// pause waits a little, unless the context ends.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pollEvery):
		return nil
	}
}

// roll has the service run a revision, unless it does or is about to already, and waits. If it fails, what ran before is run again.
func (s *server) roll(ctx context.Context, service *types.Service, r *revision, was *release, timeout time.Duration) error {
	before, sound := previous(service, r, was)
	since, over := time.Now(), ""
	d := primary(service)
	switch other := aws.ToString(service.TaskDefinition) != r.arn(); {
	case other || d != nil && d.RolloutState == types.DeploymentRolloutStateFailed:
		if err := s.update(ctx, r.arn(), !other); err != nil {
			return err
		}
		if !other {
			over = aws.ToString(d.Id)
		}
	case d != nil && d.RolloutState == types.DeploymentRolloutStateInProgress:
		since = aws.ToTime(d.CreatedAt)
		s.say(ctx, "a rollout of %s is under way already", short(r.arn()))
	}
	failed, err := s.await(ctx, r, over, timeout)
	if err != nil {
		return fmt.Errorf("stopped waiting for the rollout of %s, which goes on at AWS; the same again waits for it: %w", short(r.arn()), err)
	}
	if failed == "" {
		return nil
	}
	text := fmt.Sprintf("the release of %s has failed: %s", short(r.arn()), failed)
	for _, why := range s.reasons(ctx, r, since) {
		text += "\n  " + why
	}
	return errors.New(text + "\n" + s.goBack(ctx, r, before, sound))
}

// update begins a rollout. again is for a revision that the service is to run already.
func (s *server) update(ctx context.Context, revision string, again bool) error {
	s.say(ctx, "rolling out %s", short(revision))
	if _, err := s.UpdateService(ctx, &ecs.UpdateServiceInput{Cluster: &s.cluster, Service: &s.service, TaskDefinition: &revision, ForceNewDeployment: again}); err != nil {
		return fmt.Errorf("have the service %s run %s: %w", s.name, short(revision), err)
	}
	return nil
}

// primary is the deployment that a service is to have; nil if none is told.
func primary(service *types.Service) *types.Deployment {
	for i := range service.Deployments {
		if aws.ToString(service.Deployments[i].Status) == "PRIMARY" {
			return &service.Deployments[i]
		}
	}
	return nil
}

// previous is what to go back to from a revision, "" if there is nothing, and whether it has run well. What was rolled out to the end
// comes before what was under way: of an interrupted rollout nobody knows whether it would have run.
func previous(service *types.Service, r *revision, was *release) (arn string, sound bool) {
	for _, d := range service.Deployments { // the primary one is the first
		runs := aws.ToString(d.TaskDefinition)
		switch {
		case runs == r.arn() || aws.ToString(d.Status) == "INACTIVE":
		case d.RolloutState == types.DeploymentRolloutStateCompleted:
			return runs, true
		case arn == "":
			arn = runs
		}
	}
	if was != nil && was.TaskDefinition != r.arn() && was.TaskDefinition != arn {
		return was.TaskDefinition, true
	}
	return arn, false
}

// await waits until a revision is all that is run, or says why that has failed. The error is that it could not be found out. What
// AWS tells may be of a little before, also after it has told of later. over is an earlier deployment of the revision; "" for none.
func (s *server) await(ctx context.Context, r *revision, over string, timeout time.Duration) (failed string, err error) {
	said, begin, unseen := "", time.Now(), 0
	for {
		service, err := s.look(ctx)
		if err == nil && service == nil {
			err = errors.New("the service is gone")
		}
		if err != nil {
			return "", err
		}
		d := primary(service)
		switch {
		case d == nil || aws.ToString(d.TaskDefinition) != r.arn() || over != "" && aws.ToString(d.Id) == over:
			if unseen++; unseen > settled {
				return replaced(service, r), nil
			}
		case d.RolloutState == types.DeploymentRolloutStateCompleted:
			if d.DesiredCount == 0 {
				s.say(ctx, "the service is to run %s, but no replicas: whether it runs was not tried", short(r.arn()))
			} else {
				s.say(ctx, "%s runs, %d replicas", short(r.arn()), d.RunningCount)
			}
			return "", nil
		case d.RolloutState == types.DeploymentRolloutStateFailed:
			return givenUp(d), nil
		default:
			unseen = 0
			if text := progress(service, d); text != said {
				s.say(ctx, "%s", text)
				said = text
			}
		}
		if time.Since(begin) > timeout {
			return fmt.Sprintf("it was not complete after %v", timeout), nil
		}
		if err := pause(ctx); err != nil {
			return "", err
		}
	}
}

// replaced says why a revision is not what a service is to run any more.
func replaced(service *types.Service, r *revision) string {
	for i, d := range service.Deployments {
		if aws.ToString(d.TaskDefinition) == r.arn() && d.RolloutState == types.DeploymentRolloutStateFailed {
			return givenUp(&service.Deployments[i])
		}
	}
	return fmt.Sprintf("the service runs %s instead: ECS went back to it, or somebody else has released it", short(aws.ToString(service.TaskDefinition)))
}

func givenUp(d *types.Deployment) string {
	return cmp.Or(aws.ToString(d.RolloutStateReason), "ECS has given the rollout up")
}

func progress(service *types.Service, d *types.Deployment) string {
	text := fmt.Sprintf("%s: %d of %d replicas run", short(aws.ToString(d.TaskDefinition)), d.RunningCount, d.DesiredCount)
	if d.PendingCount > 0 {
		text += fmt.Sprintf(", %d start", d.PendingCount)
	}
	if d.FailedTasks > 0 {
		text += fmt.Sprintf(", %d have failed", d.FailedTasks)
	}
	if old := service.RunningCount - d.RunningCount; old > 0 {
		text += fmt.Sprintf("; %d of before", old)
	}
	return text
}

// goBack has the service run what it did before, and says in a sentence what has come of that. ECS may have done so by itself.
func (s *server) goBack(ctx context.Context, r *revision, before string, sound bool) string {
	if before == "" {
		return "There is no release before this one to go back to."
	}
	back, err := s.back(ctx, r, before)
	if err != nil {
		return fmt.Sprintf("To go back to %s has failed, too: %v", short(before), err)
	}
	if !sound {
		return fmt.Sprintf("The service is to run %s again, which has not run well before either.", short(back.arn()))
	}
	failed, err := s.await(ctx, back, "", backWithin)
	if err != nil {
		failed = err.Error()
	}
	if failed != "" {
		return fmt.Sprintf("The service is to run %s again, but: %s", short(back.arn()), failed)
	}
	return fmt.Sprintf("The service runs %s again, as before.", short(back.arn()))
}

func (s *server) back(ctx context.Context, r *revision, before string) (*revision, error) {
	service, err := s.look(ctx)
	if err == nil && service == nil {
		err = errors.New("the service is gone")
	}
	if err != nil {
		return nil, err
	}
	if runs := aws.ToString(service.TaskDefinition); runs != r.arn() { // ECS's own way back, or somebody else's
		return s.revision(ctx, runs)
	}
	b, err := s.revision(ctx, before)
	if err != nil {
		return nil, err
	}
	if b.Status != types.TaskDefinitionStatusActive { // the foundation has replaced its template since
		if b, err = s.register(ctx, again(b)); err != nil {
			return nil, err
		}
	}
	return b, s.update(ctx, b.arn(), false)
}

const mostReasons = 5 // of a kind, that are told

// reasons are what AWS tells of the tasks of a revision that have ended, and of the service.
func (s *server) reasons(ctx context.Context, r *revision, since time.Time) []string {
	var told []string
	tell := func(text string) {
		if !slices.Contains(told, text) {
			told = append(told, text)
		}
	}
	tasks, err := s.tasks(ctx, r, types.DesiredStatusStopped)
	if err != nil {
		tell(err.Error())
	}
	for _, t := range tasks {
		if len(told) < mostReasons && aws.ToString(t.StartedBy) != migration {
			tell(ending(r, t))
		}
	}
	events := 0
	if service, err := s.look(ctx); err == nil && service != nil {
		for _, e := range service.Events { // the latest first
			text := aws.ToString(e.Message)
			if events == mostReasons || aws.ToTime(e.CreatedAt).Before(since) {
				break
			}
			if !strings.Contains(text, "has started") && !strings.Contains(text, "steady state") {
				tell(text)
				events++
			}
		}
	}
	return told
}

// tasks are those of a revision that are to run, or have ended within the last hour.
func (s *server) tasks(ctx context.Context, r *revision, status types.DesiredStatus) ([]types.Task, error) {
	listed, err := s.ListTasks(ctx, &ecs.ListTasksInput{Cluster: &s.cluster, Family: r.Family, DesiredStatus: status})
	if err != nil {
		return nil, fmt.Errorf("list the tasks of %s: %w", aws.ToString(r.Family), err)
	}
	if len(listed.TaskArns) == 0 {
		return nil, nil
	}
	return s.describe(ctx, r, listed.TaskArns)
}

func (s *server) describe(ctx context.Context, r *revision, arns []string) ([]types.Task, error) {
	found, err := s.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: &s.cluster, Tasks: arns})
	if err != nil {
		return nil, fmt.Errorf("look at the tasks of %s: %w", aws.ToString(r.Family), err)
	}
	return slices.DeleteFunc(found.Tasks, func(t types.Task) bool { return aws.ToString(t.TaskDefinitionArn) != r.arn() }), nil
}

// ending says how a task has ended, and where its log is.
func ending(r *revision, t types.Task) string {
	text := cmp.Or(aws.ToString(t.StoppedReason), "a task has ended")
	for _, c := range t.Containers {
		name := aws.ToString(c.Name)
		switch {
		case c.Reason != nil:
			text += fmt.Sprintf("; %s: %s", name, *c.Reason)
		case c.ExitCode != nil && *c.ExitCode != 0:
			text += fmt.Sprintf("; %s has exit code %d", name, *c.ExitCode)
			if d := container(r.ContainerDefinitions, name); d != nil && d.LogConfiguration != nil {
				o := d.LogConfiguration.Options
				text += fmt.Sprintf(" (aws logs tail %s --log-stream-names %s/%s/%s)", o["awslogs-group"], o["awslogs-stream-prefix"], name, short(aws.ToString(t.TaskArn)))
			}
		}
	}
	return text
}

// migrate brings the database to where the revision wants it, in a task like those of the service. One that a killed process has
// begun is gone on with.
func (s *server) migrate(ctx context.Context, service *types.Service, r *revision, timeout time.Duration) error {
	if aws.ToString(service.TaskDefinition) == r.arn() {
		return nil // it was before this was rolled out
	}
	task, err := s.migration(ctx, service, r)
	if err != nil {
		return err
	}
	said, unseen := "", 0
	for end := time.Now().Add(timeout); aws.ToString(task.LastStatus) != "STOPPED"; {
		if text := "migrating the database: " + strings.ToLower(aws.ToString(task.LastStatus)); text != said {
			s.say(ctx, "%s", text)
			said = text
		}
		if time.Now().After(end) {
			return fmt.Errorf("the migration of the database has not ended after %v; the same again waits for it. Nothing was released", timeout)
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("stopped waiting for the migration of the database, which goes on at AWS; the same again waits for it: %w", err)
		}
		found, err := s.describe(ctx, r, []string{aws.ToString(task.TaskArn)})
		if err != nil {
			return err
		}
		if len(found) > 0 {
			task, unseen = &found[0], 0
		} else if unseen++; unseen > settled {
			return errors.New("the task that migrates the database is gone; the same again starts another. Nothing was released")
		}
	}
	if !succeeded(task) {
		return fmt.Errorf("the migration of the database has failed, so nothing was released: %s", ending(r, *task))
	}
	s.say(ctx, "the database is migrated")
	return nil
}

func succeeded(t *types.Task) bool {
	for _, c := range t.Containers {
		if aws.ToString(c.Name) == serverContainer {
			return c.ExitCode != nil && *c.ExitCode == 0
		}
	}
	return false
}

// migration is the task that migrates: one that is under way or has succeeded, or a new one.
func (s *server) migration(ctx context.Context, service *types.Service, r *revision) (*types.Task, error) {
	for _, status := range []types.DesiredStatus{types.DesiredStatusRunning, types.DesiredStatusStopped} {
		tasks, err := s.tasks(ctx, r, status)
		if err != nil {
			return nil, err
		}
		for i, t := range tasks {
			if aws.ToString(t.StartedBy) == migration && (aws.ToString(t.LastStatus) != "STOPPED" || succeeded(&t)) {
				return &tasks[i], nil
			}
		}
	}
	// The command is that of the server, with its flags: serve --config FILE.
	command := []string{"database", "migrate"}
	if c := container(r.ContainerDefinitions, serverContainer); len(c.Command) > 1 {
		command = append(command, c.Command[1:]...)
	}
	started, err := s.RunTask(ctx, &ecs.RunTaskInput{
		Cluster: &s.cluster, TaskDefinition: r.TaskDefinitionArn, StartedBy: aws.String(migration), Count: aws.Int32(1),
		LaunchType: service.LaunchType, CapacityProviderStrategy: service.CapacityProviderStrategy, PlatformVersion: service.PlatformVersion,
		NetworkConfiguration: service.NetworkConfiguration, // without tags, which would need the right to give them to tasks
		Overrides:            &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String(serverContainer), Command: command}}},
	})
	if err != nil {
		return nil, fmt.Errorf("start the task that migrates the database: %w", err)
	}
	if len(started.Tasks) == 0 {
		reason := "AWS does not say why"
		for _, f := range started.Failures {
			reason = strings.TrimSpace(aws.ToString(f.Reason) + " " + aws.ToString(f.Detail))
		}
		return nil, fmt.Errorf("the task that migrates the database was not started: %s", reason)
	}
	return &started.Tasks[0], nil
}
