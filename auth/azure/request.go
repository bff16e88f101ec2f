package azure

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A request is one to a storage account.
type request struct {
	table  bool // of the table service; else of the blob service
	method string
	path   string
	query  url.Values
	body   []byte // JSON
}

// A refusal is an answer that is none of success.
type refusal struct {
	status        int
	code, message string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("status %d %s: %.500s", r.status, r.code, r.message)
}

func codeOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code
	}
	return ""
}

const (
	maxAnswer = 16 << 20
	attempts  = 3
	pause     = 500 * time.Millisecond // before the second attempt, and twice that before the third
)

// do makes a request, again where Azure was busy. All requests here can be
// repeated.
func (s *Storage) do(ctx context.Context, a *account, r request) (text []byte, header http.Header, err error) {
	for n := range attempts {
		if n > 0 {
			select {
			case <-time.After(pause << (n - 1)):
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		var again bool
		if text, header, again, err = s.once(ctx, a, r); err == nil || !again || ctx.Err() != nil {
			break
		}
	}
	return text, header, err
}

func (s *Storage) once(ctx context.Context, a *account, r request) (text []byte, header http.Header, again bool, err error) {
	endpoint := a.blob
	if r.table {
		endpoint = a.table
	}
	u := *endpoint
	u.Path += r.path
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, nil, false, err
	}
	req.Header.Set("x-ms-version", version)
	req.Header.Set("x-ms-date", time.Now().UTC().Format(http.TimeFormat))
	if r.table {
		req.Header.Set("Accept", "application/json;odata=nometadata")
		req.Header.Set("Prefer", "return-no-content")
	}
	if len(r.body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "SharedKey "+a.name+":"+a.sign(req, r))
	res, err := s.client.Do(req)
	if err != nil {
		return nil, nil, true, err
	}
	defer res.Body.Close()
	if text, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer)); err != nil {
		return nil, nil, true, err
	}
	if res.StatusCode/100 == 2 {
		return text, res.Header, false, nil
	}
	return nil, nil, res.StatusCode >= 500, newRefusal(res, text)
}

// sign is the signature of a request under the account's key.
func (a *account) sign(req *http.Request, r request) string {
	resource := "/" + a.name + req.URL.EscapedPath()
	if r.table {
		if comp := r.query.Get("comp"); comp != "" {
			resource += "?comp=" + comp
		}
		return a.mac(r.method, "", req.Header.Get("Content-Type"), req.Header.Get("x-ms-date"), resource)
	}
	length := ""
	if len(r.body) > 0 {
		length = strconv.Itoa(len(r.body))
	}
	lines := []string{r.method, "", "", length, "", req.Header.Get("Content-Type"), "", "", "", "", "", ""}
	for _, name := range []string{"x-ms-date", "x-ms-version"} { // all that there are, sorted
		lines = append(lines, name+":"+req.Header.Get(name))
	}
	lines = append(lines, resource)
	for _, name := range slices.Sorted(maps.Keys(r.query)) {
		lines = append(lines, strings.ToLower(name)+":"+strings.Join(r.query[name], ","))
	}
	return a.mac(lines...)
}

// newRefusal reads what Azure says of an error: in XML, or in JSON where it is
// the table service's.
func newRefusal(res *http.Response, text []byte) *refusal {
	r := &refusal{status: res.StatusCode, code: res.Header.Get("x-ms-error-code")}
	var said struct {
		XMLName xml.Name
		Code    string
		Message string
	}
	var table struct {
		Error struct {
			Code    string
			Message struct{ Value string }
		} `json:"odata.error"`
	}
	switch {
	case xml.Unmarshal(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), &said) == nil && said.Code != "":
		r.code, r.message = said.Code, said.Message
	case json.Unmarshal(text, &table) == nil && table.Error.Code != "":
		r.code, r.message = table.Error.Code, table.Error.Message.Value
	}
	return r
}
