package provisioner

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A worker proves who it is with the one-time token of its order, and gets
// credentials and a secret. With the secret it gets new ones, before the
// credentials expire. Token and secrets are good once.
//
// But a reply can be lost: the server is killed between commit and reply, the
// connection breaks. The worker then holds no more than before and calls again,
// while the server has used up its proof. So for repeatWindow what was good
// once is good for the same again: new credentials and the same new secret. A
// secret need not be kept to be given out twice, as it is derived from what was
// shown for it and a random salt in the row; neither the row nor what was shown
// is enough to know it. Nor does it matter which of two replies a worker takes.
//
// The token is used up for good by the first renewal, a secret by the use of
// the one that followed it.
const repeatWindow = 10 * time.Minute // as long as a worker tries to reach a server

type registration struct {
	WorkerPoolID string `json:"workerPoolId"`
	ProviderID   string `json:"providerId"`
	WorkerGroup  string `json:"workerGroup"`
	WorkerID     string `json:"workerId"`
	Proof        struct {
		Token string `json:"token"`
	} `json:"workerIdentityProof"`
}

func (r registration) ref() Ref { return Ref{r.WorkerPoolID, r.WorkerGroup, r.WorkerID} }

type registered struct {
	renewed
	WorkerConfig json.RawMessage `json:"workerConfig"`
}

type renewed struct {
	Expires     timestamp.Time   `json:"expires"`
	Credentials cred.Credentials `json:"credentials"`
	Secret      string           `json:"secret"`
}

var registerWorker = api.Declare(api.Spec{
	Name: "registerWorker", Route: "POST /worker/register",
	Input: "v1/register-worker-request.json#", Output: "v1/register-worker-response.json#",
	Stability: api.Stable, Category: "Worker Interface", Title: "Register a worker", Private: true,
	Doc: `Gives a worker that has just started its credentials, its configuration and a secret for reregisterWorker.

No scopes are needed; the worker proves who it is. The proof is good once. Should the reply be lost, the call may be
repeated for ten minutes.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[api.None, registration]) (registered, error) {
	return p.register(ctx, c.Body)
})

// errProof does not tell what exactly is wrong: it is seen by anybody.
var errProof = api.Errorf(api.InputError, `This is not a worker that is expected to register: workerPoolId, providerId, workerGroup and workerId have to be those
of a worker that was started, and workerIdentityProof.token the one it was started with, which is good once and not for
ever. A worker cannot mend that; it should end.`)

func (p *Provisioner) register(ctx context.Context, r registration) (out registered, err error) {
	var w *worker
	var secret string
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		var err error
		if w, err = lockWorker(tx, r.ref()); isNotFound(err) {
			return errProof
		} else if err != nil {
			return err
		}
		if !w.mayRegister(r, now()) {
			return errProof
		}
		o, err := findPool(tx, w.WorkerPoolID)
		if isNotFound(err) || err == nil && !o.made(w) {
			return api.Errorf(api.InputError, "The worker pool %s is going away or has changed since this worker was started; the worker is not needed and should end.", w.WorkerPoolID)
		} else if err != nil {
			return err
		}
		config, err := ParseConfig(o.config)
		if err != nil {
			return err
		}
		out.WorkerConfig = config.WorkerConfig
		w.expires = now().Add(config.reregistrationTimeout())
		if w.state == running {
			secret = derive(r.Proof.Token, w.salt)
			return w.saveProof(tx)
		}
		secret = w.nextSecret(r.Proof.Token)
		w.state, w.registered, w.lastModified = running, w.renewed, w.renewed
		if _, err := tx.Exec(`UPDATE worker SET state = $4, registered = $5, last_modified = $6
			WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
			w.WorkerPoolID, w.WorkerGroup, w.WorkerID, w.state, w.registered, w.lastModified); err != nil {
			return err
		}
		if err := w.saveProof(tx); err != nil {
			return err
		}
		return p.publishWorker(tx, workerRunning, w, "")
	})
	if err != nil {
		return out, err
	}
	p.log.Info("a worker has registered", "worker", w.Ref.String(), "after", now().Sub(w.created))
	out.renewed, err = p.issue(ctx, w, secret)
	return out, err
}

// mayRegister reports whether a registration is the first of an expected
// worker, or one to repeat because its reply may have been lost.
func (w *worker) mayRegister(r registration, at timestamp.Time) bool {
	if !same(w.token, r.Proof.Token) || w.providerID != r.ProviderID {
		return false
	}
	switch w.state {
	case requested:
		return true
	case running:
		return at.Sub(w.registered) < repeatWindow
	}
	return false
}

type renewal struct {
	WorkerPoolID string `json:"workerPoolId"`
	WorkerGroup  string `json:"workerGroup"`
	WorkerID     string `json:"workerId"`
	Secret       string `json:"secret"`
}

func (r renewal) ref() Ref { return Ref{r.WorkerPoolID, r.WorkerGroup, r.WorkerID} }

var reregisterWorker = api.Declare(api.Spec{
	Name: "reregisterWorker", Route: "POST /worker/reregister",
	Scopes: scope.Scope("worker-manager:reregister-worker:<workerPoolId>/<workerGroup>/<workerId>"),
	Input:  "v1/reregister-worker-request.json#", Output: "v1/reregister-worker-response.json#",
	Stability: api.Experimental, Category: "Worker Interface", Title: "Renew a worker's registration", Private: true,
	Doc: `Gives a worker new credentials before those it has expire, and a new secret for the next time.

The secret is good once. Should the reply be lost, the call may be repeated with the same secret for ten minutes, until
the new one is used.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[api.None, renewal]) (out renewed, err error) {
	r := c.Body
	if err := c.Authorize(scope.Vars{"workerPoolId": r.WorkerPoolID, "workerGroup": r.WorkerGroup, "workerId": r.WorkerID}); err != nil {
		return out, err
	}
	return p.renew(ctx, r)
})

func (p *Provisioner) renew(ctx context.Context, r renewal) (out renewed, err error) {
	var w *worker
	var secret string
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		var err error
		if w, err = lockWorker(tx, r.ref()); err != nil {
			return err
		}
		if w.state != running && w.state != stopping {
			return api.Errorf(api.InputError, "The worker is %s: %s. It cannot go on and should end.", w.state, w.reason)
		}
		lifetime := defaultReregistrationTimeout
		if o, err := findPool(tx, w.WorkerPoolID); err == nil {
			config, err := ParseConfig(o.config)
			if err == nil { // a pool that is going may have any configuration
				lifetime = config.reregistrationTimeout()
			}
		} else if !isNotFound(err) {
			return err
		}
		switch {
		case same(w.secret, r.Secret):
			w.token, w.lastSecret = "", w.secret
			secret = w.nextSecret(r.Secret)
		case same(w.lastSecret, r.Secret) && now().Sub(w.renewed) < repeatWindow:
			secret = derive(r.Secret, w.salt)
		default:
			return api.Errorf(api.InputError, "The secret is not the one that the worker got last. A secret is good once; a worker that has lost its way should end.")
		}
		w.expires = now().Add(lifetime)
		return w.saveProof(tx)
	})
	if err != nil {
		return out, err
	}
	return p.issue(ctx, w, secret)
}

// nextSecret gives a worker a secret in return for what it has shown.
func (w *worker) nextSecret(shown string) string {
	w.salt, w.renewed = slugid.Token(), now()
	secret := derive(shown, w.salt)
	w.secret = hash(secret)
	return secret
}

func (w *worker) saveProof(tx *store.Tx) error {
	_, err := tx.Exec(`
		UPDATE worker SET token = $4, secret = $5, last_secret = $6, salt = $7, renewed = $8, expires = $9
		 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
		w.WorkerPoolID, w.WorkerGroup, w.WorkerID, w.token, w.secret, w.lastSecret, w.salt, w.renewed, w.expires)
	return err
}

func (w *worker) clientID() string { return "worker/" + w.providerID + "/" + w.Ref.String() }

// issue makes the credentials of a worker.
func (p *Provisioner) issue(ctx context.Context, w *worker, secret string) (renewed, error) {
	id := w.WorkerGroup + "/" + w.WorkerID
	all := w.Ref.String()
	c, err := p.mint.Mint(ctx, w.clientID(), []string{
		"assume:worker-pool:" + w.WorkerPoolID,
		"assume:worker-id:" + id,
		"queue:worker-id:" + id,
		"queue:claim-work:" + w.WorkerPoolID,
		"secrets:get:worker-pool:" + w.WorkerPoolID,
		"worker-manager:remove-worker:" + all,
		"worker-manager:reregister-worker:" + all,
		"worker-manager:should-worker-terminate:" + all,
	}, w.expires.Time())
	if err != nil {
		return renewed{}, fmt.Errorf("provisioner: credentials of worker %s: %w", all, err)
	}
	return renewed{Expires: w.expires, Credentials: c, Secret: secret}, nil
}

// hash is how tokens and secrets are kept: they are random, so there is
// nothing to salt or to slow down.
func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// derive makes a secret, 44 characters, of what was shown for it.
func derive(shown, salt string) string {
	mac := hmac.New(sha512.New, []byte(shown))
	mac.Write([]byte(salt))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:33])
}

// same compares what was shown with the hash that is kept; "" is the hash of
// nothing.
func same(kept, shown string) bool {
	return kept != "" && subtle.ConstantTimeCompare([]byte(kept), []byte(hash(shown))) == 1
}
