package awsfake

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/aws/smithy-go"
)

// Call is one call of an action, as the hook of [Cloud.Fail] sees it.
type Call struct {
	Account, Region string
	Service         string // "ec2", "ssm", "sqs", "sts", "iam", "servicequotas"
	Action          string // "RunInstances"
	Input           any    // the SDK's input, such as *ec2.RunInstancesInput
	// After is false before the work, when an error prevents it, and true
	// after it, when an error hides that it was done. Output is set after.
	After  bool
	Output any
}

// Fail sets a hook that decides over the failure of calls, for exact tests; nil
// removes it. It is asked before and after the work of every call. It runs under
// the cloud's lock and must not call the cloud. Return an [*Error],
// [ErrAnswerLost], or any other error for what is no service's error.
func (c *Cloud) Fail(hook func(Call) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = hook
}

// scope is who calls, and where.
type scope struct {
	cloud  *Cloud
	region *region
	role   string // name of the assumed role, or "" for the account's own user
	dry    bool   // a dry run: actions that change something stop before they do
}

func (s scope) principal() string {
	if s.role != "" {
		return fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/session", s.region.account.id, s.role)
	}
	return fmt.Sprintf("arn:aws:iam::%s:user/operator", s.region.account.id)
}

var serviceIDs = map[string]string{"ec2": "EC2", "ssm": "SSM", "sqs": "SQS", "sts": "STS", "iam": "IAM", "servicequotas": "Service Quotas"}

// call wraps the work of every action: time, statistics, limits, permissions,
// dry runs and faults.
func call[I, O any](ctx context.Context, s scope, service, action string, in *I, work func(scope, *I) (*O, error)) (*O, error) {
	if in == nil {
		in = new(I)
	}
	if err := ctx.Err(); err != nil {
		return nil, &smithy.OperationError{ServiceID: serviceIDs[service], OperationName: action, Err: &smithy.CanceledError{Err: err}}
	}
	c := s.cloud
	c.enter()
	defer c.leave()
	name := service + ":" + action
	c.stats.Calls[name]++
	out, err := attempt(c, s, service, action, in, work)
	if err == nil {
		return out, nil
	}
	c.stats.failed(name, errorCode(err))
	return nil, &smithy.OperationError{ServiceID: serviceIDs[service], OperationName: action, Err: err}
}

func attempt[I, O any](c *Cloud, s scope, service, action string, in *I, work func(scope, *I) (*O, error)) (*O, error) {
	told := Call{Account: s.region.account.id, Region: s.region.name, Service: service, Action: action, Input: in}
	if c.fail != nil {
		if err := c.fail(told); err != nil {
			return nil, err
		}
	}
	faults := c.config.Faults
	if faults.Unavailable > 0 && c.draws.faults.Float64() < faults.Unavailable {
		return nil, failure("Unavailable", "The service is unavailable. Please try again shortly.")
	}
	if service == "ec2" {
		if err := s.region.charge(action, in); err != nil {
			return nil, err
		}
	}
	if err := s.permit(service, action); err != nil {
		return nil, err
	}
	s.dry = service == "ec2" && dry(in)
	out, err := work(s, in)
	if err != nil {
		return nil, err
	}
	if s.dry {
		return nil, dryRun()
	}
	if faults.FailedAfter > 0 && c.draws.faults.Float64() < faults.FailedAfter {
		return nil, failure("InternalError", "An internal error has occurred")
	}
	if faults.LostAnswers > 0 && c.draws.faults.Float64() < faults.LostAnswers {
		return nil, ErrAnswerLost
	}
	if c.fail != nil {
		told.After, told.Output = true, out
		if err := c.fail(told); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// dryRun is the good news of a dry run.
func dryRun() *Error {
	return failure("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
}

// dry tells whether an input asks for a dry run.
func dry(in any) bool {
	f := reflect.ValueOf(in).Elem().FieldByName("DryRun")
	return f.IsValid() && !f.IsNil() && f.Elem().Bool()
}

// Denial forbids something.
type Denial struct {
	// Action is "ec2:RunInstances", "ec2:*", "iam:PassRole" (when an instance
	// is launched with a profile) or "sts:AssumeRole".
	Action string
	// Role limits the denial to this assumed role, and with sts:AssumeRole to
	// assuming it; "" is everybody.
	Role string
}

// Deny forbids an action to an account's principals.
func (c *Cloud) Deny(account string, d Denial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.accounts[account]; a != nil {
		a.denials = append(a.denials, d)
	}
}

// Permit takes all denials of an account back.
func (c *Cloud) Permit(account string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.accounts[account]; a != nil {
		a.denials = nil
	}
}

// permit answers as IAM would for this principal.
func (s scope) permit(service, action string) error {
	if len(s.region.account.denials) == 0 || !s.denied(service+":"+action, s.role) {
		return nil
	}
	if service == "ec2" {
		return s.unauthorized("ec2:"+action, fmt.Sprintf("arn:aws:ec2:%s:%s:*", s.region.name, s.region.account.id))
	}
	return &Error{Code: "AccessDenied", Status: 403, Message: fmt.Sprintf("User: %s is not authorized to perform: %s:%s because no identity-based policy allows the %s:%s action", s.principal(), service, action, service, action)}
}

func (s scope) denied(action, role string) bool {
	for _, d := range s.region.account.denials {
		prefix, all := strings.CutSuffix(d.Action, "*")
		if (d.Action == action || all && strings.HasPrefix(action, prefix)) && (d.Role == "" || d.Role == role) {
			return true
		}
	}
	return false
}

// unauthorized is EC2's way of saying no: with a message that only
// sts:DecodeAuthorizationMessage could read.
func (s scope) unauthorized(action, resource string) *Error {
	return failure("UnauthorizedOperation", "You are not authorized to perform this operation. User: %s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %s action. Encoded authorization failure message: %s",
		s.principal(), action, resource, action, fixedID("", s.principal(), action, resource)+fixedID("", resource, action)+fixedID("", action))
}
