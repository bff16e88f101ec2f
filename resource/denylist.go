package resource

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/notify"
)

// addressTypes are those of what can be notified.
var addressTypes = []string{"email", "matrix-room", "pulse", "slack-channel"}

// Denylist is the addresses that get no notifications. Their names have the form TYPE/ADDRESS;
// there is nothing more to say of one.
var Denylist Kind = &kind[struct{}]{
	name: "DenylistAddress", noun: "denylist address", section: "denylist",
	check: func(name string, _ *struct{}) error {
		kind, address, _ := strings.Cut(name, "/")
		if !slices.Contains(addressTypes, kind) || address == "" || len(address) > 1024 {
			return fmt.Errorf("an address has the form TYPE/ADDRESS, such as email/somebody@example.com; types are %s", strings.Join(addressTypes, ", "))
		}
		return nil
	},
	read: func(ctx context.Context, c *client.Client, name string) (*struct{}, error) {
		// There is no call for one.
		all, err := listDenylist(ctx, c)
		return all[spellAddress(name)], err
	},
	list: listDenylist,
	write: func(ctx context.Context, c *client.Client, name string, _ *struct{}, _ bool) error {
		return notify.New(c).AddDenylistAddress(ctx, addressOf(name))
	},
	remove: func(ctx context.Context, c *client.Client, name string) error {
		return notify.New(c).DeleteDenylistAddress(ctx, addressOf(name))
	},
	// To look for each address would list them all as many times.
	alike: true,
	spell: spellAddress,
}

func addressOf(name string) *notify.NotificationAddress {
	kind, address, _ := strings.Cut(name, "/")
	return &notify.NotificationAddress{NotificationType: kind, NotificationAddress: address}
}

// spellAddress has mail addresses in lower case: to the platform that is the same.
func spellAddress(name string) string {
	if strings.HasPrefix(name, "email/") {
		return strings.ToLower(name)
	}
	return name
}

func listDenylist(ctx context.Context, c *client.Client) (map[string]*struct{}, error) {
	all := map[string]*struct{}{}
	for a, err := range notify.New(c).ListDenylistAll(ctx, notify.ListDenylistOptions{}) {
		if err != nil {
			return nil, err
		}
		all[spellAddress(a.NotificationType+"/"+a.NotificationAddress)] = &struct{}{}
	}
	return all, nil
}
