package awsfake

import (
	"errors"
	"fmt"

	"github.com/aws/smithy-go"
)

// Error is an error of a service, as the SDK shows one: it implements
// smithy.APIError. A hook set by [Cloud.Fail] may return one too.
type Error struct {
	Code    string
	Message string
	Status  int // of HTTP; 0 is the usual one of the code
}

// Error says the code and the message.
func (e *Error) Error() string { return fmt.Sprintf("api error %s: %s", e.Code, e.Message) }

// ErrorCode is the service's code.
func (e *Error) ErrorCode() string { return e.Code }

// ErrorMessage is the service's message.
func (e *Error) ErrorMessage() string { return e.Message }

// ErrorFault says whose fault it is, from the status.
func (e *Error) ErrorFault() smithy.ErrorFault {
	if e.status() >= 500 {
		return smithy.FaultServer
	}
	return smithy.FaultClient
}

func (e *Error) status() int {
	if e.Status != 0 {
		return e.Status
	}
	switch e.Code {
	case "RequestLimitExceeded", "Unavailable", "ServiceUnavailable":
		return 503
	case "InternalError", "InternalFailure", "InternalServerError", "InsufficientInstanceCapacity":
		return 500
	case "UnauthorizedOperation", "AccessDenied":
		return 403
	case "AuthFailure", "InvalidClientTokenId":
		return 401
	case "DryRunOperation":
		return 412
	case "NoSuchEntity":
		return 404
	}
	return 400
}

// failure makes an error of the EC2 kind.
func failure(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// ErrAnswerLost is what the Go face returns when a call did its work and its
// answer was lost on the way. It reports Timeout() true, as a net.Error does.
var ErrAnswerLost error = answerLost{}

type answerLost struct{}

func (answerLost) Error() string   { return "no answer before the connection timed out" }
func (answerLost) Timeout() bool   { return true }
func (answerLost) Temporary() bool { return true }

// errorCode is the service's code of an error, or a word for what else it is.
func errorCode(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	if errors.Is(err, ErrAnswerLost) {
		return "answer lost"
	}
	return "other"
}
