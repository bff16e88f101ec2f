package awsfake

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

type launchTemplate struct {
	id, name string
	created  time.Time
	tags     []types.Tag
	versions []*templateVersion // by number; deleted ones are gone
	latest   int64
	standard int64 // the default version
	creator  string
}

type templateVersion struct {
	template    *launchTemplate
	number      int64
	created     time.Time
	description *string
	data        *types.ResponseLaunchTemplateData
	creator     string
}

func (v *templateVersion) label() string { return strconv.FormatInt(v.number, 10) }

func (v *templateVersion) systemTags() []types.Tag {
	return []types.Tag{
		{Key: aws.String("aws:ec2launchtemplate:id"), Value: &v.template.id},
		{Key: aws.String("aws:ec2launchtemplate:version"), Value: aws.String(v.label())},
	}
}

func (t *launchTemplate) describe() types.LaunchTemplate {
	return types.LaunchTemplate{
		LaunchTemplateId: &t.id, LaunchTemplateName: &t.name, CreateTime: &t.created, CreatedBy: &t.creator,
		DefaultVersionNumber: aws.Int64(t.standard), LatestVersionNumber: aws.Int64(t.latest), Tags: t.tags,
	}
}

func (v *templateVersion) describe() types.LaunchTemplateVersion {
	return types.LaunchTemplateVersion{
		LaunchTemplateId: &v.template.id, LaunchTemplateName: &v.template.name, VersionNumber: aws.Int64(v.number), CreateTime: &v.created,
		CreatedBy: &v.creator, VersionDescription: v.description, DefaultVersion: aws.Bool(v.number == v.template.standard), LaunchTemplateData: v.data,
	}
}

// template finds a launch template by identifier or name.
func (r *region) template(id, name *string) (*launchTemplate, error) {
	switch {
	case id != nil && name != nil:
		return nil, failure("InvalidParameterCombination", "Specify either LaunchTemplateId or LaunchTemplateName, not both")
	case id != nil:
		if t := r.templates[*id]; t != nil {
			return t, nil
		}
		return nil, failure("InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID %s, does not exist.", *id)
	case name != nil:
		if t := r.templateNamed(*name); t != nil {
			return t, nil
		}
		return nil, failure("InvalidLaunchTemplateName.NotFoundException", "At least one of the launch templates specified in the request does not exist.")
	}
	return nil, failure("MissingParameter", "The request must contain LaunchTemplateId or LaunchTemplateName")
}

func (r *region) templateNamed(name string) *launchTemplate {
	for _, t := range r.templates {
		if t.name == name {
			return t
		}
	}
	return nil
}

// version finds a version by number, "$Latest" or "$Default"; "" is the default.
func (t *launchTemplate) version(label string) (*templateVersion, error) {
	number := t.standard
	switch label {
	case "", "$Default":
	case "$Latest":
		number = t.latest
	default:
		n, err := strconv.ParseInt(label, 10, 64)
		if err != nil {
			return nil, failure("InvalidLaunchTemplateId.VersionNotFound", "Could not find the specified version %s for the launch template with ID %s.", label, t.id)
		}
		number = n
	}
	for _, v := range t.versions {
		if v.number == number {
			return v, nil
		}
	}
	return nil, failure("InvalidLaunchTemplateId.VersionNotFound", "Could not find the specified version %s for the launch template with ID %s.", label, t.id)
}

func (r *region) templateVersion(id, name, version *string) (*templateVersion, error) {
	t, err := r.template(id, name)
	if err != nil {
		return nil, err
	}
	return t.version(aws.ToString(version))
}

// CreateLaunchTemplate makes a template with its first version.
func (e *EC2) CreateLaunchTemplate(ctx context.Context, in *ec2.CreateLaunchTemplateInput, _ ...func(*ec2.Options)) (*ec2.CreateLaunchTemplateOutput, error) {
	return call(ctx, e.scope, "ec2", "CreateLaunchTemplate", in, func(s scope, in *ec2.CreateLaunchTemplateInput) (*ec2.CreateLaunchTemplateOutput, error) {
		r := s.region
		if in.LaunchTemplateName == nil || in.LaunchTemplateData == nil {
			return nil, failure("MissingParameter", "The request must contain LaunchTemplateName and LaunchTemplateData")
		}
		if n := len(*in.LaunchTemplateName); n < 3 || n > 128 {
			return nil, failure("InvalidLaunchTemplateName.MalformedException", "The launch template name must be between 3 and 128 characters")
		}
		known, err := r.again("CreateLaunchTemplate", aws.ToString(in.ClientToken), in)
		if err != nil {
			return nil, err
		}
		if known != nil && known.give != nil {
			return known.give().(*ec2.CreateLaunchTemplateOutput), nil
		}
		if r.templateNamed(*in.LaunchTemplateName) != nil {
			return nil, failure("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
		}
		if s.dry {
			return nil, dryRun()
		}
		t := &launchTemplate{id: r.cloud.draws.id("lt-"), name: *in.LaunchTemplateName, created: r.cloud.now, standard: 1, creator: s.principal()}
		for _, tags := range in.TagSpecifications {
			if tags.ResourceType == types.ResourceTypeLaunchTemplate {
				t.tags = mergeTags(t.tags, tags.Tags)
			}
		}
		t.add(s, in.LaunchTemplateData, nil, in.VersionDescription)
		r.templates[t.id] = t
		described := t.describe()
		out := &ec2.CreateLaunchTemplateOutput{LaunchTemplate: &described}
		r.remember(known, func() any { return out })
		return out, nil
	})
}

// add makes a version over a source, which may be nil.
func (t *launchTemplate) add(s scope, in *types.RequestLaunchTemplateData, source *templateVersion, description *string) *templateVersion {
	data := &types.ResponseLaunchTemplateData{}
	if source != nil {
		*data = *source.data
	}
	overlay(data, in)
	t.latest++
	v := &templateVersion{template: t, number: t.latest, created: s.cloud.now, description: description, data: data, creator: s.principal()}
	t.versions = append(t.versions, v)
	return v
}

// CreateLaunchTemplateVersion adds a version, over SourceVersion if that is given.
func (e *EC2) CreateLaunchTemplateVersion(ctx context.Context, in *ec2.CreateLaunchTemplateVersionInput, _ ...func(*ec2.Options)) (*ec2.CreateLaunchTemplateVersionOutput, error) {
	return call(ctx, e.scope, "ec2", "CreateLaunchTemplateVersion", in, func(s scope, in *ec2.CreateLaunchTemplateVersionInput) (*ec2.CreateLaunchTemplateVersionOutput, error) {
		r := s.region
		t, err := r.template(in.LaunchTemplateId, in.LaunchTemplateName)
		if err != nil {
			return nil, err
		}
		if in.LaunchTemplateData == nil {
			return nil, failure("MissingParameter", "The request must contain LaunchTemplateData")
		}
		known, err := r.again("CreateLaunchTemplateVersion", aws.ToString(in.ClientToken), in)
		if err != nil {
			return nil, err
		}
		if known != nil && known.give != nil {
			return known.give().(*ec2.CreateLaunchTemplateVersionOutput), nil
		}
		var source *templateVersion
		if in.SourceVersion != nil {
			if source, err = t.version(*in.SourceVersion); err != nil {
				return nil, err
			}
		}
		if len(t.versions) >= 10000 {
			return nil, failure("VersionLimitExceeded", "The maximum number of launch template versions has been reached.")
		}
		if s.dry {
			return nil, dryRun()
		}
		described := t.add(s, in.LaunchTemplateData, source, in.VersionDescription).describe()
		out := &ec2.CreateLaunchTemplateVersionOutput{LaunchTemplateVersion: &described}
		r.remember(known, func() any { return out })
		return out, nil
	})
}

// ModifyLaunchTemplate sets the default version.
func (e *EC2) ModifyLaunchTemplate(ctx context.Context, in *ec2.ModifyLaunchTemplateInput, _ ...func(*ec2.Options)) (*ec2.ModifyLaunchTemplateOutput, error) {
	return call(ctx, e.scope, "ec2", "ModifyLaunchTemplate", in, func(s scope, in *ec2.ModifyLaunchTemplateInput) (*ec2.ModifyLaunchTemplateOutput, error) {
		t, err := s.region.template(in.LaunchTemplateId, in.LaunchTemplateName)
		if err != nil {
			return nil, err
		}
		if in.DefaultVersion == nil {
			return nil, failure("MissingParameter", "The request must contain the parameter SetDefaultVersion")
		}
		v, err := t.version(*in.DefaultVersion)
		if err != nil {
			return nil, err
		}
		if s.dry {
			return nil, dryRun()
		}
		t.standard = v.number
		described := t.describe()
		return &ec2.ModifyLaunchTemplateOutput{LaunchTemplate: &described}, nil
	})
}

// DescribeLaunchTemplates lists templates, by name.
func (e *EC2) DescribeLaunchTemplates(ctx context.Context, in *ec2.DescribeLaunchTemplatesInput, _ ...func(*ec2.Options)) (*ec2.DescribeLaunchTemplatesOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeLaunchTemplates", in, func(s scope, in *ec2.DescribeLaunchTemplatesInput) (*ec2.DescribeLaunchTemplatesOutput, error) {
		r := s.region
		var all []*launchTemplate
		for _, id := range in.LaunchTemplateIds {
			t, err := r.template(&id, nil)
			if err != nil {
				return nil, err
			}
			all = append(all, t)
		}
		for _, name := range in.LaunchTemplateNames {
			t, err := r.template(nil, &name)
			if err != nil {
				return nil, err
			}
			all = append(all, t)
		}
		if len(in.LaunchTemplateIds)+len(in.LaunchTemplateNames) == 0 {
			for _, t := range r.templates {
				all = append(all, t)
			}
			slices.SortFunc(all, func(a, b *launchTemplate) int { return cmp.Compare(a.name, b.name) })
		}
		all, err := selected(all, in.Filters, func(t *launchTemplate, name string) ([]string, bool) {
			switch name {
			case "launch-template-name":
				return []string{t.name}, true
			case "create-time":
				return []string{t.created.UTC().Format(time.RFC3339)}, true
			}
			return tagFilter(t.tags, name)
		})
		if err != nil {
			return nil, err
		}
		out := &ec2.DescribeLaunchTemplatesOutput{LaunchTemplates: []types.LaunchTemplate{}}
		page, next, err := pageOf(all, in.MaxResults, in.NextToken, 1, 200)
		if err != nil {
			return nil, err
		}
		for _, t := range page {
			out.LaunchTemplates = append(out.LaunchTemplates, t.describe())
		}
		out.NextToken = next
		return out, nil
	})
}

// DescribeLaunchTemplateVersions lists versions of one template, newest first.
func (e *EC2) DescribeLaunchTemplateVersions(ctx context.Context, in *ec2.DescribeLaunchTemplateVersionsInput, _ ...func(*ec2.Options)) (*ec2.DescribeLaunchTemplateVersionsOutput, error) {
	return call(ctx, e.scope, "ec2", "DescribeLaunchTemplateVersions", in, func(s scope, in *ec2.DescribeLaunchTemplateVersionsInput) (*ec2.DescribeLaunchTemplateVersionsOutput, error) {
		t, err := s.region.template(in.LaunchTemplateId, in.LaunchTemplateName)
		if err != nil {
			return nil, err
		}
		least, most := int64(0), t.latest
		if in.MinVersion != nil {
			if least, err = strconv.ParseInt(*in.MinVersion, 10, 64); err != nil {
				return nil, failure("InvalidParameterValue", "The value %s of MinVersion is not a number", *in.MinVersion)
			}
		}
		if in.MaxVersion != nil {
			if most, err = strconv.ParseInt(*in.MaxVersion, 10, 64); err != nil {
				return nil, failure("InvalidParameterValue", "The value %s of MaxVersion is not a number", *in.MaxVersion)
			}
		}
		var all []*templateVersion
		for _, label := range in.Versions {
			v, err := t.version(label)
			if err != nil {
				return nil, err
			}
			all = append(all, v)
		}
		if len(in.Versions) == 0 {
			for _, v := range slices.Backward(t.versions) {
				if v.number >= least && v.number <= most {
					all = append(all, v)
				}
			}
		}
		page, next, err := pageOf(all, in.MaxResults, in.NextToken, 1, 200)
		if err != nil {
			return nil, err
		}
		out := &ec2.DescribeLaunchTemplateVersionsOutput{LaunchTemplateVersions: []types.LaunchTemplateVersion{}, NextToken: next}
		for _, v := range page {
			out.LaunchTemplateVersions = append(out.LaunchTemplateVersions, v.describe())
		}
		return out, nil
	})
}

// DeleteLaunchTemplate removes a template with all its versions.
func (e *EC2) DeleteLaunchTemplate(ctx context.Context, in *ec2.DeleteLaunchTemplateInput, _ ...func(*ec2.Options)) (*ec2.DeleteLaunchTemplateOutput, error) {
	return call(ctx, e.scope, "ec2", "DeleteLaunchTemplate", in, func(s scope, in *ec2.DeleteLaunchTemplateInput) (*ec2.DeleteLaunchTemplateOutput, error) {
		t, err := s.region.template(in.LaunchTemplateId, in.LaunchTemplateName)
		if err != nil {
			return nil, err
		}
		if s.dry {
			return nil, dryRun()
		}
		delete(s.region.templates, t.id)
		described := t.describe()
		return &ec2.DeleteLaunchTemplateOutput{LaunchTemplate: &described}, nil
	})
}

// DeleteLaunchTemplateVersions removes versions, but never the default one.
func (e *EC2) DeleteLaunchTemplateVersions(ctx context.Context, in *ec2.DeleteLaunchTemplateVersionsInput, _ ...func(*ec2.Options)) (*ec2.DeleteLaunchTemplateVersionsOutput, error) {
	return call(ctx, e.scope, "ec2", "DeleteLaunchTemplateVersions", in, func(s scope, in *ec2.DeleteLaunchTemplateVersionsInput) (*ec2.DeleteLaunchTemplateVersionsOutput, error) {
		t, err := s.region.template(in.LaunchTemplateId, in.LaunchTemplateName)
		if err != nil {
			return nil, err
		}
		if len(in.Versions) > 200 {
			return nil, failure("InvalidParameterValue", "At most 200 versions can be deleted in a request")
		}
		if s.dry {
			return nil, dryRun()
		}
		out := &ec2.DeleteLaunchTemplateVersionsOutput{}
		for _, label := range in.Versions {
			v, err := t.version(label)
			if err != nil || v.number == t.standard {
				number, _ := strconv.ParseInt(label, 10, 64)
				code, message := types.LaunchTemplateErrorCodeLaunchTemplateVersionDoesNotExist, fmt.Sprintf("The specified launch template version %s does not exist.", label)
				if err == nil {
					code, message = types.LaunchTemplateErrorCodeUnexpectedError, "The default version of a launch template cannot be deleted."
				}
				out.UnsuccessfullyDeletedLaunchTemplateVersions = append(out.UnsuccessfullyDeletedLaunchTemplateVersions, types.DeleteLaunchTemplateVersionsResponseErrorItem{
					LaunchTemplateId: &t.id, LaunchTemplateName: &t.name, VersionNumber: aws.Int64(number),
					ResponseError: &types.ResponseError{Code: code, Message: &message},
				})
				continue
			}
			t.versions = slices.DeleteFunc(t.versions, func(o *templateVersion) bool { return o == v })
			out.SuccessfullyDeletedLaunchTemplateVersions = append(out.SuccessfullyDeletedLaunchTemplateVersions, types.DeleteLaunchTemplateVersionsResponseSuccessItem{
				LaunchTemplateId: &t.id, LaunchTemplateName: &t.name, VersionNumber: aws.Int64(v.number),
			})
		}
		return out, nil
	})
}
