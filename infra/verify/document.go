package verify

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// A document is a policy of IAM, in its JSON form: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
type document struct {
	Statement oneOrMany[statement]
}

type statement struct {
	Effect       string
	Principal    principals
	NotPrincipal json.RawMessage
	Action       oneOrMany[string]
	NotAction    oneOrMany[string]
	Resource     oneOrMany[string]
	Condition    map[string]map[string]oneOrMany[any]
}

// oneOrMany is a list that may be written without brackets if it has one element.
type oneOrMany[T any] []T

func (l *oneOrMany[T]) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '[' {
		return json.Unmarshal(text, (*[]T)(l))
	}
	*l = make([]T, 1)
	return json.Unmarshal(text, &(*l)[0])
}

// principals are by kind: AWS, Service, Federated. "*" is short for AWS *.
type principals map[string]oneOrMany[string]

func (p *principals) UnmarshalJSON(text []byte) error {
	var all string
	if json.Unmarshal(text, &all) == nil {
		*p = principals{"AWS": {all}}
		return nil
	}
	return json.Unmarshal(text, (*map[string]oneOrMany[string])(p))
}

func readDocument(text string) (d document, err error) {
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return d, fmt.Errorf("a policy is not as AWS writes them: %w", err)
	}
	return d, nil
}

// open is a statement that allows something to anybody, or to a service of AWS whoever has made it do so: in no condition is
// said on whose behalf.
func (d document) open() bool {
	return slices.ContainsFunc(d.Statement, func(s statement) bool {
		if s.Effect != "Allow" {
			return false
		}
		return (len(s.NotPrincipal) > 0 || slices.Contains(s.Principal["AWS"], "*") || slices.Contains(s.Principal["Federated"], "*")) && !s.restricted()
	})
}

// confused is a statement that allows something to a service of AWS that acts for every account.
func (d document) confused() bool {
	return slices.ContainsFunc(d.Statement, func(s statement) bool {
		return s.Effect == "Allow" && len(s.Principal["Service"]) > 0 && !s.restricted()
	})
}

// federated says that only identities of a provider elsewhere may take on a role, by its trust policy.
func (d document) federated() bool {
	return len(d.Statement) > 0 && !slices.ContainsFunc(d.Statement, func(s statement) bool {
		return s.Effect == "Allow" && (len(s.Principal) != 1 || len(s.Principal["Federated"]) == 0)
	})
}

// anyIdentity is a statement that lets in whomever a provider knows: everybody who has an account at GitHub, say.
func (d document) anyIdentity() bool {
	return slices.ContainsFunc(d.Statement, func(s statement) bool {
		web := len(s.NotAction) > 0 || slices.ContainsFunc(s.Action, func(a string) bool { return matches(a, "sts:AssumeRoleWithWebIdentity") })
		return s.Effect == "Allow" && len(s.Principal["Federated"]) > 0 && web && !s.namesSubject()
	})
}

// matches says whether an action is meant by one of a policy, where * and ? are wildcards and case makes no difference.
func matches(pattern, action string) bool {
	ok, err := path.Match(strings.ToLower(pattern), strings.ToLower(action)) // there is no / in actions
	return ok && err == nil
}

func (s statement) namesSubject() bool {
	for operator, keys := range s.Condition {
		if o := strings.ToLower(operator); o != "stringequals" && o != "stringlike" {
			continue
		}
		for key, values := range keys {
			// The owner comes before the slash: repo:owner/name:ref:...
			wide := func(v any) bool {
				before, _, wild := strings.Cut(fmt.Sprint(v), "*")
				return wild && !strings.Contains(before, "/")
			}
			if strings.HasSuffix(strings.ToLower(key), ":sub") && len(values) > 0 && !slices.ContainsFunc(values, wide) {
				return true
			}
		}
	}
	return false
}

// restricting are the condition keys that say who calls, or for whom.
var restricting = []string{
	"aws:principalaccount", "aws:principalarn", "aws:principalorgid", "aws:sourceaccount", "aws:sourcearn", "aws:sourceowner", "aws:sourceorgid",
	"aws:sourcevpc", "aws:sourcevpce", "kms:calleraccount",
}

// anybody are values that others have, too: everything, or an ARN of any service or any account.
var anybody = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^((o-)?[*?:/]*|arn:[^:]*[*?].*|arn:[^:]*:[*?]+:.*|arn:[^:]*:[^:]*:[^:]*:[^:]*[*?][^:]*:.*|arn:[^:]*(:[^:]*){0,3})$`)
})

// restricted says that a condition binds a statement to certain callers. Conditions must all hold.
func (s statement) restricted() bool {
	for operator, keys := range s.Condition {
		operator = strings.TrimPrefix(strings.ToLower(operator), "foranyvalue:")
		if !slices.Contains([]string{"stringequals", "stringequalsignorecase", "stringlike", "arnequals", "arnlike"}, operator) {
			continue // negated ones, and those that hold where there is no such key
		}
		for key, values := range keys {
			wild := slices.ContainsFunc(values, func(v any) bool { return anybody().MatchString(fmt.Sprint(v)) })
			if slices.Contains(restricting, strings.ToLower(key)) && len(values) > 0 && !wild {
				return true
			}
		}
	}
	return false
}

// deniesPlain says that nobody may do anything to a bucket, or to what is in it, without TLS.
func (d document) deniesPlain(bucketARN string) bool {
	covered := func(resource string) bool {
		return slices.ContainsFunc(d.Statement, func(s statement) bool {
			plain := s.Condition["Bool"]["aws:SecureTransport"]
			return s.Effect == "Deny" && slices.Contains(s.Principal["AWS"], "*") && len(s.NotPrincipal) == 0 &&
				slices.ContainsFunc(s.Action, func(a string) bool { return a == "s3:*" || a == "*" }) &&
				len(s.Condition) == 1 && len(s.Condition["Bool"]) == 1 && len(plain) == 1 && fmt.Sprint(plain[0]) == "false" &&
				(slices.Contains(s.Resource, resource) || slices.Contains(s.Resource, "*") || slices.Contains(s.Resource, bucketARN+"*"))
		})
	}
	return covered(bucketARN) && covered(bucketARN+"/*")
}

// wholeService is s3:*, and its other spellings, such as s3:?*.
var wholeService = regexp.MustCompile(`^[A-Za-z0-9-]+:[*?]*\*[*?]*$`)

// excess is what a policy allows that is too much: all actions, or all of a service. It is "" if there is none.
func (d document) excess() string {
	for _, s := range d.Statement {
		if s.Effect != "Allow" {
			continue
		}
		if len(s.NotAction) > 0 {
			return "all actions but some (NotAction)"
		}
		for _, a := range s.Action {
			switch {
			case strings.Trim(a, "*?:") == "":
				return "all actions"
			case wholeService.MatchString(a):
				return a
			}
		}
	}
	return ""
}
