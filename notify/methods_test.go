package notify

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

type body = map[string]any

func emailBody(subject string) body {
	return body{"address": ann, "subject": subject, "content": "It *works*."}
}

func TestWhatIsAskedForIsSentBeforeTheCallReturns(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.want(200, "POST", "/email", body{
			"address": ann, "subject": "Done", "content": "It *works*.", "replyTo": "bob@example.com",
			"link": body{"text": "Look", "href": "https://example.com/?a=1&b=2"},
		}, "{}")
		w.want(200, "POST", "/matrix", body{"roomId": room, "body": "done", "format": "org.matrix.custom.html", "formattedBody": "<b>done</b>"}, "")
		w.want(200, "POST", "/slack", body{"channelId": channel, "text": "done", "blocks": []any{body{"type": "divider"}}, "unfurlLinks": true}, "")

		if m := w.mails.all(); len(m) != 1 || m[0].To != ann || m[0].ReplyTo != "bob@example.com" || m[0].Subject != "Done" || m[0].ID == "" ||
			!strings.Contains(m[0].Text, "It *works*.") || !strings.Contains(m[0].Text, "Look:\nhttps://example.com/?a=1&b=2\n") ||
			!strings.Contains(m[0].HTML, "<em>works</em>") || !strings.Contains(m[0].HTML, `href="https://example.com/?a=1&amp;b=2"`) {
			t.Errorf("mails: %+v", m)
		}
		if m := w.rooms.all(); len(m) != 1 || m[0].RoomID != room || m[0].Body != "done" || m[0].FormattedBody != "<b>done</b>" || m[0].MsgType != "m.notice" || m[0].ID == "" {
			t.Errorf("Matrix: %+v", m)
		}
		if m := w.slacks.all(); len(m) != 1 || m[0].ChannelID != channel || string(m[0].Blocks) != `[{"type":"divider"}]` || m[0].Attachments != nil || !m[0].UnfurlLinks || m[0].UnfurlMedia {
			t.Errorf("Slack: %+v", m)
		}
		if n := w.waitingIn(); n != 0 {
			t.Errorf("%d messages wait", n)
		}
		w.wantCount(byEmail, sent, 1)
	})
}

func TestScopesAreThoseOfTheAddress(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.scopes = []string{"notify:email:bob@example.com", "notify:matrix-room:!other:example.org", "notify:slack-channel:C1", "notify:pulse:mine.*"}
		w.want(403, "POST", "/email", emailBody("Done"), "notify:email:"+ann)
		w.want(403, "POST", "/matrix", body{"roomId": room, "body": "x"}, "notify:matrix-room:"+room)
		w.want(403, "POST", "/slack", body{"channelId": channel, "text": "x"}, "notify:slack-channel:"+channel)
		w.want(403, "POST", "/pulse", body{"routingKey": "yours", "message": body{}}, "notify:pulse:yours")
		w.want(403, "GET", "/denylist/list", nil, "notify:manage-denylist")
		w.want(403, "POST", "/denylist/add", body{"notificationType": "email", "notificationAddress": ann}, "notify:manage-denylist")
		w.want(403, "DELETE", "/denylist/delete", body{"notificationType": "email", "notificationAddress": ann}, "notify:manage-denylist")
		w.want(200, "POST", "/pulse", body{"routingKey": "mine.x", "message": body{}}, "")
		if w.mails.tried()+w.rooms.tried()+w.slacks.tried() != 0 {
			t.Error("something was sent without the scope")
		}
	})
}

func TestPulsePublishesUnderTwoKeys(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.want(200, "POST", "/pulse", body{"routingKey": "a.b", "message": body{"x": 1, "big": json.Number("12345678901234567890")}}, "")
		w.want(204, "POST", "/pulse", body{"routingKey": "a.b", "message": body{"x": 1, "big": json.Number("12345678901234567890")}}, "")
		w.want(200, "POST", "/pulse", body{"routingKey": "a.b", "message": body{"x": 2}}, "")
		w.want(400, "POST", "/pulse", body{"routingKey": "", "message": body{}}, "routingKey is empty")
		w.want(400, "POST", "/pulse", body{"routingKey": strings.Repeat("k", 248), "message": body{}}, "routingKey has 248 bytes")
		w.want(400, "POST", "/pulse", body{"routingKey": "big", "message": body{"x": strings.Repeat("x", maxPulse)}}, "message has")
		list := w.published()
		if len(list) != 2 {
			t.Fatalf("published: %v", list)
		}
		m := list[0]
		if m.RoutingKey != "primary.a.b" || len(m.CC) != 1 || m.CC[0] != "route.a.b" || string(m.Payload) != `{"version":1,"message":{"big":12345678901234567890,"x":1}}` {
			t.Errorf("published: %s %v %s", m.RoutingKey, m.CC, m.Payload)
		}
	})
}

func TestTheSameIsSentOnceInAnHour(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.want(200, "POST", "/email", emailBody("Done"), "")
		w.want(204, "POST", "/email", emailBody("Done"), "")
		again := emailBody("Done")
		again["address"] = "Ann@Example.com"
		w.want(204, "POST", "/email", again, "")
		w.want(200, "POST", "/email", emailBody("Done again"), "")
		time.Sleep(Window - time.Minute)
		w.want(204, "POST", "/email", emailBody("Done"), "")
		time.Sleep(2 * time.Minute)
		w.want(200, "POST", "/email", emailBody("Done"), "")
		if n := len(w.mails.all()); n != 3 {
			t.Errorf("%d emails, want 3", n)
		}
		w.wantCount(byEmail, string(duplicate), 3)
	})
}

func TestManyCallsAtOnceSendOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		statuses := make(chan int)
		for range 8 {
			go func() { statuses <- w.call("POST", "/slack", body{"channelId": channel, "text": "once"}).status }()
		}
		count := map[int]int{}
		for range 8 {
			count[<-statuses]++
		}
		if count[200] != 1 || count[204] != 7 || len(w.slacks.all()) != 1 {
			t.Errorf("statuses %v, sent %d", count, len(w.slacks.all()))
		}
	})
}

func TestAnAddressIsNotFlooded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, func(c *Config) { c.EmailLimit = 3 })
		for _, s := range []string{"1", "2", "3"} {
			w.want(200, "POST", "/email", emailBody(s), "")
		}
		w.want(204, "POST", "/email", emailBody("4"), "")
		other := emailBody("4")
		other["address"] = "bob@example.com"
		w.want(200, "POST", "/email", other, "")
		mails := w.mails.all()
		if len(mails) != 4 || strings.Contains(mails[1].Text, "last email") || !strings.Contains(mails[2].Text, "This is the last email to "+ann+" until") ||
			!strings.Contains(mails[2].HTML, "This is the last email to "+ann+" until") {
			t.Errorf("mails: %+v", mails)
		}
		w.wantCount(byEmail, string(limited), 1)
		time.Sleep(ratePeriod + time.Second)
		w.want(200, "POST", "/email", emailBody("4"), "") // was not sent, so it is no duplicate
	})
}

func TestTheDenylist(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		add := func(kind, address string) {
			w.want(200, "POST", "/denylist/add", body{"notificationType": kind, "notificationAddress": address}, "{}")
		}
		w.want(200, "GET", "/denylist/list", nil, `{"addresses":[]}`)
		add("slack-channel", channel)
		add("email", "Ann@Example.com")
		add("email", ann) // the same
		add("pulse", "a.b")
		add("matrix-room", room)
		w.want(200, "GET", "/denylist/list", nil, `{"addresses":[`+
			`{"notificationType":"email","notificationAddress":"Ann@Example.com"},`+
			`{"notificationType":"matrix-room","notificationAddress":"`+room+`"},`+
			`{"notificationType":"pulse","notificationAddress":"a.b"},`+
			`{"notificationType":"slack-channel","notificationAddress":"`+channel+`"}]}`)
		var seen []string
		for token, pages := "", 0; pages == 0 || token != ""; pages++ {
			p := w.want(200, "GET", "/denylist/list?limit=1&continuationToken="+token, nil, "")
			for _, a := range p.body["addresses"].([]any) {
				seen = append(seen, a.(body)["notificationType"].(string))
			}
			token, _ = p.body["continuationToken"].(string)
		}
		if got := strings.Join(seen, " "); got != "email matrix-room pulse slack-channel" {
			t.Errorf("page by page: %s", got)
		}
		p := w.want(400, "POST", "/email", emailBody("Done"), "is on the denylist")
		info := p.body["requestInfo"].(body)
		if p.body["code"] != "DenylistedAddress" || info["method"] != "email" || info["payload"].(body)["subject"] != "Done" {
			t.Errorf("error: %s", p.text)
		}
		w.want(400, "POST", "/pulse", body{"routingKey": "a.b", "message": body{}}, "DenylistedAddress")
		w.want(400, "POST", "/matrix", body{"roomId": room, "body": "x"}, "DenylistedAddress")
		w.want(400, "POST", "/slack", body{"channelId": channel, "text": "x"}, "DenylistedAddress")
		w.want(200, "DELETE", "/denylist/delete", body{"notificationType": "email", "notificationAddress": "ANN@example.com"}, "{}")
		w.want(200, "DELETE", "/denylist/delete", body{"notificationType": "email", "notificationAddress": ann}, "")
		w.want(200, "POST", "/email", emailBody("Done"), "")
		w.want(400, "POST", "/denylist/add", body{"notificationType": "email", "notificationAddress": ""}, "notificationAddress has 0 bytes")
		w.want(400, "POST", "/denylist/add", body{"notificationType": "email", "notificationAddress": strings.Repeat("a", 1025)}, "notificationAddress has 1025 bytes")
		w.want(400, "POST", "/denylist/add", body{"notificationType": "irc", "notificationAddress": "x"}, "notificationType")
	})
}

func TestWhoIsPutOnTheDenylistGetsNothingThatWaits(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.mails.set(func(Mail) error { return errors.New("down") })
		w.want(200, "POST", "/email", emailBody("Done"), "")
		if w.waitingIn() != 1 {
			t.Fatal("the email does not wait")
		}
		w.want(200, "POST", "/denylist/add", body{"notificationType": "email", "notificationAddress": "ann@EXAMPLE.com"}, "")
		w.mails.set(nil)
		time.Sleep(time.Hour)
		if n := len(w.mails.all()); n != 0 {
			t.Errorf("%d emails were sent", n)
		}
	})
}

func TestWhatCannotBeSentIsRefusedWithTheField(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		mail := func(change body) body {
			b := emailBody("Done")
			for k, v := range change {
				b[k] = v
			}
			return b
		}
		for _, c := range []struct {
			path  string
			body  body
			field string
		}{
			{"/email", mail(body{"address": "Ann <ann@example.com>"}), "address"},
			{"/email", mail(body{"address": "ann@example.com\nBcc: eve@example.com"}), "address"},
			{"/email", mail(body{"address": strings.Repeat("a", 250) + "@example.com"}), "address"},
			{"/email", mail(body{"replyTo": "nobody"}), "replyTo"},
			{"/email", mail(body{"subject": " \n "}), "subject"},
			{"/email", mail(body{"subject": strings.Repeat("x", 256)}), "subject"},
			{"/email", mail(body{"content": strings.Repeat("x", 102401)}), "content"},
			{"/email", mail(body{"template": "fancy"}), "template"},
			{"/email", mail(body{"link": body{"text": "x", "href": "javascript:alert(1)"}}), "link.href"},
			{"/email", mail(body{"silence": "2030-01-01T00:00:00Z"}), "silence"},
			{"/matrix", body{"roomId": "#alias:example.org", "body": "x"}, "roomId"},
			{"/matrix", body{"roomId": room, "body": strings.Repeat("x", 60001)}, "body"},
			{"/matrix", body{"roomId": room, "body": "x", "msgtype": "m.image"}, "msgtype"},
			{"/slack", body{"channelId": "", "text": "x"}, "channelId"},
			{"/slack", body{"channelId": channel, "text": strings.Repeat("x", 40001)}, "text"},
			{"/slack", body{"channelId": channel, "text": "x", "blocks": make([]int, 51)}, "blocks"},
			{"/slack", body{"channelId": channel, "text": "x", "attachments": make([]int, 101)}, "attachments"},
			{"/slack", body{"channelId": channel, "text": "x", "attachments": []any{strings.Repeat("x", 300_000)}}, "attachments"},
		} {
			w.want(400, "POST", c.path, c.body, c.field)
		}
		if w.mails.tried()+w.rooms.tried()+w.slacks.tried() != 0 {
			t.Error("something was sent")
		}
	})
}

func TestWhatIsNotConfiguredIsSaidSo(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, func(c *Config) { c.Email, c.Matrix, c.Slack = nil, nil, nil })
		w.want(400, "POST", "/email", emailBody("Done"), "does not send emails")
		w.want(400, "POST", "/matrix", body{"roomId": room, "body": "x"}, "does not send messages to Matrix")
		w.want(400, "POST", "/slack", body{"channelId": channel, "text": "x"}, "does not send messages to Slack")
		w.want(200, "POST", "/pulse", body{"routingKey": "a", "message": body{}}, "")
		if err := w.Email(t.Context(), ann, "Done", "text"); err == nil || !strings.Contains(err.Error(), "does not send emails") {
			t.Errorf("Email: %v", err)
		}
	})
}
