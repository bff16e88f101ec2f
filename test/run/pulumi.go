package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-version"
)

// pulumiVersion is the one that is built, and the oldest that the tests are run with: that of the SDK which is linked.
const pulumiVersion = "3.259.0"

// installPulumi finds pulumi on PATH, or builds it from its source, as no registry of packages has the program. That
// takes some minutes, so it is kept in the user's cache, for all checkouts.
func installPulumi(ctx context.Context) (path string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, "taskfleet-tests", "pulumi-"+pulumiVersion)
	for _, candidate := range []string{"pulumi", filepath.Join(home, "pulumi")} {
		if path, err := exec.LookPath(candidate); err == nil && isRecentPulumi(ctx, path) {
			return path, nil
		}
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(home, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	path = filepath.Join(home, "pulumi")
	if isRecentPulumi(ctx, path) { // another checkout has built it meanwhile
		return path, nil
	}
	fmt.Printf("== building Pulumi %s, once\n", pulumiVersion)
	const source = "github.com/pulumi/pulumi/"
	if err := buildProgram(ctx, path, source+"pkg/v3/cmd/pulumi",
		fmt.Sprintf("require %spkg/v3 v%s", source, pulumiVersion), "-X "+source+"sdk/v3/go/common/version.Version=v"+pulumiVersion); err != nil {
		return "", fmt.Errorf("the tests need pulumi %s or later on PATH, and it could not be built: %w", pulumiVersion, err)
	}
	return path, nil
}

// isRecentPulumi tells whether a program is a pulumi that the tests can be run with.
func isRecentPulumi(ctx context.Context, path string) bool {
	command := exec.CommandContext(ctx, path, "version")
	command.Env = append(os.Environ(), "PULUMI_SKIP_UPDATE_CHECK=true")
	out, err := command.Output()
	if err != nil {
		return false
	}
	found, err := version.NewVersion(strings.TrimSpace(string(out)))
	return err == nil && found.GreaterThanOrEqual(version.Must(version.NewVersion(pulumiVersion)))
}

// buildProgram builds a package of another module into a file. `go install` cannot: it takes no module that replaces others.
func buildProgram(ctx context.Context, path, pkg, requirements, ldflags string) error {
	module, err := os.MkdirTemp("", "taskfleet-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(module)
	if err := os.WriteFile(filepath.Join(module, "go.mod"), []byte("module tools\n\ngo 1.26\n\n"+requirements+"\n"), 0o644); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-buildvcs=false", "-trimpath", "-ldflags=-s -w "+ldflags, "-o", path+".new", pkg)
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := output(build); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
