package verify

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// mostTags is how many load balancers DescribeTags takes at a time.
const mostTags = 20

// checkBalancers looks at a region's load balancers, and tells which security groups are theirs.
func (v *verification) checkBalancers(ctx context.Context, c *clients) (map[string]bool, error) {
	byARN := map[string]types.LoadBalancer{}
	var list []string
	err := pages(ctx, v, place{region: c.region}, "elasticloadbalancing:DescribeLoadBalancers", elb.NewDescribeLoadBalancersPaginator(c.elb, &elb.DescribeLoadBalancersInput{}), func(p *elb.DescribeLoadBalancersOutput) {
		for _, b := range p.LoadBalancers {
			byARN[aws.ToString(b.LoadBalancerArn)] = b
			list = append(list, aws.ToString(b.LoadBalancerArn))
		}
	})
	if err != nil {
		return nil, err
	}
	var ours []types.LoadBalancer
	groups := map[string]bool{}
	for some := range slices.Chunk(list, mostTags) {
		out, err := ask(ctx, v, place{c.region, some[0]}, "elasticloadbalancing:DescribeTags", c.elb.DescribeTags, &elb.DescribeTagsInput{ResourceArns: some})
		if err != nil {
			return nil, err
		}
		for _, d := range out.TagDescriptions {
			b := byARN[aws.ToString(d.ResourceArn)]
			tags := tagMap(d.Tags, func(t types.Tag) (*string, *string) { return t.Key, t.Value })
			if !v.belongs("load balancer", place{c.region, aws.ToString(d.ResourceArn)}, tags, false) {
				continue
			}
			ours = append(ours, b)
			for _, g := range b.SecurityGroups {
				groups[g] = true
			}
		}
	}
	return groups, each(ctx, v, ours, func(ctx context.Context, b types.LoadBalancer) error { return v.checkBalancer(ctx, c, b) })
}

func (v *verification) checkBalancer(ctx context.Context, c *clients, b types.LoadBalancer) error {
	at := place{c.region, aws.ToString(b.LoadBalancerArn)}
	var mu sync.Mutex
	var listeners []types.Listener
	err := pages(ctx, v, at, "elasticloadbalancing:DescribeListeners", elb.NewDescribeListenersPaginator(c.elb, &elb.DescribeListenersInput{LoadBalancerArn: b.LoadBalancerArn}), func(p *elb.DescribeListenersOutput) {
		mu.Lock()
		defer mu.Unlock()
		listeners = append(listeners, p.Listeners...)
	})
	if err != nil {
		return err
	}
	return each(ctx, v, listeners, func(ctx context.Context, l types.Listener) error { return v.checkListener(ctx, c, l) })
}

// modern are AWS's policies for TLS 1.2 and later with forward secrecy:
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/describe-ssl-policies.html
var modern = regexp.MustCompile(`^ELBSecurityPolicy-(TLS13-1-[23]-|FS-1-2-Res-)`)

func (v *verification) checkListener(ctx context.Context, c *clients, l types.Listener) error {
	at := place{c.region, aws.ToString(l.ListenerArn)}
	port := aws.ToInt32(l.Port)
	switch l.Protocol {
	case types.ProtocolEnumHttps, types.ProtocolEnumTls:
		if policy := aws.ToString(l.SslPolicy); !modern.MatchString(policy) || strings.Contains(policy, "Ext") {
			v.find(at, "load-balancer-policy", fmt.Sprintf("port %d speaks old versions of TLS or ciphers (%s)", port, policy), `set ssl_policy = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06", or a later one`)
		}
	case types.ProtocolEnumHttp:
		// Rules come before the default action, which is the last rule.
		var plain bool
		err := pages(ctx, v, at, "elasticloadbalancing:DescribeRules", elb.NewDescribeRulesPaginator(c.elb, &elb.DescribeRulesInput{ListenerArn: l.ListenerArn}), func(p *elb.DescribeRulesOutput) {
			plain = plain || slices.ContainsFunc(p.Rules, func(r types.Rule) bool { return !redirects(r.Actions) })
		})
		if err != nil {
			return err
		}
		if plain || !redirects(l.DefaultActions) {
			v.find(at, "load-balancer-tls", fmt.Sprintf("port %d answers to plain HTTP", port), "have it redirect to HTTPS, in all its rules, or remove it")
		}
	default:
		v.find(at, "load-balancer-tls", fmt.Sprintf("port %d speaks %s, which is not encrypted", port, l.Protocol), "make it HTTPS or TLS, with a certificate")
	}
	return nil
}

func redirects(actions []types.Action) bool {
	return slices.ContainsFunc(actions, func(a types.Action) bool {
		return a.Type == types.ActionTypeEnumRedirect && a.RedirectConfig != nil && aws.ToString(a.RedirectConfig.Protocol) == "HTTPS"
	})
}
