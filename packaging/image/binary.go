package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A binary is the program for one platform.
type binary struct {
	platform v1.Platform
	path     string
	sha256   string // in hex
	info     *buildinfo.BuildInfo
}

// machines are the platforms that an image can be made for.
var machines = map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}

// program is the package of taskfleet.
const program = "github.com/taskfleet/taskfleet/cmd/taskfleet"

// build compiles a program for a platform, as the Makefile does, but for what a debugger would need, a quarter of it, and for the
// commands that run Pulumi, which is not in the image (cmd/taskfleet/deployment.go): half of it.
func build(ctx context.Context, directory, pkg, platform, version string) (binary, error) {
	system, architecture, _ := strings.Cut(platform, "/")
	path := filepath.Join(directory, system+"-"+architecture)
	flags := "-s -w"
	if version != "" {
		flags += " -X main.version=" + version
	}
	// The commit is to be in it, also where GOFLAGS says otherwise, if there is one.
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=auto", "-trimpath", "-tags", "server", "-ldflags", flags, "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+architecture)
	if out, err := cmd.CombinedOutput(); err != nil {
		return binary{}, fmt.Errorf("%s for %s: %w\n%s", cmd, platform, err, out)
	}
	return openBinary(path, platform)
}

// openBinary reads what a binary says of itself, and refuses one that could not run in an image.
func openBinary(path, platform string) (binary, error) {
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return binary{}, err
	}
	b := binary{platform: *p, path: path}
	head, err := elf.Open(path)
	if err != nil {
		return binary{}, fmt.Errorf("%s is not a program for linux: %w", path, err)
	}
	defer head.Close()
	if head.Machine != machines[platform] {
		return binary{}, fmt.Errorf("%s is for %s, not for %s", path, head.Machine, platform)
	}
	if slices.ContainsFunc(head.Progs, func(s *elf.Prog) bool { return s.Type == elf.PT_INTERP }) {
		return binary{}, fmt.Errorf("%s needs libraries that the image does not have: build it with CGO_ENABLED=0", path)
	}
	if b.info, err = buildinfo.ReadFile(path); err != nil {
		return binary{}, fmt.Errorf("what Go has recorded in %s: %w", path, err)
	}
	file, err := os.Open(path)
	if err != nil {
		return binary{}, err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return binary{}, err
	}
	b.sha256 = hex.EncodeToString(h.Sum(nil))
	return b, nil
}

// setting is what Go has recorded under a name, such as vcs.revision.
func (b binary) setting(name string) string {
	for _, s := range b.info.Settings {
		if s.Key == name {
			return s.Value
		}
	}
	return ""
}

// version is that of the release if it is given, or that which Go has found in the repository.
func (b binary) version(release string) string {
	switch {
	case release != "":
		return release
	case b.info.Main.Version == "" || b.info.Main.Version == "(devel)":
		return "dev"
	}
	return b.info.Main.Version
}

// committed is when the commit was made that the binary was built of; where Go did not see one, it is the beginning of time.
func (b binary) committed() time.Time {
	t, err := time.Parse(time.RFC3339, b.setting("vcs.time"))
	if err != nil {
		return time.Unix(0, 0).UTC()
	}
	return t.UTC()
}

// sourceDate reads SOURCE_DATE_EPOCH, which may be empty: then the time is zero.
func sourceDate(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q; it must be a number of seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
