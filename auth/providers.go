package auth

import (
	"context"
	"time"

	"github.com/taskfleet/taskfleet/api"
)

// Beyond the platform, auth gives access to accounts elsewhere: it holds a
// strong credential that the operator has configured, and derives weak and
// short-lived ones from it for callers with the scopes. Each of these elsewheres
// is one of the interfaces below. What is not configured is a nil interface, for
// which the methods answer 404 and say what is missing.
//
// An *api.Error of theirs is for the caller, who must not read any secret in it;
// anything else becomes a 500 and stands in the log.

// AWS gives access to buckets on S3.
type AWS interface {
	// S3Credentials returns credentials for the objects of a bucket whose keys
	// begin with prefix: to list and read them, and with write also to put and
	// delete them.
	S3Credentials(ctx context.Context, bucket, prefix string, write bool) (S3Credentials, error)
}

// S3Credentials are temporary credentials of AWS.
type S3Credentials struct {
	AccessKeyID, SecretAccessKey, SessionToken string
	Expires                                    time.Time
}

// Azure gives access to tables and containers of storage accounts.
type Azure interface {
	// Accounts are the names of the accounts.
	Accounts() []string

	// Tables and Containers list the names after a place, "" at first, and
	// return the place to go on from, "" at the end.
	Tables(ctx context.Context, account, after string) (names []string, next string, err error)
	Containers(ctx context.Context, account, after string) (names []string, next string, err error)

	// TableSAS and ContainerSAS sign access, to read or also to write. To write,
	// what does not exist is created.
	TableSAS(ctx context.Context, account, table string, write bool) (Token, error)
	ContainerSAS(ctx context.Context, account, container string, write bool) (Token, error)
}

// GCP gives access to service accounts.
type GCP interface {
	AccessToken(ctx context.Context, project, serviceAccount string) (Token, error)
}

// GitHub gives access to repositories of which an app is installed.
type GitHub interface {
	// RepoToken returns a token for repositories of one owner; permissions are
	// levels by name.
	RepoToken(ctx context.Context, app, owner string, repositories []string, permissions map[string]string) (Token, error)
}

// A Token opens something until it expires.
type Token struct {
	Text    string
	Expires time.Time
}

// Sentry knows where the errors of projects are sent.
type Sentry interface {
	// DSN returns the addresses of a project; what it has to tell the caller is an
	// *api.Error.
	DSN(ctx context.Context, project string) (SentryDSN, error)
}

// A SentryDSN is where errors are sent.
type SentryDSN struct {
	Secret, Public string
	Expires        time.Time
}

// unconfigured is the answer where a provider is missing.
func unconfigured(what, entry string) error {
	return api.Errorf(api.ResourceNotFound, "This deployment gives no access to %s: its configuration has no %s, which an operator would have to add.", what, entry)
}
