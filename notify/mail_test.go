package notify

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

func compose(t *testing.T, l letter) Mail {
	t.Helper()
	if l.Address == "" {
		l.Address = ann
	}
	m, err := (&Notify{rootURL: rootURL}).compose("id", l)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMarkdownBecomesHTML(t *testing.T) {
	for _, c := range []struct{ markdown, want string }{
		{"one\ntwo", "<p>one<br>\ntwo</p>"},
		{"# Title", "<h1>Title</h1>"},
		{"- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>"},
		{"`a<b`", "<code>a&lt;b</code>"},
		{"~~old~~", "<del>old</del>"},
		{"| a | b |\n|---|---|\n| 1 | 2 |", "<td>1</td>"},
		{"[x](https://example.com/?a=1&b=2)", `<a href="https://example.com/?a=1&amp;b=2">x</a>`},
		{"see https://example.com/x now", `<a href="https://example.com/x">https://example.com/x</a>`},
		{"<ann@example.com>", `<a href="mailto:ann@example.com">ann@example.com</a>`},
		{"![A graph](https://example.com/g.png)", `<p><a href="https://example.com/g.png">A graph</a></p>`},
		{"![](https://example.com/g.png)", `<a href="https://example.com/g.png">https://example.com/g.png</a>`},
		{"[![badge](https://example.com/b.png)](https://example.com/)", `<a href="https://example.com/">badge</a>`},
	} {
		if got := compose(t, letter{Content: c.markdown}).HTML; !strings.Contains(got, c.want) {
			t.Errorf("%q: no %s in %s", c.markdown, c.want, got[strings.Index(got, `<div class="text">`):])
		}
	}
}

// What a task or a caller writes gets neither elements nor attributes into the
// document but those of Markdown, and nothing that loads or runs.
func TestNothingHarmfulGetsIntoAnEmail(t *testing.T) {
	allowed := map[string]string{
		"html": "lang", "head": "", "meta": "charset name content", "title": "", "style": "", "body": "",
		"table": "role width cellpadding cellspacing border style", "tbody": "", "thead": "", "tr": "", "td": "class align style", "th": "style",
		"div": "class", "strong": "", "a": "href style title", "br": "", "p": "", "em": "", "code": "class", "pre": "", "del": "", "blockquote": "",
		"h1": "", "h2": "", "h3": "", "ul": "", "ol": "start", "li": "", "hr": "", "input": "checked disabled type",
	}
	for _, text := range []string{
		`<script>alert(1)</script>`, "<img src=x onerror=alert(1)>", "a <b onclick=x>b</b>", "<div>\n\n<iframe src='https://example.com'>\n</div>",
		"[x](javascript:alert(1))", "[x](JaVaScRiPt:alert(1))", "[x](java\tscript:alert(1))", "[x](data:text/html;base64,PHNjcmlwdD4=)", "[x](vbscript:x)", "[x](file:///etc/passwd)",
		"<javascript:alert(1)>", "![x](javascript:alert(1))", "[x]: javascript:alert(1)\n\n[x]", "[x](&#106;avascript:alert(1))", "[x](/relative)", "[x](//example.com)",
		"[x](https://example.com/\"onmouseover=\"alert(1))", `[x](https://example.com "title\" onclick=\"x")`, "```html\" onclick=\"x\n<b>\n```",
		"</td></tr></table><script>", "</style><script>alert(1)</script>", "<!-- --><script>x</script>", "# x {onclick=alert(1)}", "{{.RootURL}}", "&lt;script&gt;", "- [x] done",
		"![a ![b](javascript:x)](javascript:y)", "[![x](javascript:x)](javascript:y)", "[a [b](javascript:x)](javascript:y)",
	} {
		m := compose(t, letter{Content: text, Subject: text, Link: &link{text, "https://example.com/" + text}, Silence: now()})
		z := html.NewTokenizer(strings.NewReader(m.HTML))
		for z.Next() != html.ErrorToken {
			k := z.Token()
			if k.Type != html.StartTagToken && k.Type != html.SelfClosingTagToken {
				continue
			}
			attributes, known := allowed[k.Data]
			if !known {
				t.Errorf("%q makes an element %s", text, k.Data)
			}
			for _, a := range k.Attr {
				if !strings.Contains(" "+attributes+" ", " "+a.Key+" ") {
					t.Errorf("%q makes an attribute %s of %s", text, a.Key, k.Data)
				}
				if a.Key == "href" && !strings.HasPrefix(a.Val, "https://") && !strings.HasPrefix(a.Val, "http://") && !strings.HasPrefix(a.Val, "mailto:") {
					t.Errorf("%q makes a link to %q", text, a.Val)
				}
			}
		}
		if strings.Contains(m.Subject, "\n") {
			t.Errorf("subject %q", m.Subject)
		}
	}
}

func TestWhatLooksLikeTagsStaysReadable(t *testing.T) {
	m := compose(t, letter{Content: "vector<int> x; a <b> c\n\n<details>\nmore"})
	for _, text := range []string{"vector&lt;int&gt; x; a &lt;b&gt; c", "&lt;details&gt;"} {
		if !strings.Contains(m.HTML, text) {
			t.Errorf("no %q in the HTML", text)
		}
	}
}

func TestTheFullscreenTemplateIsAsWideAsTheWindow(t *testing.T) {
	const bound = `style="max-width: 640px;"`
	if !strings.Contains(compose(t, letter{Content: "x", Template: simple}).HTML, bound) || strings.Contains(compose(t, letter{Content: "x", Template: fullscreen}).HTML, bound) {
		t.Error("the templates do not differ in width")
	}
}

// Nobody can keep the outbox busy with a text that takes long to read: each of
// these did, or looks as if it might.
func TestTextsMadeToBeSlowAreSentAsTheyAre(t *testing.T) {
	for piece, asIs := range map[string]bool{
		"> ": true, ">": true, "[a](": true, "![a](": true, "[a](<": true, "1. ": true, "+ ": true, "1) - ": true,
		"[": false, "![": false, "*": false, "**a ": false, "*a _": false, "_a": false, "a**b": false, "`": false, "`a``": false, "<": false, "<a ": false,
		"~~": false, "~a": false, "|a": false, "|-|\n": false, "|\n|-|\n": false, "\\": false, "&#1;": false, "http://a.": false, "a@": false, "\t": false,
		"[a]: b\n": false, "[a][": false, "[]:": false, "[a]: <": false, "[^a]": false, "#": false, "((": false, "<a@": false, "www.": false, ">\n": false, "\n>": false,
		"- \n": false, "  - ": true, "a\n-": false, "a\n=\n": false, "- a\n\n": false, "```\n": false,
	} {
		before := time.Now()
		m := compose(t, letter{Content: strings.Repeat(piece, maxContent/len(piece))})
		t.Logf("%q: %v", piece, time.Since(before))
		const start = `<div class="text">` + "\n<pre>"
		if got := strings.Contains(m.HTML, start) && !strings.Contains(m.HTML, start+"<code>"); got != asIs {
			t.Errorf("%q: sent as it is: %v, want %v", piece, got, asIs)
		}
	}
	if lists := "> - 1. deep\n>\n> * * *\n"; intricate(strings.Repeat(lists, 1000)) || intricate(strings.Repeat("[x](https://example.com/) ", 2000)) {
		t.Error("ordinary texts are taken for intricate ones")
	}
}
