package auth

import (
	"context"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

type accountPath struct {
	Account string `path:"account"`
}

type azureSAS struct {
	SAS    string         `json:"sas"`
	Expiry timestamp.Time `json:"expiry"`
}

func signed(t Token, err error) (azureSAS, error) {
	return azureSAS{t.Text, timestamp.Of(t.Expires)}, err
}

// account fails where a storage account is not configured.
func (a *Auth) account(name string) error {
	if a.azure == nil {
		return unconfigured("Azure", "storage accounts (auth.azure)")
	}
	if !slices.Contains(a.azure.Accounts(), name) {
		return api.Errorf(api.ResourceNotFound, "This deployment gives no access to the storage account %s: an operator would have to add it, with its key, to the configuration (auth.azure).", name)
	}
	return nil
}

type accountList struct {
	Accounts []string `json:"accounts"`
}

var azureAccounts = api.Declare(api.Spec{
	Name: "azureAccounts", Route: "GET /azure/accounts",
	Scopes: scope.Scope("auth:azure-table:list-accounts"), Output: "v1/azure-account-list-response.json#",
	Stability: api.Deprecated, Category: "Azure Credentials", Title: "List storage accounts",
	Doc: `Lists the storage accounts on Azure that this deployment gives access to.`,
}, func(_ context.Context, a *Auth, _ api.Call[api.None, api.None]) (accountList, error) {
	if a.azure == nil {
		return accountList{[]string{}}, nil
	}
	return accountList{slices.Sorted(slices.Values(a.azure.Accounts()))}, nil
})

type tableList struct {
	Tables            []string `json:"tables"`
	ContinuationToken string   `json:"continuationToken,omitempty"`
}

var azureTables = api.Declare(api.Spec{
	Name: "azureTables", Route: "GET /azure/<account>/tables", Query: []string{"continuationToken"},
	Scopes: scope.Scope("auth:azure-table:list-tables:<account>"), Output: "v1/azure-table-list-response.json#",
	Stability: api.Deprecated, Category: "Azure Credentials", Title: "List the tables of a storage account",
	Doc: `Lists the tables of a storage account, a page at a time.`,
}, func(ctx context.Context, a *Auth, c api.Call[accountPath, api.None]) (l tableList, err error) {
	l.Tables, l.ContinuationToken, err = azurePage(ctx, a, c, Azure.Tables)
	return l, err
})

type containerList struct {
	Containers        []string `json:"containers"`
	ContinuationToken string   `json:"continuationToken,omitempty"`
}

var azureContainers = api.Declare(api.Spec{
	Name: "azureContainers", Route: "GET /azure/<account>/containers", Query: []string{"continuationToken"},
	Scopes: scope.Scope("auth:azure-container:list-containers:<account>"), Output: "v1/azure-container-list-response.json#",
	Stability: api.Deprecated, Category: "Azure Credentials", Title: "List the containers of a storage account",
	Doc: `Lists the blob containers of a storage account, a page at a time.`,
}, func(ctx context.Context, a *Auth, c api.Call[accountPath, api.None]) (l containerList, err error) {
	l.Containers, l.ContinuationToken, err = azurePage(ctx, a, c, Azure.Containers)
	return l, err
})

// azurePage reads a page of a listing. Azure's own token, wrapped up, is ours.
func azurePage(ctx context.Context, a *Auth, c api.Call[accountPath, api.None],
	list func(_ Azure, ctx context.Context, account, after string) ([]string, string, error),
) ([]string, string, error) {
	if err := a.account(c.Path.Account); err != nil {
		return nil, "", err
	}
	page, err := c.Page(1)
	if err != nil {
		return nil, "", err
	}
	names, next, err := list(a.azure, ctx, c.Path.Account, page.Text(0))
	if err == nil && next != "" {
		next = page.Token(next)
	}
	return listed(names), next, err
}

type tablePath struct {
	Account string `path:"account"`
	Table   string `path:"table"`
	Level   level  `path:"level"`
}

var azureTableSAS = api.Declare(api.Spec{
	Name: "azureTableSAS", Route: "GET /azure/<account>/table/<table>/<level>",
	Scopes: levelled("auth:azure-table:read-only:<account>/<table>", "auth:azure-table:read-write:<account>/<table>"),
	Output: "v1/azure-table-access-response.json#", Stability: api.Deprecated, Category: "Azure Credentials", Title: "Get a signature for a table", Private: true,
	Doc: `Returns a shared access signature for one table. With the level ` + "`read-only`" + ` it permits to read; with ` + "`read-write`" + ` also to add,
change and delete entities, and the table is created if it does not exist.`,
}, func(ctx context.Context, a *Auth, c api.Call[tablePath, api.None]) (r azureSAS, err error) {
	p := c.Path
	if err := c.Authorize(p.Level.given()); err != nil {
		return r, err
	}
	if err := a.account(p.Account); err != nil {
		return r, err
	}
	return signed(a.azure.TableSAS(ctx, p.Account, p.Table, p.Level == readWrite))
})

type containerPath struct {
	Account   string `path:"account"`
	Container string `path:"container"`
	Level     level  `path:"level"`
}

var azureContainerSAS = api.Declare(api.Spec{
	Name: "azureContainerSAS", Route: "GET /azure/<account>/containers/<container>/<level>",
	Scopes: levelled("auth:azure-container:read-only:<account>/<container>", "auth:azure-container:read-write:<account>/<container>"),
	Output: "v1/azure-container-response.json#", Stability: api.Deprecated, Category: "Azure Credentials", Title: "Get a signature for a container", Private: true,
	Doc: `Returns a shared access signature for one blob container. With the level ` + "`read-only`" + ` it permits to list and read; with
` + "`read-write`" + ` also to create, write and delete blobs, and the container is created if it does not exist.`,
}, func(ctx context.Context, a *Auth, c api.Call[containerPath, api.None]) (r azureSAS, err error) {
	p := c.Path
	if err := c.Authorize(p.Level.given()); err != nil {
		return r, err
	}
	if len(p.Container) > 63 {
		return r, api.Errorf(api.InvalidRequestArguments, "The container's name has %d characters; 63 are allowed.", len(p.Container))
	}
	if err := a.account(p.Account); err != nil {
		return r, err
	}
	return signed(a.azure.ContainerSAS(ctx, p.Account, p.Container, p.Level == readWrite))
})
