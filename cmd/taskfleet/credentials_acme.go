//go:build !agent

package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/acme"
	"github.com/taskfleet/taskfleet/credentials/ssh"
)

// addACME adds certificates and SSH keys. The kind of certificates is returned, too, as
// it answers challenges and has a loop.
func addACME(ctx context.Context, to *credentials.Config) (*acme.Kind, error) {
	k, err := acme.New(ctx, acme.Config{DB: to.DB, Keys: to.Keys, Log: to.Log})
	if err != nil {
		return nil, fmt.Errorf("opening the kind acme: %w", err)
	}
	to.Kinds["acme"], to.Kinds["ssh"] = k, ssh.Kind{Log: to.Log}
	return k, nil
}

// withChallenges has authorities find the answers to their challenges, and hands on
// everything else.
func withChallenges(answers, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, acme.Path) {
			answers.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})
}
