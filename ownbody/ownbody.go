// Package ownbody keeps the answers to calls that were done. The AWS SDK closes the body of a request as soon as the first of
// the answer is there, when the transport may not have looked yet whether the body is at its end. Then the transport takes the
// request for failed, ends the connection and drops the answer: a call that was done is told as a connection that broke, and is
// made again, twice if it is one that creates. With a body that nobody else closes this does not happen.
package ownbody

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// A Doer is an HTTP client as the AWS SDK takes one.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Client makes the requests of c with bodies of their own, which it holds in memory: it is not for files. nil, as it is in a
// configuration that names no client, is the SDK's own.
func Client(c Doer) Doer {
	if c == nil {
		c = awshttp.NewBuildableClient()
	}
	return client{c}
}

type client struct{ Doer }

func (c client) Do(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return c.Doer.Do(r)
	}
	body, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		return nil, err
	}
	own := r.Clone(r.Context())
	own.Body = io.NopCloser(bytes.NewReader(body))
	return c.Doer.Do(own)
}
