package provisioner

import (
	"cmp"
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
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A worker proves who it is, in the way that its provider knows: with a token
// that it was started with, or with a document about it that its cloud signs. It
// gets credentials and a secret. With the secret it gets new ones, before the
// credentials expire. Proofs and secrets are good once.
//
// But a reply can be lost: the server is killed between commit and reply, the
// connection breaks. The worker then holds no more than before and calls again,
// while the server has used up its proof. So for repeatWindow what was good
// once is good for the same again: new credentials and the same new secret. A
// secret need not be kept to be given out twice, as it is derived from what was
// shown for it and a random salt in the row; neither the row nor what was shown
// is enough to know it. Nor does it matter which of two replies a worker takes.
//
// The proof is used up for good by the first renewal, a secret by the use of
// the one that followed it. A proof that the worker's tasks can get at, too
// (OpenProof), is used up at once: a worker whose reply is lost then has to be
// replaced.
const repeatWindow = 10 * time.Minute // as long as a worker tries to reach a server

// mostAwaiting is how many registrations wait at once: more than there are
// workers that are faster than the answer to the call that started them.
const mostAwaiting = 1000

type registration struct {
	WorkerPoolID string          `json:"workerPoolId"`
	ProviderID   string          `json:"providerId"`
	WorkerGroup  string          `json:"workerGroup"`
	WorkerID     string          `json:"workerId"`
	Proof        json.RawMessage `json:"workerIdentityProof"`
}

func (r registration) ref() fleet.Ref {
	return fleet.Ref{WorkerPoolID: r.WorkerPoolID, WorkerGroup: r.WorkerGroup, WorkerID: r.WorkerID}
}

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

// An OpenProof is a provider whose workers prove their identity with something
// that their tasks can get at as well.
type OpenProof interface{ ProofIsOpen() bool }

// errProof does not tell what exactly is wrong: it is seen by anybody.
var errProof = api.Errorf(api.InputError, `This is not a worker that is expected to register: workerPoolId, providerId, workerGroup and workerId have to be those
of a worker that was started, and workerIdentityProof what its provider gave it to prove that, which is good once and not for
ever. A worker cannot mend that; it should end.`)

func (p *Provisioner) register(ctx context.Context, r registration) (out registered, err error) {
	var w *worker
	provider := p.providers[r.ProviderID]
	if provider == nil {
		return out, errProof
	}
	if w, err = p.await(ctx, r.ref()); isNotFound(err) {
		return out, errProof
	} else if err != nil {
		return out, err
	}
	if w.ProviderID != r.ProviderID {
		return out, errProof
	}
	// Outside of the transaction: it may take a while.
	if err := provider.Identify(ctx, now(), &w.Worker, r.Proof); err != nil {
		p.log.Warn("a registration with a wrong proof of identity", "worker", w.Ref.String(), "error", err)
		return out, errProof
	}
	facts := w.Facts
	shown := string(r.Proof)
	var secret string
	var grants []string
	var until timestamp.Time
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		var err error
		if w, err = lockWorker(tx, r.ref()); isNotFound(err) {
			return errProof
		} else if err != nil {
			return err
		}
		_, manual := provider.(fleet.Manual)
		if !w.mayRegister(shown, now(), open(provider)) && (!manual || w.State != fleet.Running || now() >= w.Expires) {
			return errProof
		}
		o, err := findPool(tx, w.WorkerPoolID)
		if isNotFound(err) || err == nil && !o.Made(&w.Worker) {
			return api.Errorf(api.InputError, "The worker pool %s is going away or has changed since this worker was started; the worker is not needed and should end.", w.WorkerPoolID)
		} else if err != nil {
			return err
		}
		settings, err := o.Settings()
		if err != nil {
			return err
		}
		if out.WorkerConfig, err = p.workerConfig(o, w.LaunchConfigID); err != nil {
			return err
		}
		grants, until = settings.Grants(), now().Add(settings.Renewal())
		switch {
		case manual:
			// It is known until then whatever it does, and registers whenever it starts.
			until = min(until, w.Expires)
		case w.State == fleet.Running:
			w.Expires, secret = until, derive(shown, w.salt)
			return w.saveProof(tx)
		default:
			w.Expires = until
		}
		wasRunning := w.State == fleet.Running
		switch {
		case !wasRunning:
			w.Facts = facts // which the proof may have added to
		case !sameJSON(w.Facts, facts):
			return errProof // it was given another secret at this moment
		}
		secret = w.nextSecret(shown)
		w.token = hash(shown)
		w.Registered = w.renewed
		if !wasRunning {
			w.State, w.LastModified = fleet.Running, w.renewed
		}
		if _, err := tx.Exec(`UPDATE worker SET state = $4, registered = $5, last_modified = $6, facts = $7
			WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
			w.WorkerPoolID, w.WorkerGroup, w.WorkerID, w.State, w.Registered, w.LastModified, string(w.Facts)); err != nil {
			return err
		}
		if err := w.saveProof(tx); err != nil || wasRunning {
			return err
		}
		tx.Wake(TopicDemand, 1) // there is one worker less to wait for
		return p.publishWorker(tx, workerRunning, &w.Worker, "")
	})
	if err != nil {
		return out, err
	}
	p.log.Info("a worker has registered", "worker", w.Ref.String(), "after", now().Sub(w.Created))
	out.renewed, err = p.issue(ctx, w, secret, until, grants)
	return out, err
}

// await finds the row of a worker, or waits for it where the worker was faster
// than the answer to the call that started it: for as long as it takes the
// controller to see the worker and to ask for the answer again. As anybody may
// call, only so many wait; the others are to call again.
func (p *Provisioner) await(ctx context.Context, r fleet.Ref) (w *worker, err error) {
	const step = 500 * time.Millisecond
	rounds := 2 * interval / step
	if p.awaiting.Add(1) > mostAwaiting {
		rounds = 1
	}
	defer p.awaiting.Add(-1)
	for i := range rounds {
		var intended bool
		err = p.db.View(ctx, func(tx *store.Tx) (err error) {
			if w, err = findWorker(tx, r); !isNotFound(err) {
				return err
			}
			missing := err
			if err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM intent WHERE worker_pool_id = $1)`, r.WorkerPoolID).Scan(&intended); err != nil {
				return err
			}
			return missing
		})
		if !isNotFound(err) || !intended || i == rounds-1 {
			return w, err
		}
		select {
		case <-time.After(step):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return w, err
}

// workerConfig is what workers of a launch configuration are told.
func (p *Provisioner) workerConfig(o *fleet.Pool, id string) (json.RawMessage, error) {
	list, err := p.providers[o.ProviderID].Parse(o.Config)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if c.ID == id && len(c.WorkerConfig) > 0 {
			return c.WorkerConfig, nil
		}
	}
	return json.RawMessage("{}"), nil
}

func open(provider fleet.Provider) bool {
	o, ok := provider.(OpenProof)
	return ok && o.ProofIsOpen()
}

// mayRegister reports whether a registration is the first of an expected
// worker, or one to repeat because its reply may have been lost.
func (w *worker) mayRegister(shown string, at timestamp.Time, open bool) bool {
	switch w.State {
	case fleet.Requested:
		return true
	case fleet.Running:
		return !open && same(w.token, shown) && at.Sub(w.Registered) < repeatWindow
	}
	return false
}

type renewal struct {
	WorkerPoolID string `json:"workerPoolId"`
	WorkerGroup  string `json:"workerGroup"`
	WorkerID     string `json:"workerId"`
	Secret       string `json:"secret"`
}

func (r renewal) ref() fleet.Ref {
	return fleet.Ref{WorkerPoolID: r.WorkerPoolID, WorkerGroup: r.WorkerGroup, WorkerID: r.WorkerID}
}

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
	var grants []string
	var until timestamp.Time
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		var err error
		if w, err = lockWorker(tx, r.ref()); err != nil {
			return err
		}
		if w.State != fleet.Running && w.State != fleet.Stopping {
			return api.Errorf(api.InputError, "The worker is %s (%s). It cannot go on and should end.", w.State, cmp.Or(w.Reason, "it has not registered"))
		}
		lifetime := 96 * time.Hour
		grants = nil
		if o, err := findPool(tx, w.WorkerPoolID); err == nil {
			settings, err := o.Settings()
			if err == nil { // a pool that is going may have any configuration
				lifetime, grants = settings.Renewal(), settings.Grants()
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
		until = now().Add(lifetime)
		if _, manual := p.providers[w.ProviderID].(fleet.Manual); manual {
			until = min(until, w.Expires)
		} else {
			w.Expires = until
		}
		return w.saveProof(tx)
	})
	if err != nil {
		return out, err
	}
	return p.issue(ctx, w, secret, until, grants)
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
		w.WorkerPoolID, w.WorkerGroup, w.WorkerID, w.token, w.secret, w.lastSecret, w.salt, w.renewed, w.Expires)
	return err
}

func (w *worker) clientID() string { return "worker/" + w.ProviderID + "/" + w.Ref.String() }

// issue makes the credentials of a worker, with what its pool grants besides.
func (p *Provisioner) issue(ctx context.Context, w *worker, secret string, until timestamp.Time, grants []string) (renewed, error) {
	id := w.WorkerGroup + "/" + w.WorkerID
	all := w.Ref.String()
	c, err := p.mint.Mint(ctx, w.clientID(), append([]string{
		"assume:worker-pool:" + w.WorkerPoolID,
		"assume:worker-id:" + id,
		"queue:worker-id:" + id,
		"queue:claim-work:" + w.WorkerPoolID,
		"secrets:get:worker-pool:" + w.WorkerPoolID,
		"worker-manager:remove-worker:" + all,
		"worker-manager:reregister-worker:" + all,
		"worker-manager:should-worker-terminate:" + all,
	}, grants...), until.Time())
	if err != nil {
		return renewed{}, fmt.Errorf("provisioner: credentials of worker %s: %w", all, err)
	}
	return renewed{Expires: until, Credentials: c, Secret: secret}, nil
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
