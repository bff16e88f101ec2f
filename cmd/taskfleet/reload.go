//go:build !agent

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/store"
)

// A reload has parts of the platform use new credentials while it runs. There are two
// ways to them, for each part:
//
//   - A credential that is rotated here has the part as a consumer (platform: database).
//     The part confirms a version once it works with it.
//   - A file, which anybody may write: the same rotation, as a consumer of its own, or
//     an agent of the operator's. It is looked at every few seconds, and it is what the
//     process begins with. So a restart finds the version that is good by now, also where
//     the database itself is behind it, which no state in the database could do.
type reload struct {
	parts map[string]credentials.Part
	files []*watchedFile
	read  map[string][sha256.Size]byte // what was read of files before anything could take it
	hide  func(secrets ...string)      // keeps them out of what is told of errors
}

func newReload() *reload {
	return &reload{parts: map[string]credentials.Part{}, read: map[string][sha256.Size]byte{}, hide: func(...string) {}}
}

// take has a part take credentials by name, and from a file if there is one.
func (r *reload) take(name, file string, f func(ctx context.Context, secret json.RawMessage) error) {
	r.parts[name] = func(ctx context.Context, _ string, secret json.RawMessage) error { return f(ctx, secret) }
	if file == "" {
		return
	}
	r.files = append(r.files, &watchedFile{name: file, apply: f, seen: r.read[file]})
}

// A watchedFile holds a credential that may be replaced.
type watchedFile struct {
	name  string
	apply func(context.Context, json.RawMessage) error
	mu    sync.Mutex
	seen  [sha256.Size]byte // of what was taken last
}

// fileEvery is how often files are looked at.
const fileEvery = 5 * time.Second

// Loops look after the files.
func (r *reload) Loops() []loop.Loop {
	if len(r.files) == 0 {
		return nil
	}
	return []loop.Loop{{
		Name: "platform.files", Doc: "Has the platform use credentials from files that were replaced.",
		When: loop.Every(fileEvery), Pass: r.look, EveryReplica: true,
	}}
}

// look is one pass of the loop. A file that is not to be read, or whose content does
// not work, leaves what is in use, and is tried again.
func (r *reload) look(ctx context.Context) (more bool, err error) {
	for _, w := range r.files {
		if e := w.look(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", w.name, e))
		}
	}
	return false, err
}

func (w *watchedFile) look(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	text, err := os.ReadFile(w.name)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	if sum == w.seen {
		return nil
	}
	secret, err := asSecret(text)
	if err == nil {
		err = w.apply(ctx, secret)
	}
	if err == nil {
		w.seen = sum
	}
	return err
}

// asSecret reads what a file holds: a JSON object, as a consumer of a credential
// writes it, or the URL alone.
func asSecret(text []byte) (json.RawMessage, error) {
	text = bytes.TrimSpace(text)
	switch {
	case len(text) == 0:
		return nil, errors.New("the file is empty")
	case text[0] != '{':
		return json.Marshal(map[string]string{"url": string(text)})
	case !json.Valid(text):
		return nil, errors.New("the file is no valid JSON")
	}
	return text, nil
}

// first reads a file before there is anything that could take what it holds.
func (r *reload) first(name string) (json.RawMessage, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r.read[name] = sha256.Sum256(text)
	secret, err := asSecret(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return secret, nil
}

// A serverSecret is how to get at a server. Its URL alone is enough.
type serverSecret struct {
	URL      string `json:"url"`
	Username string `json:"username"`
	Password string `json:"password"`
}

func (s serverSecret) login() (user, password string, err error) {
	if s.Username != "" {
		return s.Username, s.Password, nil
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.User == nil || u.User.Username() == "" {
		// The URL is not in the error, since its password may be anywhere.
		return "", "", errors.New("the credential has neither username and password nor a url with them")
	}
	password, _ = u.User.Password()
	return u.User.Username(), password, nil
}

// takeServer has a part take who logs in to its server. Where that is stays as it is.
func (r *reload) takeServer(name, file string, login func(ctx context.Context, user, password string) error) {
	r.take(name, file, func(ctx context.Context, secret json.RawMessage) error {
		var s serverSecret
		if json.Unmarshal(secret, &s) != nil {
			return errors.New("the credential has no members url, username and password that are texts")
		}
		user, password, err := s.login()
		if err != nil {
			return err
		}
		r.hide(password)
		return login(ctx, user, password)
	})
}

// A keySecret is an access key of AWS, or of what speaks S3.
type keySecret struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
	SessionToken    string `json:"sessionToken"`
}

func (r *reload) readKey(secret json.RawMessage) (k keySecret, err error) {
	if json.Unmarshal(secret, &k) != nil || k.AccessKeyID == "" || k.SecretAccessKey == "" {
		return k, errors.New("the credential has no members accessKeyId and secretAccessKey")
	}
	r.hide(k.SecretAccessKey, k.SessionToken)
	return k, nil
}

// takeDatabase has the database take who logs in.
func (r *reload) takeDatabase(c Config, db *store.DB) {
	if !strings.HasPrefix(c.Database, "sqlite:") {
		r.takeServer("database", c.databaseFile, db.Login)
	}
}

// openS3Keys returns the key of the artifact bucket, which may change.
func (r *reload) openS3Keys(c Config) (*blob.Keys, error) {
	k := keySecret{AccessKeyID: c.S3.AccessKeyID, SecretAccessKey: c.S3.SecretAccessKey}
	if c.S3.KeyFile != "" {
		secret, err := r.first(c.S3.KeyFile)
		if err == nil {
			k, err = r.readKey(secret)
		}
		if err != nil {
			return nil, fmt.Errorf("s3.keyFile: %w", err)
		}
	}
	keys, err := blob.NewKeys(k.AccessKeyID, k.SecretAccessKey)
	if err == nil && k.SessionToken != "" {
		err = keys.Set(k.AccessKeyID, k.SecretAccessKey, k.SessionToken)
	}
	return keys, err
}

// takeS3 has the artifact bucket, and those of the mirror that have the same key, take
// another one: once an object was written, read and deleted with it.
func (r *reload) takeS3(c Config, where blob.Config, keys *blob.Keys) {
	r.take("s3", c.S3.KeyFile, func(ctx context.Context, secret json.RawMessage) error {
		k, err := r.readKey(secret)
		if err != nil {
			return err
		}
		trial := where
		if trial.Keys, err = blob.NewKeys(k.AccessKeyID, k.SecretAccessKey); err != nil {
			return err
		}
		if err := trial.Keys.Set(k.AccessKeyID, k.SecretAccessKey, k.SessionToken); err != nil {
			return err
		}
		s, err := blob.Open(ctx, trial)
		if err != nil {
			return err
		}
		if err := s.Bucket(c.S3.Bucket).Check(ctx); err != nil {
			return err
		}
		return keys.Set(k.AccessKeyID, k.SecretAccessKey, k.SessionToken)
	})
}

// takeAWS has the providers of instances take another access key.
func (r *reload) takeAWS(keys *aws.Keys) {
	r.take("aws", "", func(ctx context.Context, secret json.RawMessage) error {
		k, err := r.readKey(secret)
		if err != nil {
			return err
		}
		return keys.Use(ctx, k.AccessKeyID, k.SecretAccessKey, k.SessionToken)
	})
}

const filePrefix = "file:"

// readDatabaseFile replaces a database that is given as file:PATH by what the file
// says.
func (r *reload) readDatabaseFile(c *Config) error {
	name, ok := strings.CutPrefix(c.Database, filePrefix)
	if !ok {
		return nil
	}
	secret, err := r.first(name)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	var s serverSecret
	if json.Unmarshal(secret, &s) != nil || !strings.HasPrefix(s.URL, "postgres") {
		return fmt.Errorf("database: %s must hold postgres://USER:PASSWORD@HOST/DATABASE, or JSON with that as its member url, and username and password if others are to log in", name)
	}
	c.databaseFile, c.Database = name, s.withLogin()
	return nil
}

// withLogin is the URL with the username and the password that stand beside it, if they do: those of the URL may be of before.
// It is not parsed, as there may be several hosts in it.
func (s serverSecret) withLogin() string {
	scheme, rest, ok := strings.Cut(s.URL, "://")
	if s.Username == "" || !ok {
		return s.URL
	}
	end := strings.IndexAny(rest+"/", "/?#")
	rest = rest[strings.LastIndex(rest[:end], "@")+1:]
	return scheme + "://" + url.UserPassword(s.Username, s.Password).String() + "@" + rest
}

// readBrokerFile reads the URL of RabbitMQ where it is in a file.
func (r *reload) readBrokerFile(c *Config) error {
	if c.RabbitMQ.URLFile == "" {
		return nil
	}
	secret, err := r.first(c.RabbitMQ.URLFile)
	if err != nil {
		return fmt.Errorf("rabbitmq.urlFile: %w", err)
	}
	var s serverSecret
	if json.Unmarshal(secret, &s) != nil || s.URL == "" {
		return fmt.Errorf("rabbitmq.urlFile: %s must hold amqps://USER:PASSWORD@HOST/VIRTUALHOST, or JSON with that as its member url", c.RabbitMQ.URLFile)
	}
	c.RabbitMQ.URL = s.URL
	return nil
}

// checkReload finds what cannot work.
func (c *Config) checkReload(bad func(path, format string, args ...any)) {
	for _, f := range []struct{ path, name, other, otherPath string }{
		{"database", c.databaseFileName(), "", ""},
		{"rabbitmq.urlFile", c.RabbitMQ.URLFile, c.RabbitMQ.URL, "rabbitmq.url"},
		{"s3.keyFile", c.S3.KeyFile, c.S3.AccessKeyID, "s3.accessKeyId"},
		{"sentry.dsnFile", c.Sentry.DSNFile, cmp.Or(c.Sentry.DSN, c.Sentry.Project), "sentry.dsn or sentry.project"},
	} {
		switch {
		case f.name == "":
		case !filepath.IsAbs(f.name):
			bad(f.path, "%s is %q; it must be the absolute path of a file", f.path, f.name)
		case f.other != "":
			bad(f.path, "there are both %s and %s; give one of them", f.path, f.otherPath)
		}
	}
	if c.S3.KeyFile != "" && c.S3.embedded() {
		bad("s3.keyFile", "s3.keyFile is of no use for the gateway inside the process, whose key never leaves it")
	}
	c.Sentry.check(bad)
}

func (c *Config) databaseFileName() string {
	name, _ := strings.CutPrefix(c.Database, filePrefix)
	if name == c.Database {
		return ""
	}
	return name
}
