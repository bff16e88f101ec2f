// Package gateway is an S3 endpoint inside the process, with the data in a
// directory. It makes one machine a whole platform: what talks to it cannot
// tell it from S3, so there is one code path for artifacts, the presigned URLs
// included. Signatures are checked; there is one account.
//
// The protocol and the files are versitygw's: its s3api server over its posix
// backend. Its own package for embedding, embedgw, is a thin layer over the
// same server, but refuses a second gateway in the process, changes settings of
// the process and prints to the terminal, so the server is used directly. The
// posix backend is not used bare either; [disk] says what is put right.
//
// # On disk
//
//	lock                 held while a gateway uses the directory
//	buckets/NAME/...     one directory per bucket, one file per object
//	buckets/NAME/.sgwtmp what is being uploaded
//	metadata/...         attributes of the objects, where files cannot have any
//
// Content types, ETags and checksums are extended attributes of the files. A
// file system without them (tmpfs before Linux 6.6, for one) gets the metadata
// directory when the gateway is first started there. Whoever copies the
// directory has to copy the attributes too (cp -a, rsync -X, tar --xattrs).
//
// # Invariants
//
//   - An object appears with its last byte and its attributes, by link or
//     rename, and only after as many bytes arrived as were announced. Killing
//     the process at any moment leaves each object as it was before or as it
//     is after; what was being uploaded is removed at the next start, and a
//     multipart upload that was being completed can be completed again.
//   - An answered PUT, copy or CompleteMultipartUpload is on the disk: file and
//     directories are synchronised first (versitygw does not), so it survives a
//     power failure as far as the disk keeps its word. See Config.NoSync.
//   - A copy is what its source was at one moment, with the source's ETag and
//     checksum: what the disk has damaged is noticed by the reader of the copy
//     as it would have been by the source's.
//   - One gateway per directory, enforced by a lock.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/valyala/fasthttp"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
	"github.com/versity/versitygw/s3err"

	"github.com/taskfleet/taskfleet/blob"
)

// Config says where the data is and who may use it.
type Config struct {
	Directory string // created if it does not exist
	// Listen is a loopback address such as 127.0.0.1:9000; port 0 takes a free
	// one. For presigned URLs to outlive a restart the port must stay the same.
	Listen string
	Region string // us-east-1 if empty
	// AccessKeyID and SecretAccessKey are the one account.
	AccessKeyID, SecretAccessKey string
	Log                          *slog.Logger
	// NoSync leaves it to the operating system when an object reaches the disk.
	// What was answered then survives the death of the process, but not that of
	// the machine.
	NoSync bool
}

// LogValue leaves the secret out.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(slog.String("directory", c.Directory), slog.String("listen", c.Listen), slog.String("region", c.Region))
}

// String leaves the secret out.
func (c Config) String() string { return c.LogValue().String() }

// GoString leaves the secret out.
func (c Config) GoString() string { return c.String() }

const (
	// maxRequests at a time are worked on; of more the client is told to slow
	// down, and tries again. Each may hold a buffer of ioBuffer bytes.
	maxRequests    = 1024
	maxConnections = 16 << 10
	ioBuffer       = 256 << 10
	maxParts       = 10_000
)

// grace is how long requests that are being served may take to finish. Only tests change it.
var grace = 10 * time.Second

// A Gateway is a running endpoint.
type Gateway struct {
	config   Config
	listener *listener
	app      *fiber.App
	disk     *disk
	lock     *os.File
	log      *slog.Logger

	closing    sync.Once
	cancel     context.CancelFunc // ends the work in the background
	background sync.WaitGroup
	done       chan struct{} // closed when the server has stopped
	err        error         // why, once done is closed
}

// Start puts the directory in order and returns when the gateway can be
// reached. It runs until Close, whatever becomes of ctx.
func Start(ctx context.Context, c Config) (_ *Gateway, err error) {
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.AccessKeyID == "" || c.SecretAccessKey == "" {
		return nil, errors.New("gateway: no access key configured: it needs an access key id and a secret access key, any two strings")
	}
	g := &Gateway{config: c, log: c.Log, done: make(chan struct{})}
	if err := os.MkdirAll(c.Directory, 0o700); err != nil {
		return nil, fmt.Errorf("gateway: create the data directory: %w", err)
	}
	if g.lock, err = acquire(filepath.Join(c.Directory, "lock")); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			if g.disk != nil {
				g.disk.Shutdown()
			}
			g.lock.Close()
		}
	}()
	if g.disk, err = openDisk(c.Directory, !c.NoSync, c.Log); err != nil {
		return nil, err
	}
	if err := g.disk.repair(); err != nil {
		return nil, err
	}
	if g.app, err = g.serve(); err != nil {
		return nil, err
	}
	if g.listener, err = listen(c.Listen); err != nil {
		return nil, err
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	g.cancel = cancel
	g.background.Go(func() { g.disk.sweep(background, time.Now()) })
	go func() {
		defer close(g.done)
		g.err = g.app.Listener(g.listener, fiber.ListenConfig{DisableStartupMessage: true})
	}()
	g.log.Info("S3 gateway listening", "address", g.Addr(), "directory", c.Directory, "durable", !c.NoSync, "attributes", g.disk.attributes)
	return g, nil
}

func listen(address string) (*listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("gateway: the address to listen on is not of the form 127.0.0.1:9000: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("gateway: %q is not a loopback address: the gateway speaks HTTP without TLS, so it serves this machine only; use S3 for more", host)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return &listener{TCPListener: l.(*net.TCPListener), open: map[*conn]bool{}}, nil
}

// serve makes the server.
func (g *Gateway) serve() (*fiber.App, error) {
	root := middlewares.RootUserConfig{Access: g.config.AccessKeyID, Secret: g.config.SecretAccessKey}
	account := auth.NewIAMServiceSingle(auth.Account{Access: root.Access, Secret: root.Secret, Role: auth.RoleAdmin})
	server, err := s3api.New(g.disk, root, g.config.Region, account, nil, nil, nil, nil,
		s3api.WithQuiet(),
		s3api.WithKeepAlive(),
		s3api.WithConcurrencyLimiter(maxConnections, maxRequests),
		s3api.WithMpMaxParts(maxParts),
		s3api.WithCORSAllowOrigin("*"), // reading takes a signature anyway
		s3api.WithMiddleware("/", g.observe),
	)
	if err != nil {
		return nil, fmt.Errorf("gateway: set up the S3 server: %w", err)
	}
	// The server opens its listeners itself, and does not tell which port it got
	// nor give its application out. That is taken, so that ours can be used.
	app := reflect.ValueOf(server).Elem().FieldByName("app")
	if !app.IsValid() || app.Type() != reflect.TypeFor[*fiber.App]() {
		return nil, errors.New("gateway: this version of versitygw is built differently: adapt how the gateway finds its fiber application")
	}
	found := (*fiber.App)(app.UnsafePointer())
	found.Server().ErrorHandler = g.unreadable
	return found, nil
}

// Addr is the host and port that the gateway listens on.
func (g *Gateway) Addr() string { return g.listener.Addr().String() }

// Blob is the configuration of a store on this gateway.
func (g *Gateway) Blob() blob.Config {
	return blob.Config{
		Endpoint:        "http://" + g.Addr(),
		Region:          g.config.Region,
		AccessKeyID:     g.config.AccessKeyID,
		SecretAccessKey: g.config.SecretAccessKey,
		PathStyle:       true,
	}
}

// Wait returns when the gateway has stopped: nil after Close, or else what
// stopped it.
func (g *Gateway) Wait() error {
	<-g.done
	return g.err
}

// Close lets the requests that are being served finish, for ten seconds at
// most, and releases the directory.
func (g *Gateway) Close() error {
	var err error
	g.closing.Do(func() {
		g.cancel()
		err = g.listener.Close()
		<-g.done
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		go g.listener.hurry(ctx)
		if e := g.app.ShutdownWithContext(ctx); e != nil {
			if left := g.listener.disconnect(); left != "" { // not if it has only looked too late
				err = errors.Join(err, fmt.Errorf("gateway: stop: some requests took longer than %v and were cut off (%s): %w", grace, left, e))
			}
		}
		g.background.Wait()
		g.disk.Shutdown()
		err = errors.Join(err, g.lock.Close())
	})
	return err
}

// observe logs each request, without the query that contains its signature,
// and answers those that would not get a proper answer.
func (g *Gateway) observe(c fiber.Ctx) (err error) {
	start := time.Now()
	path := string(c.Request().URI().PathOriginal())
	defer func() {
		level := slog.LevelDebug
		if p := recover(); p != nil {
			level = slog.LevelError
			err = answer(c, s3err.ErrInternalError)
			g.log.Error("S3 gateway: panic", "method", c.Method(), "path", path, "panic", p)
		}
		if c.Response().StatusCode() >= 500 {
			level = slog.LevelWarn
		}
		g.log.Log(c.Context(), level, "S3 gateway: request", "method", c.Method(), "path", path,
			"status", c.Response().StatusCode(), "duration", time.Since(start))
	}()
	if on, ok := c.RequestCtx().Conn().(*conn); ok {
		on.serve(request{c.Method(), path, start})
		defer on.served()
	}
	if _, err := url.PathUnescape(path); err != nil {
		return answer(c, s3err.ErrInvalidURI)
	}
	return c.Next()
}

// unreadable answers what is no complete request.
func (g *Gateway) unreadable(c *fasthttp.RequestCtx, err error) {
	code := s3err.ErrCannotParseHTTPRequest
	if errors.Is(err, io.ErrUnexpectedEOF) {
		code = s3err.ErrIncompleteBody
	} else if errors.As(err, new(*fasthttp.ErrSmallBuffer)) {
		code = s3err.ErrRequestHeaderSectionTooLarge
	}
	g.log.Debug("S3 gateway: unreadable request", "from", c.RemoteAddr(), "error", err)
	e := s3err.GetAPIError(code)
	c.Error(string(e.XMLBody("", "")), e.StatusCode())
	c.SetContentType(fiber.MIMEApplicationXML)
}

func answer(c fiber.Ctx, code s3err.ErrorCode) error {
	e := s3err.GetAPIError(code)
	c.Response().Header.SetContentType(fiber.MIMEApplicationXML)
	return c.Status(e.StatusCode()).Send(e.XMLBody("", ""))
}
