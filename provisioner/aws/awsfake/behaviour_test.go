package awsfake_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
)

func TestBootTimesAreLogNormalWithAFactorByTypeAndSomeNeverBoot(t *testing.T) {
	w := newWorld(t, awsfake.Config{Seed: 3, Boot: awsfake.Boot{Median: 75 * time.Second, Sigma: 0.25, Factor: map[string]float64{"c5": 2}, Dead: 0.05}})
	must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 4000)))
	slow := runOf(w, 4000)
	slow.InstanceType = "c5.large"
	must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), slow))
	w.pass(time.Hour)
	boots := map[string][]float64{}
	dead := 0
	for _, i := range w.Instances() {
		if i.Booted.IsZero() {
			dead++
			continue
		}
		boots[i.Type] = append(boots[i.Type], i.Booted.Sub(i.Requested).Seconds())
	}
	if dead < 320 || dead > 480 {
		t.Errorf("%d of 8000 are dead, want about 400", dead)
	}
	for typ, median := range map[string]float64{"m5.large": 75, "c5.large": 150} {
		slices.Sort(boots[typ])
		n := len(boots[typ])
		if got := boots[typ][n/2]; math.Abs(got/median-1) > 0.03 {
			t.Errorf("%s: median %.1f s, want %v", typ, got, median)
		}
		if got := math.Log(boots[typ][n*84/100] / boots[typ][n/2]); math.Abs(got-0.25) > 0.03 {
			t.Errorf("%s: sigma %.3f, want 0.25", typ, got)
		}
	}
}

func TestDocumentedRequestLimitsThrottleAndRefill(t *testing.T) {
	w := newWorld(t, awsfake.Config{Limits: awsfake.Limits{Documented: true}})
	granted := func() (n int) {
		for {
			if _, err := w.ec2.RunInstances(t.Context(), runOf(w, 1)); code(err) == "RequestLimitExceeded" {
				return n
			}
			n++
		}
	}
	if n := granted(); n != 5 {
		t.Errorf("%d at once, want 5", n)
	}
	if _, err := w.ec2.CreateFleet(t.Context(), fleetOf("lt-0", 1)); code(err) != "RequestLimitExceeded" {
		t.Errorf("CreateFleet shares the bucket: %v", err)
	}
	w.pass(time.Second)
	if n := granted(); n != 2 {
		t.Errorf("%d after a second, want 2", n)
	}
	if s := w.Stats(); s.Throttled["ec2:RunInstances"] != 2 || s.Throttled["ec2:CreateFleet"] != 1 || s.Calls["ec2:RunInstances"] != 9 {
		t.Errorf("stats %+v", s)
	}
	n := 0
	for ; n < 200; n++ {
		if _, err := w.ec2.DescribeInstances(t.Context(), nil); err != nil {
			break
		}
	}
	if n != 50 {
		t.Errorf("%d lists without filter, want 50", n)
	}
	if _, err := w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{MaxResults: aws.Int32(1000)}); err != nil {
		t.Errorf("pages have a bucket of their own: %v", err)
	}
}

func TestDocumentedResourceLimitsGiveAThousandInstancesAndThenTwoASecond(t *testing.T) {
	w := newWorld(t, awsfake.Config{Limits: awsfake.Limits{Documented: true}})
	fleet := fleetOf(w.template("linux"), 1500, in("m5.large", "us-east-1a"))
	out := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleet))
	if n := len(idsOf(out)); n != 1000 || !slices.Contains(codesOf(out), "RequestLimitExceeded") {
		t.Errorf("%d instances, errors %v", n, codesOf(out))
	}
	if _, err := w.ec2.RunInstances(t.Context(), runOf(w, 1)); code(err) != "RequestLimitExceeded" {
		t.Errorf("one more: %v", err)
	}
	w.pass(10 * time.Second)
	if n := len(idsOf(must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleet)))); n != 20 {
		t.Errorf("after 10 s: %d", n)
	}
}

func TestMarketsSellOutAndOpenAgainTheSameWhoeverLooksWhenever(t *testing.T) {
	config := awsfake.Config{Seed: 5, Markets: func(awsfake.Market) awsfake.Conditions {
		return awsfake.Conditions{Open: 30 * time.Minute, Closed: 10 * time.Minute, Volatility: 0.1}
	}}
	often, seldom := newWorld(t, config), newWorld(t, config)
	look := func(w *world) string {
		score := must[*ec2.GetSpotPlacementScoresOutput](t)(w.ec2.GetSpotPlacementScores(t.Context(), &ec2.GetSpotPlacementScoresInput{
			TargetCapacity: aws.Int32(1), InstanceTypes: []string{"m5.large"}, SingleAvailabilityZone: aws.Bool(true), RegionNames: []string{"us-east-1"}}))
		price := must[*ec2.DescribeSpotPriceHistoryOutput](t)(w.ec2.DescribeSpotPriceHistory(t.Context(), &ec2.DescribeSpotPriceHistoryInput{InstanceTypes: []types.InstanceType{"m5.large"}, AvailabilityZone: aws.String("us-east-1a")}))
		text := fmt.Sprint(*price.SpotPriceHistory[0].SpotPrice)
		for _, s := range score.SpotPlacementScores {
			text += fmt.Sprint(" ", *s.AvailabilityZoneId, *s.Score)
		}
		return text
	}
	closed, seen := 0, 0
	for n := range 24 * 60 {
		often.pass(time.Minute)
		seldom.now = often.now
		free := look(often)
		if n%100 == 0 {
			if other := look(seldom); other != free {
				t.Fatalf("after %d minutes: %s and %s", n, free, other)
			}
		}
		out := must[*ec2.CreateFleetOutput](t)(often.ec2.CreateFleet(t.Context(), fleetOf(templateOnce(often), 1, in("m5.large", "us-east-1a"))))
		if seen++; len(out.Instances) == 0 {
			closed++
		}
	}
	if share := float64(closed) / float64(seen); share < 0.1 || share > 0.4 {
		t.Errorf("closed for %.2f of the time, want about a quarter", share)
	}
	history := must[*ec2.DescribeSpotPriceHistoryOutput](t)(often.ec2.DescribeSpotPriceHistory(t.Context(), &ec2.DescribeSpotPriceHistoryInput{
		InstanceTypes: []types.InstanceType{"m5.large"}, AvailabilityZone: aws.String("us-east-1a"), StartTime: aws.Time(often.now.Add(-24 * time.Hour))})).SpotPriceHistory
	if len(history) < 20 || !history[0].Timestamp.After(*history[len(history)-1].Timestamp) {
		t.Errorf("%d prices, newest first", len(history))
	}
}

func templateOnce(w *world) string {
	out, err := w.ec2.DescribeLaunchTemplates(w.t.Context(), nil)
	if err != nil || len(out.LaunchTemplates) == 0 {
		return w.template("linux")
	}
	return *out.LaunchTemplates[0].LaunchTemplateId
}

func TestSpotInstancesAreInterruptedByTheHazardWithTwoMinutesNotice(t *testing.T) {
	w := newWorld(t, awsfake.Config{Seed: 1, Events: awsfake.Events{Queue: "events"}, Markets: func(awsfake.Market) awsfake.Conditions {
		return awsfake.Conditions{Hazard: 0.05, Rebalance: 10 * time.Minute}
	}})
	must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleetOf(w.template("linux"), 1000, in("m5.large", "us-east-1a"))))
	must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 100)))
	for range 240 {
		w.pass(time.Minute)
	}
	warned := 0
	for _, i := range w.Instances() {
		if i.Warned.IsZero() {
			continue
		}
		warned++
		if !i.Spot || !i.Stopping.IsZero() && i.Stopping.Sub(i.Warned) != 2*time.Minute || i.Recommended.After(i.Warned) {
			t.Errorf("%+v", i)
		}
	}
	if want := 1000 * (1 - math.Exp(-0.05*4)); math.Abs(float64(warned)-want) > 40 {
		t.Errorf("%d of 1000 in four hours, want about %.0f", warned, want)
	}
}

// event is what a consumer of the queue reads.
type event struct {
	DetailType string `json:"detail-type"`
	Detail     struct {
		InstanceID string `json:"instance-id"`
		State      string `json:"state"`
		Action     string `json:"instance-action"`
	} `json:"detail"`
}

// drain receives and deletes all messages.
func drain(w *world) (events []event) {
	w.t.Helper()
	queue := w.SQS(account, "us-east-1")
	url := must[*sqs.GetQueueUrlOutput](w.t)(queue.GetQueueUrl(w.t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("events")})).QueueUrl
	for {
		out := must[*sqs.ReceiveMessageOutput](w.t)(queue.ReceiveMessage(w.t.Context(), &sqs.ReceiveMessageInput{QueueUrl: url, MaxNumberOfMessages: 10}))
		if len(out.Messages) == 0 {
			return events
		}
		var entries []sqstypes.DeleteMessageBatchRequestEntry
		for i, m := range out.Messages {
			var e event
			if err := json.Unmarshal([]byte(*m.Body), &e); err != nil {
				w.t.Fatal(err)
			}
			events = append(events, e)
			entries = append(entries, sqstypes.DeleteMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(i)), ReceiptHandle: m.ReceiptHandle})
		}
		must[*sqs.DeleteMessageBatchOutput](w.t)(queue.DeleteMessageBatch(w.t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: url, Entries: entries}))
	}
}

func TestEventsTellAnInterruptedLife(t *testing.T) {
	w := newWorld(t, awsfake.Config{Events: awsfake.Events{Queue: "events"}, Boot: awsfake.Boot{Median: time.Minute, Shutdown: 10 * time.Second}})
	id := idsOf(must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleetOf(w.template("linux"), 1, in("m5.large", "us-east-1a")))))[0]
	w.pass(time.Minute)
	if err := errors.Join(w.Recommend(id), w.Interrupt(id)); err != nil {
		t.Fatal(err)
	}
	w.pass(2 * time.Minute)
	w.pass(10 * time.Second)
	var told []string
	for _, e := range drain(w) {
		if e.Detail.InstanceID != id {
			t.Errorf("about %s", e.Detail.InstanceID)
		}
		told = append(told, e.DetailType+": "+e.Detail.State+e.Detail.Action)
	}
	want := []string{
		"EC2 Instance State-change Notification: pending", "EC2 Instance State-change Notification: running", "EC2 Instance Rebalance Recommendation: ",
		"EC2 Spot Instance Interruption Warning: terminate", "EC2 Instance State-change Notification: shutting-down", "EC2 Instance State-change Notification: terminated",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
	got := must[*ec2.DescribeInstancesOutput](t)(w.ec2.DescribeInstances(t.Context(), nil)).Reservations[0].Instances[0]
	if *got.StateReason.Code != "Server.SpotInstanceTermination" || got.InstanceLifecycle != "spot" {
		t.Errorf("reason %v", got.StateReason)
	}
}

func TestEventsMayBeLostDoubledAndLate(t *testing.T) {
	w := newWorld(t, awsfake.Config{Events: awsfake.Events{Queue: "events", Lost: 0.2, Duplicated: 0.1, Delay: time.Second, Late: 0.1, LateDelay: time.Hour}})
	must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1000))) // 2000 events: pending and running
	w.pass(time.Second)
	soon := len(drain(w))
	w.pass(time.Hour)
	late := len(drain(w))
	if all := soon + late; math.Abs(float64(all)-2000*0.8*1.1) > 80 {
		t.Errorf("%d of 2000 events arrived", all)
	}
	if math.Abs(float64(late)-176) > 60 {
		t.Errorf("%d were late", late)
	}
}

func TestAMessageThatIsNotDeletedComesAgain(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	queue := w.SQS(account, "us-east-1")
	url := must[*sqs.CreateQueueOutput](t)(queue.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("mine")})).QueueUrl
	must[*sqs.SendMessageOutput](t)(queue.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("hello")}))
	receive := func() []sqstypes.Message {
		return must[*sqs.ReceiveMessageOutput](t)(queue.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: url})).Messages
	}
	if n := len(receive()); n != 1 {
		t.Fatalf("%d messages", n)
	}
	if n := len(receive()); n != 0 {
		t.Errorf("%d messages while the first is being worked on", n)
	}
	w.pass(30 * time.Second)
	again := receive()
	if len(again) != 1 || again[0].Attributes["ApproximateReceiveCount"] != "2" {
		t.Fatalf("after the timeout: %v", again)
	}
	must[*sqs.DeleteMessageOutput](t)(queue.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: url, ReceiptHandle: again[0].ReceiptHandle}))
	w.pass(time.Minute)
	if n := len(receive()); n != 0 {
		t.Errorf("%d messages after it was deleted", n)
	}
}

func TestFaultsHideWhetherTheWorkWasDone(t *testing.T) {
	for name, c := range map[string]struct {
		faults   awsfake.Faults
		launched int
		is       func(error) bool
	}{
		"unavailable":  {awsfake.Faults{Unavailable: 1}, 0, func(err error) bool { return code(err) == "Unavailable" }},
		"failed after": {awsfake.Faults{FailedAfter: 1}, 1, func(err error) bool { return code(err) == "InternalError" }},
		"lost answer":  {awsfake.Faults{LostAnswers: 1}, 1, func(err error) bool { return errors.Is(err, awsfake.ErrAnswerLost) }},
	} {
		w := newWorld(t, awsfake.Config{Faults: c.faults})
		if _, err := w.ec2.RunInstances(t.Context(), runOf(w, 1)); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
		if w.Alive() != c.launched {
			t.Errorf("%s: %d instances", name, w.Alive())
		}
	}
}

func TestTheHookFailsExactlyTheCallsItWants(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	calls := 0
	w.Fail(func(c awsfake.Call) error {
		if c.Action == "TerminateInstances" && !c.After {
			if calls++; calls == 2 {
				return &awsfake.Error{Code: "InternalError", Message: "once"}
			}
		}
		return nil
	})
	for n := range 3 {
		id := *must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1))).Instances[0].InstanceId
		_, err := w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
		if (err != nil) != (n == 1) {
			t.Errorf("call %d: %v", n+1, err)
		}
	}
}

func TestDeniedActionsSayWhoMayNotDoWhat(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	w.Deny(account, awsfake.Denial{Action: "ec2:CreateFleet", Role: "provisioner"})
	if _, err := w.EC2As(account, "provisioner", "us-east-1").CreateFleet(t.Context(), fleetOf("lt-1", 1)); code(err) != "UnauthorizedOperation" {
		t.Errorf("the role: %v", err)
	}
	if _, err := w.ec2.CreateFleet(t.Context(), fleetOf(w.template("linux"), 1, in("m5.large", "us-east-1a"))); err != nil {
		t.Errorf("the user: %v", err)
	}
	w.Permit(account)
	if _, err := w.EC2As(account, "provisioner", "us-east-1").DescribeInstances(t.Context(), nil); err != nil {
		t.Errorf("permitted: %v", err)
	}
}

func TestVolumesAndInterfacesStayIfTheyAreNotDeletedOnTermination(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	left := func() (volumes, interfaces []string) {
		free := []types.Filter{{Name: aws.String("status"), Values: []string{"available"}}}
		for _, v := range must[*ec2.DescribeVolumesOutput](t)(w.ec2.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{Filters: free})).Volumes {
			volumes = append(volumes, *v.VolumeId)
		}
		for _, n := range must[*ec2.DescribeNetworkInterfacesOutput](t)(w.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{Filters: free})).NetworkInterfaces {
			interfaces = append(interfaces, *n.NetworkInterfaceId)
		}
		return volumes, interfaces
	}
	run := runOf(w, 1)
	run.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdf"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(100), DeleteOnTermination: aws.Bool(false)}}}
	run.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0), DeleteOnTermination: aws.Bool(false)}}
	i := must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), run)).Instances[0]
	if len(i.BlockDeviceMappings) != 2 {
		t.Errorf("%d devices", len(i.BlockDeviceMappings))
	}
	if v, n := left(); len(v)+len(n) != 0 {
		t.Errorf("while it lives: %v, %v", v, n)
	}
	if _, err := w.ec2.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: i.BlockDeviceMappings[1].Ebs.VolumeId}); code(err) != "VolumeInUse" {
		t.Errorf("deleting what is in use: %v", err)
	}
	must[*ec2.TerminateInstancesOutput](t)(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{*i.InstanceId}}))
	w.pass(0)
	volumes, interfaces := left()
	if len(volumes) != 1 || len(interfaces) != 1 {
		t.Fatalf("left behind: %v, %v", volumes, interfaces)
	}
	must[*ec2.DeleteVolumeOutput](t)(w.ec2.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &volumes[0]}))
	must[*ec2.DeleteNetworkInterfaceOutput](t)(w.ec2.DeleteNetworkInterface(t.Context(), &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &interfaces[0]}))
	if v, n := left(); len(v)+len(n) != 0 {
		t.Errorf("after deleting: %v, %v", v, n)
	}
}

func TestAnInstanceThatShutsItselfDownStopsUnlessItsLaunchSaysTerminate(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	shut := func(behavior types.ShutdownBehavior) string {
		run := runOf(w, 1)
		run.InstanceInitiatedShutdownBehavior = behavior
		id := *must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), run)).Instances[0].InstanceId
		if err := w.Shutdown(id); err != nil {
			t.Fatal(err)
		}
		w.pass(0)
		return states(must[*ec2.DescribeInstancesOutput](t)(w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})))[0]
	}
	if got := shut(types.ShutdownBehaviorTerminate); got != "terminated" {
		t.Error(got)
	}
	if got := shut(""); got != "stopped" {
		t.Error(got)
	}
}

func TestListsMayShowAnOldState(t *testing.T) {
	w := newWorld(t, awsfake.Config{Consistency: awsfake.Consistency{States: 10 * time.Second}})
	id := *must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1))).Instances[0].InstanceId
	w.pass(10 * time.Second)
	must[*ec2.TerminateInstancesOutput](t)(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}))
	if got := states(must[*ec2.DescribeInstancesOutput](t)(w.ec2.DescribeInstances(t.Context(), nil))); got[0] != "running" {
		t.Errorf("at once: %v", got)
	}
	w.pass(10 * time.Second)
	if got := states(must[*ec2.DescribeInstancesOutput](t)(w.ec2.DescribeInstances(t.Context(), nil))); got[0] != "terminated" {
		t.Errorf("later: %v", got)
	}
}

func TestTheSameSeedGivesTheSameCloudAndOneFeatureDoesNotShiftAnother(t *testing.T) {
	life := func(change func(*awsfake.Config)) []awsfake.Instance {
		config := awsfake.Config{Seed: 42, Boot: awsfake.Boot{Median: time.Minute, Sigma: 0.5, Dead: 0.1}}
		change(&config)
		w := newWorld(t, config)
		must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleetOf(w.template("linux"), 50, in("m5.large", "us-east-1a"))))
		w.pass(time.Hour)
		all := w.Instances()
		for n := range all {
			all[n].Visible = time.Time{}
		}
		return all
	}
	plain := life(func(*awsfake.Config) {})
	if !reflect.DeepEqual(plain, life(func(*awsfake.Config) {})) {
		t.Error("two clouds of one seed differ")
	}
	if !reflect.DeepEqual(plain, life(func(c *awsfake.Config) {
		c.Consistency = awsfake.Consistency{Delay: time.Minute}
		c.Events = awsfake.Events{Queue: "events", Lost: 0.5, Delay: time.Second}
	})) {
		t.Error("lag and events changed boots or identifiers")
	}
	if reflect.DeepEqual(plain, life(func(c *awsfake.Config) { c.Seed = 43 })) {
		t.Error("another seed gives the same cloud")
	}
}

func TestABillIsFromRequestToShutdownAndAtLeastAMinute(t *testing.T) {
	w := newWorld(t, awsfake.Config{Prices: func(string, string) float64 { return 3.6 }})
	run := func() string {
		return *must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1))).Instances[0].InstanceId
	}
	short, long := run(), run()
	stop := func(id string) {
		must[*ec2.TerminateInstancesOutput](t)(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}))
	}
	w.pass(10 * time.Second)
	stop(short)
	w.pass(100 * time.Second)
	stop(long)
	w.pass(time.Hour)
	if b := w.Bill(); math.Abs(b.Dollars-(60+110)*0.001) > 1e-9 || math.Abs(b.Hours-170.0/3600) > 1e-9 {
		t.Errorf("%+v", b)
	}
}

func TestACallbackMayCallTheCloud(t *testing.T) {
	var w *world
	w = newWorld(t, awsfake.Config{Boot: awsfake.Boot{Median: time.Minute}, Happened: func(h awsfake.Happening) {
		w.told = append(w.told, h)
		if h.Kind == awsfake.Booted {
			must[*ec2.TerminateInstancesOutput](t)(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{h.Instance.ID}}))
		}
	}})
	must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1)))
	w.pass(time.Minute)
	w.pass(0)
	if w.Alive() != 0 || w.told[len(w.told)-1].Kind != awsfake.Terminated {
		t.Errorf("%d alive, told %d things", w.Alive(), len(w.told))
	}
}
