//go:build !agent

package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/seal/kms"
	"github.com/taskfleet/taskfleet/slugid"
)

// secrets are what a platform made up for itself at its first start. They stay
// in a file that only its user can read.
type secretsFile struct {
	RootToken        string `json:"rootToken"`
	QueueToken       string `json:"queueToken"`
	ProvisionerToken string `json:"provisionerToken"`
	SealKeys         string `json:"sealKeys"` // of secrets at rest in the database
	S3Secret         string `json:"s3Secret"` // of the gateway inside the process
}

func newSecrets() secretsFile {
	return secretsFile{slugid.Token(), slugid.Token(), slugid.Token(), seal.NewKey().Text(), slugid.Token()}
}

// tokenFor is the access token of one of the platform's own clients that act
// only inside of it. It follows from the root's token, so that replicas which
// share that agree.
func (s secretsFile) tokenFor(clientID string) string {
	mac := hmac.New(sha256.New, []byte(s.RootToken))
	mac.Write([]byte("access token of " + clientID))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// openSecrets reads the file of secrets that the configuration names, or
// DATA/secrets.json, which it makes at the first start.
func openSecrets(c Config) (s secretsFile, err error) {
	file := c.secretsFile()
	text, err := seal.ReadPrivate(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.SecretsFile == "":
		s = newSecrets()
		return s, writePrivate(file, s)
	case errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("secretsFile: there is no %s. For a new deployment, make it with taskfleet config secrets; for one that is in use, restore it", file)
	}
	if err != nil {
		return s, fmt.Errorf("reading the platform's secrets: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("%s is damaged (%v). Restore it from a backup: without it, what is encrypted in the database is lost", file, err)
	}
	for entry, value := range map[string]string{"rootToken": s.RootToken, "queueToken": s.QueueToken, "provisionerToken": s.ProvisionerToken, "sealKeys": s.SealKeys} {
		if value == "" && (entry != "sealKeys" || c.SealKeysFile == "") {
			return s, fmt.Errorf("%s lacks %s. Restore it from a backup", file, entry)
		}
	}
	if s.S3Secret == "" && c.S3.embedded() {
		return s, fmt.Errorf("%s lacks s3Secret, which the S3 gateway inside the process needs. Restore it from a backup, or configure s3", file)
	}
	return s, nil
}

func (c Config) secretsFile() string {
	return cmp.Or(c.SecretsFile, filepath.Join(c.Data, "secrets.json"))
}

// sealKeys are the keys that secrets in the database are sealed with: of the
// file of secrets, or of one of their own, where AWS KMS may have wrapped them.
func (c Config) sealKeys(ctx context.Context, own secretsFile) (*seal.Keys, error) {
	if c.SealKeysFile == "" {
		keys, err := seal.ParseKeys(own.SealKeys)
		if err != nil {
			return nil, fmt.Errorf("%s: sealKeys: %w", c.secretsFile(), err)
		}
		return keys, nil
	}
	text, err := os.ReadFile(c.SealKeysFile)
	if err == nil && kms.Wrapped(string(text)) {
		client, err := kms.Open(ctx, kms.Config{})
		if err != nil {
			return nil, err
		}
		return seal.ReadFileWith(c.SealKeysFile, client.ParseKey(ctx))
	}
	return seal.ReadFile(c.SealKeysFile)
}

func newSecretsCommand() *cobra.Command {
	var kmsKey string
	cmd := &cobra.Command{
		Use: "secrets", Short: "Make up the secrets of a deployment of several replicas",
		Long: `Prints new secrets: the access tokens of the platform's own clients and the key that seals secrets in the database. All
replicas of a deployment need the same: put them into a file that only the server's user can read, and name it as
secretsFile in the configuration. It is the user's and has mode 0600; or it is root's and has mode 0640 or 0440, and the
user gets at it by the group. A server without secretsFile makes up its own, in DATA/secrets.json.

Keep a copy where the database's backups do not lie: without the seal key, what is sealed in them is lost, and with it,
it is readable.

With --kms-key, prints a seal key instead that AWS KMS has wrapped: a line for the file that sealKeysFile names. The
last line of that file seals, all open. To change keys, add the new line before the last one on all replicas, then move
it to the end.`,
		Example: `  (umask 077; taskfleet config secrets > /etc/taskfleet/secrets.json)
  taskfleet config secrets --kms-key alias/taskfleet >> /etc/taskfleet/seal-keys`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kmsKey != "" {
				client, err := kms.Open(cmd.Context(), kms.Config{})
				if err != nil {
					return err
				}
				line, err := client.NewKey(cmd.Context(), kmsKey)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), line)
				return nil
			}
			text, err := json.MarshalIndent(newSecrets(), "", "  ")
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), string(text))
			return nil
		},
	}
	cmd.Flags().StringVar(&kmsKey, "kms-key", "", "ARN, id or alias of a KMS key: print a seal key that it has wrapped")
	return cmd
}

// writePrivate writes v as JSON to a file of mode 0600, whole or not at all.
func writePrivate(file string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err == nil && runtime.GOOS != "windows" { // which keeps names by itself
		err = syncDirectory(filepath.Dir(file))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// syncDirectory has the names in a directory survive a power failure.
func syncDirectory(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// replicaID names this process to the others on its database. It stays the same
// over restarts on a data directory, of which one process at a time has the
// lock: so a process that was killed has its leases back at once. A file that a
// crash left without an id is written anew.
func replicaID(data string) (string, error) {
	file := filepath.Join(data, "replica")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slugid.Valid(string(text)) {
		text = []byte(slugid.New())
		err = os.WriteFile(file, text, 0o600)
	}
	host, hostErr := os.Hostname()
	return string(text) + "@" + host, errors.Join(err, hostErr)
}
