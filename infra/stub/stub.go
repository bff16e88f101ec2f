// Package stub stands in for the provider hashicorp/aws where there is no AWS: in tests, and for whoever writes modules.
// It has the provider's real schema for the types in types.txt, so that terraform accepts and refuses the same
// configurations, plans what is not known before, and gets plausible values when it applies: identifiers and ARNs of the
// right form, the same for the same configuration. What was made can be read, changed behind terraform's back, imported
// and destroyed. aws_iam_policy_document renders real policies.
//
// It does not have what the schema does not say: validations and defaults of the real provider, and most rules about
// what cannot be changed in place (known.go has a list).
//
// A [Provider] is served by the process that started it. Terraform attaches to it by TF_REATTACH_PROVIDERS, so nothing
// is installed and nothing is started for each command. README.md says how to use it by hand.
package stub

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tfprotov5/tf5server"
	"google.golang.org/grpc"
)

// Account is the number of the account that everything is in.
const Account = "123456789012"

// A Provider is a running stand-in with an account of its own, which is empty at first.
type Provider struct {
	account  *account
	reattach string
	cancel   context.CancelFunc
	closed   chan struct{}
}

// Start serves a provider until Close or the end of ctx.
func Start(ctx context.Context) (*Provider, error) {
	s, err := load()
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &Provider{account: newAccount(s), cancel: cancel, closed: make(chan struct{})}
	attach := make(chan *plugin.ReattachConfig)
	go plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake,
		Plugins: plugin.PluginSet{"provider": &tf5server.GRPCProviderPlugin{
			Name:         address,
			GRPCProvider: func() tfprotov5.ProviderServer { return &server{schemas: s, account: p.account} },
			Opts:         []tf5server.ServeOpt{tf5server.WithoutLogStderrOverride()}, // no copy of the process's stderr
		}},
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(options, grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.StatsHandler(connections{}))...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Output: io.Discard}),
		Test:   &plugin.ServeTestConfig{Context: ctx, ReattachConfigCh: attach, CloseCh: p.closed},
	})
	var at *plugin.ReattachConfig
	select {
	case at = <-attach:
	case <-p.closed:
	}
	if at == nil {
		cancel()
		return nil, fmt.Errorf("stub: cannot listen on a socket: is the directory of temporary files writable?")
	}
	config := map[string]any{
		"Protocol": at.Protocol, "ProtocolVersion": at.ProtocolVersion, "Pid": at.Pid, "Test": at.Test,
		"Addr": map[string]string{"Network": at.Addr.Network(), "String": at.Addr.String()},
	}
	// Whichever of the two programs it is, it looks for the provider under the name of its own registry.
	reattach, err := json.Marshal(map[string]any{address: config, "registry.opentofu.org/hashicorp/aws": config})
	must(err)
	p.reattach = string(reattach)
	return p, nil
}

// Reattach is the value of TF_REATTACH_PROVIDERS with which terraform, or tofu, uses the provider.
func (p *Provider) Reattach() string { return p.reattach }

// Close ends the provider. Terraform commands that use it fail.
func (p *Provider) Close() {
	p.cancel()
	<-p.closed
}

// The protocol's constants: https://developer.hashicorp.com/terraform/plugin/how-terraform-works.
var handshake = plugin.HandshakeConfig{
	ProtocolVersion:  5,
	MagicCookieKey:   "TF_PLUGIN_MAGIC_COOKIE",
	MagicCookieValue: "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2",
}

const maxMessage = 64 << 20
