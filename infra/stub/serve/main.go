// Command serve runs the stand-in for hashicorp/aws until it is interrupted, for whoever writes modules. It prints the
// line for the shell with which terraform uses it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/taskfleet/taskfleet/infra/stub"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	provider, err := stub.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("export TF_REATTACH_PROVIDERS='%s'\n", provider.Reattach())
	<-ctx.Done()
	provider.Close()
}
