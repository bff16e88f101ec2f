package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
)

func newTaskArtifactsCommand() *cobra.Command {
	run := latestRun
	var asJSON bool
	cmd := &cobra.Command{
		Use: "artifacts TASK", Short: "List the artifacts of a task's run",
		Example: "  taskfleet task artifacts fN1SbArXTPSVFNUvaOlinQ",
		Args:    oneTask,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			q := queue.New(s.core)
			all := q.ListLatestArtifactsAll(ctx, args[0], queue.ListLatestArtifactsOptions{})
			if run != latestRun {
				all = q.ListArtifactsAll(ctx, args[0], run, queue.ListArtifactsOptions{})
			}
			list := []queue.ArtifactResponse{}
			for a, err := range all {
				if err != nil {
					return noSuchTask(err, args[0])
				}
				list = append(list, a)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			t := table{head: []string{"NAME", "SIZE", "TYPE", "STORAGE", "EXPIRES"}}
			for _, a := range list {
				size := "-"
				if a.ContentLength != nil {
					size = bytesOf(*a.ContentLength)
				}
				t.add(a.Name, size, a.ContentType, a.StorageType, distance(a.Expires))
			}
			return t.print(cmd.OutOrStdout())
		}),
	}
	runFlag(cmd, &run)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newTaskDownloadCommand() *cobra.Command {
	run := latestRun
	var output string
	cmd := &cobra.Command{
		Use: "download TASK NAME", Short: "Download an artifact",
		Long: `Downloads an artifact to a file of the last part of its name, or to the one that --output names ("-" is standard output).
The file appears when all of it is there and its size is what the queue says.`,
		Example: "  taskfleet task download fN1SbArXTPSVFNUvaOlinQ public/dist/app.tar.gz\n" +
			"  taskfleet task download fN1SbArXTPSVFNUvaOlinQ public/logs/live_backing.log --output - | less",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(2)(cmd, args); err != nil {
				return err
			}
			return validTask(args[0])
		},
		RunE: withSession(client.Retry{}, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			d := &download{queue: queue.New(s.core), taskID: args[0], run: run, name: args[1]}
			if output == "-" {
				_, err := d.copyTo(ctx, cmd.OutOrStdout())
				return d.explain(err)
			}
			file := output
			if file == "" {
				file = path.Base(args[1])
			}
			if info, err := os.Stat(file); err == nil && info.IsDir() {
				file = filepath.Join(file, path.Base(args[1]))
			}
			n, err := d.toFile(ctx, file)
			if err != nil {
				return d.explain(err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s (%s)\n", file, bytesOf(n))
			return err
		}),
	}
	runFlag(cmd, &run)
	cmd.Flags().StringVarP(&output, "output", "o", "", "file or directory to write to; - for standard output")
	return cmd
}

// A download is one artifact on its way here.
type download struct {
	queue  *queue.Client
	taskID string
	run    int
	name   string
}

func (d *download) explain(err error) error {
	if client.IsNotFound(err) {
		return fmt.Errorf("there is no such artifact; taskfleet task artifacts %s lists those there are: %w", d.taskID, err)
	}
	return err
}

const downloadAttempts = 4

// toFile writes the artifact to a file, which appears when it is complete.
func (d *download) toFile(ctx context.Context, file string) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	defer f.Close()
	for attempt := 1; ; attempt++ {
		n, err = d.copyTo(ctx, f)
		if err == nil {
			break
		}
		var refusal *client.Error
		if errors.As(err, &refusal) || errors.Is(err, errUnreadable) || ctx.Err() != nil || attempt == downloadAttempts {
			return n, err
		}
		select {
		case <-time.After(time.Duration(attempt) * time.Second):
		case <-ctx.Done():
			return n, context.Cause(ctx)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return n, err
		}
		if err := f.Truncate(0); err != nil {
			return n, err
		}
	}
	if err := f.Chmod(0o644); err != nil {
		return n, err
	}
	if err := f.Close(); err != nil {
		return n, err
	}
	return n, os.Rename(f.Name(), file)
}

// copyTo writes the artifact to w and checks its size. A run may be none: then
// it is the latest one, the same for size and content.
func (d *download) copyTo(ctx context.Context, w io.Writer) (n int64, err error) {
	var info *queue.ArtifactResponse
	var where *queue.GetArtifactResponse
	if d.run == latestRun {
		if info, err = d.queue.LatestArtifactInfo(ctx, d.taskID, d.name); err == nil {
			where, err = d.queue.GetLatestArtifact(ctx, d.taskID, d.name)
		}
	} else if info, err = d.queue.ArtifactInfo(ctx, d.taskID, d.run, d.name); err == nil {
		where, err = d.queue.GetArtifact(ctx, d.taskID, d.run, d.name)
	}
	if err != nil {
		return 0, err
	}
	c, err := openContent(ctx, where.StorageType, where.URL)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	n, err = io.Copy(w, c)
	if err != nil {
		return n, fmt.Errorf("downloading %s: %w", d.name, err)
	}
	// The queue knows the size as stored, or as it was before it was compressed:
	// that is what generic-worker tells it. A link is to another artifact.
	if info.ContentLength != nil && info.StorageType == where.StorageType && c.stored != *info.ContentLength && n != *info.ContentLength {
		return n, fmt.Errorf("downloading %s: there came %d bytes, but the queue says that it has %d", d.name, c.stored, *info.ContentLength)
	}
	return n, nil
}

// content is the bytes of an artifact as they were before they were encoded
// for storage.
type content struct {
	io.Reader
	body   io.ReadCloser
	stored int64 // bytes that came so far
}

func (c *content) Close() error { return c.body.Close() }

var errUnreadable = errors.New("artifacts that are stored this way cannot be read with this command")

// openContent reads what an artifact's URL leads to.
func openContent(ctx context.Context, storage, where string) (*content, error) {
	if where == "" {
		return nil, fmt.Errorf("the artifact is stored as %q: %w", storage, errUnreadable)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, err
	}
	// Asked for by hand, so that the transport hands on what is stored and its
	// size can be checked.
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, fmt.Errorf("%s answered %s", req.URL.Host, resp.Status)
	}
	c := &content{body: resp.Body}
	c.Reader = io.TeeReader(resp.Body, counter{&c.stored})
	switch encoding := resp.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		if c.Reader, err = gzip.NewReader(c.Reader); err != nil {
			resp.Body.Close()
			return nil, fmt.Errorf("the artifact is said to be compressed, but is not: %w", err)
		}
	default:
		resp.Body.Close()
		return nil, fmt.Errorf("the artifact has the content encoding %q: %w", encoding, errUnreadable)
	}
	return c, nil
}

// withoutURL takes the URL out of an error of an HTTP client: it may be signed.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

type counter struct{ n *int64 }

func (c counter) Write(p []byte) (int, error) {
	*c.n += int64(len(p))
	return len(p), nil
}
