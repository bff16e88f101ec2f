package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A copyPath names a copy.
type copyPath struct {
	Region string `path:"region"`
	ID     string `path:"id"`
}

const (
	readCopies = scope.Scope("mirror:list-copies")
	copyTo     = scope.Scope("mirror:copy:<region>")
)

type copyList struct {
	Copies            []view `json:"copies"`
	ContinuationToken string `json:"continuationToken,omitempty"`
}

var listCopies = api.Declare(api.Spec{
	Name: "listCopies", Route: "GET /copies", Query: []string{"region", "state", "prefix", "continuationToken", "limit"},
	Scopes: readCopies, Output: "v1/copy-list.json#",
	Stability: api.Experimental, Category: "Copies", Title: "List copies",
	Doc: `Lists copies by region and id, of one region or all, of one state or all, and only those whose origin, as it
is shown, begins with a prefix. A page can have fewer copies than there are, even none: go on as long as there is a continuationToken.`,
}, func(ctx context.Context, m *Mirror, c api.Call[api.None, api.None]) (out copyList, err error) {
	region := c.Query("region")
	if region != "" {
		if err := m.checkRegion(region); err != nil {
			return out, err
		}
	}
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	return m.listCopies(ctx, region, State(c.Query("state")), c.Query("prefix"), page)
})

// lookedThrough is how many rows a page is picked from: whatever is asked for,
// its work is bounded.
const lookedThrough = 20_000

// listCopies returns a page; its token holds the name of the last row that was
// looked at.
func (m *Mirror) listCopies(ctx context.Context, region string, state State, prefix string, page api.Page) (out copyList, err error) {
	from, id := page.Text(0), page.Text(1)
	where := `(region, id) > ($1, $2) AND '' = $3`
	if region != "" { // said so that the primary key leads there
		where = `region = $3 AND (region, id) > ($1, $2)`
		from = max(from, region)
	}
	err = m.db.ViewOnce(ctx, func(tx *store.Tx) error {
		out = copyList{Copies: []view{}}
		rows, err := tx.Query(`SELECT `+copyColumns+` FROM mirror_copy WHERE `+where+` ORDER BY region, id LIMIT $4`, from, id, region, lookedThrough+1)
		if err != nil {
			return err
		}
		var last *Copy
		for seen := 0; rows.Next(); seen++ {
			if seen == lookedThrough || len(out.Copies) == page.Limit {
				out.ContinuationToken = page.Token(last.Region, last.ID)
				return rows.Close()
			}
			if last, err = scanCopy(rows); err != nil {
				return err
			}
			if (state == "" || last.State == state) && strings.HasPrefix(last.Origin.public(), prefix) {
				out.Copies = append(out.Copies, last.view())
			}
		}
		return rows.Err()
	})
	return out, err
}

var findCopy = api.Declare(api.Spec{
	Name: "findCopy", Route: "GET /copies/<region>/<id>", Scopes: readCopies, Output: "v1/copy.json#",
	Stability: api.Experimental, Category: "Copies", Title: "Describe a copy",
	Doc: "Returns what is known of a copy. Its id is the SHA-256 of its origin's text; `explain` tells it for a URL.",
}, func(ctx context.Context, m *Mirror, c api.Call[copyPath, api.None]) (out view, err error) {
	if err := m.checkRegion(c.Path.Region); err != nil {
		return out, err
	}
	found, err := m.find(ctx, c.Path.Region, c.Path.ID)
	if err != nil {
		return out, c.Path.missing(err)
	}
	return found.view(), nil
})

// missing says that there is no such copy, where that is why something failed.
func (p copyPath) missing(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return api.Errorf(api.ResourceNotFound, "There is no copy %s in %s, nor is one wanted. POST /copies asks for one.", p.ID, p.Region)
	}
	return err
}

var pinCopy = api.Declare(api.Spec{
	Name: "pinCopy", Route: "PUT /copies/<region>/<id>/pin", Scopes: scope.Scope("mirror:pin:<region>"), Output: "v1/copy.json#",
	Stability: api.Experimental, Category: "Copies", Title: "Pin a copy",
	Doc: `Keeps a copy though nobody reads it, until it expires or is purged. What is pinned counts for the region's limit like all
else, so that pinning much leaves little room.`,
}, func(ctx context.Context, m *Mirror, c api.Call[copyPath, api.None]) (view, error) {
	return m.pin(ctx, c.Path, true)
})

var unpinCopy = api.Declare(api.Spec{
	Name: "unpinCopy", Route: "DELETE /copies/<region>/<id>/pin", Scopes: scope.Scope("mirror:pin:<region>"), Output: "v1/copy.json#",
	Stability: api.Experimental, Category: "Copies", Title: "Unpin a copy",
	Doc: "Takes back that a copy is to be kept. It stays as long as there is room.",
}, func(ctx context.Context, m *Mirror, c api.Call[copyPath, api.None]) (view, error) {
	return m.pin(ctx, c.Path, false)
})

func (m *Mirror) pin(ctx context.Context, p copyPath, pinned bool) (out view, err error) {
	if err := m.checkRegion(p.Region); err != nil {
		return out, err
	}
	err = m.change(ctx, func(ch *changes) error {
		list, err := ch.named(name{p.Region, p.ID})
		switch {
		case err != nil:
			return err
		case len(list) == 0, list[0].State == Leaving && !list[0].Again:
			return store.ErrNotFound
		}
		list[0].Pinned = pinned
		out = list[0].view()
		return nil
	})
	return out, p.missing(err)
}

var purgeCopy = api.Declare(api.Spec{
	Name: "purgeCopy", Route: "DELETE /copies/<region>/<id>", Scopes: scope.Scope("mirror:purge:" + onS3 + ":<region>"), Output: "v1/copy-list.json#",
	Stability: api.Experimental, Category: "Copies", Title: "Purge a copy by its id",
	Doc: `Has a copy deleted, in one region or, with the region ` + "`all`" + `, in all of them, as ` + "`purge`" + ` does by a URL: for who does not know
the query that the URL has, which nothing shows. Returns the copies that go, as they were; if there were none, it
returns none.`,
}, func(ctx context.Context, m *Mirror, c api.Call[copyPath, api.None]) (out copyList, err error) {
	out.Copies = []view{}
	regions := m.guide.names
	if c.Path.Region != everywhere {
		if err := m.checkRegion(c.Path.Region); err != nil {
			return out, err
		}
		regions = []string{c.Path.Region}
	}
	for _, region := range regions {
		found, err := m.find(ctx, region, c.Path.ID)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return out, err
		case found.State != Leaving || found.Again:
			out.Copies = append(out.Copies, found.view())
		}
	}
	return out, m.purge(ctx, c.Path.ID, c.Path.Region)
})

// A verification is what comparing a copy with its bytes has shown.
type verification struct {
	Intact  bool   `json:"intact"`
	Message string `json:"message"`
	Copy    view   `json:"copy"`
}

var verifyCopy = api.Declare(api.Spec{
	Name: "verifyCopy", Route: "POST /copies/<region>/<id>/verify", Scopes: scope.Scope("mirror:verify:<region>"), Output: "v1/verification.json#",
	Stability: api.Experimental, Category: "Copies", Title: "Verify a copy",
	Doc: `Compares a copy with what is in the bucket: size, ETag and, where it is known, the SHA-256, for which all of it is read
unless it is a large one; those are read in the background. A copy that differs is not served any more, and made anew.`,
}, func(ctx context.Context, m *Mirror, c api.Call[copyPath, api.None]) (out verification, err error) {
	if err := m.checkRegion(c.Path.Region); err != nil {
		return out, err
	}
	was, err := m.find(ctx, c.Path.Region, c.Path.ID)
	if err != nil {
		return out, c.Path.missing(err)
	}
	if was.State != Present {
		return out, api.Errorf(api.RequestConflict, "The copy in %s is %s: only one that is present can be compared with its bytes.", was.Region, was.State)
	}
	is, err := m.verify(ctx, was.Region, was.ID)
	if err != nil {
		return out, c.Path.missing(err)
	}
	out = verification{is.State == Present, "", is.view()}
	switch {
	case !out.Intact:
		out.Message = "It is not served any more: " + is.Error + "."
	case is.SHA256 == "":
		out.Message = "Its size and ETag are right. Its SHA-256 is not known."
	case is.Size > verifyBytes:
		out.Message = "Its size and ETag are right. Its bytes are read in the background, since there are many."
	default:
		out.Message = "Its size, its ETag and the SHA-256 of its bytes are right."
	}
	return out, nil
})

// An order is what somebody wants copies of.
type order struct {
	Region string `json:"region"`
	Pinned bool   `json:"pinned"`
	DryRun bool   `json:"dryRun"`
	Copies []item `json:"copies"`
}

type item struct {
	URL     string         `json:"url"`
	Size    *int64         `json:"size"`
	SHA256  string         `json:"sha256"`
	Expires timestamp.Time `json:"expires"`
}

// A position is where an item of an order stands.
type position struct {
	ID     string `json:"id,omitempty"`
	Origin string `json:"origin,omitempty"`
	State  string `json:"state"` // of the copy, missing or refused
	Size   *int64 `json:"size,omitempty"`
	Done   int64  `json:"done"`
	Error  string `json:"error,omitempty"`
}

// The states of positions that have no copy.
const (
	stateMissing = "missing"
	stateRefused = "refused"
)

type orderResponse struct {
	Copies []position `json:"copies"`
}

var wantCopies = api.Declare(api.Spec{
	Name: "wantCopies", Route: "POST /copies", Input: "v1/want-copies-request.json#", Output: "v1/want-copies-response.json#",
	Scopes:  scope.If{If: "pinned", Then: scope.AllOf{copyTo, scope.Scope("mirror:pin:<region>")}, Else: copyTo},
	Private: true, Stability: api.Experimental, Category: "Copies", Title: "Ask for copies",
	Doc: `Has copies made in a region, and says where each of them stands, in the order of the request. Nobody waits: call it again
with the same request to see how far they are, which asks for nothing that is there or under way. A copy that failed is
tried again once it is due.

What cannot be copied is ` + "`refused`" + ` and does not keep the others from it. With ` + "`dryRun`" + ` nothing is asked for, and what there
is no copy of is ` + "`missing`" + `.`,
}, func(ctx context.Context, m *Mirror, c api.Call[api.None, order]) (out orderResponse, err error) {
	if err := c.Authorize(scope.Vars{"region": c.Body.Region, "pinned": c.Body.Pinned}); err != nil {
		return out, err
	}
	if err := m.checkRegion(c.Body.Region); err != nil {
		return out, err
	}
	return m.take(ctx, c.Body)
})

// take does what an order says. Only what there is no copy of, or not the one
// that is asked for, is looked up and wanted, so that asking how far an order is
// costs one look at the index.
func (m *Mirror) take(ctx context.Context, o order) (out orderResponse, err error) {
	out.Copies = make([]position, len(o.Copies))
	origins := make([]Origin, len(o.Copies))
	var ids []string
	for i, x := range o.Copies {
		if origins[i], err = m.origin(x.URL); err == nil && origins[i].URL == "" {
			if _, ok := artifactName(origins[i].Key); !ok {
				err = &badURL{errors.New("the key is not that of an artifact, <taskId>/<runId>/<name>")}
			}
		}
		if err != nil {
			out.Copies[i] = position{State: stateRefused, Error: sentence(err.Error())}
			continue
		}
		out.Copies[i] = position{ID: origins[i].ID(), Origin: origins[i].public(), State: stateMissing, Size: x.Size}
		ids = append(ids, out.Copies[i].ID)
	}
	known, err := m.copiesOf(ctx, o.Region, ids)
	if err != nil {
		return out, err
	}
	var wants []Want
	var places []int // in out.Copies, of wants
	for i, x := range o.Copies {
		p := &out.Copies[i]
		if p.State == stateRefused {
			continue
		}
		c := known[p.ID]
		if c != nil {
			p.show(c)
		}
		if c != nil && c.does(x, o.Pinned) || c != nil && o.DryRun {
			continue
		}
		w, err := m.wanted(ctx, origins[i], o.Region, x)
		if e, ok := errors.AsType[*api.Error](err); ok {
			*p = position{ID: p.ID, Origin: p.Origin, State: stateRefused, Error: e.Message}
			continue
		} else if err != nil {
			return out, err
		}
		if w.Pinned = o.Pinned; w.Size >= 0 && c == nil {
			p.Size = &w.Size
		}
		if !o.DryRun {
			wants, places = append(wants, w), append(places, i)
		}
	}
	list, err := m.want(ctx, wants...)
	if err != nil {
		return out, err
	}
	for i, c := range list {
		out.Copies[places[i]].show(c)
	}
	return out, nil
}

// show has the position be that of a copy.
func (p *position) show(c *Copy) {
	v := c.view()
	p.State, p.Done, p.Error = string(v.State), v.Done, v.Error
	if v.Size != nil {
		p.Size = v.Size
	}
}

// does tells that there is nothing to be asked for, as the copy is there or
// under way already.
func (c *Copy) does(x item, pinned bool) bool {
	switch {
	case pinned && !c.Pinned, x.Expires > c.Expires, x.SHA256 != "" && x.SHA256 != c.SHA256:
		return false
	case c.State == Failed:
		return c.Due > timestamp.Now()
	}
	return c.State != Leaving || c.Again
}

// wanted is a wish for a copy of an origin, as an order has it. What it says of
// an artifact the queue knows better.
func (m *Mirror) wanted(ctx context.Context, o Origin, region string, x item) (Want, error) {
	w := Want{Region: region, Origin: o, Priority: Bulk, Size: -1, SHA256: x.SHA256, Expires: timestamp.Now().Add(m.guide.lifespan)}
	a, err := m.artifact(ctx, o)
	switch {
	case err != nil:
		return w, err
	case a != nil && a.Open:
		return w, api.Errorf(api.RequestConflict, "The run that makes the artifact has not ended, so it may be written again. Ask when it has.")
	case a != nil:
		w.Size, w.Expires = a.Size, a.Expires
		return w, nil
	}
	if x.Size != nil {
		w.Size = *x.Size
	}
	if !x.Expires.IsZero() {
		w.Expires = x.Expires
	}
	if w.Expires <= timestamp.Now() {
		return w, api.Errorf(api.InputError, "expires is %s, which is past.", w.Expires)
	}
	return w, nil
}

// copiesOf are the copies in a region with some ids, by id.
func (m *Mirror) copiesOf(ctx context.Context, region string, ids []string) (map[string]*Copy, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	var found map[string]*Copy
	err := m.db.ViewOnce(ctx, func(tx *store.Tx) error {
		found = map[string]*Copy{}
		rows, err := tx.Query(`SELECT `+copyColumns+` FROM mirror_copy WHERE region = $1 AND id IN (SELECT value FROM json_each($2))`, region, ids)
		if err != nil {
			return err
		}
		for rows.Next() {
			c, err := scanCopy(rows)
			if err != nil {
				return err
			}
			found[c.ID] = c
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("mirror: copies in %s: %w", region, err)
	}
	return found, nil
}
