package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pkg/xattr"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
)

// attributes keeps the attributes of the objects for the posix backend. That
// calls a bucket by its path.
type attributes struct {
	meta.MetadataStorer
	root    string // of the buckets
	sidecar string // the metadata directory; "" where the files have the attributes
	sync    func(*os.File) error
}

// Names that versitygw gives to attributes.
const (
	bucketACL   = "acl"         // of every bucket that was created completely
	uploadKey   = "objname"     // of the directory of the uploads of a key
	joinedParts = "mp-metadata" // of an object that was uploaded in parts
)

// openAttributes decides where they are. A metadata directory that exists is
// used even where it would not be necessary any more.
func openAttributes(directory, root string, sync func(*os.File) error) (*attributes, error) {
	a := &attributes{MetadataStorer: meta.XattrMeta{}, root: root, sync: sync}
	sidecar := filepath.Join(directory, "metadata")
	if _, err := os.Stat(sidecar); errors.Is(err, fs.ErrNotExist) {
		if supported, err := hasAttributes(root); supported || err != nil {
			return a, err
		}
		if err := os.Mkdir(sidecar, 0o700); err != nil {
			return nil, fmt.Errorf("gateway: create the metadata directory: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("gateway: look for the metadata directory: %w", err)
	}
	files, err := meta.NewSideCar(sidecar)
	if err != nil {
		return nil, fmt.Errorf("gateway: open the metadata directory: %w", err)
	}
	a.MetadataStorer, a.sidecar = files, sidecar
	return a, nil
}

// hasAttributes tries whether files in the directory can have attributes: to
// ask is not enough, some file systems only fail when it comes to it.
func hasAttributes(directory string) (bool, error) {
	f, err := os.CreateTemp(directory, ".attributes.*")
	if err != nil {
		return false, fmt.Errorf("gateway: write to the data directory: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	return xattr.XATTR_SUPPORTED && xattr.FSet(f, "user.taskfleet", []byte("probe")) == nil, nil
}

// String names where the attributes are.
func (a *attributes) String() string {
	if a.sidecar != "" {
		return "metadata directory"
	}
	return "extended"
}

// bucket is what the inner store shall call it: in the metadata directory by its
// name alone, so that the whole can be moved.
func (a *attributes) bucket(path string) string {
	if a.sidecar == "" {
		return path
	}
	return strings.TrimPrefix(path, a.root+string(filepath.Separator))
}

// forget removes all attributes of the directory and of what is in it.
func (a *attributes) forget(bucket, directory string) error {
	if a.sidecar == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(a.sidecar, a.bucket(bucket), directory))
}

func (a *attributes) RetrieveAttribute(f *os.File, bucket, object, attribute string) ([]byte, error) {
	return a.MetadataStorer.RetrieveAttribute(f, a.bucket(bucket), object, attribute)
}

// StoreAttribute sees the last thing that the backend does before it makes an
// object of the parts of an upload visible, which is where the bytes must be on
// the disk. The attribute then says where each part starts: of some hundred
// parts that is more than ext4 can keep in an attribute, and nobody asks for
// it, so only the id of the upload is kept.
func (a *attributes) StoreAttribute(f *os.File, bucket, object, attribute string, value []byte) error {
	if attribute != joinedParts {
		return a.MetadataStorer.StoreAttribute(f, a.bucket(bucket), object, attribute, value)
	}
	parts, err := backend.UnmarshalMpUploadMetadata(value, false)
	if err != nil {
		return fmt.Errorf("read the description of an upload's parts: %w", err)
	}
	parts.Parts = nil
	if value, err = backend.MarshalMpUploadMetadata(parts, false); err != nil {
		return fmt.Errorf("describe an upload's parts: %w", err)
	}
	if err := a.MetadataStorer.StoreAttribute(f, a.bucket(bucket), object, attribute, value); err != nil {
		return err
	}
	return a.sync(f)
}

func (a *attributes) DeleteAttribute(bucket, object, attribute string) error {
	return a.MetadataStorer.DeleteAttribute(a.bucket(bucket), object, attribute)
}

func (a *attributes) ListAttributes(bucket, object string) ([]string, error) {
	return a.MetadataStorer.ListAttributes(a.bucket(bucket), object)
}

func (a *attributes) DeleteAttributes(bucket, object string) error {
	return a.MetadataStorer.DeleteAttributes(a.bucket(bucket), object)
}

func (a *attributes) RenameObject(bucket, from, to string) error {
	return a.MetadataStorer.RenameObject(a.bucket(bucket), from, to)
}
