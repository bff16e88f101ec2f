package mirror

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/taskfleet/taskfleet/mirror/source"
)

// The words of 2016 for what is wrong with a URL, rather than with the mirror.
// The error of a copy that is to be blamed on its origin begins with one.
const (
	errInvalidURL = "InvalidUrl"
	errBadStatus  = "BadHTTPStatus"

	// Of one whose host is at an address that is not public. Callers are told
	// InvalidUrl, and not the address: that is nobody's business who may not explain.
	errAddress = "ForbiddenAddress"

	// What is not to be blamed on the URL. The error of a copy begins with the first
	// of them where the region's bucket has failed; all others are told as the second.
	errBucket = "Bucket"
	errOrigin = "Origin"
)

// blame is what the text of an attempt's error begins with if it is the URL's
// fault: "InvalidUrl: " or "ForbiddenAddress: ", if it is or leads to one that may not be fetched, or
// "BadHTTPStatus 404: ", if its server has refused it. It is "Bucket: " where the
// region's bucket has failed.
func blame(err error) string {
	var status *source.BadStatus
	var bucket *bucketError
	switch {
	case errors.As(err, &status):
		return fmt.Sprintf("%s %d: ", errBadStatus, status.Code)
	case errors.Is(err, source.ErrForbiddenAddress):
		return errAddress + ": "
	case errors.Is(err, source.ErrNotAllowed), errors.Is(err, source.ErrInvalidURL), errors.Is(err, source.ErrTooManyRedirects):
		return errInvalidURL + ": "
	case errors.As(err, &bucket):
		return errBucket + ": "
	}
	return ""
}

// An unfetchable is the reply for a URL that is not, or cannot be, copied: in
// the form of 2016, and in that of all other errors.
type unfetchable struct {
	status  int
	Msg     string `json:"msg"`
	Err     string `json:"err"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func newUnfetchable(status int, err, message string) unfetchable {
	return unfetchable{status, message, err, err, message}
}

// Status is 403, or what the origin's server has answered.
func (u unfetchable) Status() int { return u.status }

// Header has nothing to add.
func (unfetchable) Header() map[string]string { return nil }

// unfetchable is the reply for who asks for a copy that failed, if its origin is
// to be blamed for that.
func (c *Copy) unfetchable() (u unfetchable, ok bool) {
	word, text, _ := strings.Cut(c.Error, ": ")
	word, code, _ := strings.Cut(word, " ")
	switch word {
	case errAddress:
		return newUnfetchable(http.StatusForbidden, errInvalidURL, "The URL, or one that it redirects to, is at an address from which nothing is copied, as it is not public. To whoever has the scope mirror:explain, taskfleet mirror explain says which, and what to do."), true
	case errInvalidURL:
		return newUnfetchable(http.StatusForbidden, word, sentence(text)), true
	case errBadStatus:
		status, err := strconv.Atoi(code)
		if err != nil || status < 400 { // an answer without an object that is no error
			status = http.StatusBadGateway
		}
		return newUnfetchable(status, word, sentence(text)), true
	}
	return u, false
}
