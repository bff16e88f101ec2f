package monitoring

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/signalfx/signalfx-go"

	"github.com/taskfleet/taskfleet/credentials/pace"
	"github.com/taskfleet/taskfleet/plain"
)

// A site is SignalFx, for an environment.
type site struct {
	api         string
	tokenFrom   Source
	environment string
	http        *http.Client
}

const (
	every        = 100 * time.Millisecond // is a request sent, at most
	requestLimit = 2 * time.Minute        // of one request, with what it has to wait
	pageSize     = 100
	mostFound    = 20_000 // things that have something in their name
	mostToken    = 4 << 10
	mostDetail   = 300
)

var realmPattern = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

func newSite(c SignalFx, environment string, base http.RoundTripper) *site {
	if base == nil {
		base = http.DefaultTransport
	}
	return &site{
		api: strings.TrimSuffix(cmp.Or(c.API, "https://api."+c.Realm+".signalfx.com"), "/"), tokenFrom: c.TokenFrom, environment: environment,
		http: &http.Client{
			Transport: &pace.Transport{Base: base, Every: every, Faults: true}, Timeout: requestLimit,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for nobody else
		},
	}
}

// checkURL tells what is wrong with the address of a server.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("must be a URL such as https://api.eu0.signalfx.com, without a user and a query")
	}
	return nil
}

// read reads the token.
func (s Source) read() (string, error) {
	token, place := os.Getenv(s.Env), "the variable "+s.Env
	if s.File != "" {
		place = "the file " + s.File
		f, err := os.Open(s.File)
		if err != nil {
			return "", fmt.Errorf("tokenFrom.file: %w", err)
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, mostToken+1))
		if err != nil {
			return "", fmt.Errorf("tokenFrom.file: %w", err)
		}
		if len(text) > mostToken {
			return "", fmt.Errorf("tokenFrom.file: %s is too long for a token", s.File)
		}
		token = strings.TrimSpace(string(text))
	}
	switch {
	case token == "":
		return "", fmt.Errorf("tokenFrom: %s is empty: put the token there", place)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("tokenFrom: %s has characters in it that no token has", place)
	}
	return token, nil
}

// errNotThere is that there is no such thing.
var errNotThere = errors.New("there is no such thing")

// do asks SignalFx for something. What is an error says what was tried.
func (s *site) do(doing string, f func(*signalfx.Client) error) error {
	token, err := s.tokenFrom.read()
	if err != nil {
		return fmt.Errorf("signalfx: %s: monitoring.signalfx.%w", doing, err)
	}
	c, err := signalfx.NewClient(token, signalfx.APIUrl(s.api), signalfx.HTTPClient(s.http), signalfx.UserAgent("taskfleet"))
	if err == nil {
		err = f(c)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("signalfx: %s: %w", doing, judge(err, token))
}

// judge says what an error of the client means. What SignalFx says of a mistake, in a program for
// instance, is repeated, in a line and without the token.
func judge(err error, token string) error {
	answer, answered := signalfx.AsResponseError(err)
	if !answered {
		if broken, ok := errors.AsType[*url.Error](err); ok {
			err = broken.Err
		}
		if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return fmt.Errorf("the answer has more than %d bytes", large.Limit)
		}
		if errors.Is(err, io.EOF) || isSyntax(err) { // which may show what it could not read
			return errors.New("the answer is not the JSON that was expected")
		}
		return err
	}
	code := answer.Code()
	text := fmt.Sprintf("the answer is %d %s", code, http.StatusText(code))
	switch code {
	case http.StatusNotFound:
		return errNotThere
	case http.StatusUnauthorized:
		text += ": the token of tokenFrom is not valid any more"
	case http.StatusForbidden:
		text += ": the token of tokenFrom must have the scope API, and be that of a session of an administrator for tokens"
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity:
		if said := detail(answer.Details(), token); said != "" {
			text += ": " + said
		}
	}
	return errors.New(text)
}

func isSyntax(err error) bool {
	_, syntax := errors.AsType[*json.SyntaxError](err)
	_, kind := errors.AsType[*json.UnmarshalTypeError](err)
	return syntax || kind
}

// detail is what an answer says of what is wrong, in a line.
func detail(body, token string) string {
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal([]byte(body), &said) != nil {
		return ""
	}
	text := strings.ReplaceAll(said.Message, token, "(hidden)")
	return plain.Words(text, mostDetail)
}

// uncertain tells that something may have been done although there is an error.
func uncertain(err error) bool {
	answer, answered := signalfx.AsResponseError(err)
	return !answered || answer.Code() >= 500
}

// marker is at the end of the description of what is made for an environment.
func (s *site) marker() string {
	return "(managed by taskfleet stacks, environment " + s.environment + ")"
}

// mark adds the marker.
func (s *site) mark(description string) string {
	return strings.TrimSpace(description + " " + s.marker())
}

// unmark removes it.
func (s *site) unmark(description string) (text string, marked bool) {
	text, marked = strings.CutSuffix(strings.TrimSpace(description), s.marker())
	return strings.TrimSpace(text), marked
}

// named finds what has exactly a name, among what has it in its name.
func named[T any](ctx context.Context, name string, page func(ctx context.Context, offset int) (all int, list []*T, err error), is func(*T) string) (found []*T, err error) {
	for offset := 0; ; {
		all, list, err := page(ctx, offset)
		if err != nil {
			return nil, err
		}
		for _, x := range list {
			if is(x) == name {
				found = append(found, x)
			}
		}
		offset += len(list)
		switch {
		case len(list) == 0 || offset >= all:
			return found, nil
		case offset >= mostFound:
			return nil, fmt.Errorf("more than %d things have %q in their name", mostFound, name)
		}
	}
}
