package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	// keepChallenges is for how long an answer by HTTP is there that nobody has taken back.
	// One by DNS is known until it is, with its version.
	keepChallenges = 30 * 24 * time.Hour

	upkeepBatch = 500
)

var generators = map[string]func() (crypto.Signer, error){
	"ecdsa-p256": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
	"ecdsa-p384": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
	"rsa-2048":   func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
	"rsa-4096":   func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 4096) },
}

func accountPlace(credential, directory string) string {
	return "acme_account/" + credential + "/" + directory
}

func orderPlace(version string) string { return "acme_order/" + version }

// fresh is a new key, as it is kept.
func (k *Kind) fresh(keyType, place string) (sealed string, err error) {
	key, err := generators[keyType]()
	if err != nil {
		return "", fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return k.keys.Seal([]byte(base64.StdEncoding.EncodeToString(der)), place), nil
}

// unseal reads a key that is kept.
func (k *Kind) unseal(sealed, place string) (crypto.Signer, error) {
	text, err := k.keys.Open(sealed, place)
	if err != nil {
		return nil, fmt.Errorf("a key cannot be opened; is the key that has sealed it still among the seal keys? %w", err)
	}
	der, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		return nil, errors.New("a key that is kept cannot be read")
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("a key that is kept cannot be read")
	}
	return key.(crypto.Signer), nil
}

// An account is one at an authority.
type account struct {
	url   string
	key   crypto.Signer
	until timestamp.Time
}

// account is that of a credential. Whoever comes first makes its key, if it is to be
// made; nil is that there is none.
func (k *Kind) account(ctx context.Context, credential, directory string, make bool) (*account, error) {
	place, sealed := accountPlace(credential, directory), ""
	a := &account{}
	look := func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT url, sealed, wait_until FROM acme_account WHERE credential = $1 AND directory = $2`, credential, directory).Scan(&a.url, &sealed, &a.until)
	}
	err := k.db.View(ctx, look)
	if errors.Is(err, store.ErrNotFound) {
		if !make {
			return nil, nil
		}
		made, err := k.fresh("ecdsa-p256", place)
		if err != nil {
			return nil, err
		}
		if err := k.db.Do(ctx, func(tx *store.Tx) error {
			if _, err := tx.Exec(`INSERT INTO acme_account (credential, directory, url, sealed, key_id, wait_until) VALUES ($1, $2, '', $3, $4, 0)
				 ON CONFLICT (credential, directory) DO NOTHING`, credential, directory, made, seal.KeyID(made)); err != nil {
				return err
			}
			return look(tx)
		}); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if a.key, err = k.unseal(sealed, place); err != nil {
		return nil, err
	}
	return a, nil
}

func (k *Kind) setAccount(ctx context.Context, credential, directory, url string) error {
	return k.do(ctx, `UPDATE acme_account SET url = $3 WHERE credential = $1 AND directory = $2`, credential, directory, url)
}

// leaveAlone notes until when an authority wants no request.
func (k *Kind) leaveAlone(ctx context.Context, credential, directory string, until time.Time) error {
	return k.do(ctx, `UPDATE acme_account SET wait_until = $3 WHERE credential = $1 AND directory = $2`, credential, directory, timestamp.Of(until))
}

// order is that of a version, likewise. Its key is nil if there is none.
func (k *Kind) order(ctx context.Context, version, keyType string, make bool) (url string, key crypto.Signer, err error) {
	place, sealed := orderPlace(version), ""
	look := func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT url, sealed FROM acme_order WHERE version = $1`, version).Scan(&url, &sealed)
	}
	err = k.db.View(ctx, look)
	if errors.Is(err, store.ErrNotFound) {
		if !make {
			return "", nil, nil
		}
		made, err := k.fresh(keyType, place)
		if err != nil {
			return "", nil, err
		}
		if err := k.db.Do(ctx, func(tx *store.Tx) error {
			if _, err := tx.Exec(`INSERT INTO acme_order (version, url, sealed, key_id) VALUES ($1, '', $2, $3) ON CONFLICT (version) DO NOTHING`,
				version, made, seal.KeyID(made)); err != nil {
				return err
			}
			return look(tx)
		}); err != nil {
			return "", nil, err
		}
	} else if err != nil {
		return "", nil, err
	}
	key, err = k.unseal(sealed, place)
	return url, key, err
}

func (k *Kind) setOrder(ctx context.Context, version, url string) error {
	return k.do(ctx, `UPDATE acme_order SET url = $2 WHERE version = $1`, version, url)
}

func (k *Kind) forgetOrder(ctx context.Context, version string) error {
	return k.do(ctx, `DELETE FROM acme_order WHERE version = $1`, version)
}

func (k *Kind) do(ctx context.Context, statement string, args ...any) error {
	return k.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	})
}

// upkeep is one pass of the loop acme.upkeep.
func (k *Kind) upkeep(ctx context.Context) (more bool, err error) {
	if err := k.do(ctx, `DELETE FROM acme_challenge WHERE made <= $1 AND record = ''`, timestamp.Now().Add(-keepChallenges)); err != nil {
		return false, err
	}
	type row struct{ table, condition, place, sealed, a, b string }
	var stale []row
	newest := k.keys.Newest()
	if err := k.db.View(ctx, func(tx *store.Tx) error {
		stale = nil
		for _, q := range []struct{ table, columns, condition string }{
			{"acme_account", "credential, directory", "credential = $1 AND directory = $2"},
			{"acme_order", "version, ''", "version = $1 AND $2 = ''"},
		} {
			rows, err := tx.Query(`SELECT `+q.columns+`, sealed FROM `+q.table+` WHERE key_id <> $1 LIMIT $2`, newest, upkeepBatch)
			if err != nil {
				return err
			}
			for rows.Next() {
				r := row{table: q.table, condition: q.condition}
				if err := rows.Scan(&r.a, &r.b, &r.sealed); err != nil {
					return err
				}
				r.place = orderPlace(r.a)
				if r.b != "" {
					r.place = accountPlace(r.a, r.b)
				}
				stale = append(stale, r)
			}
			if err := rows.Err(); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return false, err
	}
	var failed []error
	for _, r := range stale {
		text, err := k.keys.Open(r.sealed, r.place)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", r.place, err))
			continue
		}
		anew := k.keys.Seal(text, r.place)
		if err := k.do(ctx, `UPDATE `+r.table+` SET sealed = $4, key_id = $5 WHERE `+r.condition+` AND sealed = $3`, r.a, r.b, r.sealed, anew, seal.KeyID(anew)); err != nil {
			return false, err
		}
	}
	if len(failed) > 0 {
		return false, fmt.Errorf("%d keys of ACME are sealed with old keys and cannot be opened; are the keys still among the seal keys? %w", len(failed), failed[0])
	}
	if len(stale) > 0 {
		k.log.Info("keys of ACME were sealed anew with the newest key", "moved", len(stale), "key", newest)
	}
	return len(stale) >= upkeepBatch, nil
}
