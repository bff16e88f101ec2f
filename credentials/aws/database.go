package aws

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/taskfleet/taskfleet/credentials"
)

// emptyHash is the SHA-256 of nothing.
const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var databaseHost = regexp.MustCompile(`\.([a-z]{2}(?:-[a-z]+)+-\d+)\.rds\.amazonaws\.com(?:\.cn)?$`)

// DatabaseToken makes what a user of a database of RDS logs in with for a quarter of an
// hour instead of a password, if IAM allows it. AWS is not asked: it is a request that is
// signed and not sent.
func (c *Cloud) DatabaseToken(ctx context.Context, host string, port uint16, user string) (string, error) {
	region := databaseHost.FindStringSubmatch(host)
	if region == nil {
		return "", credentials.Refused("%s is not the name of a database of RDS, such as builds.abcdefghijkl.eu-central-1.rds.amazonaws.com: it tells the region", host)
	}
	config, err := c.config(ctx, As{}, region[1])
	if err != nil {
		return "", err
	}
	who, err := config.Credentials.Retrieve(ctx)
	if err != nil {
		return "", fmt.Errorf("finding credentials for AWS: %w", err)
	}
	query := url.Values{"Action": {"connect"}, "DBUser": {user}, "X-Amz-Expires": {"900"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(host, strconv.Itoa(int(port)))+"/?"+query.Encode(), nil)
	if err != nil {
		return "", err
	}
	signed, _, err := v4.NewSigner().PresignHTTP(ctx, who, r, emptyHash, "rds-db", region[1], time.Now())
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(signed, "https://"), nil
}
