package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// service answers without a network.
type service func(*http.Request) (*http.Response, error)

func (s service) RoundTrip(r *http.Request) (*http.Response, error) { return s(r) }

func reply(status int, body string, headers ...string) *http.Response {
	r := &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func served(t *testing.T, s service) *Client {
	t.Helper()
	c, err := New(Config{Allow: []string{"http://h.example/", "https://h.example/"}, Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Answers that no honest server gives.
func TestAnswersThatDoNotFit(t *testing.T) {
	want := Info{Size: 10, ETag: "e", Ranges: true}
	unknown := Info{Size: -1, ETag: "e"}
	part := func(body, contentRange, etag string) *http.Response {
		return reply(206, body, "Content-Range", contentRange, "ETag", etag)
	}
	length := func(n int64, r *http.Response) *http.Response { r.ContentLength = n; return r }
	for name, c := range map[string]struct {
		offset, length int64
		want           Info
		answer         *http.Response
		err            error
	}{
		"right":                     {2, 3, want, part("cde", "bytes 2-4/10", `"e"`), nil},
		"right, of any size":        {2, 3, unknown, part("cde", "bytes 2-4/*", `"e"`), nil},
		"right, up to the end":      {7, -1, want, part("hij", "bytes 7-9/10", `"e"`), nil},
		"right, in chunks":          {2, 3, want, length(-1, part("cde", "bytes 2-4/10", `"e"`)), nil},
		"chunks too short":          {2, 3, want, length(-1, part("cd", "bytes 2-4/10", `"e"`)), io.ErrUnexpectedEOF},
		"chunks too long":           {2, 3, want, length(-1, part("cdef", "bytes 2-4/10", `"e"`)), errGarbled},
		"another place":             {2, 3, want, part("bcd", "bytes 1-3/10", `"e"`), errGarbled},
		"less":                      {2, 3, want, part("cd", "bytes 2-3/10", `"e"`), errGarbled},
		"more":                      {2, 3, want, part("cdef", "bytes 2-5/10", `"e"`), errGarbled},
		"less, as there is no more": {2, 3, unknown, part("cd", "bytes 2-3/4", `"e"`), ErrChanged},
		"not up to the end":         {7, -1, want, part("hi", "bytes 7-8/10", `"e"`), errGarbled},
		"not up to any end":         {7, -1, unknown, part("hi", "bytes 7-8/*", `"e"`), errGarbled},
		"another size":              {2, 3, want, part("cde", "bytes 2-4/11", `"e"`), ErrChanged},
		"another length":            {2, 3, want, length(5, part("cdefg", "bytes 2-4/10", `"e"`)), errGarbled},
		"another ETag":              {2, 3, want, part("cde", "bytes 2-4/10", `"f"`), ErrChanged},
		"a weak ETag":               {2, 3, want, part("cde", "bytes 2-4/10", `W/"e"`), ErrChanged},
		"no ETag":                   {2, 3, want, part("cde", "bytes 2-4/10", ""), ErrChanged},
		"the whole":                 {2, 3, want, reply(200, "abcdefghij", "ETag", `"e"`), ErrNoRanges},
		"several parts":             {2, 3, want, part("cde", "", `"e"`), errGarbled},
		"nonsense":                  {2, 3, want, part("cde", "bytes 4-2/10", `"e"`), errGarbled},
		"nonsense of bytes":         {2, 3, want, part("cde", "bytes +2-4/10", `"e"`), errGarbled},
		"nonsense of a size":        {2, 3, want, part("cde", "bytes 2-4/3", `"e"`), errGarbled},
		"beyond":                    {2, 3, want, reply(416, "", "Content-Range", "bytes */1"), ErrChanged},
		"changed":                   {2, 3, want, reply(412, ""), ErrChanged},
		"whole: right":              {0, -1, want, reply(200, "abcdefghij", "ETag", `"e"`), nil},
		"whole: a part":             {0, -1, want, part("abcdefghij", "bytes 0-9/10", `"e"`), errGarbled},
		"whole: another size":       {0, -1, want, reply(200, "abc", "ETag", `"e"`), ErrChanged},
		"whole: another ETag":       {0, -1, want, reply(200, "abcdefghij", "ETag", `"f"`), ErrChanged},
		"whole: too short":          {0, -1, want, length(-1, reply(200, "abc", "ETag", `"e"`)), io.ErrUnexpectedEOF},
		"whole: too long":           {0, -1, want, length(-1, reply(200, "abcdefghijk", "ETag", `"e"`)), errGarbled},
		"whole: no end":             {0, -1, Unknown, length(-1, reply(200, "abc")), errUnusable},
		"whole: no encoding":        {0, -1, Unknown, reply(200, "abc", "Content-Encoding", "\xff"), errUnusable},
		"whole: another status":     {0, -1, Unknown, reply(203, "abc"), new(BadStatus)},
	} {
		t.Run(name, func(t *testing.T) {
			client := served(t, func(*http.Request) (*http.Response, error) { return c.answer, nil })
			b, i, err := client.Get(t.Context(), parse(t, "http://h.example/a"), c.offset, c.length, c.want)
			var data []byte
			if err == nil {
				if i.Size >= 0 && c.want.Size >= 0 && i.Size != c.want.Size {
					t.Errorf("%+v", i)
				}
				data, err = io.ReadAll(b)
				b.Close()
			}
			whole := "abcdefghij"
			if c.offset+int64(len(data)) > 10 || whole[c.offset:c.offset+int64(len(data))] != string(data) {
				t.Errorf("the bytes are %q", data)
			}
			var bad *BadStatus
			if _, status := c.err.(*BadStatus); status && !errors.As(err, &bad) || !status && !errors.Is(err, c.err) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestRedirectsThatDoNotFit(t *testing.T) {
	for location, want := range map[string]error{
		"":                    errUnusable,
		"http://h.example/b":  ErrNotAllowed, // from https
		"https://h.example/b": nil,
	} {
		c := served(t, func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/b" {
				return reply(200, ""), nil
			}
			return reply(302, "", "Location", location), nil
		})
		if _, err := c.Stat(t.Context(), parse(t, "https://h.example/a")); !errors.Is(err, want) {
			t.Errorf("%q: %v", location, err)
		}
	}
	c := served(t, func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme == "https" {
			return reply(200, ""), nil
		}
		return reply(301, "", "Location", "https://h.example/a"), nil
	})
	if i, err := c.Stat(t.Context(), parse(t, "http://h.example/a")); err != nil || i.URL.String() != "https://h.example/a" {
		t.Errorf("%+v, %v", i, err)
	}
}

func TestWhatMayWorkLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			status int
			after  string
			want   time.Duration
			passes bool
		}{
			{400, "", 0, false}, {401, "", 0, false}, {404, "7", 7 * time.Second, false}, {410, "", 0, false}, {501, "", 0, false},
			{408, "", 0, true}, {429, "", 0, true}, {429, "90", 90 * time.Second, true}, {429, "-90", 0, true}, {500, "", 0, true},
			{503, "999999999", 10 * time.Minute, true}, {503, time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), time.Minute, true},
			{503, "Mon, 04 Apr 2050 12:00:00 GMT", 10 * time.Minute, true}, {503, "Mon, 04 Apr 1996 12:00:00 GMT", 0, true}, {503, "soon", 0, true}, {599, "", 0, true},
		} {
			client := served(t, func(*http.Request) (*http.Response, error) { return reply(c.status, "", "Retry-After", c.after), nil })
			_, err := client.Stat(t.Context(), parse(t, "http://h.example/a"))
			var temporary interface{ Temporary() bool }
			if !errors.As(err, &temporary) || temporary.Temporary() != c.passes || errors.Is(err, ErrTemporary) != c.passes || RetryAfter(err) != c.want {
				t.Errorf("%d, after %q: %v, after %v", c.status, c.after, err, RetryAfter(err))
			}
		}
		for _, c := range []struct {
			err    error
			passes bool
		}{
			{&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, true}, // as the dialer's own limit has it
			{io.EOF, true},
			{&net.DNSError{Err: "server misbehaving", IsTemporary: true}, true},
			{&net.DNSError{Err: "no such host", IsNotFound: true}, false},
		} {
			client := served(t, func(*http.Request) (*http.Response, error) { return nil, c.err })
			if _, err := client.Stat(t.Context(), parse(t, "http://h.example/a")); !errors.Is(err, c.err) || errors.Is(err, ErrTemporary) != c.passes {
				t.Errorf("%v", err)
			}
		}
	})
}

func TestRefusalsOfHEAD(t *testing.T) {
	for _, status := range []int{403, 405, 501, 404} {
		var methods string
		c := served(t, func(r *http.Request) (*http.Response, error) {
			methods += fmt.Sprintf("%s %s,", r.Method, r.Header.Get("Range"))
			if r.Method == http.MethodHead {
				return reply(status, ""), nil
			}
			return reply(206, "a", "Content-Range", "bytes 0-0/10"), nil
		})
		i, err := c.Stat(t.Context(), parse(t, "http://h.example/a"))
		if status == 404 {
			if err == nil || methods != "HEAD ," {
				t.Errorf("%d: %s: %v", status, methods, err)
			}
		} else if err != nil || i.Size != 10 || !i.Ranges || methods != "HEAD ,GET bytes=0-0," {
			t.Errorf("%d: %s: %+v, %v", status, methods, i, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{MaxSize: -1}, {Stall: -1}, {MinRate: -1}, {RateWindow: -1}, {Allow: []string{"x"}}, {Addresses: []string{"x"}}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	c, err := New(Config{MaxRedirects: -1, Allow: []string{"http://h.example/"}, Transport: service(func(*http.Request) (*http.Response, error) {
		return reply(302, "", "Location", "/b"), nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stat(t.Context(), parse(t, "http://h.example/a")); !errors.Is(err, ErrTooManyRedirects) {
		t.Error(err)
	}
}
