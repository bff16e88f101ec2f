package audit

import (
	"context"
	"errors"
	"strconv"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// API is the service under /api/credentials-audit/v1/.
var API = api.Service[*Audit]{
	Name: "credentials-audit", Version: "v1", Title: "Audit of credentials",
	Doc: `Looks for clients, access tokens and credentials that are too old or not used, for scopes that are not used, and for secrets in
the logs of tasks. No secret is in any reply.`,
	Schemas:   api.Folder(schemaFiles, "schemas"),
	Params:    map[string]string{"auditId": slugid.Pattern},
	Methods:   []api.Method[*Audit]{beginAudit, getAudit, listAudits},
	Exchanges: []api.Exchange{attentionExchange},
}

var beginAudit = api.Declare(api.Spec{
	Name: "beginAudit", Route: "POST /audits", Scopes: scope.Scope("credentials:audit"), Input: "v1/audit-request.json#", Output: "v1/audit.json#",
	Stability: api.Experimental, Category: "Audit", Title: "Begin an audit",
	Doc: `Has an audit done, and returns at once; ` + "`audit`" + ` tells how far it is, and in the end what was found. Where the request
does not say what to look for the deployment does. An audit that was asked for in the same way and is not done yet is what was asked for.`,
}, func(ctx context.Context, a *Audit, c api.Call[api.None, Options]) (*view, error) {
	id, err := a.Begin(ctx, c.Caller().ClientID, c.Body)
	if err != nil {
		return nil, err
	}
	return a.find(ctx, id)
})

type auditPath struct {
	ID string `path:"auditId"`
}

var getAudit = api.Declare(api.Spec{
	Name: "audit", Route: "GET /audits/<auditId>", Scopes: scope.Scope("credentials:audit"), Output: "v1/audit.json#",
	Stability: api.Experimental, Category: "Audit", Title: "Show an audit",
	Doc: "Tells how far an audit is, and once it is done what was found. Audits are kept for 90 days.",
}, func(ctx context.Context, a *Audit, c api.Call[auditPath, api.None]) (*view, error) {
	return a.find(ctx, c.Path.ID)
})

func (a *Audit) find(ctx context.Context, id string) (*view, error) {
	r := &row{}
	err := a.db.View(ctx, func(tx *store.Tx) error {
		return r.scan(tx.QueryRow(`SELECT `+columns+` FROM credential_audit WHERE id = $1`, id))
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.ResourceNotFound, "There is no audit %s. GET /audits lists those of the last 90 days.", id)
	} else if err != nil {
		return nil, err
	}
	return r.view()
}

type auditList struct {
	Audits            []*view `json:"audits"`
	ContinuationToken string  `json:"continuationToken,omitempty"`
}

var listAudits = api.Declare(api.Spec{
	Name: "listAudits", Route: "GET /audits", Query: []string{"continuationToken", "limit"}, Scopes: scope.Scope("credentials:audit"), Output: "v1/audit-list.json#",
	Stability: api.Experimental, Category: "Audit", Title: "List audits",
	Doc: "Lists audits without what they have found, the latest first: those that were asked for, and those of the schedule, which nobody has requested.",
}, func(ctx context.Context, a *Audit, c api.Call[api.None, api.None]) (out auditList, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	before := int64(1) << 62
	if page.After != nil {
		if before, err = page.Int(0); err != nil {
			return out, err
		}
	}
	err = a.db.View(ctx, func(tx *store.Tx) error {
		out = auditList{Audits: []*view{}}
		rows, err := tx.Query(`SELECT `+lean+` FROM credential_audit WHERE (created, id) < ($1, $2) ORDER BY created DESC, id DESC LIMIT $3`, before, page.Text(1), page.Limit+1)
		if err != nil {
			return err
		}
		for rows.Next() {
			r := &row{}
			if err := r.scanInto(rows); err != nil {
				return err
			}
			if len(out.Audits) == page.Limit {
				last := out.Audits[page.Limit-1]
				out.ContinuationToken = page.Token(strconv.FormatInt(int64(last.Created), 10), last.ID)
				break
			}
			v, err := r.view()
			if err != nil {
				return err
			}
			out.Audits = append(out.Audits, v)
		}
		return rows.Err()
	})
	return out, err
})

var attentionExchange = api.Exchange{
	Exchange: "attention", Name: "attention", Title: "Audit has findings", Schema: "v1/audit-message.json#",
	Doc: "An audit that the schedule has asked for has found something that somebody should look at.",
	RoutingKey: []api.RoutingKey{
		{Name: "routingKeyKind", Summary: "Always primary.", Constant: "primary", Required: true},
		{Name: "level", Summary: "The worst level of the findings: error or warning.", Required: true},
		{Name: "reserved", Summary: "Room for later additions; match it with #.", MultipleWords: true},
	},
}

// A message is the payload. What was found is for those who may read it.
type message struct {
	Version  int    `json:"version"`
	AuditID  string `json:"auditId"`
	Errors   int    `json:"errors"`
	Warnings int    `json:"warnings"`
}

// tell publishes that an audit of the schedule has findings.
func (a *Audit) tell(tx *store.Tx, r *row, out report) error {
	m := message{Version: 1, AuditID: r.id}
	for _, f := range out.Findings {
		switch {
		case f.Exception != nil:
		case f.Level == levelError:
			m.Errors++
		case f.Level == levelWarning:
			m.Warnings++
		}
	}
	worst := levelError
	switch {
	case r.by != "" || m.Errors+m.Warnings == 0:
		return nil
	case m.Errors == 0:
		worst = levelWarning
	}
	tx.AfterCommit(func() {
		a.log.Error("an audit of credentials has findings", "audit", r.id, "errors", m.Errors, "warnings", m.Warnings)
	})
	return a.config.Events.Publish(tx, event.Topic("credentials-audit", "v1", attentionExchange), "primary."+worst+"._", nil, m)
}
