package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"debug/buildinfo"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// binaries are the small program for both platforms. That for arm64 is the other with another name of the machine in its head.
var binaries []binary

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "taskfleet-image-test-")
	if err == nil {
		err = buildSmall(folder)
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	os.RemoveAll(folder)
	os.Exit(code)
}

func buildSmall(folder string) error {
	amd64, err := build(context.Background(), folder, "./testdata/small", "linux/amd64", "1.2.3")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(amd64.path)
	if err != nil {
		return err
	}
	text[18], text[19] = 0xb7, 0
	other := filepath.Join(folder, "linux-arm64")
	if err := os.WriteFile(other, text, 0o755); err != nil {
		return err
	}
	arm64, err := openBinary(other, "linux/arm64")
	binaries = []binary{amd64, arm64}
	return err
}

var someRoots = roots{pem: []byte("certificates\n"), from: "pkg:golang/" + rootsModule + "@" + rootsVersion}

func made(t *testing.T, s spec) *image {
	t.Helper()
	s.work = t.TempDir()
	m, err := assemble(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func digestOf(t *testing.T, of interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	d, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// only returns the image for the only, or the first, platform.
func only(t *testing.T, index v1.ImageIndex) v1.Image {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	i, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// contents are all entries of an image's file system, by their paths.
func contents(t *testing.T, i v1.Image) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, bodies := map[string]*tar.Header{}, map[string][]byte{}
	stream := mutate.Extract(i)
	defer stream.Close()
	archive := tar.NewReader(stream)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers, bodies
		}
		if err != nil {
			t.Fatal(err)
		}
		at := strings.TrimSuffix(h.Name, "/")
		if headers[at] = h; h.Typeflag == tar.TypeReg {
			if bodies[at], err = io.ReadAll(archive); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTheProgramRunsFromTheImage(t *testing.T) {
	certificates, err := mozillaRoots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := made(t, spec{binaries: binaries[:1], version: "1.2.3", roots: certificates})
	i := only(t, m.index)
	headers, bodies := contents(t, i)
	config, err := i.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}

	t.Run("the entry is on PATH and runs", func(t *testing.T) {
		if !slices.Equal(config.Config.Entrypoint, []string{"taskfleet"}) || len(config.Config.Cmd) != 0 {
			t.Errorf("entry %q, command %q", config.Config.Entrypoint, config.Config.Cmd)
		}
		found := ""
		for _, v := range config.Config.Env {
			for directory := range strings.SplitSeq(strings.TrimPrefix(v, "PATH="), ":") {
				at := path.Join(directory, "taskfleet")[1:]
				if h := headers[at]; h != nil && h.Mode&0o111 == 0o111 && found == "" {
					found = at
				}
			}
		}
		if found == "" {
			t.Fatalf("no taskfleet on %q", config.Config.Env)
		}
		unpacked := filepath.Join(t.TempDir(), "taskfleet")
		if err := os.WriteFile(unpacked, bodies[found], 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), unpacked).CombinedOutput()
		if err != nil || string(out) != "small 1.2.3 "+binaries[0].info.GoVersion+"\n" {
			t.Errorf("it says %q, %v", out, err)
		}
	})
	t.Run("nobody is root, and nothing is there that is not needed", func(t *testing.T) {
		if config.Config.User != "10001:10001" {
			t.Errorf("user %q", config.Config.User)
		}
		for at, h := range headers {
			mode := fs.FileMode(h.Mode)
			if h.Mode&0o6000 != 0 {
				t.Errorf("%s is set-uid or set-gid: %o", at, h.Mode)
			}
			if mode&0o002 != 0 && at != "tmp" {
				t.Errorf("anybody may write %s: %o", at, h.Mode)
			}
			if h.Typeflag == tar.TypeReg && mode&0o111 != 0 && at != programPath {
				t.Errorf("%s is a program", at)
			}
		}
		if h := headers["tmp"]; h == nil || h.Mode != 0o1777 {
			t.Errorf("/tmp is %+v", h)
		}
		if h := headers[dataPath]; h == nil || h.Mode != 0o700 || h.Uid != userID || "/"+dataPath != config.Config.WorkingDir {
			t.Errorf("the data directory is %+v, and the working directory %s", h, config.Config.WorkingDir)
		}
		if !strings.Contains(string(bodies["etc/passwd"]), "\nnonroot:x:10001:10001:") {
			t.Errorf("/etc/passwd has %s", bodies["etc/passwd"])
		}
	})
	t.Run("authorities are known", func(t *testing.T) {
		count := 0
		for block, rest := pem.Decode(bodies["etc/ssl/certs/ca-certificates.crt"]); block != nil; block, rest = pem.Decode(rest) {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil || !c.IsCA {
				t.Errorf("%v: %v", c, err)
			}
			count++
		}
		if count < 100 || !bytes.Equal(bodies["etc/ssl/certs/ca-certificates.crt"], certificates.pem) {
			t.Errorf("%d certificates", count)
		}
	})
}

// The test itself is a program that many modules are linked into.
func TestTheBillListsWhatIsLinked(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := binaries[0]
	if b.info, err = buildinfo.ReadFile(self); err != nil {
		t.Fatal(err)
	}
	text, err := billOfMaterials(b, "1.2.3", time.Unix(0, 0).UTC(), someRoots.from)
	if err != nil {
		t.Fatal(err)
	}
	schemaAccepts(t, text)
	var list struct {
		Metadata   struct{ Component struct{ Version string } }
		Components []struct{ Name, Version, PURL string }
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if list.Metadata.Component.Version != "1.2.3" {
		t.Errorf("the program's version is %q", list.Metadata.Component.Version)
	}
	listed := map[string]string{}
	for _, c := range list.Components {
		listed[c.Name] = c.Version
		if c.PURL != "pkg:golang/"+c.Name+"@"+strings.Replace(c.Version, "+", "%2B", 1) {
			t.Errorf("%s: %s", c.Name, c.PURL)
		}
	}
	// As the go command sees it, not as our own code does.
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", self).Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := 0
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "dep" {
			if linked++; listed[f[1]] != f[2] {
				t.Errorf("%s %s is linked, and %q is in the bill", f[1], f[2], listed[f[1]])
			}
		}
	}
	if linked < 10 || len(list.Components) != linked+2 || listed["std"] == "" || listed[rootsModule] != rootsVersion ||
		!strings.HasSuffix(listed["github.com/docker/cli"], "+incompatible") {
		t.Errorf("%d modules are linked, %d parts are in the bill: %v", linked, len(list.Components), listed)
	}
}

// schemaAccepts holds a bill of materials against the schema that comes with the library.
func schemaAccepts(t *testing.T, text []byte) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(schemas(filepath.Join(strings.TrimSpace(string(out)), "schema")))
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(document); err != nil {
		t.Error(err)
	}
}

// schemas are files of a folder, by URLs that end with their names. That of signatures in JSON, which our bills do not have, is not
// among them.
type schemas string

func (s schemas) Load(url string) (any, error) {
	if strings.HasPrefix(path.Base(url), "jsf-") {
		return map[string]any{"definitions": map[string]any{"signature": map[string]any{}}}, nil
	}
	file, err := os.Open(filepath.Join(string(s), path.Base(url)))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return jsonschema.UnmarshalJSON(file)
}

func TestTheSameSourcesMakeTheSameImage(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	key := newKey(t)
	directories := [2]string{filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "image")}
	for _, d := range directories {
		m := made(t, spec{binaries: binaries, version: "1.2.3", created: at, roots: someRoots})
		if err := m.sign(key, name.Repository{}); err != nil {
			t.Fatal(err)
		}
		if err := m.write(d); err != nil {
			t.Fatal(err)
		}
	}
	files := func(root string) map[string]string {
		all := map[string]string{}
		err := filepath.WalkDir(filepath.Dir(root), func(at string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			text, err := os.ReadFile(at)
			all[strings.TrimPrefix(at, filepath.Dir(root))] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	one, two := files(directories[0]), files(directories[1])
	if len(one) != len(two) || len(one) < 20 {
		t.Errorf("%d files, then %d", len(one), len(two))
	}
	for at := range one {
		if one[at] != two[at] {
			t.Errorf("%s is not the same", at)
		}
	}
	for _, platform := range []string{"amd64", "arm64"} {
		schemaAccepts(t, []byte(one["/image.linux-"+platform+".cdx.json"]))
	}

	later := made(t, spec{binaries: binaries, version: "1.2.3", created: at.Add(time.Second), roots: someRoots})
	index, err := layout.ImageIndexFromPath(directories[0])
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if first := manifest.Manifests[0].Digest; first == digestOf(t, later.index) {
		t.Error("the time is not in the image")
	}
}

func TestUponABase(t *testing.T) {
	host := aRegistry(t, true)
	base, err := random.Image(100, 2)
	if err != nil {
		t.Fatal(err)
	}
	was, err := base.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config := was.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Env = []string{"PATH=/opt/bin:/usr/local/bin", "LANG=C"}
	config.Config.Labels = map[string]string{"vendor": "example", "org.opencontainers.image.title": "base"}
	if base, err = mutate.ConfigFile(base, config); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(host + "/base:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, base); err != nil {
		t.Fatal(err)
	}
	m := made(t, spec{binaries: binaries[:1], base: tag.String()})
	i := only(t, m.index)
	layers, err := i.Layers()
	if err != nil || len(layers) != 3 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	got, err := i.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := got.Config
	if !slices.Equal(c.Env, config.Config.Env) || c.User != "10001:10001" || c.Labels["vendor"] != "example" || c.Labels["org.opencontainers.image.title"] != "taskfleet" ||
		c.Labels["org.opencontainers.image.base.name"] != tag.String() {
		t.Errorf("%+v", c)
	}
	if headers, _ := contents(t, i); headers[programPath] == nil || headers["etc/passwd"] != nil {
		t.Error("upon a base there is to be the program, and nothing of our own base")
	}
}

func TestADirectoryThatWasChanged(t *testing.T) {
	key := newKey(t)
	m := made(t, spec{binaries: binaries, roots: someRoots})
	directory := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(m.sign(key, name.Repository{}), m.write(directory), replaceable(directory), m.write(directory)); err != nil {
		t.Fatal(err)
	}
	look := func() error {
		from, err := openSource(t.Context(), directory)
		if err != nil {
			t.Fatal(err)
		}
		return verify(from, &key.PublicKey, io.Discard)
	}
	if err := look(); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(directory, "blobs", "sha256", "*"))
	if err != nil || len(blobs) < 20 {
		t.Fatal(blobs, err)
	}
	for _, blob := range blobs {
		text, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		// What is JSON says the same as before: who changes more than that keeps it readable, too.
		if err := os.WriteFile(blob, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := look(); err == nil || !strings.Contains(err.Error(), "was changed") {
			t.Errorf("%.60q was changed, and verify says %v", text, err)
		}
		if err := os.WriteFile(blob, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	layers, err := only(t, m.index).Layers()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(directory, "blobs", "sha256", digestOf(t, layers[1]).Hex)); err != nil {
		t.Fatal(err)
	}
	if err := look(); err == nil {
		t.Error("the program is not there, and verify says it is as it was signed")
	}
}

func TestWhatIsRefused(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) string {
		at := filepath.Join(folder, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	pemOf := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wide, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	write("mine.txt", "not an image")
	for _, c := range []struct{ args, says string }{
		{"--output " + folder, "holds something else than an image"},
		{"--push registry.example.com/UPPER", "--push"},
		{"--version 1'2", "--version"},
		{"--sign-key " + filepath.Join(folder, "missing"), "no such file"},
		{"--sign-key " + write("encrypted.pem", pemOf("ENCRYPTED SIGSTORE PRIVATE KEY", []byte("x"))), "is encrypted"},
		{"--sign-key " + write("wide.pem", pemOf("PRIVATE KEY", wide)), "another curve"},
		{"--sign-key " + write("nothing.pem", "nothing"), "there is no private key"},
		{"--certificates " + write("none.pem", "nothing"), "there is no certificate"},
		{"--certificates " + write("one.pem", string(someAuthority(t))) + " --platforms linux/386", "not one of linux/amd64, linux/arm64"},
		{"--nonsense", "not defined"},
		{"nonsense", "is not a flag"},
		{"verify --key x", "needs --key FILE and one image"},
		{"verify --key " + write("nokey.pem", "nothing") + " image", "there is no public key"},
	} {
		args := strings.Fields(c.args)
		if args[0] != "verify" && args[0] != "--output" {
			args = append(args, "--output", filepath.Join(folder, "new"))
		}
		if err := run(context.Background(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want an error with %q", c.args, err, c.says)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if err := run(context.Background(), nil, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Error(err)
	}
	if _, err := openBinary(binaries[0].path, "linux/arm64"); err == nil || !strings.Contains(err.Error(), "not for linux/arm64") {
		t.Errorf("a program for another platform: %v", err)
	}
}

// The key comes from a file or from the environment, in both forms that openssl writes.
func TestKeys(t *testing.T) {
	key := newKey(t)
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}})
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, append(parameters, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := signingKey(file); err != nil || !got.Equal(key) {
		t.Errorf("from a file: %v", err)
	}
	if got, err := signingKey(""); got != nil || err != nil {
		t.Errorf("from nowhere: %v", err)
	}
	t.Setenv(keyVariable, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	if got, err := signingKey(""); err != nil || !got.Equal(key) {
		t.Errorf("from the environment: %v", err)
	}
}

// someAuthority is a certificate in PEM.
func someAuthority(t *testing.T) []byte {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
