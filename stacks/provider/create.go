package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// lookLimit is how long a preview waits to be told whether a thing is there already, and lookPause how long it asks of no
// other thing of the kind if nobody answers: before the first deployment nobody does.
const (
	lookLimit = 15 * time.Second
	lookPause = time.Minute
)

// create makes it, or takes over what is there and is as it should be. What half a creation has made is kept.
func (v *provider) create(ctx context.Context, r p.CreateRequest) (out p.CreateResponse, err error) {
	defer func() { err = v.scrub(err, r.Urn.Type(), r.Properties) }()
	ctx, end := v.begin(ctx, r.Timeout)
	defer end()
	k, err := v.kind(r.Urn.Type())
	if err != nil {
		return out, err
	}
	if r.DryRun {
		return v.previewCreate(ctx, k, r)
	}
	name := plain(r.Properties.Get("name"))
	if !name.IsString() {
		return out, &Problem{"name", "is not known"}
	}
	spec, err := plainSpec(k, name.AsString(), r.Properties)
	if err != nil {
		return out, err
	}
	out.ID = name.AsString()
	state, err := adopt(ctx, k, out.ID, spec)
	if err != nil {
		return p.CreateResponse{}, err
	}
	if state == nil {
		if state, err = k.Create(ctx, out.ID, spec); err != nil && state == nil {
			return p.CreateResponse{}, err
		}
	}
	if out.Properties, err = kept(k, r.Properties, state, err); err != nil {
		out.PartialState = &p.InitializationFailed{Reasons: []string{v.scrub(err, r.Urn.Type(), r.Properties).Error()}}
	}
	return out, err
}

// previewCreate tells what would be made, and of what is there already that it is, as far as it can be asked: the
// platform itself may not be there yet. What is to be replaced is there, and will not be.
func (v *provider) previewCreate(ctx context.Context, k Kind, r p.CreateRequest) (out p.CreateResponse, err error) {
	if out.Properties, err = complete(k, r.Properties, nil); err != nil {
		return out, err
	}
	name, spec := plain(r.Properties.Get("name")), plain(r.Properties.Get("spec"))
	v.mu.Lock()
	skip := v.replaced[r.Urn] || time.Since(v.silent[k.Token()]) < lookPause
	v.mu.Unlock()
	if !name.IsString() || spec.HasComputed() || skip {
		return out, nil
	}
	out.ID = name.AsString()
	document, err := plainSpec(k, out.ID, r.Properties)
	if err != nil {
		return out, err
	}
	look, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	state, err := adopt(look, k, out.ID, document)
	switch {
	case errors.Is(err, errDiffers):
		return out, err
	case err != nil:
		if look.Err() != nil && ctx.Err() == nil {
			v.mu.Lock()
			v.silent[k.Token()] = time.Now()
			v.mu.Unlock()
		}
		p.GetLogger(ctx).Debugf("whether it is there already cannot be told yet: %v", v.scrub(err, r.Urn.Type(), r.Properties))
	case state != nil:
		p.GetLogger(ctx).Infof("%s is there already, as it should be: it will be taken over, and nothing is changed", out.ID)
	}
	return out, nil
}

var errDiffers = errors.New("it is there already, and differs")

// adopt is the state of what is there and as it should be, so that it only has to be remembered; nil if it is not there.
func adopt(ctx context.Context, k Kind, name string, spec json.RawMessage) (json.RawMessage, error) {
	state, err := k.Read(ctx, name, spec)
	if state == nil || err != nil {
		return nil, err
	}
	want, err := k.Complete(spec, state)
	if err != nil {
		return nil, err
	}
	is, err := outputs(k, property.New(name), state, property.Value{}, false)
	if err != nil {
		return nil, err
	}
	to, err := outputs(k, property.New(name), want, property.Value{}, false)
	if err != nil {
		return nil, err
	}
	if differ := changes(atSpec, is.Get("spec"), to.Get("spec")); len(differ) > 0 {
		members := strings.Join(slices.Sorted(maps.Keys(differ)), ", ")
		return nil, fmt.Errorf("%w in %s: write into the definition how it is, or remove it", errDiffers, members)
	}
	return state, nil
}
