package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"

	p "github.com/pulumi/pulumi-go-provider"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"
)

// largestMessage bounds a call, in bytes: as Pulumi's engine does.
const largestMessage = 400 << 20

// Serve serves a provider by gRPC on 127.0.0.1 until stop is called or ctx ends, for
// PULUMI_DEBUG_PROVIDERS=taskfleet:PORT.
//
// Whoever is served acts with the credentials of this process, and the protocol has no place for a secret that a caller would
// have to know: what an engine is given to configure a provider with it keeps in its state, and uses again when it
// destroys. So it is the caller that is looked at: on Linux, connections of other users than the one that
// runs this process are closed before anything is read from them. On other systems that cannot be told, and other users of
// the machine could call the provider while a command runs.
func Serve(ctx context.Context, prov p.Provider) (port int, stop func(), err error) {
	version, err := versionOf(ctx, prov)
	if err != nil {
		return 0, nil, err
	}
	service, err := p.RawServer(Name, version, prov)(nil)
	if err != nil {
		return 0, nil, err
	}
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, nil, err
	}
	if err := mine(listener.Addr(), nil); err != nil {
		listener.Close()
		return 0, nil, fmt.Errorf("the provider cannot tell who calls it: %w", err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(largestMessage), grpc.WaitForHandlers(true))
	pulumirpc.RegisterResourceProviderServer(server, service)
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(guarded{listener}) }) // ends by Stop
	forget := context.AfterFunc(ctx, server.Stop)
	return listener.Addr().(*net.TCPAddr).Port, func() {
		forget()
		server.Stop()
		done.Wait()
	}, nil
}

// versionOf is the version that a provider has put into its schema.
func versionOf(ctx context.Context, prov p.Provider) (string, error) {
	if prov.GetSchema == nil {
		return "", errors.New("it is no provider of New")
	}
	schema, err := prov.GetSchema(ctx, p.GetSchemaRequest{})
	if err != nil {
		return "", err
	}
	var of struct{ Version string }
	return of.Version, json.Unmarshal([]byte(schema.Schema), &of)
}

// guarded is a listener that closes what strangers open.
type guarded struct{ net.Listener }

// Accept implements net.Listener.
func (l guarded) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if mine(c.RemoteAddr(), c.LocalAddr()) == nil {
			return c, nil
		}
		c.Close()
	}
}
