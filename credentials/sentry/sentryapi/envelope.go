package sentryapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ErrNoKey is the error of events whose key is not taken.
var ErrNoKey = errors.New("sentry: events with this key are not taken")

// Try sends to a DSN what an SDK would, an envelope: one of a report that nothing was
// lost. So no event comes of it, and nobody is told of any.
func (c *Client) Try(ctx context.Context, dsn string) error {
	u, err := url.Parse(dsn)
	if err != nil || u.User == nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") == "" {
		return errors.New("sentry: this is not a DSN") // which is not for an error
	}
	key := u.User.Username()
	cut := strings.LastIndexByte(strings.TrimSuffix(u.Path, "/"), '/')
	address := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path[:cut] + "/api" + strings.TrimSuffix(u.Path[cut:], "/") + "/envelope/"}
	now := time.Now().UTC()
	body := fmt.Sprintf("{\"sent_at\":%q}\n{\"type\":\"client_report\"}\n{\"timestamp\":%d,\"discarded_events\":[]}\n", now.Format(time.RFC3339), now.Unix())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address.String(), strings.NewReader(body))
	if err != nil {
		return errors.New("sentry: this is not a DSN")
	}
	r.Header.Set("Content-Type", "application/x-sentry-envelope")
	r.Header.Set("User-Agent", "taskfleet")
	r.Header.Set("X-Sentry-Auth", "Sentry sentry_version=7, sentry_client=taskfleet/1, sentry_key="+key)
	answer, err := c.http.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return fmt.Errorf("sentry: send an envelope to %s: %w", u.Host, err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // what it says may have the key in it
	switch answer.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return fmt.Errorf("%w: %s has answered %d", ErrNoKey, u.Host, answer.StatusCode)
	}
	return fmt.Errorf("sentry: send an envelope to %s: the answer is %d", u.Host, answer.StatusCode)
}
