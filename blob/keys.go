package blob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Keys is an access key that is replaced while stores use it. What was signed with
// the one before is good for as long as that is.
type Keys struct {
	current atomic.Pointer[aws.Credentials]
	account [sha256.Size]byte // whichever key it is

	mu    sync.Mutex
	found aws.CredentialsProvider // by the SDK, until there is a key
}

// NewKeys returns Keys that begin with this key, or, if both are empty, with what the
// AWS SDK finds by itself.
func NewKeys(accessKeyID, secretAccessKey string) (*Keys, error) {
	k := &Keys{}
	rand.Read(k.account[:])
	if accessKeyID == "" && secretAccessKey == "" {
		return k, nil
	}
	return k, k.Set(accessKeyID, secretAccessKey, "")
}

// Set has requests be signed with this key from now on. Whether it is good for
// anything is for the caller to find out before: [Bucket.Check]. A session token comes
// with keys that last for a while.
func (k *Keys) Set(accessKeyID, secretAccessKey, sessionToken string) error {
	if accessKeyID == "" || secretAccessKey == "" {
		return errors.New("blob: a key is both an access key id and a secret access key")
	}
	k.current.Store(&aws.Credentials{AccessKeyID: accessKeyID, SecretAccessKey: secretAccessKey, SessionToken: sessionToken, Source: "blob.Keys"})
	return nil
}

func (k *Keys) prepare(ctx context.Context, region string) (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current.Load() == nil && k.found == nil {
		k.found, err = foundCredentials(ctx, region)
	}
	return err
}

// Retrieve is part of the SDK's CredentialsProvider.
func (k *Keys) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if c := k.current.Load(); c != nil {
		return *c, nil
	}
	k.mu.Lock()
	found := k.found
	k.mu.Unlock()
	return found.Retrieve(ctx)
}

// Check makes sure that the bucket is there and may be written to, read and deleted
// from, by an object of its own.
func (b *Bucket) Check(ctx context.Context) error {
	key := "taskfleet-check/" + rand.Text()
	if _, err := b.PutBytes(ctx, key, []byte("check\n"), Headers{}); err != nil {
		return fmt.Errorf("blob: check what may be done in bucket %s: %w", b.name, err)
	}
	_, statErr := b.Stat(ctx, key)
	if err := errors.Join(statErr, b.Delete(ctx, key)); err != nil {
		return fmt.Errorf("blob: check what may be done in bucket %s: %w", b.name, err)
	}
	return nil
}
