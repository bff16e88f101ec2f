package auth

import (
	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
)

// API is the service as served under /api/auth/v1/.
var API = api.Service[*Auth]{
	Name: "auth", Version: "v1", Title: "Auth",
	Doc: `Manages clients, who can make calls, and roles, which stand for sets of scopes; tells what credentials
are good for.

A client has an access token and scopes. With the token it signs its calls (Hawk) and issues temporary
credentials, which carry a subset of its scopes. A scope ` + "`assume:<roleId>`" + ` brings those of the role.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"clientId": cred.ClientIDPattern,
		"prefix":   ``, // of clients' ids or of S3 keys; the methods look at it
		"roleId":   `^[\x20-\x7e]+$`,

		"entityType": `^(client|role|secret|hook|worker-pool|credential)$`,

		"level":   levelPattern,
		"bucket":  `^[a-z0-9][a-z0-9-]{1,62}[a-z0-9]$`, // without dots, which certificates for virtual hosts do not cover
		"format":  `^iam-role-compat$`,
		"account": `^[a-z0-9]{3,24}$`,
		"table":   `^[A-Za-z][A-Za-z0-9]{2,62}$`,

		"container": `^[a-z0-9](-?[a-z0-9])+$`,
		"project":   `^[a-zA-Z0-9_-]{1,64}$`,

		"wstAudience": `^[a-zA-Z0-9_-]{1,38}$`,
		"wstClient":   `^[a-zA-Z0-9_~.%-]+$`,

		"projectId":      `^[a-zA-Z0-9:.-]{1,100}$`,
		"serviceAccount": `^[^/?#\x00-\x20\x7f]{1,200}$`,

		"appName": `^[a-zA-Z0-9_-]+$`,
		"owner":   `^[A-Za-z0-9._-]+$`,
	},
	Methods: []api.Method[*Auth]{
		listClients, getClient, createClient, resetAccessToken, updateClient, enableClient, disableClient, deleteClient,
		listRoles, listRoles2, listRoleIDs, getRole, createRole, updateRole, deleteRole,
		expandScopes, currentScopes,
		authenticateHawk, testAuthenticate, testAuthenticateGet,
		getEntityHistory, listAuditHistory,
		awsS3Credentials, azureAccounts, azureTables, azureTableSAS, azureContainers, azureContainerSAS,
		gcpCredentials, githubRepoToken, sentryDSN, websocktunnelToken,
	},
	Exchanges: []api.Exchange{clientCreated, clientUpdated, clientDeleted, roleCreated, roleUpdated, roleDeleted},
}

var (
	clientCreated = exchange("client-created", "clientCreated", "Client created", "There is a new client.", "v1/client-message.json#")
	clientUpdated = exchange("client-updated", "clientUpdated", "Client updated", "A client was changed, switched on or off, or got another access token.", "v1/client-message.json#")
	clientDeleted = exchange("client-deleted", "clientDeleted", "Client deleted", "A client is gone.", "v1/client-message.json#")
	roleCreated   = exchange("role-created", "roleCreated", "Role created", "There is a new role.", "v1/role-message.json#")
	roleUpdated   = exchange("role-updated", "roleUpdated", "Role updated", "A role was changed.", "v1/role-message.json#")
	roleDeleted   = exchange("role-deleted", "roleDeleted", "Role deleted", "A role is gone.", "v1/role-message.json#")
)

func exchange(topic, name, title, doc, schema string) api.Exchange {
	return api.Exchange{
		Exchange: topic, Name: name, Title: title, Doc: doc, Schema: schema,
		RoutingKey: []api.RoutingKey{
			{Name: "reserved", Summary: "Room for later additions; match it with #.", MultipleWords: true},
		},
	}
}

type message struct {
	Version  int    `json:"version"`
	ClientID string `json:"clientId,omitempty"`
	RoleID   string `json:"roleId,omitempty"`
}

func (a *Auth) publish(tx *store.Tx, x api.Exchange, m message) error {
	m.Version = 1
	return a.events.Publish(tx, event.Topic("auth", "v1", x), "_", nil, m)
}
