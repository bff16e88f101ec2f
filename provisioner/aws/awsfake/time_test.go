package awsfake_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
)

func TestRunMovesACloudInRealTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var booted time.Time
		cloud := awsfake.New(awsfake.Config{Boot: awsfake.Boot{Median: time.Minute}, Happened: func(h awsfake.Happening) {
			if h.Kind == awsfake.Booted {
				booted = time.Now()
			}
		}})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { cloud.Run(ctx) })
		synctest.Wait()
		start := time.Now()
		image := cloud.Surroundings(account, "us-east-1").Images["x86_64"]
		must[*ec2.RunInstancesOutput](t)(cloud.EC2(account, "us-east-1").RunInstances(ctx, &ec2.RunInstancesInput{ImageId: &image, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if took := booted.Sub(start); took != time.Minute {
			t.Errorf("booted after %v", took)
		}
		cancel()
		running.Wait()
	})
}

func TestReceivingOverHTTPWaitsForAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := awsfake.New(awsfake.Config{})
		queue := cloud.SQS(account, "us-east-1")
		url := *must[*sqs.CreateQueueOutput](t)(queue.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("mine")})).QueueUrl
		ask := func() string {
			r := httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader(fmt.Sprintf(`{"QueueUrl":%q,"WaitTimeSeconds":20}`, url)))
			id, _ := awsfake.Key(account)
			r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+id+"/20260301/us-east-1/sqs/aws4_request")
			r.Header.Set("X-Amz-Target", "AmazonSQS.ReceiveMessage")
			w := httptest.NewRecorder()
			cloud.Handler().ServeHTTP(w, r)
			return w.Body.String()
		}
		start := time.Now()
		if got := ask(); got != "{}" || time.Since(start) != 20*time.Second {
			t.Errorf("nothing came: %q after %v", got, time.Since(start))
		}
		start = time.Now()
		time.AfterFunc(5*time.Second, func() {
			if _, err := queue.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("hello")}); err != nil {
				t.Error(err)
			}
		})
		if got := ask(); !strings.Contains(got, "hello") || time.Since(start) > 6*time.Second {
			t.Errorf("got %q after %v", got, time.Since(start))
		}
	})
}

func TestSeveralMayCallAtOnce(t *testing.T) {
	cloud := awsfake.New(awsfake.Config{Boot: awsfake.Boot{Median: time.Microsecond, Sigma: 1}, Events: awsfake.Events{Queue: "events"}, Happened: func(awsfake.Happening) {}})
	image := cloud.Surroundings(account, "us-east-1").Images["x86_64"]
	api := cloud.EC2(account, "us-east-1")
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for range 20 {
				out, err := api.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: &image, InstanceType: "m5.large", MinCount: aws.Int32(2), MaxCount: aws.Int32(2)})
				if err != nil {
					t.Error(err)
					return
				}
				all, err := api.DescribeInstances(t.Context(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range all.Reservations {
					for _, i := range r.Instances {
						_ = fmt.Sprint(*i.InstanceId, *i.StateTransitionReason, i.State.Name, len(i.Tags))
					}
				}
				id := []string{*out.Instances[0].InstanceId}
				_, err = api.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: id, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}})
				if _, err2 := api.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: id}); err != nil || err2 != nil {
					t.Error(err, err2)
				}
			}
		})
	}
	callers.Wait()
	if n := cloud.Alive(); n != 80 {
		t.Errorf("%d alive", n)
	}
}

// A simulator jumps from one thing to the next.
func Example() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cloud := awsfake.New(awsfake.Config{
		Now:  func() time.Time { return now },
		Boot: awsfake.Boot{Median: 75 * time.Second, Running: 0.2, Shutdown: 5 * time.Second},
		Happened: func(h awsfake.Happening) {
			fmt.Println(h.At.Format(time.TimeOnly), h.Instance.Type, h.Kind)
		},
	})
	api := cloud.EC2("123456789012", "us-east-1")
	image := cloud.Surroundings("123456789012", "us-east-1").Images["x86_64"]
	out, err := api.RunInstances(context.Background(), &ec2.RunInstancesInput{ImageId: &image, InstanceType: "c6i.large", MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
	if err != nil {
		fmt.Println(err)
		return
	}
	for next := cloud.Next(); !next.IsZero(); next = cloud.Next() {
		now = next
		cloud.Advance()
	}
	now = now.Add(10 * time.Minute)
	if _, err := api.TerminateInstances(context.Background(), &ec2.TerminateInstancesInput{InstanceIds: []string{*out.Instances[0].InstanceId}}); err != nil {
		fmt.Println(err)
		return
	}
	now = cloud.Next()
	cloud.Advance()
	// Output:
	// 12:00:00 c6i.large launched
	// 12:00:15 c6i.large running
	// 12:01:15 c6i.large booted
	// 12:11:15 c6i.large stopping
	// 12:11:20 c6i.large terminated
}
