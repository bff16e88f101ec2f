package awsfake

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// pairs are the Go faces and the SDK's clients of the same services.
func pairs(c *Cloud, config aws.Config) map[string]struct{ face, client any } {
	account := c.order[0].id
	return map[string]struct{ face, client any }{
		"ec2":           {c.EC2(account, "us-east-1"), ec2.NewFromConfig(config)},
		"ssm":           {c.SSM(account, "us-east-1"), ssm.NewFromConfig(config)},
		"sqs":           {c.SQS(account, "us-east-1"), sqs.NewFromConfig(config, func(o *sqs.Options) { o.DisableMessageChecksumValidation = true })},
		"sts":           {c.STS(account, "us-east-1"), sts.NewFromConfig(config)},
		"iam":           {c.IAM(account), iam.NewFromConfig(config)},
		"servicequotas": {c.ServiceQuotas(account, "us-east-1"), servicequotas.NewFromConfig(config)},
	}
}

func clientConfig(transport http.RoundTripper) aws.Config {
	id, secret := Key("123456789012")
	return aws.Config{
		Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(id, secret, ""), BaseEndpoint: aws.String("http://aws.test"),
		HTTPClient: &http.Client{Transport: transport}, Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	}
}

func TestTheGoFacesHaveTheSignaturesOfTheSDKsClients(t *testing.T) {
	for service, p := range pairs(New(Config{}), clientConfig(nil)) {
		face, client := reflect.ValueOf(p.face), reflect.ValueOf(p.client)
		for i := range face.NumMethod() {
			name := face.Type().Method(i).Name
			real := client.MethodByName(name)
			if !real.IsValid() || real.Type() != face.Method(i).Type() {
				t.Errorf("%s.%s is %v", service, name, face.Method(i).Type())
			}
		}
	}
}

// exchange is a transport that decodes what a client sends and answers with a
// value.
type exchange struct {
	face     reflect.Value
	service  string
	received reflect.Value
	answer   reflect.Value
	err      error
}

func (e *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	_, e.received, e.err = decode(wires[e.service], e.face, r.Header, body)
	w := httptest.NewRecorder()
	if e.err != nil {
		respondError(w, wires[e.service], e.err)
	} else {
		respond(w, wires[e.service], strings.TrimSuffix(e.received.Type().Elem().Name(), "Input"), e.answer.Elem())
	}
	return w.Result(), nil
}

func TestEveryMemberOfEveryCallCrossesTheWireBothWays(t *testing.T) {
	e := &exchange{}
	for service, p := range pairs(New(Config{}), clientConfig(e)) {
		e.service, e.face = service, reflect.ValueOf(p.face)
		for i := range e.face.NumMethod() {
			name := e.face.Type().Method(i).Name
			draw := rand.New(rand.NewPCG(1, uint64(i)))
			in := reflect.New(e.face.Method(i).Type().In(1).Elem())
			fill(draw, in.Elem(), 0)
			e.answer = reflect.New(e.face.Method(i).Type().Out(0).Elem())
			fill(draw, e.answer.Elem(), 0)

			results := reflect.ValueOf(p.client).MethodByName(name).Call([]reflect.Value{reflect.ValueOf(t.Context()), in})
			if err, _ := results[1].Interface().(error); err != nil {
				t.Errorf("%s.%s: %v", service, name, err)
				continue
			}
			if where := difference(in.Elem(), e.received.Elem(), "input"); where != "" {
				t.Errorf("%s.%s: %s", service, name, where)
			}
			if where := difference(e.answer.Elem(), results[0].Elem(), "output"); where != "" {
				t.Errorf("%s.%s: %s", service, name, where)
			}
		}
	}
}

// fill sets every member to something.
func fill(draw *rand.Rand, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(draw, v.Elem(), depth)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(fmt.Sprint("bytes ", draw.Uint32())))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(draw, v.Index(i), depth+1)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(draw, key, depth+1)
		fill(draw, value, depth+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(draw.Int64N(1e9), 0).UTC()))
			return
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && !f.Anonymous && f.Name != "ResultMetadata" {
				fill(draw, v.Field(i), depth+1)
			}
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("<a & \"b\" %d>", draw.Uint32()))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt(int64(draw.Int32N(1e6)) + 1)
	case reflect.Float64:
		v.SetFloat(float64(draw.Int32N(1e6)) / 8)
	default:
		panic(v.Type())
	}
}

// difference says where two values of a type differ; absent and empty lists are
// the same.
func difference(a, b reflect.Value, path string) string {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			if a.IsNil() != b.IsNil() {
				return fmt.Sprintf("%s: %v and %v", path, a, b)
			}
			return ""
		}
		return difference(a.Elem(), b.Elem(), path)
	case reflect.Slice:
		if a.Len() != b.Len() {
			return fmt.Sprintf("%s: %v and %v", path, a, b)
		}
		for i := range a.Len() {
			if d := difference(a.Index(i), b.Index(i), fmt.Sprintf("%s[%d]", path, i)); d != "" {
				return d
			}
		}
		return ""
	case reflect.Struct:
		if at, ok := a.Interface().(time.Time); ok {
			if !at.Equal(b.Interface().(time.Time)) {
				return fmt.Sprintf("%s: %v and %v", path, a, b)
			}
			return ""
		}
		for i := range a.NumField() {
			f := a.Type().Field(i)
			if !f.IsExported() || f.Anonymous || f.Name == "ResultMetadata" {
				continue
			}
			if d := difference(a.Field(i), b.Field(i), path+"."+f.Name); d != "" {
				return d
			}
		}
		return ""
	}
	if !reflect.DeepEqual(a.Interface(), b.Interface()) {
		return fmt.Sprintf("%s: %v and %v", path, a, b)
	}
	return ""
}

func FuzzTheHandlerAnswersWhateverItGets(f *testing.F) {
	f.Add("ec2", "", []byte("Action=RunInstances&MinCount=1&MaxCount=2&ImageId=ami-1&Filter.1.Name=x"))
	f.Add("ec2", "", []byte("Action=CreateFleet&Type=instant&TargetCapacitySpecification.TotalTargetCapacity=3&LaunchTemplateConfigs.1.Overrides.1.WeightedCapacity=NaN"))
	f.Add("ec2", "", []byte("Action=DescribeInstances&Filter.1.Name=tag%3Aa&Filter.1.Value.2=*&Filter.1.Value.1=%5B"))
	f.Add("sts", "", []byte("Action=AssumeRole&RoleArn=arn:aws:iam::123456789012:role/x"))
	f.Add("sqs", "AmazonSQS.SendMessage", []byte(`{"QueueUrl":"http://x/123456789012/events","MessageBody":"x"}`))
	f.Add("ssm", "AmazonSSM.GetParameters", []byte(`{"Names":["a"]}`))
	f.Add("ec2", "", []byte("Action=DescribeInstances&NextToken=LTE&Filter.-1.Name=&.=&Filter..1=2"))
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	c := New(Config{Now: func() time.Time { return now }, Events: Events{Queue: "events"}, Quotas: Quotas{OnDemand: 64, Spot: 64}})
	handler := c.Handler()
	id, _ := Key("123456789012")
	f.Fuzz(func(t *testing.T, service, target string, body []byte) {
		if bytes.Contains(body, []byte("WaitTimeSeconds")) {
			return // would wait
		}
		r := httptest.NewRequestWithContext(context.Background(), "POST", "/", bytes.NewReader(body))
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+id+"/20260301/us-east-1/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
		r.Header.Set("X-Amz-Target", target)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code < 200 || w.Code > 599 || w.Body.Len() == 0 {
			t.Errorf("status %d, %d bytes", w.Code, w.Body.Len())
		}
	})
}
