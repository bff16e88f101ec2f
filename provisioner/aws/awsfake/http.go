package awsfake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"
)

// Handler is the HTTP face: all services of all regions and accounts under one
// address, for SDK clients with BaseEndpoint set to it. The Authorization
// header says region and service, and its access key says who calls: a key of
// [Key], or one that AssumeRole gave. Signatures are not checked.
func (c *Cloud) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serve(w, r) })
}

// maxBody bounds a request; the largest real one has user data of 16 KiB.
const maxBody = 1 << 20

// wire is how a service talks: "ec2", "query" or "json".
var wires = map[string]string{"ec2": "ec2", "sts": "query", "iam": "query", "ssm": "json", "sqs": "json", "servicequotas": "json"}

func (c *Cloud) serve(w http.ResponseWriter, r *http.Request) {
	key, region, service := credentialScope(r.Header.Get("Authorization"))
	wire := wires[service]
	if wire == "" {
		http.Error(w, fmt.Sprintf("The service %q is not imitated here: is the request signed for ec2, sqs, ssm, sts, iam or servicequotas?", service), http.StatusNotFound)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		respondError(w, wire, failure("RequestEntityTooLarge", "Request body is larger than %d bytes, or was cut: %v", maxBody, err))
		return
	}
	s, err := c.identify(key, region, service)
	if err != nil {
		respondError(w, wire, err)
		return
	}
	action, in, err := decode(wire, faceOf(service, s), r.Header, body)
	if err != nil {
		respondError(w, wire, err)
		return
	}
	if ask, ok := in.Interface().(*sqs.ReceiveMessageInput); ok {
		s.longPoll(r.Context(), ask)
	}
	out := action.Call([]reflect.Value{reflect.ValueOf(r.Context()), in})
	if err, _ := out[1].Interface().(error); err != nil {
		respondError(w, wire, err)
		return
	}
	respond(w, wire, strings.TrimSuffix(in.Type().Elem().Name(), "Input"), out[0].Elem())
}

// credentialScope reads "AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …".
func credentialScope(authorization string) (key, region, service string) {
	_, rest, _ := strings.Cut(authorization, "Credential=")
	scope, _, _ := strings.Cut(rest, ",")
	parts := strings.Split(scope, "/")
	if len(parts) != 5 {
		return "", "", ""
	}
	return parts[0], parts[2], parts[3]
}

// identify finds the principal behind an access key.
func (c *Cloud) identify(key, region, service string) (scope, error) {
	invalid := &Error{Code: "InvalidClientTokenId", Status: 403, Message: "The security token included in the request is invalid."}
	if service == "ec2" {
		invalid = failure("AuthFailure", "AWS was not able to validate the provided access credentials")
	}
	if len(key) != 20 {
		return scope{}, invalid
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.accounts[key[8:]]
	if a == nil {
		return scope{}, invalid
	}
	role := ""
	if strings.HasPrefix(key, "ASIA") {
		session, ok := a.sessions[key]
		if !ok {
			return scope{}, invalid
		}
		if !c.config.Now().Before(session.expires) {
			return scope{}, &Error{Code: "ExpiredToken", Status: 403, Message: "The security token included in the request is expired"}
		}
		role = session.role
	}
	r := a.regions[region]
	if r == nil {
		return scope{}, failure("AuthFailure", "The region %q is not one of this cloud's: name it in Config", region)
	}
	return scope{cloud: c, region: r, role: role}, nil
}

// faceOf is the Go face of a service.
func faceOf(service string, s scope) reflect.Value {
	switch service {
	case "ec2":
		return reflect.ValueOf(&EC2{s})
	case "ssm":
		return reflect.ValueOf(&SSM{s})
	case "sqs":
		return reflect.ValueOf(&SQS{s})
	case "sts":
		return reflect.ValueOf(&STS{s})
	case "iam":
		return reflect.ValueOf(&IAM{s})
	}
	return reflect.ValueOf(&ServiceQuotas{s})
}

// decode finds the called method of a face and reads its input.
func decode(wire string, face reflect.Value, header http.Header, body []byte) (action, in reflect.Value, err error) {
	var form *node
	name := ""
	if wire == "json" {
		_, name, _ = strings.Cut(header.Get("X-Amz-Target"), ".")
	} else {
		if form, err = parseForm(string(body)); err != nil {
			return action, in, err
		}
		name = form.text("Action")
	}
	action = face.MethodByName(name)
	if !action.IsValid() || action.Type().NumIn() != 3 {
		return action, in, &Error{Code: "InvalidAction", Message: fmt.Sprintf("The action %q is not imitated here", name)}
	}
	in = reflect.New(action.Type().In(1).Elem())
	if wire == "json" {
		return action, in, decodeJSON(body, in.Interface())
	}
	return action, in, decodeForm(form, in.Elem(), wire == "ec2")
}

// respond writes an answer. Who hung up meanwhile does not get it.
func respond(w http.ResponseWriter, wire, action string, out reflect.Value) {
	if wire == "json" {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.Write(encodeJSON(out))
		return
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Write(encodeXML(wire, action, out))
}

func respondError(w http.ResponseWriter, wire string, err error) {
	if errors.Is(err, ErrAnswerLost) || errors.Is(err, context.Canceled) {
		panic(http.ErrAbortHandler) // cuts the connection
	}
	code, message, status := "InternalError", err.Error(), http.StatusInternalServerError
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		code, message, status = e.ErrorCode(), e.ErrorMessage(), http.StatusBadRequest
		if e.ErrorFault() == smithy.FaultServer {
			status = http.StatusInternalServerError
		}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		status = e.status()
	}
	if wire == "json" {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.Header().Set("X-Amzn-Errortype", code)
		w.WriteHeader(status)
		w.Write(jsonError(code, message))
		return
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(status)
	w.Write(xmlError(wire, code, message))
}

// longPoll waits until the queue has a message, for as long as asked.
func (s scope) longPoll(ctx context.Context, ask *sqs.ReceiveMessageInput) {
	deadline := time.After(time.Duration(min(max(ask.WaitTimeSeconds, 0), 20)) * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !s.waiting(ask.QueueUrl) {
		select {
		case <-ctx.Done():
			return
		case <-deadline:
			return
		case <-tick.C:
		}
	}
}

// waiting tells whether receiving would give something: a message or an error.
func (s scope) waiting(url *string) bool {
	s.cloud.enter()
	defer s.cloud.leave()
	q, err := s.queue(url)
	if err != nil {
		return true
	}
	for _, m := range q.messages {
		if !m.visible.After(s.cloud.now) {
			return true
		}
	}
	return false
}
