package object

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A record is a row: an object, or an upload that is to become one.
type record struct {
	Name, ProjectID, UploadID string
	Key                       string // in the bucket
	ContentLength             *int64 // as announced
	ContentType               string // as stored
	Hashes                    map[string]string
	Expires, UploadExpires    timestamp.Time
	Finished                  bool
}

const columns = `name, project_id, upload_id, blob_key, content_length, content_type, hashes, expires, upload_expires, finished, deletable`

// newRecord is an upload that begins now.
func newRecord(name, projectID, uploadID string, expires timestamp.Time) *record {
	r := &record{
		Name: name, ProjectID: projectID, UploadID: uploadID, Hashes: map[string]string{},
		Expires: expires, UploadExpires: timestamp.Now().Add(uploadLife),
	}
	// The slug makes the key new. The name is for people who look into the
	// bucket, and for browsers, which save a download under its last part.
	r.Key = "object/" + slugid.New()
	if named := r.Key + "/" + name; fits(named) {
		r.Key = named
	}
	return r
}

func fits(key string) bool {
	_, err := blob.Spell(key)
	return err == nil
}

// end is when the record ceases to be of use.
func (r *record) end() timestamp.Time {
	if r.Finished {
		return r.Expires
	}
	return min(r.Expires, r.UploadExpires)
}

func (r *record) ended() bool { return r.end() <= timestamp.Now() }

// insert writes a record unless there is one of that name.
func (r *record) insert(tx *store.Tx) error {
	_, err := tx.Exec(`
		INSERT INTO object (`+columns+`) VALUES ($1, $2, $3, $4, NULL, '', '{}', $5, $6, FALSE, $7) ON CONFLICT (name) DO NOTHING`,
		r.Name, r.ProjectID, r.UploadID, r.Key, r.Expires, r.UploadExpires, r.end().Add(linger))
	return err
}

// save writes what can change.
func (r *record) save(tx *store.Tx) error {
	hashes, err := json.Marshal(r.Hashes)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`
		UPDATE object SET content_length = $2, content_type = $3, hashes = $4, finished = $5, deletable = $6 WHERE name = $1`,
		r.Name, r.ContentLength, r.ContentType, hashes, r.Finished, r.end().Add(linger))
	return err
}

// load reads a record, nil if there is none.
func load(tx *store.Tx, name string) (*record, error) {
	return scan(tx.QueryRow(`SELECT `+columns+` FROM object WHERE name = $1`, name))
}

// lock is load for a transaction that is going to change the record.
func lock(tx *store.Tx, name string) (*record, error) {
	return scan(tx.QueryRow(`SELECT `+columns+` FROM object WHERE name = $1 /*for update*/`, name))
}

func scan(row *store.Row) (*record, error) {
	var r record
	var hashes string
	var deletable timestamp.Time // is derived from the others
	err := row.Scan(&r.Name, &r.ProjectID, &r.UploadID, &r.Key, &r.ContentLength, &r.ContentType, &hashes, &r.Expires, &r.UploadExpires, &r.Finished, &deletable)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &r, json.Unmarshal([]byte(hashes), &r.Hashes)
}

const (
	maxHashes    = 16  // of an object
	maxAlgorithm = 64  // characters of an algorithm's name
	maxHash      = 512 // characters of a hash
)

// hashes are as callers give them: any JSON under any name.
type hashes map[string]any

// add puts hashes to those of the record.
func (r *record) add(more hashes) error {
	all := maps.Clone(r.Hashes)
	for _, algorithm := range slices.Sorted(maps.Keys(more)) {
		hash, isText := more[algorithm].(string)
		_, notHex := hex.DecodeString(hash)
		known, is := all[algorithm]
		switch {
		case algorithm == "" || len(algorithm) > maxAlgorithm:
			return api.Errorf(api.InputError, "hashes has a member whose name has %d characters; an algorithm's name has 1 to %d.", len(algorithm), maxAlgorithm)
		case !isText || hash == "" || len(hash) > maxHash:
			return api.Errorf(api.InputError, "hashes.%s is not a text of 1 to %d characters.", algorithm, maxHash)
		case (algorithm == "sha256" || algorithm == "sha512") && notHex != nil:
			return api.Errorf(api.InputError, "hashes.%s is not in hexadecimal digits, so nothing can have this hash.", algorithm)
		case is && known != hash:
			return api.Errorf(api.RequestConflict, "Object %q has another %s hash already, and hashes cannot be changed. To upload other content, use another name.", r.Name, algorithm)
		}
		all[algorithm] = hash
	}
	if len(all) > maxHashes {
		return api.Errorf(api.InputError, "Object %q would have %d hashes; up to %d are allowed.", r.Name, len(all), maxHashes)
	}
	r.Hashes = all
	return nil
}
