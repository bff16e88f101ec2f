package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"testing"
	"time"

	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// wired is a message as the engine sends it.
func wired(t *testing.T, m property.Map) *structpb.Struct {
	t.Helper()
	sent, err := plugin.MarshalProperties(presource.ToResourcePropertyMap(m), plugin.MarshalOptions{KeepUnknowns: true, KeepSecrets: true})
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

// caller calls a provider as the engine does.
func caller(t *testing.T, port int) pulumirpc.ResourceProviderClient {
	t.Helper()
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return pulumirpc.NewResourceProviderClient(conn)
}

func TestAnEngineIsServed(t *testing.T) {
	k := newBoxes()
	prov, err := New("1.2.3", k)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing of what is sent is to be seen in what is logged.
	output := captured(t)
	port, stop, err := Serve(t.Context(), prov)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	engine := caller(t, port)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if info, err := engine.GetPluginInfo(ctx, nil); err != nil || info.Version != "1.2.3" {
		t.Fatalf("the provider is %v, %v", info, err)
	}
	configured, err := engine.Configure(ctx, &pulumirpc.ConfigureRequest{})
	if err != nil || !configured.AcceptSecrets || !configured.SupportsPreview {
		t.Fatalf("the provider is configured as %v, %v", configured, err)
	}
	urn := string(presource.NewURN("test", "project", "", boxToken, "it"))
	checked, err := engine.Check(ctx, &pulumirpc.CheckRequest{Urn: urn, News: wired(t, inputs("a", value(t, `{"config": {"token": "hunter2", "none": null}}`)))})
	if err != nil || len(checked.Failures) > 0 {
		t.Fatalf("the inputs are refused: %v, %v", checked, err)
	}
	if !strings.Contains(checked.Inputs.String(), presource.SecretSig) {
		t.Errorf("the token is not secret: %s", checked.Inputs)
	}
	k.fail, k.partial = errors.New("no paint for hunter2"), true
	_, err = engine.Create(ctx, &pulumirpc.CreateRequest{Urn: urn, Properties: checked.Inputs})
	details := status.Convert(err).Details()
	if len(details) != 1 {
		t.Fatalf("the error of a partial failure is %v", err)
	}
	partial, ok := details[0].(*pulumirpc.ErrorResourceInitFailed)
	if !ok || partial.Id != "a" || fmt.Sprint(partial.Reasons) != "[no paint for (hidden)]" || !strings.Contains(partial.Properties.String(), "https://boxes/a") {
		t.Errorf("the partial failure is %v", details[0])
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error tells the token: %v", err)
	}
	stop()
	if _, err := engine.GetPluginInfo(ctx, nil); err == nil {
		t.Error("it is served after stop")
	}
	if text := output(); strings.Contains(text, "hunter2") {
		t.Errorf("what is written tells the token:\n%s", text)
	}
}

// captured is what is written to standard output and error from now on, and logged.
func captured(t *testing.T) func() string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "output")
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	out, err2 := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = f, f
	log.SetOutput(&logged)
	restore := func() {
		os.Stdout, os.Stderr = out, err2
		log.SetOutput(err2)
	}
	t.Cleanup(restore)
	return func() string {
		restore()
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text) + logged.String()
	}
}

func TestAServerEndsWithItsContext(t *testing.T) {
	prov, err := New("dev", newBoxes())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	port, stop, err := Serve(ctx, prov)
	if err != nil {
		t.Fatal(err)
	}
	engine := caller(t, port)
	if _, err := engine.GetPluginInfo(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if info, err := engine.GetPluginInfo(t.Context(), nil); err != nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%v is still served", info)
		}
	}
	stop()
}
