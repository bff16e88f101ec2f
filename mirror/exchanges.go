package mirror

import (
	"net/url"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
)

var (
	copyPresent = copyExchange("copy-present", "copyPresent", "Copy present", "There is a copy in a region, and it was verified.")
	copyFailed  = copyExchange("copy-failed", "copyFailed", "Copy failed", "A copy could not be made, and will not be tried again before somebody asks for it.")
	copyGone    = copyExchange("copy-gone", "copyGone", "Copy gone", "A copy is not served any more: it expired, was not read, was purged or was found to be damaged.")
)

func copyExchange(topic, method, title, doc string) api.Exchange {
	return api.Exchange{
		Exchange: topic, Name: method, Title: title, Doc: doc, Schema: "v1/copy-message.json#",
		RoutingKey: []api.RoutingKey{
			{Name: "routingKeyKind", Summary: "Always primary.", Constant: "primary", Required: true},
			{Name: "region", Summary: "The region of the copy.", Required: true},
			{Name: "kind", Summary: "What the origin is: s3 or http.", Required: true},
			{Name: "reserved", Summary: "Room for later additions; match it with #.", MultipleWords: true},
		},
	}
}

// outcome is the exchange that tells what has become of a copy; nil: nothing
// that is told.
func (r *row) outcome() *api.Exchange {
	is := r.copy.State
	if r.dropped {
		is = ""
	}
	switch was := r.was.State; {
	case was == is:
		return nil
	case is == Present:
		return &copyPresent
	case was == Present:
		return &copyGone
	case is == Failed:
		return &copyFailed
	}
	return nil
}

// message is the payload of the exchanges.
type message struct {
	Version int    `json:"version"`
	Region  string `json:"region"`
	Origin  string `json:"origin"`
	State   State  `json:"state"`
	Size    int64  `json:"size"`
	Error   string `json:"error,omitempty"`
}

func (c *Copy) outgoing(x *api.Exchange) event.Outgoing {
	return event.Outgoing{
		Exchange:   event.Topic("mirror", "v1", *x),
		RoutingKey: "primary." + keyWord(c.Region) + "." + c.Origin.kind() + "._",
		Payload:    message{Version: 1, Region: c.Region, Origin: c.Origin.public(), State: c.State, Size: c.Size, Error: c.publicError()},
	}
}

// publicError is what may be told to everybody of why there is no copy. The text
// of an error has names and addresses in it that are of nobody's business who may
// not explain.
func (c *Copy) publicError() string {
	word, _, _ := strings.Cut(c.Error, ": ")
	name, _, _ := strings.Cut(word, " ")
	switch {
	case c.Error == "", c.State == Leaving: // what was found damaged is told in words of our own
		return c.Error
	case name == errInvalidURL, name == errAddress, name == errBadStatus, name == errBucket:
		return word
	}
	return errOrigin
}

// keyWord is a region's name in a routing key, where a dot would make it two.
func keyWord(region string) string { return strings.ReplaceAll(region, ".", "-") }

// public is the origin without what may be a secret: a query can hold a
// signature.
func (o Origin) public() string {
	if o.URL == "" {
		return o.String()
	}
	u, err := url.Parse(o.URL)
	if err != nil {
		return ""
	}
	u.RawQuery, u.Fragment, u.User = "", "", nil
	u.ForceQuery = false
	return u.String()
}
