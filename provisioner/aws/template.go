package aws

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Fleets are made from launch templates. A template has its content's hash in
// its name and one version, which never changes: a new definition of a pool is
// another template, and a request that is repeated finds the one that it was
// written for.

// A boundTemplate is a template of a pool.
type boundTemplate struct {
	name string
	data *types.RequestLaunchTemplateData
}

// templateState is what is known of a template of a place.
type templateState struct {
	exists  bool
	used    timestamp.Time // last
	retry   timestamp.Time // when making it is tried again
	why     error
	unclear int // times that it was not known whether it was made
}

// bindFleet completes the templates.
func (b *bound) bindFleet(p *Provider, o *fleet.Pool) error {
	for _, t := range b.spec.templates {
		text, err := p.userData(o.ID, o.ProviderID, b.region, t.userData)
		if err != nil {
			return err
		}
		data := *t.data
		data.UserData = base64Of(text)
		// Interfaces have no tags of the intent, which templates do not know; those
		// of the cluster are enough to find what is left of them.
		data.TagSpecifications = taggedTemplate(data.TagSpecifications, []types.Tag{tag(tagCluster, p.config.Cluster), tag(tagPool, o.ID)}, b.tags)
		content, err := compact(data)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		b.fleet = append(b.fleet, boundTemplate{p.templatePrefix() + o.ID[:min(len(o.ID), shownPool)] + "." + hex.EncodeToString(sum[:8]), &data})
	}
	return nil
}

// shownPool is how much of a pool's id is in the names of its templates, which
// may have 128 letters. The hash is of all of it.
const shownPool = 30

func (p *Provider) templatePrefix() string { return "taskfleet." + p.config.Cluster + "." }

// taggedTemplate adds the tags of interfaces, and takes those out that requests
// set.
func taggedTemplate(specs []types.LaunchTemplateTagSpecificationRequest, interfaces, set []types.Tag) []types.LaunchTemplateTagSpecificationRequest {
	var out []types.LaunchTemplateTagSpecificationRequest
	ours := types.LaunchTemplateTagSpecificationRequest{ResourceType: types.ResourceTypeNetworkInterface}
	for _, s := range specs {
		s.Tags = slices.DeleteFunc(slices.Clone(s.Tags), func(t types.Tag) bool {
			return aws.ToString(t.Key) == tagIntent || slices.ContainsFunc(set, func(o types.Tag) bool { return *o.Key == aws.ToString(t.Key) })
		})
		if s.ResourceType == ours.ResourceType {
			ours = s
		} else {
			out = append(out, s)
		}
	}
	ours.Tags = append(ours.Tags, interfaces...)
	return append(out, ours)
}

// retryTemplate is how long after a failure a template is made again.
const retryTemplate = 30 * time.Second

// prepare has what is to be known of a spec's markets read and its templates
// made, once, and reports whether they are there.
func (p *Provider) prepare(ctx context.Context, now timestamp.Time, b *bound, plan *planning) bool {
	p.mu.Lock()
	fresh := b.place.news.next == 0
	p.mu.Unlock()
	if fresh {
		p.readNews(ctx, now, b.place) // prices and offerings of new markets
	}
	for i := range b.fleet {
		t := &b.fleet[i]
		p.mu.Lock()
		st := b.place.templates[t.name]
		if st == nil {
			st = &templateState{}
			b.place.templates[t.name] = st
		}
		st.used = now
		missing := !st.exists && now >= st.retry
		if missing {
			if b.place.writes.left(now) < 1 {
				plan.Retry = earlier(plan.Retry, b.place.writes.retry(now, 1))
				p.mu.Unlock()
				return false
			}
			b.place.writes.take(1)
			st.retry = now.Add(retryTemplate)
		}
		p.mu.Unlock()
		if missing {
			err := p.createTemplate(ctx, b, t)
			p.mu.Lock()
			st.exists, st.why = err == nil, err
			if err != nil && explainCall(err).class == fleet.Throttled {
				b.place.writes.throttled(now)
			}
			if err != nil && st.unclear < 3 && explainCall(err).unknown {
				// It may be over in a moment, and is no news before it is not.
				st.unclear++
				st.why, st.retry = nil, now.Add(firstRepeat)
			}
			p.mu.Unlock()
		}
		p.mu.Lock()
		exists, why := st.exists, st.why
		if !exists {
			plan.Retry = earlier(plan.Retry, st.retry)
			if why != nil {
				f := explainCall(why)
				plan.complain(kinds[f.class], b.id, "A launch template could not be made", f.text)
			}
		}
		p.mu.Unlock()
		if !exists {
			return false
		}
	}
	return true
}

// createTemplate makes a template. One of its name has its content.
func (p *Provider) createTemplate(ctx context.Context, b *bound, t *boundTemplate) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := b.place.EC2.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{
		LaunchTemplateName: &t.name, LaunchTemplateData: t.data,
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeLaunchTemplate, Tags: b.tags}},
	})
	if e, ok := errors.AsType[smithy.APIError](err); ok && e.ErrorCode() == "InvalidLaunchTemplateName.AlreadyExistsException" {
		return nil
	}
	return err
}

// forget has templates of a request looked at again, because one was gone.
func (p *Provider) forgetTemplates(pl *place, in *ec2.CreateFleetInput) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range in.LaunchTemplateConfigs {
		if s := c.LaunchTemplateSpecification; s != nil {
			delete(pl.templates, aws.ToString(s.LaunchTemplateName))
		}
	}
}

const (
	templatesEvery = time.Hour
	keepTemplate   = 24 * time.Hour // after its last use
)

// sweepTemplates deletes the templates of the cluster that no pool has used for
// a while. What was in use before this process is kept for as long, from when it
// was first seen.
func (p *Provider) sweepTemplates(ctx context.Context, now timestamp.Time, pl *place) error {
	var names []string
	var token *string
	for {
		p.called(now, pl)
		out, err := pl.EC2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{
			Filters: []types.Filter{filter("tag:"+tagCluster, p.config.Cluster)}, MaxResults: aws.Int32(200), NextToken: token,
		})
		if err != nil {
			return fmt.Errorf("list launch templates: %w", err)
		}
		for _, t := range out.LaunchTemplates {
			names = append(names, aws.ToString(t.LaunchTemplateName))
		}
		if token = out.NextToken; aws.ToString(token) == "" {
			break
		}
	}
	var old []string
	p.mu.Lock()
	for _, name := range names {
		st := pl.templates[name]
		switch {
		case !strings.HasPrefix(name, p.templatePrefix()):
		case st == nil:
			pl.templates[name] = &templateState{exists: true, used: now}
		case now.Sub(st.used) > keepTemplate:
			old = append(old, name)
			delete(pl.templates, name)
		}
	}
	for name, st := range pl.templates {
		if now.Sub(st.used) > keepTemplate {
			delete(pl.templates, name)
		}
	}
	p.mu.Unlock()
	for _, name := range old {
		if _, err := pl.EC2.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{LaunchTemplateName: &name}); err != nil {
			return fmt.Errorf("delete launch template %s: %w", name, err)
		}
	}
	return nil
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: &name, Values: values}
}
