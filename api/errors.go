package api

import (
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Code names a kind of failure; each has one HTTP status.
type Code string

// The codes that callers know.
const (
	MalformedPayload        Code = "MalformedPayload"
	InvalidRequestArguments Code = "InvalidRequestArguments"
	InputValidationError    Code = "InputValidationError"
	InputError              Code = "InputError"
	AuthenticationFailed    Code = "AuthenticationFailed"
	InsufficientScopes      Code = "InsufficientScopes"
	ResourceNotFound        Code = "ResourceNotFound"
	RequestConflict         Code = "RequestConflict"
	ResourceExpired         Code = "ResourceExpired"
	InputTooLarge           Code = "InputTooLarge"
	TooManyRequests         Code = "TooManyRequests"
	InternalServerError     Code = "InternalServerError"
	ServiceUnavailable      Code = "ServiceUnavailable"
)

var statuses = map[Code]int{
	MalformedPayload:        http.StatusBadRequest,
	InvalidRequestArguments: http.StatusBadRequest,
	InputValidationError:    http.StatusBadRequest,
	InputError:              http.StatusBadRequest,
	AuthenticationFailed:    http.StatusUnauthorized,
	InsufficientScopes:      http.StatusForbidden,
	ResourceNotFound:        http.StatusNotFound,
	RequestConflict:         http.StatusConflict,
	ResourceExpired:         http.StatusGone,
	InputTooLarge:           http.StatusRequestEntityTooLarge,
	TooManyRequests:         http.StatusTooManyRequests,
	InternalServerError:     http.StatusInternalServerError,
	ServiceUnavailable:      http.StatusServiceUnavailable,
}

// An Error is a failure that the caller may see. Its message says what is
// wrong and, where that is known, how to put it right; it never holds a secret.
type Error struct {
	Code    Code
	Message string
}

// Errorf returns an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Status is the HTTP status of the error's code.
func (e *Error) Status() int { return statuses[e.Code] }

func insufficient(clientID string, need scope.Need, have scope.Set, advice string) *Error {
	who := clientID
	if who == "" {
		who = "an anonymous caller"
	}
	if advice != "" {
		advice = "\n\n" + advice
	}
	return Errorf(InsufficientScopes, "%s lacks scopes for this call. Missing:\n\n```\n%s\n```\n\nThe call needs:\n\n```\n%s\n```%s",
		who, need.Missing(have), need, advice)
}

type errorBody struct {
	Code        Code        `json:"code"`
	Message     string      `json:"message"`
	RequestInfo requestInfo `json:"requestInfo"`
}

type requestInfo struct {
	Method  string            `json:"method"`
	Params  map[string]string `json:"params"`
	Payload any               `json:"payload"`
	Time    timestamp.Time    `json:"time"`
}

func newErrorBody(e *Error, method string, params map[string]string, payload any) errorBody {
	now := timestamp.Now()
	if params == nil {
		params = map[string]string{}
	}
	if payload == nil {
		payload = struct{}{}
	}
	return errorBody{
		Code: e.Code,
		Message: fmt.Sprintf("%s\n\n---\n\n* method:     %s\n* errorCode:  %s\n* statusCode: %d\n* time:       %s",
			e.Message, method, e.Code, e.Status(), now),
		RequestInfo: requestInfo{method, params, payload, now},
	}
}

// plainText reports whether s can be stored by every database and shown in
// every log: valid UTF-8 without NUL.
func plainText(s string) bool {
	return utf8.ValidString(s) && !strings.Contains(s, "\x00")
}
