package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-version"
	"github.com/hashicorp/hc-install/product"
	"github.com/hashicorp/hc-install/releases"
)

// oldestTerraform is the first that has arguments which are only written, as the provider taskfleet has them.
var oldestTerraform = version.MustConstraints(version.NewConstraint(">= 1.11.0"))

// tofuVersion is built where no terraform can be had.
const tofuVersion = "1.12.6"

// installTerraform finds terraform or tofu on PATH. Where there is none, it downloads terraform from HashiCorp, which
// takes seconds, and where that is not reached it builds OpenTofu as a Go module, which takes ten minutes, once.
func installTerraform(ctx context.Context, root string) (path string, err error) {
	home := filepath.Join(root, ".tools", "terraform")
	candidates := []string{"terraform", "tofu", filepath.Join(home, "terraform"), filepath.Join(home, "tofu")}
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil && isRecentTerraform(ctx, path) {
			return path, nil
		}
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", err
	}
	fmt.Println("== installing terraform")
	path, downloaded := (&releases.LatestVersion{Product: product.Terraform, Constraints: oldestTerraform, InstallDir: home, Timeout: 2 * time.Minute}).Install(ctx)
	if downloaded == nil || ctx.Err() != nil {
		return path, downloaded
	}
	fmt.Printf("== building OpenTofu %s, as terraform could not be downloaded (%v)\n", tofuVersion, downloaded)
	path, built := buildTofu(ctx, home)
	if built != nil {
		return "", fmt.Errorf("the tests need terraform or tofu on PATH, and neither could be installed: %w", errors.Join(downloaded, built))
	}
	return path, nil
}

// isRecentTerraform tells whether a program is a terraform, or tofu, that the tests can be run with.
func isRecentTerraform(ctx context.Context, path string) bool {
	command := exec.CommandContext(ctx, path, "version", "-json")
	command.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1")
	out, err := command.Output()
	if err != nil {
		return false
	}
	var is struct {
		Version string `json:"terraform_version"`
	}
	if err := json.Unmarshal(out, &is); err != nil {
		return false
	}
	found, err := version.NewVersion(is.Version)
	return err == nil && oldestTerraform.Check(found.Core())
}

// buildTofu builds tofu into a directory.
func buildTofu(ctx context.Context, directory string) (path string, err error) {
	path = filepath.Join(directory, "tofu")
	return path, buildProgram(ctx, path, "github.com/opentofu/opentofu/cmd/tofu",
		fmt.Sprintf("require github.com/opentofu/opentofu v%s\n\n"+
			"replace github.com/hashicorp/hcl/v2 v2.20.1 => github.com/opentofu/hcl/v2 v2.20.2-0.20251021132045-587d123c2828", tofuVersion), "")
}
