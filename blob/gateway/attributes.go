package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/pkg/xattr"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
)

// attributes is where those of the objects are, as the posix backend wants it.
// That calls a bucket by its path.
type attributes struct {
	meta.MetadataStorer // extended attributes, or:
	sidecar             *sidecar
	sync                func(*os.File) error
}

// Names that versitygw gives to attributes.
const (
	bucketACL   = "acl"         // of every bucket that was created completely
	uploadKey   = "objname"     // of the directory of the uploads of a key
	joinedParts = "mp-metadata" // of an object that was uploaded in parts
	checksums   = "checksums"   // of an object, or of an upload
)

// openAttributes decides where they are. A metadata directory that exists is
// used even where it would not be necessary any more.
func openAttributes(directory, root string, sync func(*os.File) error) (*attributes, error) {
	directory, err := filepath.Abs(filepath.Join(directory, "metadata"))
	if err != nil {
		return nil, fmt.Errorf("gateway: find the metadata directory: %w", err)
	}
	if _, err := os.Stat(directory); errors.Is(err, fs.ErrNotExist) {
		if supported, err := hasAttributes(root); err != nil {
			return nil, err
		} else if supported {
			return &attributes{MetadataStorer: meta.XattrMeta{}, sync: sync}, nil
		}
		if err := os.Mkdir(directory, 0o700); err != nil {
			return nil, fmt.Errorf("gateway: create the metadata directory: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("gateway: look for the metadata directory: %w", err)
	}
	files := &sidecar{root: root, dir: directory, sync: sync}
	return &attributes{MetadataStorer: files, sidecar: files, sync: sync}, nil
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
	if a.sidecar != nil {
		return "metadata directory"
	}
	return "extended"
}

// StoreAttribute sees the last thing that the backend does before it makes an
// object of the parts of an upload visible, which is where the bytes must be on
// the disk. The attribute then says where each part starts: of some hundred
// parts that is more than ext4 can keep in an attribute, and nobody asks for
// it, so only the id of the upload is kept.
func (a *attributes) StoreAttribute(f *os.File, bucket, object, attribute string, value []byte) error {
	if attribute != joinedParts {
		return a.MetadataStorer.StoreAttribute(f, bucket, object, attribute, value)
	}
	parts, err := backend.UnmarshalMpUploadMetadata(value, false)
	if err != nil {
		return fmt.Errorf("read the description of an upload's parts: %w", err)
	}
	parts.Parts = nil
	if value, err = backend.MarshalMpUploadMetadata(parts, false); err != nil {
		return fmt.Errorf("describe an upload's parts: %w", err)
	}
	if err := a.MetadataStorer.StoreAttribute(f, bucket, object, attribute, value); err != nil {
		return err
	}
	return a.sync(f)
}

// storeAll gives a file its attributes before it is an object.
func (a *attributes) storeAll(f *os.File, bucket, object string, all map[string][]byte) error {
	if a.sidecar != nil {
		return a.sidecar.change(f, bucket, object, func(of map[string][]byte) { maps.Copy(of, all) })
	}
	for name, value := range all {
		if err := a.MetadataStorer.StoreAttribute(f, bucket, object, name, value); err != nil {
			return fmt.Errorf("store attribute %s: %w", name, err)
		}
	}
	return nil
}
