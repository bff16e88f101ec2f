package notify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/taskfleet/taskfleet/jsone"
	"github.com/taskfleet/taskfleet/task"
)

// news are what there is to tell about a task: its own words, in extra.notify,
// or ours.
type news struct {
	transition string
	status     task.Status
	raw        json.RawMessage // of the status
	definition task.Definition
	extra      map[string]any // the definition's extra.notify
	context    map[string]any // of templates
	href       string         // of the task, for people
	groupHref  string
	rendered   map[string]rendered // templates, by name
}

// rendered is what became of a template.
type rendered struct {
	value any
	err   error
}

// templateLimits are for one template of a task's: much for a message, little enough
// that a task with all of them holds up nobody.
var templateLimits = jsone.Limits{Steps: 200_000, Output: 512 << 10}

func newNews(rootURL, transition string, status task.Status, raw, definition json.RawMessage) (*news, error) {
	w := &news{
		transition: transition, status: status, raw: raw, rendered: map[string]rendered{},
		href:      rootURL + "/tasks/" + url.PathEscape(status.TaskID),
		groupHref: rootURL + "/tasks/groups/" + url.PathEscape(status.TaskGroupID),
	}
	if err := json.Unmarshal(definition, &w.definition); err != nil {
		return nil, err
	}
	w.context = map[string]any{"taskId": status.TaskID, "rootUrl": rootURL}
	for name, text := range map[string]json.RawMessage{"task": definition, "status": raw} {
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			return nil, err
		}
		w.context[name] = v
	}
	w.extra = member(member(object(w.context["task"]), "extra"), "notify")
	return w, nil
}

// object is v if it is one, otherwise an empty one.
func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

func member(m map[string]any, name string) map[string]any { return object(m[name]) }

// message is the message for a target.
func (w *news) message(t target) message {
	switch t.kind {
	case byEmail:
		return w.letter(t.address)
	case byMatrix:
		return w.room(t.address)
	case bySlack:
		return w.channel(t.address)
	default:
		return publication{t.address, w.raw}
	}
}

func (w *news) letter(address string) *letter {
	own := member(w.extra, "email")
	l := &letter{Address: address, Template: simple, Link: &link{"Open the task", w.href}}
	subject := w.headline() + " (" + w.status.TaskID + ")"
	l.Subject = cmp.Or(oneLine(w.text(own, "subject", subject)), subject)
	l.Content = w.text(own, "content", w.report())
	if strings.TrimSpace(l.Content) == "" {
		l.Content = w.report()
	}
	var faults []string
	if v, given, err := w.render(own, "link"); err != nil {
		faults = append(faults, "email.link: "+err.Error())
	} else if given {
		l.Link = nil
		if o := object(v); o != nil {
			text, href := plainText(o["text"]), plainText(o["href"])
			l.Link = &link{clip(oneLine(text), maxLinkText), href}
			if err := l.Link.check(); text == "" || len(href) > maxLinkHref || err != nil {
				l.Link = nil
				faults = append(faults, fmt.Sprintf("email.link: it needs a text, and as href an http, https or mailto URL of at most %d bytes.", maxLinkHref))
			}
		}
	}
	if v, given, err := w.render(own, "template"); err != nil {
		faults = append(faults, "email.template: "+err.Error())
	} else if given && v == fullscreen {
		l.Template = fullscreen
	}
	l.Subject = clip(l.Subject, maxSubject)
	l.Content = clip(l.Content, maxContent)
	for _, f := range faults {
		l.Content += "\n\n" + inCode("extra.notify."+f)
	}
	return l
}

func (w *news) room(roomID string) RoomMessage {
	m := RoomMessage{RoomID: roomID, MsgType: "m.notice"}
	m.Body = w.text(w.extra, "matrixBody", w.headline()+" "+w.href)
	m.FormattedBody = w.text(w.extra, "matrixFormattedBody", "")
	m.Format = plainText(w.extra["matrixFormat"])
	if own := plainText(w.extra["matrixMsgtype"]); own == "m.text" || own == "m.emote" {
		m.MsgType = own
	}
	if len(m.Body)+len(m.FormattedBody) > maxRoomBody {
		m.Format, m.FormattedBody = "", "" // a part of a formatted text is no text
		m.Body = clip(m.Body, maxRoomBody/4)
	}
	return m
}

var emoji = map[task.State]string{
	task.Unscheduled: ":memo:",
	task.Pending:     ":hourglass_flowing_sand:",
	task.Running:     ":runner:",
	task.Completed:   ":white_check_mark:",
	task.Failed:      ":x:",
	task.Exception:   ":warning:",
}

func (w *news) channel(channelID string) ChannelMessage {
	m := ChannelMessage{
		ChannelID:   channelID,
		UnfurlLinks: w.extra["slackUnfurlLinks"] == true, UnfurlMedia: w.extra["slackUnfurlMedia"] == true,
	}
	ours := fmt.Sprintf("%s <%s|%s> %s", emoji[w.status.State], w.href, forSlack(w.name()), w.event())
	m.Text = clip(w.text(w.extra, "slackText", ours), maxSlackText/4)
	m.Blocks = w.list("slackBlocks", maxBlocks)
	if m.Blocks == nil {
		m.Blocks = asJSON([]any{
			map[string]any{"type": "section", "text": mrkdwn(clip(m.Text, maxSlackSection))},
			map[string]any{"type": "context", "elements": []any{mrkdwn(fmt.Sprintf("Task group <%s|%s>", w.groupHref, w.status.TaskGroupID))}},
		})
	}
	m.Attachments = w.list("slackAttachments", maxAttached)
	return m
}

// maxSlackSection is how much text Slack takes in a section.
const maxSlackSection = 3000

func mrkdwn(text string) map[string]any { return map[string]any{"type": "mrkdwn", "text": text} }

// forSlack keeps a text from being taken for a link or a mention.
func forSlack(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "|", "¦").Replace(s)
}

// list is a list that the task's own template makes. What is wrong with it is
// shown instead.
func (w *news) list(name string, limit int) json.RawMessage {
	v, given, err := w.render(w.extra, name)
	if !given && err == nil {
		return nil
	}
	items, isList := v.([]any)
	j := asJSON(items)
	switch {
	case err != nil:
	case !isList:
		err = fmt.Errorf("it is not a list")
	case len(items) > limit || len(j) > maxSlackTotal/3:
		err = fmt.Errorf("it has %d elements, %d bytes; at most %d elements and %d bytes are sent", len(items), len(j), limit, maxSlackTotal/3)
	default:
		return j
	}
	fault := mrkdwn(forSlack(clip("extra.notify."+name+": "+err.Error(), maxSlackSection/2)))
	if name == "slackAttachments" {
		return asJSON([]any{map[string]any{"blocks": []any{map[string]any{"type": "section", "text": fault}}}})
	}
	return asJSON([]any{map[string]any{"type": "section", "text": fault}})
}

func asJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of what was read from JSON
	}
	return b
}

// render renders one of the task's own templates, once for all targets. It is
// not given where it is absent.
func (w *news) render(from map[string]any, name string) (v any, given bool, err error) {
	t, given := from[name]
	if !given {
		return nil, false, nil
	}
	r, done := w.rendered[name]
	if !done {
		r.value, r.err = jsone.RenderWith(templateLimits, t, w.context)
		w.rendered[name] = r
	}
	return r.value, r.err == nil, r.err
}

// text is the text that a template of the task's makes, if there is one. What
// is wrong with the template is said in the text's place, where those read it
// who can put it right.
func (w *news) text(from map[string]any, name, otherwise string) string {
	v, given, err := w.render(from, name)
	switch {
	case err != nil:
		return "The task's own message cannot be made, as the template " + name + " in extra.notify fails: " + err.Error()
	case !given || v == nil || v == "":
		return otherwise
	}
	return plainText(v)
}

// plainText is a value as text: a string as it is, nothing for null, and JSON for
// all else. No database holds a NUL.
func plainText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return strings.ReplaceAll(strings.ToValidUTF8(v, "�"), "\x00", "�")
	}
	return string(asJSON(v))
}

func (w *news) name() string { return clip(oneLine(w.definition.Metadata.Name), 120) }

// headline is the news in one line.
func (w *news) headline() string { return w.name() + " " + w.event() }

// event is what happened, after the task's name.
func (w *news) event() string {
	switch w.transition {
	case "defined":
		return "was created"
	case "pending":
		if n := len(w.status.Runs); n > 1 {
			return fmt.Sprintf("waits for a worker, for the %s time", ordinal(n))
		}
		return "waits for a worker"
	case "running":
		return "is running"
	case "exception":
		if run := w.status.Latest(); run != nil && run.ReasonResolved != "" {
			return "ended with an exception: " + string(run.ReasonResolved)
		}
		return "ended with an exception"
	}
	return w.transition // completed, failed
}

func ordinal(n int) string {
	suffix := "th"
	switch {
	case n%100 >= 11 && n%100 <= 13:
	case n%10 == 1:
		suffix = "st"
	case n%10 == 2:
		suffix = "nd"
	case n%10 == 3:
		suffix = "rd"
	}
	return fmt.Sprintf("%d%s", n, suffix)
}

// report is the news as Markdown.
func (w *news) report() string {
	var b strings.Builder
	meta := w.definition.Metadata
	fmt.Fprintf(&b, "%s %s", inCode(w.name()), w.event())
	if n := len(w.status.Runs); n > 1 {
		fmt.Fprintf(&b, " (%d runs)", n)
	}
	b.WriteString(".\n\n")
	if d := strings.TrimSpace(meta.Description); d != "" {
		fmt.Fprintf(&b, "%s\n\n", clip(d, 4000))
	}
	fmt.Fprintf(&b, "- Group: %s\n", w.groupHref)
	if meta.Owner != "" {
		fmt.Fprintf(&b, "- Owner: %s\n", inCode(clip(meta.Owner, 255)))
	}
	if meta.Source != "" {
		fmt.Fprintf(&b, "- Source: %s\n", clip(oneLine(meta.Source), maxLinkHref))
	}
	return b.String()
}

// inCode is a text of others' on one line, in which nothing is Markdown.
func inCode(s string) string {
	return "`" + strings.ReplaceAll(oneLine(s), "`", "'") + "`"
}
