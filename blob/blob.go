// Package blob keeps bytes under names on S3.
//
// Everything that Taskfleet stores outside its database (artifacts, logs,
// copies near the workers) is an object in a bucket, and clients read and write
// it themselves over presigned URLs: the services hand out names and
// signatures, not bytes. There is one code path. In production the endpoint is
// S3; by default it is the gateway of package blob/gateway, which speaks the
// same protocol from a directory.
//
// # Keys
//
// A key is any non-empty string, such as an artifact's name behind its task and
// run: "..", "//", a leading slash, control characters and bytes that are no
// UTF-8 included. Neither S3 nor the clients between (URL parsers that resolve
// "..", XML that cannot hold a control character, file systems that cannot hold
// both "a" and "a/b") are that generous, so a key has a reversible spelling in
// the bucket, described at [Spell]. An ordinary name stays readable there:
// "task/0/public/logs/live.log" is spelled "task~/0~/public~/logs~/live.log".
//
// # Invariants
//
//   - A write is whole or absent: an object appears with its last byte, and the
//     body was compared with a checksum on the far side.
//   - A read is whole or an error: a body that ends early, or whose checksum
//     differs, never ends with io.EOF.
//   - Every call ends: with its context, or because the far side has been silent
//     for longer than a minute or two (a quarter of an hour where it copies, or
//     joins parts). Requests that failed for reasons that pass (connection lost,
//     5xx, throttling) are repeated with back-off.
//   - A copy is made of the version of the source that the caller names by its
//     ETag, or not at all, and the bytes do not come here.
//   - No call changes state outside the bucket; the package has no global state.
package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
)

// A Store is an S3 endpoint with credentials for it. It is safe for concurrent
// use, and needs no closing.
type Store struct {
	client   *s3.Client
	presign  *s3.PresignClient
	patient  func(*s3.Options) // for a call that the far side works on without a sign of life
	region   string
	endpoint *url.URL // nil: AWS's own
	path     bool     // the bucket is in the path
	account  [sha256.Size]byte
}

// Config says where the buckets are.
type Config struct {
	// Endpoint is the base URL of the service, such as http://127.0.0.1:9000.
	// Empty means AWS's own endpoint in Region. Presigned URLs point at it, so
	// clients must be able to reach it.
	Endpoint string
	Region   string
	// AccessKeyID and SecretAccessKey sign the requests. Both empty means what
	// the AWS SDK finds by itself: environment, shared files, the machine's role.
	AccessKeyID, SecretAccessKey string
	// Keys, if it is not nil, is instead of these what signs the requests, and may
	// change. Stores that have the same Keys have the same account.
	Keys *Keys
	// PathStyle puts the bucket into the path instead of the host name. Anything
	// but AWS usually needs it.
	PathStyle bool
	// Transport replaces the HTTP transport. It is meant for tests.
	Transport http.RoundTripper
}

// LogValue leaves the secret out.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("endpoint", c.Endpoint),
		slog.String("region", c.Region),
		slog.String("accessKeyId", c.AccessKeyID),
		slog.Bool("pathStyle", c.PathStyle),
	)
}

// String leaves the secret out.
func (c Config) String() string { return c.LogValue().String() }

// GoString leaves the secret out.
func (c Config) GoString() string { return c.String() }

const (
	attempts   = 5                // of one request, the first included
	maxBackoff = 5 * time.Second  // between two attempts
	callLimit  = 2 * time.Minute  // for a call that carries no body, all attempts together
	workLimit  = 15 * time.Minute // for one that makes the far side copy, or join the parts of an upload
)

// Open checks the configuration and returns the store. It does not connect:
// [Bucket.Ensure] is the first call that tells whether the endpoint answers.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Region == "" {
		return nil, errors.New("blob: no region configured: name the region of the buckets, or us-east-1 for an endpoint that has none")
	}
	if (c.AccessKeyID == "") != (c.SecretAccessKey == "") {
		return nil, errors.New("blob: access key id and secret access key go together: configure both, or neither to use what the AWS SDK finds")
	}
	var endpoint *url.URL
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" {
			return nil, errors.New("blob: the endpoint is not a URL of the form https://host[:port]")
		}
		endpoint = u
	}
	if c.Keys != nil && c.AccessKeyID != "" {
		return nil, errors.New("blob: there are both an access key and keys that change: configure one of them")
	}
	provider, account := aws.CredentialsProvider(c.Keys), sha256.Sum256([]byte(c.AccessKeyID+"\n"+c.SecretAccessKey))
	switch {
	case c.Keys != nil:
		account = c.Keys.account
		if err := c.Keys.prepare(ctx, c.Region); err != nil {
			return nil, err
		}
	case c.AccessKeyID != "":
		provider = aws.NewCredentialsCache(credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, ""))
	default:
		var err error
		if provider, err = foundCredentials(ctx, c.Region); err != nil {
			return nil, err
		}
	}
	transport, patient := c.Transport, c.Transport
	if transport == nil {
		transport, patient = newTransport(silenceLimit), newTransport(workLimit)
	}
	options := s3.Options{
		Region:       c.Region,
		Credentials:  provider,
		UsePathStyle: c.PathStyle,
		HTTPClient:   client(transport),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = attempts
			o.MaxBackoff = maxBackoff
		}),
		RequestChecksumCalculation:                aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation:                aws.ResponseChecksumValidationWhenSupported,
		DisableLogOutputChecksumValidationSkipped: true,
		Logger: logging.Nop{},
	}
	if c.Endpoint != "" {
		options.BaseEndpoint = aws.String(c.Endpoint)
	}
	slow := client(patient)
	return &Store{
		client:   s3.New(options),
		presign:  s3.NewPresignClient(s3.New(options, plain)),
		patient:  func(o *s3.Options) { o.HTTPClient = slow },
		region:   c.Region,
		endpoint: endpoint,
		path:     c.PathStyle,
		account:  account,
	}, nil
}

// foundCredentials are what the SDK finds by itself.
func foundCredentials(ctx context.Context, region string) (aws.CredentialsProvider, error) {
	found, err := config.LoadDefaultConfig(ctx, config.WithRegion(region), config.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, fmt.Errorf("blob: look for AWS credentials: %w", err)
	}
	return aws.NewCredentialsCache(found.Credentials), nil
}

func client(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: transport,
		// A redirect is S3's word for "wrong region": an error, not a place to go.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// plain keeps the SDK from adding checksum headers to a request whose body it
// will never see.
func plain(o *s3.Options) { o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired }

// Bucket is the bucket of that name, which need not exist yet.
func (s *Store) Bucket(name string) *Bucket {
	b := &Bucket{store: s, name: name}
	b.forms = sync.OnceValue(b.findForms)
	return b
}

// The reasons to fail that a caller may want to tell apart with errors.Is.
var (
	ErrNotFound    = errors.New("no such object")
	ErrNoBucket    = errors.New("no such bucket")
	ErrNoUpload    = errors.New("no such multipart upload, or it was completed or aborted")
	ErrPart        = errors.New("the parts do not make up the object")
	ErrRange       = errors.New("the range starts beyond the end of the object")
	ErrChanged     = errors.New("the object has changed")
	ErrTooLarge    = errors.New("too large for one request: copy it in parts")
	ErrUnsupported = errors.New("the store cannot do this")
	ErrKey         = errors.New("not a possible key")
	ErrKeyTooLong  = fmt.Errorf("%w: too long", ErrKey)
)

// An apiError is a failed call under one of the reasons above.
type apiError struct{ reason, cause error }

func (e *apiError) Error() string   { return e.reason.Error() + " (" + e.cause.Error() + ")" }
func (e *apiError) Unwrap() []error { return []error{e.reason, e.cause} }

// explain puts the reason in front of an error of the SDK, where it is one of
// those that callers tell apart.
func explain(err error) error {
	var api smithy.APIError
	if known := (*apiError)(nil); errors.As(err, &known) || !errors.As(err, &api) {
		return err
	}
	var reason error
	switch api.ErrorCode() {
	case "NoSuchKey", "NotFound":
		reason = ErrNotFound
	case "NoSuchBucket":
		reason = ErrNoBucket
	case "NoSuchUpload":
		reason = ErrNoUpload
	case "InvalidPart", "InvalidPartOrder", "EntityTooSmall":
		reason = ErrPart
	case "InvalidRange":
		reason = ErrRange
	case "PreconditionFailed":
		reason = ErrChanged
	case "NotImplemented":
		reason = ErrUnsupported
	case "KeyTooLongError":
		reason = ErrKeyTooLong
	default:
		return err
	}
	return &apiError{reason, err}
}
