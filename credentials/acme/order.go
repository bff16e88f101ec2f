package acme

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/taskfleet/taskfleet/credentials"
)

// A work is one on a version.
type work struct {
	kind       *Kind
	settings   parsed
	credential string
	version    string
	client     *acme.Client
	key        crypto.Signer // of the certificate
	url        string        // of the order
}

// work begins or goes on with a version.
func (k *Kind) work(ctx context.Context, s parsed, credential, version string) (*work, error) {
	w := &work{kind: k, settings: s, credential: credential, version: version}
	a, err := k.account(ctx, credential, s.Directory, true)
	if err != nil {
		return nil, err
	}
	if err := w.connect(a); err != nil {
		return nil, err
	}
	if w.url, w.key, err = k.order(ctx, version, s.KeyType, true); err != nil {
		return nil, err
	}
	if a.url != "" {
		return w, nil
	}
	account := &acme.Account{Contact: s.Contact}
	if s.Account != nil {
		account.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: s.Account.ID, Key: s.mac}
	}
	if _, err := w.client.Register(ctx, account, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, w.judge(ctx, fmt.Errorf("registering an account: %w", err))
	}
	return w, k.setAccount(ctx, credential, s.Directory, string(w.client.KID))
}

// resume goes on with a version, if anything was ever ordered for it.
func (k *Kind) resume(ctx context.Context, s parsed, credential, version string) (*work, error) {
	w := &work{kind: k, settings: s, credential: credential, version: version}
	a, err := k.account(ctx, credential, s.Directory, false)
	if err != nil || a == nil {
		return nil, err
	}
	if w.url, w.key, err = k.order(ctx, version, s.KeyType, false); err != nil {
		return nil, err
	}
	return w, w.connect(a)
}

// connect has a client for the account, unless the authority wants to be left alone.
func (w *work) connect(a *account) error {
	if left := time.Until(a.until.Time()); left > 0 {
		err := fmt.Errorf("the authority has asked not to be called before %s", a.until)
		if left > longWait {
			return credentials.Refused("%w", err)
		}
		return err
	}
	reach, err := w.kind.reach(w.settings)
	if err != nil {
		return err
	}
	w.client = &acme.Client{Key: a.key, KID: acme.KeyID(a.url), HTTPClient: reach, DirectoryURL: w.settings.Directory, UserAgent: "taskfleet", RetryBackoff: backoff}
	return nil
}

// backoff is when a request is repeated at once. What takes longer is for the engine.
func backoff(n int, _ *http.Request, res *http.Response) time.Duration {
	switch {
	case res.StatusCode == http.StatusBadRequest && n <= 20: // a nonce that was not liked
		return min(time.Duration(n)*10*time.Millisecond, 100*time.Millisecond)
	case res.StatusCode >= 500 && n <= 2 && res.Header.Get("Retry-After") == "":
		return time.Duration(n) * time.Second
	}
	return 0
}

// obtain takes the order to where the certificate is.
func (w *work) obtain(ctx context.Context) (chain [][]byte, err error) {
	var failure error // of the last finalization, whose answer may be what was lost
	for range 8 {
		order, err := w.look(ctx)
		if err != nil {
			return nil, err
		}
		switch order.Status {
		case acme.StatusPending:
			if err := w.authorize(ctx, order); err != nil {
				return nil, err
			}
			if _, err := w.client.WaitOrder(ctx, w.url); err != nil {
				return nil, w.failed(ctx, err)
			}
		case acme.StatusReady:
			if failure != nil {
				return nil, failure
			}
			csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: w.settings.Names}, w.key)
			if err != nil {
				return nil, err
			}
			if chain, _, failure = w.client.CreateCertFromOrder(ctx, order, csr, true); failure == nil {
				return chain, nil
			}
		case acme.StatusProcessing:
			if _, err := w.client.WaitOrder(ctx, w.url); err != nil {
				if ctx.Err() != nil {
					return nil, fmt.Errorf("the authority is still at work on the order; it is asked again: %w", err)
				}
				return nil, w.failed(ctx, err)
			}
		case acme.StatusValid:
			return w.client.FetchCert(ctx, order.CertURL, true)
		default:
			if err := w.drop(ctx); err != nil {
				return nil, err
			}
			switch {
			case order.Error != nil:
				return nil, credentials.Refused("the authority has refused the order: %w", order.Error)
			case time.Now().Before(order.Expires): // it has failed before we could read why, and failures count
				return nil, credentials.Refused("the authority has given the order up, and does not say why any more; can it see the challenges by %s?", w.settings.Challenge)
			}
			return nil, errors.New("the order has expired; another one takes its place")
		}
	}
	return nil, errors.New("the order does not get on; it is looked at again")
}

// look is the order as it is; it is made if there is none.
func (w *work) look(ctx context.Context) (*acme.Order, error) {
	if w.url != "" {
		order, err := w.client.GetOrder(ctx, w.url)
		if err == nil {
			order.URI = w.url // which the authority need not repeat
			return order, nil
		} else if e, ok := errors.AsType[*acme.Error](err); !ok || e.StatusCode != http.StatusNotFound {
			return nil, err
		}
		if err := w.drop(ctx); err != nil {
			return nil, err
		}
	}
	order, err := w.client.AuthorizeOrder(ctx, acme.DomainIDs(w.settings.Names...))
	if err != nil {
		return nil, fmt.Errorf("ordering: %w", err)
	}
	w.url = order.URI
	return order, w.kind.setOrder(ctx, w.version, w.url)
}

// drop has the next order be another one.
func (w *work) drop(ctx context.Context) error {
	w.url = ""
	return w.kind.setOrder(context.WithoutCancel(ctx), w.version, "")
}

// failed is what becomes of an order that the authority has given up.
func (w *work) failed(ctx context.Context, err error) error {
	order, gone := errors.AsType[*acme.OrderError](err)
	if !gone {
		return err
	}
	if err := w.drop(ctx); err != nil {
		return err
	}
	if order.Problem != nil {
		return credentials.Refused("the authority has refused the order: %w", order.Problem)
	}
	return credentials.Refused("the authority has refused the order and does not say why")
}

// authorize shows the authority that the names are ours, all at once.
func (w *work) authorize(ctx context.Context, order *acme.Order) error {
	var pending []*acme.Authorization
	var accept []*acme.Challenge
	for _, url := range order.AuthzURLs {
		a, err := w.client.GetAuthorization(ctx, url)
		if err != nil {
			return fmt.Errorf("asking for an authorization: %w", err)
		}
		if a.Status == acme.StatusValid {
			continue
		}
		if a.URI == "" {
			a.URI = url
		}
		pending = append(pending, a)
		switch a.Status {
		case acme.StatusPending:
		default:
			continue // what is wrong is told by waiting for it
		case acme.StatusExpired, acme.StatusDeactivated, acme.StatusRevoked: // which is waited for in vain
			return cmp.Or(w.drop(ctx), fmt.Errorf("an authorization of the order is %s; another order takes its place", a.Status))
		}
		i := slices.IndexFunc(a.Challenges, func(c *acme.Challenge) bool { return c.Type == w.settings.Challenge })
		if i < 0 {
			var offers []string
			for _, c := range a.Challenges {
				offers = append(offers, c.Type)
			}
			return credentials.Refused("the authority does not offer the challenge %s for %s, but %s", w.settings.Challenge, a.Identifier.Value, strings.Join(offers, ", "))
		}
		if err := w.answer(ctx, a.Identifier.Value, a.Challenges[i]); err != nil {
			return err
		}
		if a.Challenges[i].Status == acme.StatusPending {
			accept = append(accept, a.Challenges[i])
		}
	}
	for _, c := range accept {
		if _, err := w.client.Accept(ctx, c); err != nil {
			return fmt.Errorf("telling the authority that a challenge is answered: %w", err)
		}
	}
	var failed []error
	for _, a := range pending {
		_, err := w.client.WaitAuthorization(ctx, a.URI)
		if wrong, ok := errors.AsType[*acme.AuthorizationError](err); ok {
			failed = append(failed, fmt.Errorf("%s: %w", a.Identifier.Value, errors.Join(wrong.Errors...)))
		} else if err != nil {
			return fmt.Errorf("waiting for the authority to try %s: %w", a.Identifier.Value, err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	if err := w.drop(ctx); err != nil {
		return err
	}
	if err := w.kind.takeBack(ctx, w.settings, w.credential, w.version); err != nil {
		failed = append(failed, err)
	}
	// Failures count at authorities: another attempt has time until the next rotation.
	return credentials.Refused("the authority could not see that the name is yours (%s): %w", w.settings.Challenge, errors.Join(failed...))
}

// issued is the certificate of the order, if it has one.
func (w *work) issued(ctx context.Context) ([][]byte, error) {
	if w.url == "" || w.client.KID == "" { // an account that is forgotten has no orders
		return nil, nil
	}
	order, err := w.client.GetOrder(ctx, w.url)
	if err == nil && order.Status == acme.StatusProcessing {
		order, err = w.client.WaitOrder(ctx, w.url)
	}
	if e, ok := errors.AsType[*acme.Error](err); ok && e.StatusCode == http.StatusNotFound {
		return nil, nil
	} else if _, ok := errors.AsType[*acme.OrderError](err); ok {
		return nil, nil
	}
	if err != nil || order.Status != acme.StatusValid {
		return nil, err
	}
	return w.client.FetchCert(ctx, order.CertURL, true)
}
