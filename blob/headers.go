package blob

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
)

// Headers are what a reader of the object is told about it. Those that are
// empty are not sent.
type Headers struct {
	ContentType        string
	ContentEncoding    string
	ContentDisposition string
	// Metadata is whatever the writer wants to say, by keys in lower case. It is
	// printable ASCII, and all of it no more than MaxMetadata bytes.
	Metadata map[string]string
}

// MaxMetadata is how many bytes the keys and values of metadata can have.
const MaxMetadata = 2 << 10

// metadata is that of h, as it is sent.
func (h Headers) metadata() (map[string]string, error) {
	size := 0
	sent := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(h.Metadata)) {
		value := h.Metadata[key]
		if key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
			return nil, fmt.Errorf("metadata cannot have the key %q: use lower-case letters, digits, '-', '.' and '_'", key)
		}
		if value != strings.TrimSpace(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, fmt.Errorf("metadata %s cannot have the value %.100q: it is not printable ASCII, or starts or ends with a space; encode it", key, value)
		}
		if size += len(key) + len(value); value != "" {
			sent[key] = value
		}
	}
	if size > MaxMetadata {
		return nil, fmt.Errorf("the metadata has %d bytes in all, and S3 allows %d: keep what is longer in an object of its own", size, MaxMetadata)
	}
	return sent, nil
}

// headers are what the store tells of them.
func headers(contentType, encoding, disposition *string, metadata map[string]string) Headers {
	h := Headers{ContentType: aws.ToString(contentType), ContentEncoding: aws.ToString(encoding), ContentDisposition: aws.ToString(disposition)}
	if len(metadata) > 0 {
		h.Metadata = metadata
	}
	return h
}

// wholeSHA256 is what the store says of the SHA-256 of an object. That of an
// object made of parts is one of the sums of the parts.
func wholeSHA256(sum *string, of types.ChecksumType) string {
	b, err := base64.StdEncoding.DecodeString(aws.ToString(sum))
	if err != nil || of == types.ChecksumTypeComposite {
		return ""
	}
	return hex.EncodeToString(b)
}

// signBody has a request signed for a body of which the SHA-256 is known.
func signBody(sum [32]byte) func(*s3.Options) {
	return func(o *s3.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("BodyIsKnown",
				func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
					return next.HandleInitialize(v4.SetPayloadHash(ctx, hex.EncodeToString(sum[:])), in)
				}), middleware.Before)
		})
	}
}

func quote(etag string) *string {
	if etag == "" {
		return nil
	}
	return aws.String(`"` + etag + `"`)
}
