package archive

import (
	"archive/tar"
	"archive/zip"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Formats are the names of the archive formats that Unpack takes.
var Formats = []string{"tar", "tar.bz2", "tar.gz", "tar.xz", "tar.zst", "zip"}

// Compressions are the names of the single-file formats that Decompress takes.
var Compressions = []string{"bz2", "gz", "xz", "zst"}

// Decompress writes the decompressed file to w and returns its length.
func Decompress(ctx context.Context, file io.Reader, compression string, w io.Writer, limit int64) (int64, error) {
	stream, closeStream, err := decompressor(file, compression)
	if err != nil {
		return 0, err
	}
	defer closeStream()
	u := &unpacker{ctx: ctx, limits: Limits{Bytes: limit}}
	err = u.copy("", w, stream)
	return u.done.Bytes, err
}

func decompressor(r io.Reader, compression string) (io.Reader, func(), error) {
	nothing := func() {}
	var stream io.Reader
	var err error
	switch compression {
	case "gz":
		stream, err = gzip.NewReader(r)
	case "bz2":
		stream = bzip2.NewReader(r)
	case "xz":
		stream, err = xz.NewReader(r)
	case "zst":
		// The window is what `zstd --long` uses; the format allows gigabytes.
		var decoder *zstd.Decoder
		decoder, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err == nil {
			return decoder, decoder.Close, nil
		}
	default:
		return nil, nothing, &Error{Reason: fmt.Sprintf("compression %q is none of %s", compression, strings.Join(Compressions, ", "))}
	}
	return stream, nothing, blame("", err)
}

func (u *unpacker) compressedTar(file io.Reader, compression string) error {
	if compression == "" {
		return u.tar(file)
	}
	if !slices.Contains(Formats, "tar."+compression) {
		return &Error{Reason: fmt.Sprintf("format tar.%s is none of %s", compression, strings.Join(Formats, ", "))}
	}
	stream, closeStream, err := decompressor(file, compression)
	if err != nil {
		return err
	}
	defer closeStream()
	return u.tar(stream)
}

// tar bounds the stream too: what tar skips between entries costs no file
// bytes, but the decompressor's time.
func (u *unpacker) tar(stream io.Reader) error {
	overhead := int64(u.limits.Entries)*2048 + 1<<20 // a header and its padding for each entry
	reader := tar.NewReader(&bounded{r: stream, left: u.limits.Bytes + overhead})
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return blame("", err)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := u.admit(header.Name)
		if err != nil {
			return err
		}
		switch header.Typeflag {
		case tar.TypeDir:
			err = u.directory(header.Name, name, header.ModTime)
		case tar.TypeReg, tar.TypeGNUSparse:
			err = u.file(header.Name, name, header.FileInfo().Mode(), header.ModTime, reader)
		case tar.TypeSymlink:
			err = u.symlink(header.Name, name, header.Linkname)
		case tar.TypeLink:
			err = u.hardlink(header.Name, name, header.Linkname)
		default:
			err = &Error{header.Name, fmt.Sprintf("type %q is none of file, directory and link", header.Typeflag)}
		}
		if err != nil {
			return err
		}
	}
}

// zip bounds how much of the file the reader takes for the list of entries: it
// holds the whole list in memory, some ten times the size it has in the file.
func (u *unpacker) zip(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	source := &boundedAt{r: file, left: int64(u.limits.Entries)*128 + 1<<20}
	reader, err := zip.NewReader(source, info.Size())
	if err != nil {
		return blame("", err)
	}
	source.left = -1
	for _, entry := range reader.File {
		name, err := u.admit(entry.Name)
		if err != nil {
			return err
		}
		if err := u.zipEntry(entry, name); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) zipEntry(entry *zip.File, name string) error {
	mode := entry.Mode()
	if mode.IsDir() {
		return u.directory(entry.Name, name, entry.Modified)
	}
	if entry.Flags&1 != 0 {
		return &Error{entry.Name, "the entry is encrypted"}
	}
	content, err := entry.Open()
	if err != nil {
		return blame(entry.Name, err)
	}
	defer content.Close()
	switch mode.Type() {
	case 0:
		return u.file(entry.Name, name, mode, entry.Modified, content)
	case fs.ModeSymlink:
		target, err := io.ReadAll(io.LimitReader(content, 4097))
		if err != nil {
			return blame(entry.Name, err)
		}
		return u.symlink(entry.Name, name, string(target))
	default:
		return &Error{entry.Name, fmt.Sprintf("type %s is none of file, directory and link", mode.Type())}
	}
}

// bounded fails, rather than ends, where its bound is reached.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, &Error{Reason: "it decompresses to more than the limit"}
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

// boundedAt is the same for random access; a negative bound is none.
type boundedAt struct {
	r    io.ReaderAt
	left int64
}

func (b *boundedAt) ReadAt(p []byte, offset int64) (int, error) {
	if b.left < 0 {
		return b.r.ReadAt(p, offset)
	}
	if int64(len(p)) > b.left {
		return 0, &Error{Reason: "its list of entries is longer than the limit"}
	}
	b.left -= int64(len(p))
	return b.r.ReadAt(p, offset)
}
