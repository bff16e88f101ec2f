package audit

import "bytes"

// A shape is how secrets of others look: whether one is still good, or was ever,
// is not known.
type shape struct {
	rule, what string
	anchor     []byte

	// match is where a secret is that has the anchor at i, end 0 if there is none.
	match func(text []byte, i int) (begin, end int)
}

const longestShape = 300 // characters around an anchor

var shapes = []shape{
	{ruleAWSKey, "an AWS access key id", []byte("AKIA"), after(16, 16, upperDigit)},
	{ruleAWSKey, "a temporary AWS access key id", []byte("ASIA"), after(16, 16, upperDigit)},
	{ruleSlackToken, "a Slack token", []byte("xox"), slackToken},
	{ruleGitHubToken, "a GitHub token", []byte("ghp_"), after(36, 255, alnum)},
	{ruleGitHubToken, "a GitHub token", []byte("gho_"), after(36, 255, alnum)},
	{ruleGitHubToken, "a GitHub token", []byte("ghs_"), after(36, 255, alnum)},
	{ruleGitHubToken, "a GitHub token", []byte("ghu_"), after(36, 255, alnum)},
	{ruleGitHubToken, "a GitHub token", []byte("github_pat_"), after(22, 255, word)},
	{rulePrivateKey, "a private key", []byte("PRIVATE KEY-----"), privateKey},
	{ruleTaskcluster, "an access token of Taskcluster", []byte("ccessToken"), accessToken},
	{ruleTaskcluster, "an access token of Taskcluster", []byte("TASKCLUSTER_ACCESS_TOKEN"), accessToken},
}

func upperDigit(c byte) bool { return c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }
func alnum(c byte) bool      { return upperDigit(c) || c >= 'a' && c <= 'z' }
func word(c byte) bool       { return alnum(c) || c == '_' }
func token(c byte) bool      { return word(c) || c == '-' }

// span is how many characters of a kind stand at i, up to a limit.
func span(text []byte, i, limit int, is func(byte) bool) (n int) {
	for i+n < len(text) && n < limit && is(text[i+n]) {
		n++
	}
	return n
}

// after matches an anchor that no such character stands before, with some that
// follow it, and no more.
func after(least, most int, is func(byte) bool) func([]byte, int) (int, int) {
	return func(text []byte, i int) (int, int) {
		if i > 0 && token(text[i-1]) {
			return 0, 0
		}
		from := i + anchorLength(text, i)
		n := span(text, from, most+1, is)
		if n < least || n > most {
			return 0, 0
		}
		return i, from + n
	}
}

// anchorLength is that of the prefix of a token.
func anchorLength(text []byte, i int) int {
	if bytes.HasPrefix(text[i:], []byte("github_pat_")) {
		return len("github_pat_")
	}
	return 4
}

func slackToken(text []byte, i int) (int, int) {
	if i+5 > len(text) || i > 0 && token(text[i-1]) || bytes.IndexByte([]byte("abeprs"), text[i+3]) < 0 || text[i+4] != '-' {
		return 0, 0
	}
	n := span(text, i+5, 250, token)
	if n < 20 {
		return 0, 0
	}
	return i, i + 5 + n
}

func privateKey(text []byte, i int) (int, int) {
	const begin = "-----BEGIN "
	from := max(i-30, 0)
	at := bytes.LastIndex(text[from:i], []byte(begin))
	if at < 0 {
		return 0, 0
	}
	for _, c := range text[from+at+len(begin) : i] {
		if !upperDigit(c) && c != ' ' {
			return 0, 0
		}
	}
	return from + at, i + len("PRIVATE KEY-----")
}

// accessToken matches what follows a name by a few characters such as `": "`.
func accessToken(text []byte, i int) (int, int) {
	i += span(text, i, 40, token)
	n := span(text, i, 8, func(c byte) bool { return bytes.IndexByte([]byte(`\"': =`), c) >= 0 })
	if n == 0 {
		return 0, 0
	}
	length := span(text, i+n, 67, token)
	if length != 22 && length != 43 && length != 44 && length != 66 {
		return 0, 0
	}
	return i + n, i + n + length
}
