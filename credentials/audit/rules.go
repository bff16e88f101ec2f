package audit

import "slices"

// A Rule is what findings are of.
type Rule struct {
	ID    string `json:"id"`
	Check string `json:"check"` // age, unused, scopes or leaks
	Level string `json:"level"` // error, warning or note
	Title string `json:"title"`
	Help  string `json:"help"` // what it means, and what to do
}

// What an audit looks for.
const (
	Age    = "age"
	Unused = "unused"
	Scopes = "scopes"
	Leaks  = "leaks"
)

// Checks are all of them.
var Checks = []string{Age, Unused, Scopes, Leaks}

const (
	levelError   = "error"
	levelWarning = "warning"
	levelNote    = "note"
)

const (
	ruleOverdue    = "credential-overdue"
	ruleUnplanned  = "credential-unplanned"
	ruleUndefined  = "credential-undefined"
	ruleTokenAge   = "client-token-old"
	ruleStatic     = "client-static"
	ruleNever      = "client-never-expires"
	ruleIdle       = "client-unused"
	ruleIdleCred   = "credential-unused"
	ruleScopes     = "scopes-unused"
	ruleEverything = "scopes-everything"

	ruleLeaked      = "secret-in-log"
	ruleAWSKey      = "aws-key-in-log"
	rulePrivateKey  = "private-key-in-log"
	ruleSlackToken  = "slack-token-in-log"
	ruleGitHubToken = "github-token-in-log"
	ruleTaskcluster = "access-token-in-log"
)

// rules are all, in the order in which they are told.
var rules = []Rule{
	{ruleLeaked, Leaks, levelError, "A live secret is in the log of a task",
		"The log of a task has a text that is a secret of this platform and still works: of a credential that is rotated, of a client, or in the secrets service. Who may read the log has it. Revoke it: `taskfleet credentials revoke` for a credential, a reset of the access token for a client, a new value for a secret. Then keep the task from printing it."},
	{ruleTaskcluster, Leaks, levelWarning, "What looks like an access token of Taskcluster is in the log of a task",
		"It is none of a client of this platform: it may be one of temporary credentials, of a client whose token was reset, or of another deployment. Temporary credentials end by themselves or with the token they were issued with. Keep the task from printing it."},
	{ruleAWSKey, Leaks, levelWarning, "What looks like an AWS access key is in the log of a task",
		"An access key id is no secret by itself, but is rarely printed without one. See whether the secret key stands beside it, and if so, deactivate the key in IAM."},
	{rulePrivateKey, Leaks, levelWarning, "A private key is in the log of a task",
		"The log has the beginning of a private key. If it is one that something relies on, replace it."},
	{ruleSlackToken, Leaks, levelWarning, "What looks like a Slack token is in the log of a task",
		"Revoke it in the settings of the Slack app that it belongs to."},
	{ruleGitHubToken, Leaks, levelWarning, "What looks like a GitHub token is in the log of a task",
		"Revoke it in the settings of the GitHub account or app that it belongs to."},
	{ruleOverdue, Age, levelWarning, "A credential is older than it should be",
		"It should have been rotated by itself. `taskfleet credentials show` says what keeps it."},
	{ruleUnplanned, Age, levelWarning, "A credential is old, and nothing rotates it",
		"It has neither `cron` nor `maxAge` in the configuration, and was not rotated by hand for longer than access tokens may get old. Give it one, or run `taskfleet credentials rotate`."},
	{ruleUndefined, Age, levelWarning, "A credential is not in the configuration any more",
		"What was minted for it still works where it was minted, and nothing rotates it. Put it back into the configuration, or end it there."},
	{ruleTokenAge, Age, levelWarning, "An access token is older than it should be",
		"Have it rotated: a credential of the kind `client` in the configuration does so. Or reset it by hand."},
	{ruleNever, Age, levelWarning, "A client does not expire",
		"Nobody has to say that it is still needed. Give it an expiry in the next year or so, and renew that."},
	{ruleStatic, Age, levelNote, "A client's access token is in the configuration, or in the file of secrets",
		"How old it is is not known, and nothing rotates it. Where it need not be there, make it a client by the API, and a credential of it."},
	{ruleIdle, Unused, levelWarning, "A client is not used",
		"Neither the client nor temporary credentials that it has issued were used. Disable it; delete it when nobody has missed it."},
	{ruleIdleCred, Unused, levelWarning, "A credential is not used",
		"Its provider has not seen its current version in use. If nobody needs it, take its consumers away, and then the credential."},
	{ruleScopes, Scopes, levelWarning, "A client has scopes that it does not use",
		"No call that this platform has authorized needed them, or anything that they imply. Take them away. Not known is what other services do with them that ask for `auth.authenticateHawk`."},
	{ruleEverything, Scopes, levelNote, "A client may do everything",
		"It has the scope `*`. What of it it needs is not known, as all it does is granted by that. Give it the scopes that it needs instead."},
}

func ruleOf(id string) Rule { return rules[ruleIndex(id)] }

func ruleIndex(id string) int {
	return slices.IndexFunc(rules, func(r Rule) bool { return r.ID == id })
}
