package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/signalfx/signalfx-go"
	"github.com/signalfx/signalfx-go/orgtoken"
)

type tokens = things[orgtoken.Token, TokenSpec]

// newTokens is the kind of tokens. SignalFx knows one by its name, and has but one of a name. What
// it tells as the secret of one is computed, and secret. A token that is to be rotated is package
// credentials' instead.
func newTokens(s *site) *tokens {
	type tok = orgtoken.Token
	return &tokens{
		site: s, token: TokenToken, noun: "token", alone: true,
		replaces: []string{"scopes"}, computed: []string{"secret"}, secrets: []string{"secret"},
		check: checkToken,
		text:  func(s *TokenSpec) *string { return &s.Description },
		head:  func(t *tok) head { return head{&t.Name, &t.Name, &t.Description, t.Created} },
		search: func(ctx context.Context, c *signalfx.Client, name string, _ int) (int, []*tok, error) {
			t, err := c.GetOrgToken(ctx, name)
			if answer, ok := signalfx.AsResponseError(err); ok && answer.Code() == 404 {
				return 0, nil, nil
			}
			return 1, []*tok{t}, err
		},
		get: func(ctx context.Context, c *signalfx.Client, name string) (*tok, error) {
			return c.GetOrgToken(ctx, name)
		},
		create: func(ctx context.Context, c *signalfx.Client, t *tok) (*tok, error) {
			r, err := as[orgtoken.CreateUpdateTokenRequest](t)
			if err != nil {
				return nil, err
			}
			return c.CreateOrgToken(ctx, r)
		},
		update: func(ctx context.Context, c *signalfx.Client, name string, t *tok) (*tok, error) {
			r, err := as[orgtoken.CreateUpdateTokenRequest](t)
			if err != nil {
				return nil, err
			}
			return c.UpdateOrgToken(ctx, name, r)
		},
		remove: func(ctx context.Context, c *signalfx.Client, name string) error { return c.DeleteOrgToken(ctx, name) },
		write: func(_ context.Context, _ *signalfx.Client, t *tok, s TokenSpec) (err error) {
			t.AuthScopes, t.Disabled = s.Scopes, s.Disabled
			if t.Limits == nil && s.DatapointsPerMinute > 0 {
				t.Limits = &orgtoken.Limit{}
			}
			if t.Limits != nil {
				t.Limits.DpmQuota = nil
				if s.DatapointsPerMinute > 0 {
					t.Limits.DpmQuota = &s.DatapointsPerMinute
				}
			}
			t.Notifications, err = sent(s.Notifications)
			return err
		},
		read: readToken,
	}
}

func readToken(_ context.Context, _ *signalfx.Client, t *orgtoken.Token, state *stateOf[TokenSpec]) (s TokenSpec, computed map[string]any, err error) {
	s = TokenSpec{Scopes: slices.Clone(t.AuthScopes), Disabled: t.Disabled}
	slices.Sort(s.Scopes)
	if t.Limits != nil && t.Limits.DpmQuota != nil {
		s.DatapointsPerMinute = *t.Limits.DpmQuota
	}
	var was TokenSpec
	known := ""
	if state != nil {
		was = state.spec
		if text := state.computed["secret"]; text != nil && json.Unmarshal(text, &known) != nil {
			return s, nil, errors.New("the state of a token cannot be read")
		}
	}
	if s.Notifications, err = shown(t.Notifications, was.Notifications); err != nil {
		return s, nil, err
	}
	if t.Secret != "" {
		known = t.Secret
	}
	if known == "" {
		return s, nil, fmt.Errorf("SignalFx does not tell its secret any more, and nobody else knows it: delete the token %s there if nothing sends with it, and run it again", t.Name)
	}
	return s, map[string]any{"secret": known}, nil
}

func checkToken(s *TokenSpec) []error {
	problems := append(checkNotifications("notifications", s.Notifications), checkDescription(s.Description))
	if len(s.Scopes) == 0 {
		s.Scopes = []string{"INGEST"}
	}
	for i, scope := range s.Scopes {
		if !slices.Contains([]string{"INGEST", "API", "RUM"}, scope) || slices.Contains(s.Scopes[:i], scope) {
			problems = append(problems, problem(fmt.Sprintf("scopes[%d]", i), "is %q; there are INGEST, API and RUM, each once", scope))
		}
	}
	slices.Sort(s.Scopes)
	if s.DatapointsPerMinute < 0 {
		problems = append(problems, problem("datapointsPerMinute", "must not be less than 0"))
	}
	return problems
}
