package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An Error is a refusal by a server.
type Error struct {
	Code       string // such as ResourceNotFound; "" if the reply was not one of the API's
	Message    string // for humans, possibly of several lines
	StatusCode int
	Method     string // that was called, such as queue.claimWork
	RequestID  string // finds the request in the server's log
	// RequestInfo is what the server says about the request, with secrets
	// blanked; nil if it says nothing.
	RequestInfo *RequestInfo
}

// RequestInfo is a request as the server understood it.
type RequestInfo struct {
	Method  string            `json:"method"`
	Params  map[string]string `json:"params"`
	Payload json.RawMessage   `json:"payload"`
	Time    timestamp.Time    `json:"time"`
}

func (e *Error) Error() string {
	code := e.Code
	if code == "" {
		code = http.StatusText(e.StatusCode)
	}
	s := fmt.Sprintf("%s: %d %s: %s", e.Method, e.StatusCode, code, e.Message)
	if e.RequestID != "" && e.StatusCode >= 500 {
		s += " (request " + e.RequestID + ")"
	}
	return s
}

// IsNotFound reports whether err says that something does not exist.
func IsNotFound(err error) bool { return hasStatus(err, http.StatusNotFound) }

// IsConflict reports whether err says that the request does not fit the state
// that things are in.
func IsConflict(err error) bool { return hasStatus(err, http.StatusConflict) }

func hasStatus(err error, code int) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.StatusCode == code
}

// IsRefusal reports whether err is a definite no: the server looked at the
// request and will not grant it, now or later. Any other failure — no server,
// a broken connection, an overloaded or faulty server — may pass.
func IsRefusal(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.StatusCode < 500 && e.StatusCode != http.StatusTooManyRequests && e.StatusCode != http.StatusRequestTimeout
}

const (
	maxErrorBody = 64 << 10
	maxMessage   = 4 << 10
)

// newError reads the Error out of a reply.
func newError(resp *http.Response, method string, creds cred.Credentials) *Error {
	e := &Error{StatusCode: resp.StatusCode, Method: method, RequestID: shorten(resp.Header.Get("X-For-Request-Id"), 100)}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var reply struct {
		Code        string
		Message     string
		Reason      string // of an artifact that is an error
		RequestInfo *RequestInfo
	}
	if err := json.Unmarshal(body, &reply); err == nil && reply.Message != "" {
		e.Code, e.Message, e.RequestInfo = reply.Code, reply.Message, reply.RequestInfo
		if e.Code == "" {
			e.Code = reply.Reason
		}
		// What follows repeats the fields above.
		e.Message, _, _ = strings.Cut(e.Message, "\n\n---\n\n")
	} else if location := resp.Header.Get("Location"); location != "" {
		e.Message = "redirected to " + redactURL(location) + ", which is not followed; check the root URL"
	} else if e.Message = strings.TrimSpace(string(body)); e.Message == "" {
		e.Message = "the reply has no body"
	}
	e.Message = redact(e.Message, creds)
	e.Message = shorten(e.Message, maxMessage)
	if e.RequestInfo != nil {
		e.RequestInfo.Payload = redactPayload(e.RequestInfo.Payload, creds)
	}
	return e
}

const blank = "[redacted]"

// redact blanks the caller's own secrets in a text that came back.
func redact(s string, creds cred.Credentials) string {
	for _, secret := range []string{creds.AccessToken, creds.Certificate} {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, blank)
		}
	}
	return s
}

// redactPayload blanks the members of an echoed payload that hold secrets.
func redactPayload(raw json.RawMessage, creds cred.Credentials) json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	out, err := json.Marshal(withoutSecrets(v, creds))
	if err != nil {
		return nil
	}
	return out
}

func withoutSecrets(v any, creds cred.Credentials) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if secretName(k) {
				v[k] = blank
			} else {
				v[k] = withoutSecrets(x, creds)
			}
		}
	case []any:
		for i, x := range v {
			v[i] = withoutSecrets(x, creds)
		}
	case string:
		return redact(v, creds)
	}
	return v
}

func secretName(k string) bool {
	k = strings.ToLower(k)
	for _, part := range []string{"secret", "token", "password", "certificate", "proof", "authorization"} {
		if strings.Contains(k, part) && k != "continuationtoken" {
			return true
		}
	}
	return false
}

// redactURL drops what may be secret in a URL that is to be shown.
func redactURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "a malformed URL"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return shorten(u.String(), 500)
}

func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
