// Command terraform-provider-taskfleet is the Terraform provider taskfleet, which terraform and tofu start by themselves. What
// it is: package infra/provider; how it is installed and used: docs/terraform-provider.md.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/infra/provider"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/resource"
)

// version is set for releases, with -ldflags '-X main.version=1.2.3'.
var version string

const usage = `usage: terraform-provider-taskfleet [--debug | --version | --imports [PATTERN...]]

terraform and tofu start it by themselves; docs/terraform-provider.md says how it is installed.

`

func main() {
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	debugging := flag.Bool("debug", false, "run by itself, for a debugger, and print what terraform has to be told")
	show := flag.Bool("version", false, "print the version")
	imports := flag.Bool("imports", false, "print import blocks for what the platform at TASKCLUSTER_ROOT_URL has; patterns such as Role=project:.* say of what")
	flag.Parse()
	if flag.NArg() > 0 && !*imports {
		flag.Usage()
		os.Exit(2)
	}
	var err error
	switch {
	case *show:
		_, err = fmt.Println(build())
	case *imports:
		err = printImports(context.Background(), flag.Args())
	default:
		err = provider.Serve(context.Background(), build(), *debugging)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, plain.Text(err.Error()))
		os.Exit(1)
	}
}

// build is the version, as far as it is known.
func build() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "" && info.Main.Version != "(devel)" {
		version = info.Main.Version
	}
	return cmp.Or(version, "dev")
}

func printImports(ctx context.Context, texts []string) error {
	var patterns []*resource.Pattern
	for _, text := range texts {
		p, err := resource.ParsePattern(text)
		if err != nil {
			return err
		}
		patterns = append(patterns, p)
	}
	options, err := client.FromEnv()
	if err != nil {
		return err
	}
	c, err := client.New(options)
	if err != nil {
		return err
	}
	all, err := resource.List(ctx, c, patterns)
	if err != nil {
		return err
	}
	if len(all.Definitions) == 0 {
		return errors.New("the platform has nothing that matches")
	}
	return provider.WriteImports(os.Stdout, all)
}
