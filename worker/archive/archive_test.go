package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

var (
	roomy = Limits{Bytes: 1 << 20, Entries: 100}
	leap  = time.Date(2016, 2, 29, 12, 0, 0, 0, time.UTC)
)

// entry is one header and its content; tarball and zipball write it as it is,
// however wrong.
type entry struct {
	name, target, content string
	kind                  byte // tar's type flag
	mode                  int64
}

func file(name, content string) entry {
	return entry{name: name, content: content, kind: tar.TypeReg, mode: 0o644}
}
func dir(name string) entry { return entry{name: name, kind: tar.TypeDir, mode: 0o755} }
func link(name, target string) entry {
	return entry{name: name, target: target, kind: tar.TypeSymlink, mode: 0o777}
}
func hard(name, target string) entry { return entry{name: name, target: target, kind: tar.TypeLink} }

func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.target, Mode: e.mode, Size: int64(len(e.content)), ModTime: leap}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: leap}
		content := e.content
		switch e.kind {
		case tar.TypeSymlink:
			h.SetMode(fs.ModeSymlink | 0o777)
			content = e.target
		case tar.TypeFifo:
			h.SetMode(fs.ModeNamedPipe | 0o644)
		default:
			h.SetMode(fs.FileMode(e.mode))
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack runs Unpack in a directory of its own, beside a file that must stay.
func unpack(t testing.TB, content []byte, format string, limits Limits) (string, Summary, error) {
	t.Helper()
	around := t.TempDir()
	if err := os.WriteFile(filepath.Join(around, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(source, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	into := filepath.Join(around, "into")
	if err := os.Mkdir(into, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	summary, err := Unpack(t.Context(), f, format, root, limits)
	contained(t, around)
	return into, summary, err
}

// contained checks the promise of the package.
func contained(t testing.TB, around string) {
	t.Helper()
	into := filepath.Join(around, "into")
	names, err := os.ReadDir(around)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 2 {
		t.Errorf("beside the directory there is %v", names)
	}
	if content, err := os.ReadFile(filepath.Join(around, "secret")); err != nil || string(content) != "secret" {
		t.Errorf("the file beside the directory reads %q, %v", content, err)
	}
	secret, err := os.Lstat(filepath.Join(around, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(into, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			if leads, err := filepath.EvalSymlinks(path); err == nil && leads != into && !strings.HasPrefix(leads, into+"/") {
				t.Errorf("%s leads to %s", path, leads)
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if os.SameFile(info, secret) {
			t.Errorf("%s is the file beside the directory", path)
		}
		if special := info.Mode() &^ (fs.ModePerm | fs.ModeDir); special != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestUnpackOfEveryFormat(t *testing.T) {
	entries := []entry{file("docs/hello.txt", "hello\n")}
	plain := tarball(t, entries...)
	for format, content := range map[string][]byte{
		"tar":     plain,
		"zip":     zipball(t, entries...),
		"tar.gz":  compress(t, plain, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"tar.zst": compress(t, plain, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		"tar.xz":  compress(t, plain, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		"tar.bz2": bzipped(t),
	} {
		into, summary, err := unpack(t, content, format, roomy)
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		got, err := os.ReadFile(filepath.Join(into, "docs", "hello.txt"))
		if string(got) != "hello\n" || summary != (Summary{Entries: 1, Bytes: 6}) {
			t.Errorf("%s: unpacked %q, %v, summary %+v", format, got, err, summary)
		}
	}
}

func bzipped(t *testing.T) []byte {
	t.Helper()
	content, err := base64.StdEncoding.DecodeString(bzippedTar)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func compress(t testing.TB, content []byte, writer func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := writer(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpackKeepsWhatBuildsNeed(t *testing.T) {
	script, readOnly, setuid := file("bin/run", "#!/bin/sh\n"), file("object", "x"), file("su", "x")
	script.mode, readOnly.mode, setuid.mode = 0o755, 0o444, 0o4755
	into, _, err := unpack(t, tarball(t,
		dir("./"), dir("bin/"), script, readOnly, setuid,
		link("current", "bin"), link("bin/up", "../object"), link("dangling", "later"),
		file("current/through-link", "y"), hard("object2", "object"),
		file("twice", "first"), file("twice", "second"),
	), "tar", roomy)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"bin/run": 0o755, "object": 0o444, "su": 0o755, "bin/through-link": 0o644} {
		info, err := os.Stat(filepath.Join(into, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode() != want {
			t.Errorf("%s has mode %s, want %s", name, info.Mode(), want)
		}
	}
	for name, want := range map[string]string{"twice": "second", "object2": "x", "bin/up": "x"} {
		if got, err := os.ReadFile(filepath.Join(into, name)); err != nil || string(got) != want {
			t.Errorf("%s reads %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"bin", "object"} {
		if info, err := os.Stat(filepath.Join(into, name)); err != nil || !info.ModTime().Equal(leap) {
			t.Errorf("%s was modified %v, %v; want %v", name, info.ModTime(), err, leap)
		}
	}
}

func TestHostileArchivesAreRefusedByName(t *testing.T) {
	fifo := entry{name: "pipe", kind: tar.TypeFifo, mode: 0o644}
	for name, test := range map[string]struct {
		content []byte
		format  string
		wants   string // in the error
	}{
		"absolute name":                  {tarball(t, file("/etc/passwd", "x")), "tar", `"/etc/passwd": the name is absolute`},
		"name above":                     {tarball(t, file("../secret", "x")), "tar", "contains .."},
		"name that comes back":           {tarball(t, file("a/../../into/b", "x")), "tar", "contains .."},
		"absolute link":                  {tarball(t, link("l", "/etc")), "tar", `"/etc" is absolute`},
		"link above":                     {tarball(t, link("a/b/l", "../../../secret")), "tar", "outside the directory"},
		"link above by way of a link":    {tarball(t, dir("a/b"), link("a/b/s", "../.."), link("z", "a/b/s/..")), "tar", `"z"`},
		"link above that is built late":  {tarball(t, link("z", "s/../secret"), dir("a/b"), link("s", "a")), "tar", ""},
		"file through a link above":      {tarball(t, dir("a/b"), link("a/b/s", "../.."), link("z", "a/b/s/.."), file("z/secret", "x")), "tar", "z"},
		"hard link above":                {tarball(t, hard("h", "../secret")), "tar", "outside the directory"},
		"hard link to an absolute name":  {tarball(t, hard("h", "/etc/passwd")), "tar", "outside the directory"},
		"hard link to a link":            {tarball(t, link("l", "x"), hard("h", "l")), "tar", "no regular file"},
		"hard link to nothing":           {tarball(t, hard("h", "absent")), "tar", `"h"`},
		"device":                         {tarball(t, entry{name: "null", kind: tar.TypeChar, mode: 0o666}), "tar", "none of file, directory and link"},
		"pipe":                           {tarball(t, fifo), "tar", "none of file, directory and link"},
		"file where a directory is":      {tarball(t, dir("d"), file("d", "x")), "tar", "directory of that name"},
		"directory where a file is":      {tarball(t, file("f", "x"), file("f/g", "x")), "tar", `"f/g"`},
		"file in place of the directory": {tarball(t, file(".", "x")), "tar", "the directory itself"},
		"very long name":                 {tarball(t, file(strings.Repeat("d/", 3000)+"f", "x")), "tar", "longer than 4096"},
		"loop of links":                  {tarball(t, link("a", "b"), link("b", "a"), file("a/x", "x")), "tar", `"a/x"`},
		"cut short":                      {tarball(t, file("f", strings.Repeat("x", 2000)))[:1500], "tar", "unexpected EOF"},
		"no tar":                         {[]byte(strings.Repeat("no tar at all ", 100)), "tar", "invalid tar header"},
		"no gzip":                        {tarball(t, file("f", "x")), "tar.gz", "invalid header"},
		"no zip":                         {tarball(t, file("f", "x")), "zip", "not a valid zip"},
		"zip: absolute name":             {zipball(t, file("/etc/passwd", "x")), "zip", "absolute"},
		"zip: name above":                {zipball(t, file("../secret", "x")), "zip", "contains .."},
		"zip: link above":                {zipball(t, link("l", "../secret")), "zip", "outside the directory"},
		"zip: pipe":                      {zipball(t, fifo), "zip", "none of file, directory and link"},
		"unknown format":                 {nil, "rar", `"rar" is none of tar`},
		"unknown compression":            {nil, "tar.lz", "tar.lz is none of tar"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpack(t, test.content, test.format, roomy)
			if test.wants == "" {
				return // nothing to refuse, as long as it is contained
			}
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("err is %v, want an *Error", err)
			}
			if !strings.Contains(err.Error(), test.wants) {
				t.Errorf("err is %q, want %q in it", err, test.wants)
			}
			if strings.Contains(err.Error(), os.TempDir()) {
				t.Errorf("err tells where the worker keeps its files: %q", err)
			}
		})
	}
}

func TestBombsStopAtTheLimits(t *testing.T) {
	big := file("zeros", strings.Repeat("\x00", 4<<20))
	sparse := sparseTar(t, 1<<40)
	var many []entry
	for i := range 200 {
		many = append(many, file(strings.Repeat("n", 1+i%50)+string(rune('a'+i%26)), ""))
	}
	gz := func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }
	for name, test := range map[string]struct {
		content []byte
		format  string
		wants   string
	}{
		"bytes in tar.gz":                {compress(t, tarball(t, big), gz), "tar.gz", "exceed 1048576 bytes"},
		"bytes in zip":                   {zipball(t, big), "zip", "exceed 1048576 bytes"},
		"a sparse file of a tebibyte":    {sparse, "tar", "exceed 1048576 bytes"},
		"entries in tar":                 {tarball(t, many...), "tar", "more than 100 entries"},
		"entries in zip":                 {zipball(t, many...), "zip", "more than 100 entries"},
		"zeros after the end of the tar": {compress(t, make([]byte, 64<<20), gz), "tar.gz", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, summary, err := unpack(t, test.content, test.format, roomy)
			if summary.Bytes > roomy.Bytes+64<<10 || summary.Entries > roomy.Entries+1 {
				t.Errorf("unpacked %+v", summary)
			}
			if test.wants == "" {
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.wants) {
				t.Errorf("err is %v, want %q in it", err, test.wants)
			}
		})
	}
}

// sparseTar is a PAX sparse file of which every byte is a hole. The tar writer
// refuses to make one, so its records take the place of others.
func sparseTar(t *testing.T, size int64) []byte {
	t.Helper()
	noFragments := make([]byte, 512)
	copy(noFragments, "1\n0\n0\n") // one fragment, at 0, of no bytes
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: int64(len(noFragments)), Mode: 0o644, Format: tar.FormatPAX,
		PAXRecords: map[string]string{"TASKFLEET.x": "1"}}
	if err := w.WriteHeader(header); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(noFragments); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=f", fmt.Sprintf("GNU.sparse.realsize=%d", size)} {
		records += fmt.Sprintf("%d %s\n", len(r)+len("22 \n"), r)
	}
	out := b.Bytes()
	clear(out[512:1024])
	copy(out[512:], records)
	copy(out[124:], fmt.Sprintf("%011o\x00", len(records)))
	copy(out[148:], "        ")
	sum := 0
	for _, c := range out[:512] {
		sum += int(c)
	}
	copy(out[148:], fmt.Sprintf("%06o\x00 ", sum))
	return out
}

func TestUnpackEndsWithItsContext(t *testing.T) {
	source := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(source, tarball(t, file("f", "x")), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Unpack(ctx, f, "tar", root, roomy); !errors.Is(err, context.Canceled) {
		t.Errorf("err is %v", err)
	}
}

func TestDecompress(t *testing.T) {
	content := compress(t, []byte("a long story"), func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	var out bytes.Buffer
	if n, err := Decompress(t.Context(), bytes.NewReader(content), "gz", &out, 100); err != nil || n != 12 || out.String() != "a long story" {
		t.Errorf("Decompress: %d, %v, %q", n, err, &out)
	}
	var bad *Error
	if _, err := Decompress(t.Context(), bytes.NewReader(content), "gz", io.Discard, 5); !errors.As(err, &bad) {
		t.Errorf("beyond the limit err is %v", err)
	}
	if _, err := Decompress(t.Context(), bytes.NewReader(content), "br", io.Discard, 5); !errors.As(err, &bad) {
		t.Errorf("of an unknown compression err is %v", err)
	}
}

func FuzzTar(f *testing.F) {
	f.Add(tarball(f, dir("a/b"), link("a/b/s", "../.."), link("z", "a/b/s/.."), file("z/secret", "x")))
	f.Add(tarball(f, file("f", "x"), hard("h", "f"), hard("../h", "f"), link("l", "f"), file("l", "y")))
	f.Add(tarball(f, file("../secret", "x"), file("/secret", "x"), entry{name: "p", kind: tar.TypeFifo}))
	f.Fuzz(func(t *testing.T, content []byte) {
		unpack(t, content, "tar", roomy)
	})
}

// FuzzLinks builds well-formed archives, in which a mutated byte is a mutated
// name or target and not only a wrong checksum.
func FuzzLinks(f *testing.F) {
	f.Add("d:a/b\nl:a/b/s:../..\nl:z:a/b/s/..\nf:z/secret:x")
	f.Add("l:a:b\nl:b:c/../..\nd:c\nf:a/secret:x\nh:h:a/secret")
	f.Add("l:x:.\nl:y:x/x/x/..\nf:y/f:1\nh:z:y/f\nf:z:2")
	f.Fuzz(func(t *testing.T, script string) {
		var entries []entry
		for line := range strings.Lines(script) {
			parts := append(strings.Split(strings.TrimSuffix(line, "\n"), ":"), "", "")
			if parts[1] == "" || strings.ContainsRune(line, 0) {
				continue // the tar writer refuses it
			}
			parts[1] = strings.TrimRight(parts[1], "/")
			switch parts[0] {
			case "d":
				entries = append(entries, dir(parts[1]))
			case "l":
				entries = append(entries, link(parts[1], parts[2]))
			case "h":
				entries = append(entries, hard(parts[1], parts[2]))
			case "f":
				entries = append(entries, file(parts[1], parts[2]))
			}
		}
		unpack(t, tarball(t, entries...), "tar", roomy)
		unpack(t, zipball(t, entries...), "zip", roomy)
	})
}

func FuzzZip(f *testing.F) {
	f.Add(zipball(f, file("a", "x"), link("l", "a"), dir("d/")))
	f.Add(zipball(f, file("../secret", "x"), link("l", ".."), file("l/secret", "x")))
	f.Fuzz(func(t *testing.T, content []byte) {
		unpack(t, content, "zip", roomy)
	})
}

// bzippedTar holds docs/hello.txt; the standard library only reads bzip2.
const bzippedTar = "QlpoOTFBWSZTWZEyECYAAHJ7gMkQAARAAfcAEABuRJ5ACAggAHQaU8moBo9QA2moJKJ6mgMgAyD6l49CCDIQjGcrSzN0ECHKbx1JMJq3gbIAm8k4NMVByaxbVmYbPb4R1QOA9HrHlY1YiID8XckU4UJCRMhAmA=="
