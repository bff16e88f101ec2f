package notify

import (
	"context"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
)

type addressEntry struct {
	Type    kind   `json:"notificationType"`
	Address string `json:"notificationAddress"`
}

type addressList struct {
	Addresses         []addressEntry `json:"addresses"`
	ContinuationToken string         `json:"continuationToken,omitempty"`
}

func (a addressEntry) check() error {
	if a.Address == "" || len(a.Address) > maxAddress {
		return api.Errorf(api.InputError, "notificationAddress has %d bytes; it must have 1 to %d.", len(a.Address), maxAddress)
	}
	return nil
}

var manageDenylist = scope.Scope("notify:manage-denylist")

var addDenylistAddress = api.Declare(api.Spec{
	Name: "addDenylistAddress", Route: "POST /denylist/add", Scopes: manageDenylist,
	Input: "v1/notification-address.json#", Stability: api.Experimental, Category: "Denylist",
	Title: "Put an address on the denylist",
	Doc: `From now on the address gets nothing, and what waits to be sent to it is dropped. Emails go by the address
without regard to upper and lower case, all others by the exact text. To add an address again is no error.`,
}, func(ctx context.Context, n *Notify, c api.Call[api.None, addressEntry]) (none api.None, err error) {
	if err := c.Body.check(); err != nil {
		return none, err
	}
	k, mailbox := c.Body.Type, c.Body.Type.mailbox(c.Body.Address)
	return none, n.db.Do(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(`
			INSERT INTO notify_denylist (kind, mailbox, address, created) VALUES ($1, $2, $3, $4)
			ON CONFLICT (kind, mailbox) DO NOTHING`, k, mailbox, c.Body.Address, now()); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM notify_message WHERE kind = $1 AND mailbox = $2`, k, mailbox)
		return err
	})
})

var deleteDenylistAddress = api.Declare(api.Spec{
	Name: "deleteDenylistAddress", Route: "DELETE /denylist/delete", Scopes: manageDenylist,
	Input: "v1/notification-address.json#", Stability: api.Experimental, Category: "Denylist",
	Title: "Take an address off the denylist",
	Doc:   `The address can be notified again. That it is not on the list is no error.`,
}, func(ctx context.Context, n *Notify, c api.Call[api.None, addressEntry]) (none api.None, err error) {
	if err := c.Body.check(); err != nil {
		return none, err
	}
	return none, n.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM notify_denylist WHERE kind = $1 AND mailbox = $2`, c.Body.Type, c.Body.Type.mailbox(c.Body.Address))
		return err
	})
})

var listDenylist = api.Declare(api.Spec{
	Name: "listDenylist", Route: "GET /denylist/list", Query: []string{"continuationToken", "limit"}, Scopes: manageDenylist,
	Output: "v1/notification-address-list.json#", Stability: api.Experimental, Category: "Denylist",
	Title: "List the denylist",
	Doc: `Lists the addresses that get nothing, by type and address. A page has at most 1000. As long as there are more,
the reply has a ` + "`continuationToken`" + ` for the next page.`,
}, func(ctx context.Context, n *Notify, c api.Call[api.None, api.None]) (r addressList, err error) {
	page, err := c.Page(2)
	if err != nil {
		return r, err
	}
	err = n.db.View(ctx, func(tx *store.Tx) error {
		r = addressList{Addresses: []addressEntry{}}
		rows, err := tx.Query(`
			SELECT kind, mailbox, address FROM notify_denylist
			 WHERE (kind, mailbox) > ($1, $2) ORDER BY kind, mailbox LIMIT $3`, page.Text(0), page.Text(1), page.Limit+1)
		if err != nil {
			return err
		}
		var last [2]string
		for rows.Next() {
			if len(r.Addresses) == page.Limit {
				r.ContinuationToken = page.Token(last[:]...)
				break
			}
			var e addressEntry
			if err := rows.Scan(&e.Type, &last[1], &e.Address); err != nil {
				return err
			}
			last[0] = string(e.Type)
			r.Addresses = append(r.Addresses, e)
		}
		return rows.Close()
	})
	return r, err
})

// onDenylist tells whether a mailbox gets nothing.
func onDenylist(tx *store.Tx, k kind, mailbox string) (denied bool, err error) {
	err = tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM notify_denylist WHERE kind = $1 AND mailbox = $2)`, k, mailbox).Scan(&denied)
	return denied, err
}
