package provider

import "github.com/taskfleet/taskfleet/resource"

// A kind is a kind of things as Terraform sees it. What is valid, what is the default and what is the same is not said
// here: package resource is asked.
type kind struct {
	resource.Kind
	typeName   string // taskfleet_role
	about      string
	id         attribute // the name of a thing
	example    string    // a name that is valid
	least      string    // a document that is valid, with as little in it as can be
	attributes []attribute
}

// An attribute is one of a resource, and the member of documents that it stands for.
type attribute struct {
	name     string
	member   string // empty: of no document
	form     form
	about    string
	required bool
	secret   bool
	// writeOnly is sent, but never in a plan or a state. It is sent when a thing is created, and when the attribute named by
	// version changes.
	writeOnly bool
	version   string
	not       string // another attribute, which cannot be there with it
}

// kinds are the resources, in the order of resource.Kinds.
var kinds = []*kind{roles, clients, secrets, workerPools, hooks, denylist}

var roles = &kind{
	Kind: resource.Roles, typeName: "taskfleet_role",
	about:   "A role: scopes, for whoever has a scope assume:ROLE_ID. An id that ends with * stands for all that begin so.",
	id:      attribute{name: "role_id", about: "Id of the role, such as project:nightly:builds."},
	example: "a", least: `{}`,
	attributes: []attribute{
		{name: "description", member: "description", form: text, about: "What the role is for. Markdown."},
		{name: "scopes", member: "scopes", form: set, about: "Scopes that the role gives. Their order does not matter."},
	},
}

var clients = &kind{
	Kind: resource.Clients, typeName: "taskfleet_client",
	about: "A client: somebody who can call the API. Its access token is no part of it and is known to nobody: whoever is to act as the " +
		"client gets one by resetAccessToken, or by a credential that the platform rotates.",
	id:      attribute{name: "client_id", about: "Id of the client, such as project/nightly/ci. Ids that begin with static/ belong to the platform's configuration."},
	example: "a", least: `{}`,
	attributes: []attribute{
		{name: "description", member: "description", form: text, about: "Who uses the client, and for what. Markdown."},
		{name: "scopes", member: "scopes", form: set, about: "Scopes that the client has. Their order does not matter."},
		{name: "expires", member: "expires", form: text, about: "When the client ends, in RFC 3339; never, unless it is said."},
		{name: "delete_on_expiration", member: "deleteOnExpiration", form: flag, about: "Whether the platform deletes the client when it has expired."},
		{name: "disabled", member: "disabled", form: flag,
			about: "Whether the client is refused. To disable one is an act of emergency: where this is not set it stays as it is."},
	},
}

var secrets = &kind{
	Kind: resource.Secrets, typeName: "taskfleet_secret",
	about: "A secret of the secrets service. With value, the value is compared with what there is, and is in the state; with value_wo it is neither. " +
		"With none of the two the secret has to be there, and what is in it stays: a new one has {}.",
	id:      attribute{name: "name", about: "Name of the secret, such as project/nightly/key."},
	example: "a", least: `{}`,
	attributes: []attribute{
		{name: "value", member: "value", form: document, secret: true, not: "value_wo",
			about: "The value, a JSON object; jsonencode makes it. It is in the state: prefer value_wo."},
		{name: "value_wo", member: "value", form: document, secret: true, writeOnly: true, version: "value_wo_version",
			about: "The value, a JSON object, for Terraform 1.11, OpenTofu 1.11 and later: it is in no plan and no state, and may be ephemeral. " +
				"It is written when value_wo_version changes."},
		{name: "value_wo_version", form: number, about: "Any number. Another one has value_wo written."},
		{name: "expires", member: "expires", form: text, about: "When the secret ends, in RFC 3339. Where this is not set it stays as it is; a new one does not end."},
	},
}

var workerPools = &kind{
	Kind: resource.WorkerPools, typeName: "taskfleet_worker_pool",
	about:   "A worker pool: what machines the provisioner starts for a task queue, and how many.",
	id:      attribute{name: "worker_pool_id", about: "Id of the pool, PROVISIONER/TYPE, such as proj-nightly/build. It is also the id of its task queue."},
	example: "a/b", least: `{"providerId":"local","owner":"a@b","config":{}}`,
	attributes: []attribute{
		{name: "provider_id", member: "providerId", form: text, required: true,
			about: "Provider that starts the workers: one of those that the platform is configured with, such as local or aws."},
		{name: "description", member: "description", form: text, about: "What the pool is for. Markdown."},
		{name: "owner", member: "owner", form: text, required: true, about: "Mail address of who answers for the pool."},
		{name: "email_on_error", member: "emailOnError", form: flag, about: "Whether the owner is told of errors by mail."},
		{name: "config", member: "config", form: document, required: true, about: "What the provider has to know, such as maxCapacity: a JSON object; jsonencode makes it."},
	},
}

var hooks = &kind{
	Kind: resource.Hooks, typeName: "taskfleet_hook",
	about:   "A hook: a task by a template, created on a schedule, on messages and on request, with the scopes of the role hook-id:HOOK_ID.",
	id:      attribute{name: "hook_id", about: "Group and id of the hook, GROUP/HOOK, such as project-nightly/build."},
	example: "a/b", least: `{"name":"a","owner":"a@b","task":{}}`,
	attributes: []attribute{
		{name: "name", member: "name", form: text, required: true, about: "What people call the hook."},
		{name: "description", member: "description", form: text, about: "What the hook is for. Markdown."},
		{name: "owner", member: "owner", form: text, required: true, about: "Mail address of who answers for the hook."},
		{name: "email_on_error", member: "emailOnError", form: flag, about: "Whether the owner is told by mail when a task cannot be created."},
		{name: "schedule", member: "schedule", form: list, about: "When the hook fires: cron expressions with seconds, in UTC, such as 0 0 3 * * *."},
		{name: "bindings", member: "bindings", form: bindings, about: "Messages that fire the hook."},
		{name: "task", member: "task", form: document, required: true, about: "Template of the task, in JSON-e: a JSON object; jsonencode makes it."},
		{name: "trigger_schema", member: "triggerSchema", form: document,
			about: "JSON schema of what a request may send: a JSON object; jsonencode makes it. Nothing may be sent unless it is said."},
	},
}

var denylist = &kind{
	Kind: resource.Denylist, typeName: "taskfleet_denylist_address",
	about: "An address that gets no notifications.",
	id: attribute{name: "address",
		about: "TYPE/ADDRESS, such as email/nobody@example.com. Types are email, matrix-room, pulse and slack-channel. Of mail addresses the case does not matter."},
	example: "email/a@b", least: `{}`,
}
