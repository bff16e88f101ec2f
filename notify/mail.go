package notify

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	render "github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// compose makes a letter the email that is sent: its Markdown as it is, which
// is pleasant to read, and beside it an HTML document that needs nothing from
// elsewhere: no image, no script, no style sheet.
func (n *Notify) compose(id string, l letter) (Mail, error) {
	m := Mail{ID: id, To: l.Address, ReplyTo: l.ReplyTo, Subject: oneLine(l.Subject)}
	var body bytes.Buffer
	if intricate(l.Content) {
		fmt.Fprintf(&body, "<pre>%s</pre>\n", html.EscapeString(l.Content))
	} else if err := markdown.Convert([]byte(l.Content), &body); err != nil {
		return Mail{}, fmt.Errorf("make HTML of the content: %w", err)
	}
	width, link, note, noteHTML := narrow, "", "", ""
	if l.Template == fullscreen {
		width = ""
	}
	if l.Link != nil && leadsToTheWeb(l.Link.Href) {
		link = strings.NewReplacer("{{href}}", html.EscapeString(l.Link.Href), "{{text}}", html.EscapeString(l.Link.Text)).Replace(button)
	}
	if l.Silence != 0 {
		note = fmt.Sprintf("This is the last email to %s until %s UTC: it has had as many as are sent in %.0f minutes. What would come before then is dropped.",
			l.Address, l.Silence.Time().UTC().Format("15:04"), ratePeriod.Minutes())
		noteHTML = "<strong>" + html.EscapeString(note) + "</strong><br>"
	}
	// No html/template: with it, a program keeps every method of every type that
	// it has, and is twice as large.
	m.HTML = strings.NewReplacer(
		"{{subject}}", html.EscapeString(m.Subject), "{{rootUrl}}", html.EscapeString(n.rootURL), "{{width}}", width,
		"{{body}}", body.String(), // of goldmark, which escapes what is text, as bounded below
		"{{link}}", link, "{{note}}", noteHTML,
	).Replace(document)

	var plain strings.Builder
	fmt.Fprintf(&plain, "%s\n", strings.TrimSpace(strings.ReplaceAll(l.Content, "\r\n", "\n")))
	if l.Link != nil {
		fmt.Fprintf(&plain, "\n%s:\n%s\n", oneLine(l.Link.Text), l.Link.Href)
	}
	plain.WriteString("\n-- \n") // mail programs set what follows apart
	if note != "" {
		fmt.Fprintf(&plain, "%s\n", note)
	}
	fmt.Fprintf(&plain, "Sent by Taskfleet, %s\n", n.rootURL)
	m.Text = plain.String()
	return m, nil
}

//go:embed templates/mail.html
var document string

const (
	narrow = ` style="max-width: 640px;"`

	button = `
<table role="presentation" cellpadding="0" cellspacing="0" border="0" style="margin-top: 24px;"><tr>
<td style="border-radius: 6px; background: #1a5fb4;"><a href="{{href}}" style="display: inline-block; padding: 11px 20px; color: #ffffff; font-weight: 600; text-decoration: none;">{{text}}</a></td>
</tr></table>`
)

// leadsToTheWeb tells a link that can be clicked from one that does something.
func leadsToTheWeb(href string) bool {
	u, err := url.Parse(href)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "mailto")
}

// markdown is GitHub's kind of Markdown without what could do harm in an email:
// tags are text like any other, images are links to them, links lead to the
// web or to a mailbox.
var markdown = goldmark.New(
	goldmark.WithParser(parser.NewParser(
		parser.WithBlockParsers(
			util.Prioritized(parser.NewSetextHeadingParser(), 100),
			util.Prioritized(parser.NewThematicBreakParser(), 200),
			util.Prioritized(parser.NewListParser(), 300),
			util.Prioritized(parser.NewListItemParser(), 400),
			util.Prioritized(parser.NewCodeBlockParser(), 500),
			util.Prioritized(parser.NewATXHeadingParser(), 600),
			util.Prioritized(parser.NewFencedCodeBlockParser(), 700),
			util.Prioritized(parser.NewBlockquoteParser(), 800),
			util.Prioritized(parser.NewParagraphParser(), 1000),
		),
		parser.WithInlineParsers(
			util.Prioritized(parser.NewCodeSpanParser(), 100),
			util.Prioritized(parser.NewLinkParser(), 200),
			util.Prioritized(parser.NewAutoLinkParser(), 300),
			util.Prioritized(parser.NewEmphasisParser(), 500),
		),
		parser.WithParagraphTransformers(parser.DefaultParagraphTransformers()...),
		parser.WithASTTransformers(util.Prioritized(harmless{}, 1000)),
	)),
	goldmark.WithExtensions(extension.Table, extension.Strikethrough, extension.Linkify, extension.TaskList),
	goldmark.WithRendererOptions(render.WithHardWraps()), // a line break is meant, as in a log
)

// intricate tells a text that would take seconds to read as Markdown, whose
// parser needs the square of the time where quotes and lists are nested, or
// links are begun, thousandfold. No text that people write is like that.
func intricate(text string) bool {
	const links, nesting = 3000, 40
	if strings.Count(text, "](") > links {
		return true
	}
	for line := range strings.Lines(text) {
		depth := 0
		for {
			line = strings.TrimLeft(line, " \t")
			m := container.FindString(line)
			if m == "" {
				break
			}
			line = line[len(m):]
			if depth++; depth > nesting {
				return true
			}
		}
	}
	return false
}

// container begins a quote or an element of a list.
var container = regexp.MustCompile(`^(?:>|[-+*][ \t]|[0-9]{1,9}[.)][ \t])`)

// harmless makes links of images, and text of links that lead elsewhere.
type harmless struct{}

func (harmless) Transform(doc *ast.Document, reader text.Reader, _ parser.Context) {
	var images []*ast.Image
	var links []ast.Node
	// The walk fails only if this function does.
	_ = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Image:
			images = append(images, n)
		case *ast.Link:
			if !leadsOut(n.Destination) {
				links = append(links, n)
			}
		case *ast.AutoLink:
			if n.AutoLinkType == ast.AutoLinkURL && !leadsOut(n.URL(reader.Source())) {
				links = append(links, n)
			}
		}
		return ast.WalkContinue, nil
	})
	for _, n := range links {
		unwrap(n, reader.Source())
	}
	for _, n := range images {
		if !leadsOut(n.Destination) || within(n, ast.KindLink) {
			unwrap(n, reader.Source())
			continue
		}
		l := ast.NewLink()
		l.Destination, l.Title = n.Destination, n.Title
		if n.FirstChild() == nil {
			l.AppendChild(l, literal(n.Destination))
		}
		move(n, func(c ast.Node) { l.AppendChild(l, c) })
		n.Parent().ReplaceChild(n.Parent(), n, l)
	}
}

func leadsOut(destination []byte) bool {
	u, err := url.Parse(strings.TrimSpace(string(destination)))
	return err == nil && mayLink(u.Scheme)
}

func within(n ast.Node, k ast.NodeKind) bool {
	for p := n.Parent(); p != nil; p = p.Parent() {
		if p.Kind() == k {
			return true
		}
	}
	return false
}

// unwrap puts what a node contains into its place.
func unwrap(n ast.Node, source []byte) {
	p := n.Parent()
	if a, ok := n.(*ast.AutoLink); ok {
		p.ReplaceChild(p, n, literal(a.Label(source)))
		return
	}
	move(n, func(c ast.Node) { p.InsertBefore(p, n, c) })
	p.RemoveChild(p, n)
}

// literal is text as it is.
func literal(b []byte) ast.Node {
	s := ast.NewString(b)
	s.SetRaw(true)
	return s
}

func move(n ast.Node, to func(ast.Node)) {
	for c := n.FirstChild(); c != nil; {
		next := c.NextSibling()
		to(c)
		c = next
	}
}
