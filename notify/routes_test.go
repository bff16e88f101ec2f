package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestRoutesAreReadAsTypeAddressAndEvent(t *testing.T) {
	for _, c := range []struct{ route, transition, want string }{
		{"notify.email.ann.b@mail.example.com.on-failed", "failed", "email ann.b@mail.example.com"},
		{"notify.email.ann@example.com.on-failed", "completed", ""},
		{"notify.email.ann@example.com.on-completed", "completed", "email ann@example.com"},
		{"notify.email.ann@example.com.on-exception", "exception", "email ann@example.com"},
		{"notify.email.ann@example.com.on-resolved", "completed", "email ann@example.com"},
		{"notify.email.ann@example.com.on-resolved", "failed", "email ann@example.com"},
		{"notify.email.ann@example.com.on-resolved", "exception", "email ann@example.com"},
		{"notify.email.ann@example.com.on-resolved", "running", ""},
		{"notify.email.ann@example.com.on-any", "completed", "email ann@example.com"},
		{"notify.email.ann@example.com.on-any", "pending", ""},
		{"notify.email.ann@example.com.on-transition", "defined", "email ann@example.com"},
		{"notify.email.ann@example.com.on-transition", "exception", "email ann@example.com"},
		{"notify.email.ann@example.com.on-defined", "defined", "email ann@example.com"},
		{"notify.email.ann@example.com.on-defined", "pending", ""},
		{"notify.email.ann@example.com.on-pending", "pending", "email ann@example.com"},
		{"notify.email.ann@example.com.on-running", "running", "email ann@example.com"},
		{"notify.pulse.a.b.c.on-running", "running", "pulse a.b.c"},
		{"notify.matrix-room.!abc:matrix.example.org.on-failed", "failed", "matrix-room !abc:matrix.example.org"},
		{"notify.slack-channel.C123.on-failed", "failed", "slack-channel C123"},
		{"notify.irc-user.ann.on-failed", "failed", ""},
		{"notify.email.on-failed", "failed", ""},
		{"notify.email..on-failed", "failed", ""},
		{"notify.email.ann@example.com.failed", "failed", ""},
		{"notify.email.ann@example.com", "failed", ""},
		{"index.email.ann@example.com.on-failed", "failed", ""},
	} {
		got := ""
		for _, x := range targetsOf([]string{"route." + c.route}, c.transition) {
			got = string(x.kind) + " " + x.address
		}
		if got != c.want {
			t.Errorf("%s at %s: %q, want %q", c.route, c.transition, got, c.want)
		}
	}
}

// Whatever targetsOf would act on has to be in the bindings, or it is not heard.
func TestBindingsSelectWhatRoutesAskFor(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for _, transition := range transitions {
			for _, on := range decidersOf(transition) {
				key := transition + "." + on + ".x"
				w.happens(happening{transition: transition, routes: []string{"index.v1.x", "notify.pulse." + key + "." + on}})
				list := w.published()
				if len(list) == 0 || list[len(list)-1].CC[0] != "route."+key {
					t.Errorf("%s at %s: published %v", on, transition, list)
				}
			}
		}
	})
}

func TestATaskTellsWhomItsRoutesName(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.happens(happening{transition: "failed", runs: 2, name: "build <linux> & `more`", routes: []string{
			"notify.email.ann@example.com.on-failed", "notify.email.ann@example.com.on-resolved",
			"notify.matrix-room." + room + ".on-failed", "notify.slack-channel." + channel + ".on-any",
			"notify.pulse.topic.on-transition", "notify.slack-channel.C2.on-completed",
		}})
		mails, rooms, slacks := w.mails.all(), w.rooms.all(), w.slacks.all()
		if len(mails) != 1 || len(rooms) != 1 || len(slacks) != 1 {
			t.Fatalf("%d mails, %d to Matrix, %d to Slack", len(mails), len(rooms), len(slacks))
		}
		m := mails[0]
		if m.To != ann || m.Subject != "build <linux> & `more` failed ("+taskID+")" {
			t.Errorf("mail to %s: %s", m.To, m.Subject)
		}
		for _, text := range []string{
			"`build <linux> & 'more'` failed (2 runs).", "Builds *everything*", "- Owner: `bob@example.com`",
			"- Group: " + rootURL + "/tasks/groups/" + groupID, "- Source: https://example.com/src",
			"Open the task:\n" + rootURL + "/tasks/" + taskID,
		} {
			if !strings.Contains(m.Text, text) {
				t.Errorf("the mail does not say %q:\n%s", text, m.Text)
			}
		}
		if !strings.Contains(m.HTML, "<code>build &lt;linux&gt; &amp; 'more'</code> failed") || !strings.Contains(m.HTML, ">Open the task</a>") {
			t.Errorf("HTML: %s", m.HTML)
		}
		if r := rooms[0]; r.RoomID != room || r.Body != "build <linux> & `more` failed "+rootURL+"/tasks/"+taskID || r.MsgType != "m.notice" || r.Format+r.FormattedBody != "" {
			t.Errorf("Matrix: %+v", r)
		}
		if s := slacks[0]; s.ChannelID != channel || s.Text != ":x: <"+rootURL+"/tasks/"+taskID+"|build &lt;linux&gt; &amp; `more`> failed" ||
			!strings.Contains(string(s.Blocks), "Task group") || s.UnfurlLinks || s.UnfurlMedia || s.Attachments != nil {
			t.Errorf("Slack: %+v %s", s, s.Blocks)
		}
		list := w.published()
		var p struct {
			Message struct{ TaskID, State string }
		}
		if len(list) != 1 || json.Unmarshal(list[0].Payload, &p) != nil || p.Message.TaskID != taskID || p.Message.State != "failed" || list[0].RoutingKey != "primary.topic" {
			t.Errorf("published: %v", list)
		}
	})
}

func TestATaskSaysItInItsOwnWords(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.happens(happening{transition: "completed", routes: []string{
			"notify.email.ann@example.com.on-completed", "notify.matrix-room." + room + ".on-completed", "notify.slack-channel." + channel + ".on-completed",
		}, extra: `{"notify": {
			"email": {
				"subject": "${task.metadata.name}:\n ${status.state}", "content": "See ${rootUrl}/${taskId}",
				"link": {"text": "Log of ${taskId}", "href": {"$eval": "rootUrl + '/log'"}}, "template": {"$if": "true", "then": "fullscreen"}
			},
			"matrixBody": "${taskId} is ${status.state}", "matrixFormattedBody": "<b>${taskId}</b>", "matrixFormat": "org.matrix.custom.html", "matrixMsgtype": "m.text",
			"slackText": "*${taskId}*", "slackBlocks": [{"type": "header", "text": "${status.state}"}], "slackAttachments": {"$eval": "[{color: '#f00'}]"},
			"slackUnfurlLinks": true, "slackUnfurlMedia": true
		}}`})
		mails, rooms, slacks := w.mails.all(), w.rooms.all(), w.slacks.all()
		if len(mails) != 1 || len(rooms) != 1 || len(slacks) != 1 {
			t.Fatalf("%d mails, %d to Matrix, %d to Slack", len(mails), len(rooms), len(slacks))
		}
		if m := mails[0]; m.Subject != "build: completed" || !strings.HasPrefix(m.Text, "See "+rootURL+"/"+taskID+"\n\nLog of "+taskID+":\n"+rootURL+"/log\n") || strings.Contains(m.HTML, "max-width: 640px;\"") {
			t.Errorf("mail: %+v", m)
		}
		r := rooms[0]
		if r.ID = ""; r != (RoomMessage{"", room, taskID + " is completed", "org.matrix.custom.html", "<b>" + taskID + "</b>", "m.text"}) {
			t.Errorf("Matrix: %+v", r)
		}
		if s := slacks[0]; s.Text != "*"+taskID+"*" || string(s.Blocks) != `[{"text":"completed","type":"header"}]` || string(s.Attachments) != `[{"color":"#f00"}]` || !s.UnfurlLinks || !s.UnfurlMedia {
			t.Errorf("Slack: %+v %s %s", s, s.Blocks, s.Attachments)
		}
	})
}

// Who wrote the template reads the message, so that is where faults are told.
func TestFaultsOfTemplatesAreTold(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.happens(happening{transition: "completed", routes: []string{
			"notify.email.ann@example.com.on-completed", "notify.matrix-room." + room + ".on-completed", "notify.slack-channel." + channel + ".on-completed",
		}, extra: `{"notify": {
			"email": {"content": "${nosuch}", "link": {"text": "x", "href": "javascript:alert(1)"}, "template": {"$eval": "1 +"}},
			"matrixBody": {"$eval": "task.nosuch.x"}, "matrixMsgtype": "m.image", "matrixFormattedBody": null,
			"slackText": "${nosuch}", "slackBlocks": "no list", "slackAttachments": {"$eval": "nosuch"}
		}}`})
		mails, rooms, slacks := w.mails.all(), w.rooms.all(), w.slacks.all()
		if len(mails) != 1 || len(rooms) != 1 || len(slacks) != 1 {
			t.Fatalf("%d mails, %d to Matrix, %d to Slack: %s", len(mails), len(rooms), len(slacks), w.log.b.String())
		}
		for _, text := range []string{"the template content in extra.notify fails", "nosuch", "extra.notify.email.link: it needs a text", "extra.notify.email.template"} {
			if !strings.Contains(mails[0].Text, text) {
				t.Errorf("the mail does not say %q:\n%s", text, mails[0].Text)
			}
		}
		if strings.Contains(mails[0].HTML, "javascript") {
			t.Errorf("HTML: %s", mails[0].HTML)
		}
		if r := rooms[0]; !strings.Contains(r.Body, "matrixBody") || r.MsgType != "m.notice" || r.FormattedBody != "" {
			t.Errorf("Matrix: %+v", r)
		}
		if s := slacks[0]; !strings.Contains(s.Text, "slackText") || !strings.Contains(string(s.Blocks), "slackBlocks: it is not a list") || !strings.Contains(string(s.Attachments), "slackAttachments") {
			t.Errorf("Slack: %+v %s %s", s, s.Blocks, s.Attachments)
		}
	})
}

func TestOddValuesInExtraDoNoHarm(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		routes := []string{"notify.email.ann@example.com.on-completed", "notify.matrix-room." + room + ".on-completed", "notify.slack-channel." + channel + ".on-completed"}
		huge := strings.Repeat("x", 300_000)
		for i, extra := range []string{
			`null`, `{"notify": null}`, `{"notify": "x"}`, `{"notify": {"email": []}}`, `{"notify": {"email": {"content": 0, "subject": " \n ", "link": null}}}`,
			`{"notify": {"email": {"content": {"a": 1}, "subject": "\u0000\r\nBcc: x"}, "matrixBody": 7, "slackText": ["a"]}}`,
			`{"notify": {"email": {"content": "` + huge + `", "subject": "` + huge + `"}, "matrixBody": "` + huge + `", "matrixFormattedBody": "` + huge + `", "slackText": "` + huge + `", "slackBlocks": [], "slackAttachments": ["` + huge + `"]}}`,
		} {
			w.happens(happening{transition: "completed", routes: routes, extra: extra, name: fmt.Sprint("task ", i)})
			if len(w.mails.all()) != i+1 || len(w.rooms.all()) != i+1 || len(w.slacks.all()) != i+1 {
				t.Fatalf("%.100s: %d mails, %d to Matrix, %d to Slack: %s", extra, len(w.mails.all()), len(w.rooms.all()), len(w.slacks.all()), w.log.b.String())
			}
		}
		for _, m := range w.mails.all() {
			if strings.ContainsAny(m.Subject, "\r\n\x00") || len([]rune(m.Subject)) > maxSubject || m.Subject == "" {
				t.Errorf("subject %q", m.Subject)
			}
		}
	})
}

func TestCanceledTasksAreNotToldAbout(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		routes := []string{"notify.email.ann@example.com.on-resolved"}
		for _, reason := range []string{"canceled", "deadline-exceeded"} {
			w.happens(happening{transition: "exception", reason: reason, routes: routes})
		}
		if len(w.mails.all()) != 0 || w.asked != 0 {
			t.Errorf("%d mails, asked for %d definitions", len(w.mails.all()), w.asked)
		}
		w.happens(happening{transition: "exception", reason: "malformed-payload", routes: routes})
		if m := w.mails.all(); len(m) != 1 || m[0].Subject != "build ended with an exception: malformed-payload ("+taskID+")" {
			t.Errorf("mails: %+v", m)
		}
	})
}

func TestAnEventThatIsDeliveredAgainNotifiesOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.happens(happening{transition: "failed", routes: []string{"notify.email.ann@example.com.on-failed", "notify.pulse.x.on-failed"}})
		all, err := w.bus.Read(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		all = slices.DeleteFunc(all, func(m event.Message) bool { return !strings.HasPrefix(m.Exchange, queueExchange) })
		time.Sleep(2 * Window) // the content alone would not tell
		for range 2 {
			if _, err := w.follow(t.Context(), all); err != nil {
				t.Fatal(err)
			}
		}
		w.settle()
		if len(w.mails.all()) != 1 || len(w.published()) != 1 {
			t.Errorf("%d mails, %d published", len(w.mails.all()), len(w.published()))
		}
	})
}

func TestEventsWaitForTheQueueAndExpiredTasksDoNot(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		routes := []string{"notify.email.ann@example.com.on-failed"}
		w.breakTasks(errors.New("database is away"))
		w.happens(happening{transition: "failed", routes: routes})
		time.Sleep(5 * time.Minute)
		if len(w.mails.all()) != 0 {
			t.Error("sent without a definition")
		}
		w.breakTasks(nil)
		time.Sleep(2 * time.Minute)
		w.settle()
		if len(w.mails.all()) != 1 {
			t.Errorf("%d mails", len(w.mails.all()))
		}
		w.breakTasks(api.Errorf(api.ResourceNotFound, "gone"))
		w.happens(happening{transition: "failed", routes: routes, name: "expired"})
		w.breakTasks(nil)
		w.happens(happening{transition: "failed", routes: routes, name: "next"})
		if m := w.mails.all(); len(m) != 2 || !strings.HasPrefix(m[1].Subject, "next") {
			t.Errorf("mails: %+v", m)
		}
	})
}

func TestRoutesThatCannotBeServedAreLoggedAndHoldUpNobody(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, func(c *Config) { c.Slack = nil })
		for i := range 3 {
			w.happens(happening{transition: "failed", name: fmt.Sprint(i), routes: []string{
				"notify.slack-channel.C1.on-failed", "notify.email.nobody.on-failed", "notify.matrix-room.#alias:example.org.on-failed", "notify.email.ann@example.com.on-failed",
			}})
		}
		if len(w.mails.all()) != 3 || len(w.rooms.all()) != 0 {
			t.Errorf("%d mails, %d to Matrix", len(w.mails.all()), len(w.rooms.all()))
		}
		if n := w.log.count("which is not said again"); n != 1 {
			t.Errorf("said %d times that Slack is not configured", n)
		}
		if n := w.log.count("a notification that cannot be sent"); n != 6 {
			t.Errorf("said %d times that an address is wrong", n)
		}
	})
}

func TestDenylistedRoutesAreSkipped(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.want(200, "POST", "/denylist/add", body{"notificationType": "pulse", "notificationAddress": "denied"}, "")
		w.want(200, "POST", "/denylist/add", body{"notificationType": "email", "notificationAddress": ann}, "")
		w.happens(happening{transition: "failed", routes: []string{"notify.pulse.denied.on-failed", "notify.pulse.fine.on-failed", "notify.email.Ann@example.com.on-failed"}})
		if list := w.published(); len(list) != 1 || list[0].RoutingKey != "primary.fine" || len(w.mails.all()) != 0 {
			t.Errorf("published %v, %d mails", list, len(w.mails.all()))
		}
		w.wantCount(byPulse, string(denylisted), 1)
	})
}

// One task's routes do not stop the notifications of all others.
func TestARouteThatNoMessageCanHaveIsPassedOver(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.happens(happening{transition: "failed", routes: []string{"notify.pulse.two\nlines.on-failed"}})
		w.happens(happening{transition: "failed", routes: []string{"notify.pulse.one.on-failed"}})
		if list := w.published(); len(list) != 1 || list[0].RoutingKey != "primary.one" {
			t.Errorf("published: %v", list)
		}
		w.want(400, "POST", "/pulse", map[string]any{"routingKey": "two\nlines", "message": map[string]any{}}, "routingKey")
	})
}
