package awsfake

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// DescribeInstances lists instances in the order of their launch. Pages count
// instances, and a reservation may be split over pages. Without MaxResults the
// answer is everything. A token goes on after the last instance of its page,
// whatever was launched or forgotten meanwhile.
func (e *EC2) DescribeInstances(ctx context.Context, in *ec2.DescribeInstancesInput, _ ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeInstances", in, describeInstances)
}

func describeInstances(s scope, in *ec2.DescribeInstancesInput) (*ec2.DescribeInstancesOutput, error) {
	r := s.region
	r.forget()
	list, size, err := r.listOf(in.InstanceIds, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstancesOutput{Reservations: make([]types.Reservation, 0, min(len(list), size))}
	var last *instance
	n := 0
	for _, i := range list {
		if i.gone || i.visible.After(r.cloud.now) {
			continue
		}
		ok, err := i.passes(in.Filters)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if n == size {
			out.NextToken = makeToken(last.number + 1)
			break
		}
		n++
		view := i.describe()
		if last != nil && last.reservation == i.reservation {
			rsv := &out.Reservations[len(out.Reservations)-1]
			rsv.Instances = append(rsv.Instances, view...)
		} else {
			out.Reservations = append(out.Reservations, types.Reservation{ReservationId: &i.reservation.id, OwnerId: &r.account.id, Instances: view[:1:1]}) // so that another is appended to a copy
		}
		last = i
	}
	return out, nil
}

// passes applies filters. Those by state and by tag are what sweeps use, over
// all instances and again and again: they are answered without making a list of
// values.
func (i *instance) passes(filters []types.Filter) (bool, error) {
	for n := range filters {
		ok, simple := i.passesSimply(&filters[n])
		if !simple {
			var err error
			if ok, err = passes(i, filters[n:n+1], instanceFilter); err != nil {
				return false, err
			}
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

// passesSimply applies a filter by state or tag without patterns.
func (i *instance) passesSimply(f *types.Filter) (ok, simple bool) {
	name := aws.ToString(f.Name)
	key, tag := strings.CutPrefix(name, "tag:")
	if !tag && name != "instance-state-name" || slices.ContainsFunc(f.Values, isPattern) {
		return false, false
	}
	if !tag {
		return slices.Contains(f.Values, string(i.shown)), true
	}
	for n := range i.tags {
		if *i.tags[n].Key == key {
			return slices.Contains(f.Values, *i.tags[n].Value), true
		}
	}
	return false, true
}

// everything is the page size of who wants no pages.
const everything = 1 << 30

// listOf are the instances that a call is about: those it names, or a page's
// rest of all.
func (r *region) listOf(ids []string, max *int32, token *string) ([]*instance, int, error) {
	if len(ids) > 0 {
		if max != nil {
			return nil, 0, failure("InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults")
		}
		list, err := r.named(ids)
		return list, everything, err
	}
	list, size := r.live, everything
	if max != nil {
		if *max < 5 || *max > 1000 {
			return nil, 0, failure("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.", *max)
		}
		size = int(*max)
	}
	if token != nil && *token != "" {
		from, err := readToken(*token)
		if err != nil {
			return nil, 0, badToken(*token)
		}
		list = list[sort.Search(len(list), func(k int) bool { return list[k].number >= from }):]
	}
	return list, size, nil
}

// named finds visible instances by their identifiers: all, or an error.
func (r *region) named(ids []string) ([]*instance, error) {
	list := make([]*instance, 0, len(ids))
	var missing []string
	for _, id := range ids {
		if !strings.HasPrefix(id, "i-") || len(id) != 10 && len(id) != 19 {
			return nil, failure("InvalidInstanceID.Malformed", `Invalid id: "%s"`, id)
		}
		i := r.cloud.instances[id]
		if i == nil || i.region != r || i.visible.After(r.cloud.now) {
			missing = append(missing, id)
			continue
		}
		list = append(list, i)
	}
	switch len(missing) {
	case 0:
		return list, nil
	case 1:
		return nil, failure("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", missing[0])
	}
	return nil, failure("InvalidInstanceID.NotFound", "The instance IDs '%s' do not exist", strings.Join(missing, ", "))
}

// instanceFilter gives what filters of DescribeInstances look at. The common
// ones must not allocate: see the benchmark.
func instanceFilter(i *instance, name string) ([]string, bool) {
	one := func(s string) ([]string, bool) { return []string{s}, true }
	switch name {
	case "instance-state-name":
		return stateNames[i.shown], true
	case "instance-state-code":
		return one(fmt.Sprint(stateCodes[i.shown]))
	case "instance-id":
		return one(i.id)
	case "instance-type":
		return one(i.market.Type)
	case "availability-zone":
		return one(i.subnet.zone)
	case "subnet-id":
		return one(i.subnet.id)
	case "vpc-id":
		return one(i.region.vpc)
	case "image-id":
		return one(i.launch.image.id)
	case "client-token":
		return one(i.token)
	case "private-ip-address":
		return one(i.address)
	case "reservation-id":
		return one(i.reservation.id)
	case "key-name":
		return one(aws.ToString(i.launch.data.KeyName))
	case "owner-id":
		return one(i.region.account.id)
	case "spot-instance-request-id":
		return one(i.spotRequest)
	case "launch-time":
		return one(i.requested.UTC().Format("2006-01-02T15:04:05.000Z"))
	case "architecture":
		return one(string(i.launch.image.architecture))
	case "instance-lifecycle":
		if i.market.Spot {
			return one("spot")
		}
		return nil, true
	case "instance.group-id":
		var ids []string
		for _, g := range i.launch.groups {
			ids = append(ids, *g.GroupId)
		}
		return ids, true
	}
	return tagFilter(i.tags, name)
}

var stateNames = func() map[types.InstanceStateName][]string {
	m := map[types.InstanceStateName][]string{}
	for s := range stateCodes {
		m[s] = []string{string(s)}
	}
	return m
}()

// DescribeInstanceStatus lists the status of running instances, or of all with
// IncludeAllInstances.
func (e *EC2) DescribeInstanceStatus(ctx context.Context, in *ec2.DescribeInstanceStatusInput, _ ...func(*ec2.Options)) (*ec2.DescribeInstanceStatusOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeInstanceStatus", in, func(s scope, in *ec2.DescribeInstanceStatusInput) (*ec2.DescribeInstanceStatusOutput, error) {
		r := s.region
		r.forget()
		list, size, err := r.listOf(in.InstanceIds, in.MaxResults, in.NextToken)
		if err != nil {
			return nil, err
		}
		out := &ec2.DescribeInstanceStatusOutput{InstanceStatuses: []types.InstanceStatus{}}
		last := 0
		for _, i := range list {
			if i.gone || i.visible.After(r.cloud.now) || i.shown != types.InstanceStateNameRunning && !aws.ToBool(in.IncludeAllInstances) {
				continue
			}
			ok, err := passes(i, in.Filters, instanceFilter)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			if len(out.InstanceStatuses) == size {
				out.NextToken = makeToken(last + 1)
				break
			}
			out.InstanceStatuses = append(out.InstanceStatuses, i.status())
			last = i.number
		}
		return out, nil
	})
}

func (i *instance) status() types.InstanceStatus {
	health := &types.InstanceStatusSummary{Status: types.SummaryStatusNotApplicable}
	if i.shown == types.InstanceStateNameRunning {
		health.Status = types.SummaryStatusOk
		if i.booted.IsZero() {
			health.Status = types.SummaryStatusInitializing
		}
	}
	return types.InstanceStatus{
		InstanceId: &i.id, AvailabilityZone: &i.subnet.zone, AvailabilityZoneId: &i.subnet.zoneID, InstanceState: stateOf(i.shown),
		InstanceStatus: health, SystemStatus: health,
	}
}

// TerminateInstances terminates all the instances it names, or none when one of
// them does not exist. Those already terminated stay so.
func (e *EC2) TerminateInstances(ctx context.Context, in *ec2.TerminateInstancesInput, _ ...func(*ec2.Options)) (*ec2.TerminateInstancesOutput, error) {
	return call(ctx, e.scope, "ec2", "TerminateInstances", in, func(s scope, in *ec2.TerminateInstancesInput) (*ec2.TerminateInstancesOutput, error) {
		r := s.region
		r.forget()
		if len(in.InstanceIds) == 0 {
			return nil, failure("MissingParameter", "The request must contain the parameter InstanceIds")
		}
		if len(in.InstanceIds) > 1000 {
			return nil, failure("InvalidParameterValue", "At most 1000 instances can be terminated in a request")
		}
		list, err := r.named(in.InstanceIds)
		if err != nil {
			return nil, err
		}
		for _, i := range list {
			if aws.ToBool(i.launch.data.DisableApiTermination) && i.alive() {
				return nil, failure("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.id)
			}
		}
		if s.dry {
			return nil, dryRun()
		}
		if b := r.resources("TerminateInstances"); b != nil {
			if got := b.take(r.cloud.now, float64(len(list))); int(got) < len(list) {
				b.give(got)
				return nil, requestLimitExceeded()
			}
		}
		out := &ec2.TerminateInstancesOutput{}
		for _, i := range list {
			before := i.state
			if before != types.InstanceStateNameShuttingDown && before != types.InstanceStateNameTerminated {
				i.stop("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown", "User initiated")
			}
			out.TerminatingInstances = append(out.TerminatingInstances, types.InstanceStateChange{
				InstanceId: &i.id, PreviousState: stateOf(before), CurrentState: stateOf(i.state),
			})
		}
		return out, nil
	})
}

// GetConsoleOutput is what an instance wrote while booting. The one of a worker
// that never registers ends in the middle.
func (e *EC2) GetConsoleOutput(ctx context.Context, in *ec2.GetConsoleOutputInput, _ ...func(*ec2.Options)) (*ec2.GetConsoleOutputOutput, error) {
	return call(ctx, e.scope, "ec2", "GetConsoleOutput", in, func(s scope, in *ec2.GetConsoleOutputInput) (*ec2.GetConsoleOutputOutput, error) {
		list, err := s.region.named([]string{aws.ToString(in.InstanceId)})
		if err != nil {
			return nil, err
		}
		i := list[0]
		text := ""
		at := func(t time.Time, line string) {
			if !t.IsZero() {
				text += fmt.Sprintf("[%12.6f] %s\r\n", t.Sub(i.requested).Seconds(), line)
			}
		}
		at(i.running, "Linux version 6.1.0 on "+i.market.Type)
		at(i.running, "cloud-init: running user data")
		at(i.booted, "cloud-init: finished")
		return &ec2.GetConsoleOutputOutput{InstanceId: &i.id, Timestamp: aws.Time(s.cloud.now), Output: aws.String(base64.StdEncoding.EncodeToString([]byte(text)))}, nil
	})
}
