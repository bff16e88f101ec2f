//go:build !agent

package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/seal/ring"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newKeysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "keys", Short: "Show and change the keys that the platform seals and signs with",
		Long: `The platform's own keys are in its database, sealed with a root key, which is in the file of secrets or of keys, or wrapped by
AWS KMS. Those in the database are rotated like other credentials, by the kind platform-key (see docs/credentials.md). The
root key is replaced here, which seals a handful of rows anew.

With one server:
  1. taskfleet keys rotate-root, and restart the server.
  2. taskfleet keys list says when the old root key is not needed any more: remove its line then.

With replicas, or with keys that KMS has wrapped, add a line to the file by hand:
  1. Make a key: taskfleet config secrets | jq -r .sealKeys, or taskfleet config secrets --kms-key KEY.
  2. Add it before the last line on all replicas, and restart them one after the other.
  3. Move it to the end, and restart them again.
  4. When taskfleet keys list says so, remove the old line.

Backups of the database from before need the old root key.`,
	}
	cmd.AddCommand(newKeysListCommand(), newKeysRotateRootCommand())
	return cmd
}

// A shownKey is a key as taskfleet keys list tells of it.
type shownKey struct {
	Purpose  string         `json:"purpose"`
	ID       string         `json:"id"`
	Name     string         `json:"name,omitempty"`
	State    string         `json:"state"`
	Created  timestamp.Time `json:"created,omitempty"`
	LastUsed timestamp.Time `json:"lastUsed,omitempty"`
	Left     *ring.Sealed   `json:"left,omitempty"` // what it has sealed
	Root     string         `json:"root,omitempty"` // the root key that has sealed it
}

func newKeysListCommand() *cobra.Command {
	var flags configFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "Show the keys, and what is sealed with each",
		Long: `Reads the configuration, the file of keys and the database, as the server would, and says which keys there are, and how many
rows of the database hold something that each has sealed. It looks through the database, and shows nothing secret.`,
		Example: "  taskfleet keys list --config taskfleet.yml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			list, err := listKeys(cmd.Context(), c)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"keys": list})
			}
			t := &table{head: []string{"PURPOSE", "KEY", "STATE", "CREATED", "LEFT"}}
			for _, k := range list {
				left := ""
				if k.Left != nil {
					left = fmt.Sprintf("%d rows", k.Left.Total())
				}
				if k.Purpose == "root" && k.State == "old" && k.Left.Total() == 0 {
					left = "0 rows: can be removed"
				}
				created := ""
				if !k.Created.IsZero() {
					created = k.Created.Time().Format("2006-01-02")
				}
				t.add(k.Purpose, cmp.Or(k.Name, k.ID), k.State, created, left)
			}
			return t.print(cmd.OutOrStdout())
		},
	}
	jsonFlag(cmd, &asJSON)
	flags.add(cmd.Flags())
	return cmd
}

func listKeys(ctx context.Context, c Config) (list []shownKey, err error) {
	if _, err := os.Stat(c.secretsFile()); err != nil {
		return nil, fmt.Errorf("there is no file of secrets, so no platform was here; --data or --config say where it is: %w", err)
	}
	own, err := openSecrets(c)
	if err != nil {
		return nil, err
	}
	root, err := c.sealKeys(ctx, own)
	if err != nil {
		return nil, err
	}
	if err := newReload().readDatabaseFile(&c); err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, c.Database)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	look := ring.Look(db, root, slog.New(slog.DiscardHandler), plainTables)
	for _, k := range root.All() {
		left, err := look.SealedBy(ctx, k.ID(), true)
		if err != nil {
			return nil, err
		}
		state := "old"
		if k.ID() == root.Newest() {
			state = "used"
		}
		list = append(list, shownKey{Purpose: "root", ID: k.ID(), State: state, Left: &left})
	}
	there, err := look.All(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range there {
		s := shownKey{Purpose: k.Purpose(), ID: k.ID, Name: k.Name, State: string(k.State), Created: k.Created, LastUsed: k.LastUsed, Root: seal.KeyID(k.Secret)}
		if k.Name != "" {
			left, err := look.SealedBy(ctx, k.Name, false)
			if err != nil {
				return nil, err
			}
			s.Left = &left
		}
		list = append(list, s)
	}
	return list, nil
}

func newKeysRotateRootCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use: "rotate-root", Short: "Add a new root key to the file of secrets of a single server",
		Long: `Adds a new root key to the end of sealKeys in the file of secrets, of a platform that is one server. Old keys stay in the file,
and go on opening what they have sealed. Run it as the user of the server, whose file it is, and restart the server; within the
hour everything is sealed with the new key, and taskfleet keys list says when an old one can be removed. For replicas and AWS KMS see taskfleet keys --help.`,
		Example: "  taskfleet keys rotate-root --data /var/lib/taskfleet",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			switch {
			case err != nil:
				return err
			case c.SealKeysFile != "":
				return fmt.Errorf("the root keys are in %s: add a line there, as taskfleet keys --help says", c.SealKeysFile)
			case !strings.HasPrefix(c.Database, "sqlite:"):
				return fmt.Errorf("this platform can have replicas, which need the new key before it seals: follow the steps of taskfleet keys --help")
			}
			if _, err := os.Stat(c.secretsFile()); err != nil {
				return fmt.Errorf("there is no file of secrets, so no platform was here; --data or --config say where it is: %w", err)
			}
			own, err := openSecrets(c)
			if err != nil {
				return err
			}
			added := seal.NewKey()
			own.SealKeys = strings.TrimRight(own.SealKeys, "\n") + "\n" + added.Text()
			if _, err := seal.ParseKeys(own.SealKeys); err != nil {
				return fmt.Errorf("%s: sealKeys: %w", c.secretsFile(), err)
			}
			if err := writePrivate(c.secretsFile(), own); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s has the new root key %s. Keep a copy of the file, and restart the server.\n", c.secretsFile(), added.ID())
			return nil
		},
	}
	flags.add(cmd.Flags())
	return cmd
}
