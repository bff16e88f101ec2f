package notify

import "github.com/taskfleet/taskfleet/api"

// API is the service as served under /api/notify/v1/.
var API = api.Service[*Notify]{
	Name: "notify", Version: "v1", Title: "Notify",
	Doc: `Sends emails, messages to rooms of Matrix and channels of Slack, and messages on an exchange.

Tasks are notified about by their routes, ` + "`notify.<type>.<address>.<event>`" + `, without any call. The type is
` + "`email`, `pulse`, `matrix-room` or `slack-channel`" + `. The event is ` + "`on-defined`, `on-pending`, `on-running`, `on-completed`, `on-failed`" + `
or ` + "`on-exception`; `on-resolved`" + ` stands for the last three (as the older ` + "`on-any`" + ` does) and ` + "`on-transition`" + ` for all. Tasks that
were canceled or missed their deadline are not told about, unless the deployment is configured otherwise.

What a message says can be set in the task's ` + "`extra.notify`, by templates in JSON-e whose context has `task`, `status`, `taskId`" + `
and ` + "`rootUrl`: `email.subject`, `email.content`, `email.link`, `email.template`; `matrixBody`, `matrixFormattedBody`" + ` with the plain values
` + "`matrixFormat` and `matrixMsgtype`; `slackText`, `slackBlocks`, `slackAttachments`" + ` with the plain values ` + "`slackUnfurlLinks` and `slackUnfurlMedia`" + `.

Nobody gets the same message twice in an hour, nor more than a bounded number in ten minutes. What cannot be sent
is tried again for a day.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Methods: []api.Method[*Notify]{
		email, pulse, matrix, slack, addDenylistAddress, deleteDenylistAddress, listDenylist,
	},
	Exchanges: []api.Exchange{notification},
}
