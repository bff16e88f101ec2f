// Command image makes the container image of taskfleet, without Docker, and checks one.
//
// # What is in it
//
// The program, built for nothing but itself (no C library, no shell, no package manager): on a base of our own that has the
// certificates of authorities, a user, and /tmp; or, with --base, on somebody else's. It runs as user 10001, and needs to write
// nothing but its data directory and /tmp.
//
// The certificates are Mozilla's, as the Go project distributes them in a module: a version and its checksum are in
// certificates.go. Those of the machine that builds would make the image depend on the machine; a file of ours would get old
// without anybody noticing.
//
// # What comes with it
//
// For each platform a bill of materials (CycloneDX), made from what the Go toolchain has recorded in the program itself, and
// attached to the platform's image as OCI has it, by its subject. With a key, signatures in the format of cosign for the image, each
// platform's image and each bill: a signature is an image of its own, under the tag that the digest makes.
//
// # The same again
//
// All bytes follow from the sources, the version of Go and the time in SOURCE_DATE_EPOCH, which is by default that of the
// commit. Signatures do, too: they are made without chance (RFC 6979). So whoever has the sources can see whether an image is what it
// says.
//
// main.go has the commands, image.go the image, binary.go the program, sbom.go the bill, sign.go and verify.go the signatures,
// publish.go where all goes: a directory in the layout of OCI, and a registry.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/taskfleet/taskfleet/plain"
)

const usage = `Makes the container image of taskfleet, without Docker.

  go run ./packaging/image [FLAGS]
  go run ./packaging/image verify --key FILE (REFERENCE | DIRECTORY)

The first prints the digest of the image it has made. The second checks what was made against the public key in FILE.
A registry is logged in to with what docker login, or a helper of Docker's configuration, has.

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	var wrong usageError
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, &wrong):
		fmt.Fprintf(os.Stderr, "image: %s\nSee go run ./packaging/image --help.\n", plain.Text(err.Error()))
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "image: %s\n", plain.Text(err.Error()))
		os.Exit(1)
	}
}

// A usageError is a command line that makes no sense.
type usageError struct{ error }

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	if len(args) > 0 && args[0] == "verify" {
		return runVerify(ctx, args[1:], out)
	}
	return runBuild(ctx, args, out, progress)
}

func parse(flags *flag.FlagSet, args []string) error {
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		return err
	}
	if err != nil {
		return usageError{err}
	}
	return nil
}

// plainVersion is what can be an argument of the linker, and in a label.
var plainVersion = regexp.MustCompile(`^[A-Za-z0-9._+-]*$`)

func runBuild(ctx context.Context, args []string, out, progress io.Writer) error {
	var (
		flags        = flag.NewFlagSet("image", flag.ContinueOnError)
		output       = flags.String("output", filepath.Join("bin", "image"), "`directory` for the image, in the layout of OCI; it is replaced")
		platforms    = flags.String("platforms", "linux/amd64,linux/arm64", "`platforms` to build for")
		version      = flags.String("version", "", "`version` of the release; default: what Go finds in the repository")
		base         = flags.String("base", "", "`image` to build upon, which brings its own certificates; default: our own base")
		certificates = flags.String("certificates", "", "`file` with certificates of authorities, in PEM; default: Mozilla's")
		push         = flags.String("push", "", "`reference` to push to, such as registry.example.com/taskfleet:1.2.3")
		signKey      = flags.String("sign-key", "", "`file` with the private key to sign with, ECDSA P-256 in PEM; default: the text in "+keyVariable+", if there is any")
	)
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("%q is not a flag, and nothing else is asked for", flags.Arg(0))}
	}
	// All that can be wrong is looked at before minutes are spent on building.
	created, err := sourceDate(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	key, err := signingKey(*signKey)
	if err != nil {
		return err
	}
	if err := os.Unsetenv(keyVariable); err != nil { // what is run from here has no use for it
		return err
	}
	if !plainVersion.MatchString(*version) {
		return usageError{fmt.Errorf("--version: %q is none; it has letters, digits, and . _ + -", *version)}
	}
	var to name.Tag
	if *push != "" {
		if to, err = name.NewTag(*push); err != nil {
			return usageError{fmt.Errorf("--push: %w", err)}
		}
	}
	for p := range strings.SplitSeq(*platforms, ",") {
		if _, ok := machines[p]; !ok {
			return usageError{fmt.Errorf("--platforms: %q is not one of linux/amd64, linux/arm64", p)}
		}
	}
	if *base != "" {
		if _, err := name.ParseReference(*base); err != nil {
			return usageError{fmt.Errorf("--base: %w", err)}
		}
	}
	*output = filepath.Clean(*output) // after a slash, the new directory would be made in the one that it replaces
	if err := replaceable(*output); err != nil {
		return err
	}

	work, err := os.MkdirTemp("", "taskfleet-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	s := spec{version: *version, created: created, base: *base, work: work}
	if *base == "" {
		if s.roots, err = readRoots(ctx, *certificates); err != nil {
			return err
		}
	}
	for p := range strings.SplitSeq(*platforms, ",") {
		fmt.Fprintf(progress, "building the program for %s\n", p)
		b, err := build(ctx, work, program, p, *version)
		if err != nil {
			return err
		}
		s.binaries = append(s.binaries, b)
	}
	fmt.Fprintln(progress, "putting the image together")
	made, err := assemble(ctx, s)
	if err != nil {
		return err
	}
	if key != nil {
		if err := made.sign(key, to.Repository); err != nil {
			return err
		}
	}
	if err := made.write(*output); err != nil {
		return err
	}
	fmt.Fprintf(progress, "written to %s, %s\n", *output, map[bool]string{true: "signed", false: "not signed"}[key != nil])
	if *push != "" {
		fmt.Fprintf(progress, "pushing to %s\n", to)
		if err := made.push(ctx, to); err != nil {
			return err
		}
	}
	digest, err := made.index.Digest()
	if err != nil {
		return err
	}
	where := digest.String()
	if *push != "" {
		where = to.Digest(where).Name()
	}
	_, err = fmt.Fprintln(out, where)
	return err
}

func runVerify(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("verify", flag.ContinueOnError)
	file := flags.String("key", "", "`file` with the public key, in PEM")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *file == "" || flags.NArg() != 1 {
		return usageError{errors.New("verify needs --key FILE and one image: a reference, or a directory that this has written")}
	}
	key, err := readPublicKey(*file)
	if err != nil {
		return err
	}
	from, err := openSource(ctx, flags.Arg(0))
	if err != nil {
		return err
	}
	return verify(from, key, out)
}
