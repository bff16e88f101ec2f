package platform_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// An imitation of ECS, with behaviour: rollouts take their time, fail, and are taken back. It is asked in the process, so that its time may
// be virtual.
type imitation struct {
	mu        sync.Mutex
	revisions []*revision
	service   service
	tasks     []*task
	breaker   bool              // whether ECS itself goes back
	images    map[string]string // what becomes of an image: "" it runs, "crash", "hang"
	migrated  int               // exit code of migrations
	lag       time.Duration     // for which after an update the service is told as it was, and a task that was started is not
	flaps     bool              // whether the service is told as it was now and then also later
	old       object            // the service before the last update
	rollouts  int
	desired   int
	updated   time.Time
	asked     map[string]int // by operation

	// before each call: what it returns instead of an answer is the code of an error of AWS. An error is one of the network.
	meddle func(operation string) (code string, err error)
}

type object = map[string]any

type revision struct {
	arn, status string
	definition  object // as it was registered
}

type service struct {
	taskDefinition string
	deployments    []*deployment // the latest first
	events         []object
}

type deployment struct {
	id, taskDefinition, image, state string
	at                               time.Time
}

type task struct {
	arn, taskDefinition, startedBy, status, reason string
	exit                                           int
	command                                        []any
	at                                             time.Time
}

const (
	region  = "eu-central-1"
	account = "123456789012"
	prefix  = "arn:aws:ecs:" + region + ":" + account + ":"

	platformSecret = "arn:aws:secretsmanager:" + region + ":" + account + ":secret:prod/configuration-platform-AbCdEf"
	mirrorSecret   = "arn:aws:secretsmanager:" + region + ":" + account + ":secret:prod/configuration-mirror-AbCdEf"
	serverSecret   = "arn:aws:secretsmanager:" + region + ":" + account + ":secret:prod/server-AbCdEf"
)

// template is the foundation's, as infra/modules/service has it, in short.
func template() object {
	return object{
		"family": "prod", "cpu": "1024", "memory": "2048", "networkMode": "awsvpc", "requiresCompatibilities": []any{"FARGATE"},
		"executionRoleArn": "arn:aws:iam::" + account + ":role/prod-execution", "taskRoleArn": "arn:aws:iam::" + account + ":role/prod-task",
		"runtimePlatform": object{"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"},
		"volumes":         []any{object{"name": "configuration"}},
		"tags":            []any{object{"key": "Name", "value": "prod"}},
		"containerDefinitions": []any{
			object{"name": "files", "image": "aws-cli:2", "environment": []any{
				object{"name": "MORE_CONFIGURATION", "value": platformSecret + " " + mirrorSecret}, object{"name": "OWNER", "value": "10001"},
			}},
			object{"name": "taskfleet", "image": "taskfleet:0", "command": []any{"serve", "--config", "/etc/taskfleet/conf.d"},
				"logConfiguration": object{"logDriver": "awslogs", "options": object{"awslogs-group": "/taskfleet/prod", "awslogs-stream-prefix": "taskfleet"}}},
		},
	}
}

// newImitation has a service that runs the template.
func newImitation() *imitation {
	m := &imitation{images: map[string]string{}, desired: 2, asked: map[string]int{}}
	m.register(template())
	m.rollOut(m.revisions[0])
	m.service.deployments[0].state = "COMPLETED"
	return m
}

func (m *imitation) register(definition object) *revision {
	r := &revision{arn: fmt.Sprintf("%stask-definition/prod:%d", prefix, len(m.revisions)+1), status: "ACTIVE", definition: definition}
	m.revisions = append(m.revisions, r)
	return r
}

// find is a revision by its ARN, or the latest active one of a family.
func (m *imitation) find(name string) *revision {
	for _, r := range slices.Backward(m.revisions) {
		if r.arn == name || name == "prod" && r.status == "ACTIVE" {
			return r
		}
	}
	return nil
}

func containerOf(definition object, name string) object {
	for _, c := range definition["containerDefinitions"].([]any) {
		if c.(object)["name"] == name {
			return c.(object)
		}
	}
	return nil
}

func environmentOf(definition object, container, name string) any {
	for _, v := range containerOf(definition, container)["environment"].([]any) {
		if v.(object)["name"] == name {
			return v.(object)["value"]
		}
	}
	return nil
}

func (m *imitation) rollOut(r *revision) {
	m.rollouts++
	d := &deployment{
		id: fmt.Sprintf("ecs-svc/%d", m.rollouts), taskDefinition: r.arn, state: "IN_PROGRESS", at: time.Now(),
		image: containerOf(r.definition, "taskfleet")["image"].(string),
	}
	m.service.taskDefinition, m.service.deployments = r.arn, append([]*deployment{d}, m.service.deployments...)
	m.event("(service prod) has started 1 tasks")
}

func (m *imitation) event(text string) {
	m.service.events = append([]object{{"id": "e", "message": text, "createdAt": epoch(time.Now())}}, m.service.events...)
}

// pass has the time that has gone by do what it does.
func (m *imitation) pass() {
	d := m.service.deployments[0]
	age := time.Since(d.at)
	switch {
	case d.state != "IN_PROGRESS":
	case m.images[d.image] == "" && age >= 40*time.Second:
		d.state = "COMPLETED"
		m.service.deployments = m.service.deployments[:1]
		m.event("(service prod) has reached a steady state.")
	case m.images[d.image] == "crash" && age >= 60*time.Second:
		m.tasks = append(m.tasks, &task{
			arn: prefix + "task/prod/0123456789abcdef", taskDefinition: d.taskDefinition, startedBy: d.id, status: "STOPPED",
			reason: "Essential container in task exited", exit: 1,
		})
		m.event("(service prod) is unable to consistently start tasks successfully.")
		if m.breaker {
			d.state = "FAILED"
			if len(m.service.deployments) > 1 {
				m.rollOut(m.find(m.service.deployments[1].taskDefinition))
			}
		}
	}
	for _, t := range m.tasks {
		if t.startedBy == "taskfleet-migrate" && t.status != "STOPPED" {
			t.status = "RUNNING"
			if time.Since(t.at) >= 20*time.Second {
				t.status, t.exit, t.reason = "STOPPED", m.migrated, "Essential container in task exited"
			}
		}
	}
}

func epoch(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// RoundTrip implements http.RoundTripper.
func (m *imitation) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	_, operation, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "AmazonEC2ContainerServiceV20141113.")
	in := object{}
	if !ok || json.Unmarshal(body, &in) != nil {
		return nil, errors.New("that is no call of ECS")
	}
	if !strings.Contains(r.Header.Get("Authorization"), "/"+region+"/ecs/aws4_request") {
		return nil, errors.New("that is signed for elsewhere, or not at all")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	code := ""
	if m.meddle != nil {
		if code, err = m.meddle(operation); err != nil {
			return nil, err
		}
	}
	var out any
	if code == "" {
		m.asked[operation]++
		m.pass()
		out, code = m.answer(operation, in)
	}
	status := http.StatusOK
	if code != "" {
		status, out = http.StatusBadRequest, object{"__type": code, "message": "the imitation says so"}
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}}, Body: io.NopCloser(bytes.NewReader(text)), Request: r}, nil
}

func (m *imitation) answer(operation string, in object) (out object, code string) {
	switch operation {
	case "DescribeServices":
		if in["cluster"] != "prod" {
			return nil, "ClusterNotFoundException"
		}
		if in["services"].([]any)[0] != "prod" {
			return object{"services": []any{}}, ""
		}
		if time.Since(m.updated) < m.lag || m.flaps && m.old != nil && m.asked[operation]%2 == 0 {
			return object{"services": []any{m.old}}, ""
		}
		return object{"services": []any{m.serviceOut()}}, ""
	case "DescribeTaskDefinition":
		r := m.find(in["taskDefinition"].(string))
		if r == nil {
			return nil, "ClientException"
		}
		return object{"taskDefinition": r.out(), "tags": r.definition["tags"]}, ""
	case "RegisterTaskDefinition":
		r := m.register(in)
		return object{"taskDefinition": r.out(), "tags": in["tags"]}, ""
	case "UpdateService":
		r := m.find(in["taskDefinition"].(string))
		if r == nil || r.status != "ACTIVE" {
			return nil, "ClientException"
		}
		m.old, m.updated = m.serviceOut(), time.Now()
		if r.arn != m.service.taskDefinition || in["forceNewDeployment"] == true {
			m.rollOut(r)
		}
		return object{"service": m.serviceOut()}, ""
	case "ListTasks":
		arns := []any{}
		for _, t := range m.tasks {
			if (t.status == "STOPPED") == (in["desiredStatus"] == "STOPPED") {
				arns = append(arns, t.arn)
			}
		}
		return object{"taskArns": arns}, ""
	case "DescribeTasks":
		tasks := []any{}
		for _, t := range m.tasks {
			if slices.Contains(in["tasks"].([]any), any(t.arn)) && time.Since(t.at) >= m.lag {
				tasks = append(tasks, t.out())
			}
		}
		return object{"tasks": tasks}, ""
	case "RunTask":
		network := in["networkConfiguration"].(object)["awsvpcConfiguration"].(object)["subnets"].([]any)
		if in["launchType"] != "FARGATE" || in["cluster"] != "prod" || len(network) != 1 {
			return nil, "InvalidParameterException"
		}
		t := &task{
			arn: fmt.Sprintf("%stask/prod/migration%d", prefix, len(m.tasks)), taskDefinition: in["taskDefinition"].(string), startedBy: in["startedBy"].(string),
			status: "PROVISIONING", at: time.Now(), command: in["overrides"].(object)["containerOverrides"].([]any)[0].(object)["command"].([]any),
		}
		m.tasks = append(m.tasks, t)
		return object{"tasks": []any{t.out()}}, ""
	}
	return nil, "UnknownOperationException"
}

func (m *imitation) serviceOut() object {
	var deployments []any
	for i, d := range m.service.deployments {
		status, running := "ACTIVE", 2
		if i == 0 {
			status = "PRIMARY"
			if d.state == "IN_PROGRESS" {
				running = 1
			}
		}
		deployments = append(deployments, object{
			"id": d.id, "status": status, "taskDefinition": d.taskDefinition, "rolloutState": d.state, "runningCount": running, "desiredCount": m.desired, "createdAt": epoch(d.at),
			"rolloutStateReason": map[string]any{"FAILED": "ECS deployment circuit breaker: tasks failed to start."}[d.state],
		})
	}
	return object{
		"status": "ACTIVE", "serviceName": "prod", "taskDefinition": m.service.taskDefinition, "deployments": deployments, "events": m.service.events, "launchType": "FARGATE",
		"networkConfiguration": object{"awsvpcConfiguration": object{"subnets": []any{"subnet-1"}}}, "runningCount": 2, "desiredCount": 2,
	}
}

func (r *revision) out() object {
	out := maps.Clone(r.definition)
	delete(out, "tags")
	out["taskDefinitionArn"], out["status"], out["revision"] = r.arn, r.status, 1
	out["registeredBy"], out["compatibilities"] = "somebody", []any{"EC2", "FARGATE"}
	return out
}

func (t *task) out() object {
	c := object{"name": "taskfleet"}
	if t.status == "STOPPED" {
		c["exitCode"] = t.exit
	}
	return object{
		"taskArn": t.arn, "taskDefinitionArn": t.taskDefinition, "startedBy": t.startedBy, "lastStatus": t.status, "stoppedReason": t.reason,
		"containers": []any{object{"name": "files", "exitCode": 0}, c},
	}
}

// dying is a transport of a process that is killed before or after its n-th call.
type dying struct {
	http.RoundTripper
	left  int
	after bool // the call is carried out, and its answer lost
	kill  context.CancelFunc
}

func (d *dying) RoundTrip(r *http.Request) (*http.Response, error) {
	d.left--
	if d.left > 0 {
		return d.RoundTripper.RoundTrip(r)
	}
	if d.left == 0 && d.after {
		if _, err := d.RoundTripper.RoundTrip(r); err != nil {
			return nil, err
		}
	}
	d.kill()
	return nil, context.Canceled
}
