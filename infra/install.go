package infra

import (
	"context"

	"github.com/hashicorp/go-version"
	"github.com/hashicorp/hc-install/product"
	"github.com/hashicorp/hc-install/releases"
)

var binary = product.Terraform.BinaryName()

// install downloads terraform from releases.hashicorp.com into a directory. Checksum and signature are checked.
func install(ctx context.Context, directory string) (path string, err error) {
	constraint, err := version.NewConstraint(">= 1.11.0, < 2.0.0")
	if err != nil {
		return "", err
	}
	return (&releases.LatestVersion{Product: product.Terraform, Constraints: constraint, InstallDir: directory}).Install(ctx)
}
