package ec2

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/worker/ec2/imdstest"
)

const (
	account = "123456789012"
	other   = "210987654321"
	shut    = "333333333333" // may not be used, in some tests
	home    = "us-east-1"
	west    = "us-west-2"
)

// A datacenter is an imitation of EC2 whose instances are processes of this machine: each runs `taskfleet worker --aws`
// and asks a metadata service of its own who it is. The end of the process is the shutdown of the instance, and the
// termination of the instance is the end of the process, first by SIGTERM and then by SIGKILL.
type datacenter struct {
	*awsfake.Cloud
	url string // where it speaks AWS's protocols

	t         *testing.T
	directory string

	mu       sync.Mutex
	machines map[string]*machine
}

// A machine is an instance that has booted.
type machine struct {
	metadata *imdstest.Server
	worker   *exec.Cmd
	ended    chan struct{}
}

// newDatacenter starts a datacenter for the time of the test.
func newDatacenter(t *testing.T, config awsfake.Config) *datacenter {
	d := &datacenter{t: t, directory: t.TempDir(), machines: map[string]*machine{}}
	config.Accounts = []string{account, other, shut}
	config.Regions = []string{home, west}
	config.Happened = d.happened
	d.Cloud = awsfake.New(config)
	api := httptest.NewServer(d.Handler())
	d.url = api.URL
	ctx, cancel := context.WithCancel(context.Background())
	running := make(chan struct{})
	go func() {
		defer close(running)
		d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-running
		api.CloseClientConnections()
		api.Close()
		for _, m := range d.all() { // of a failed test
			m.signal(syscall.SIGKILL)
			<-m.ended
		}
	})
	return d
}

// certificates are those that identity documents are signed with, by region, as the server's configuration has them.
func (d *datacenter) certificates() (text string) {
	for _, region := range []string{home, west} {
		c, err := d.Certificate(region)
		if err != nil {
			d.t.Fatal(err)
		}
		block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
		text += fmt.Sprintf("      %s: |\n        %s\n", region, strings.ReplaceAll(strings.TrimSpace(block), "\n", "\n        "))
	}
	return text
}

func (d *datacenter) happened(h awsfake.Happening) {
	id := h.Instance.ID
	if h.Kind == awsfake.Booted {
		if err := d.boot(h.Instance); err != nil {
			d.t.Errorf("instance %s does not boot: %v", id, err)
		}
		return
	}
	d.mu.Lock()
	m := d.machines[id]
	d.mu.Unlock()
	if m == nil {
		return // it has not booted, and never will
	}
	switch h.Kind {
	case awsfake.Recommended:
		m.metadata.Recommend()
	case awsfake.Warned:
		m.metadata.Interrupt(h.At.Add(2 * time.Minute))
	case awsfake.Stopping:
		m.signal(syscall.SIGTERM)
	case awsfake.Terminated:
		m.signal(syscall.SIGKILL)
	}
}

// boot starts what an instance runs.
func (d *datacenter) boot(i awsfake.Instance) error {
	identity, err := d.Identity(i.ID)
	if err != nil {
		return err
	}
	lifeCycle := "on-demand"
	if i.Spot {
		lifeCycle = "spot"
	}
	metadata, err := imdstest.Start(imdstest.Instance{
		ID: i.ID, Type: i.Type, ImageID: i.ImageID, Region: i.Region, AvailabilityZone: i.Zone, PrivateIP: i.PrivateIP, LifeCycle: lifeCycle,
		UserData: string(i.UserData), Document: string(identity.Document), Signature: identity.Signature, RSA2048: identity.RSA2048,
	})
	if err != nil {
		return err
	}
	log, err := os.Create(d.log(i.ID))
	if err != nil {
		return errors.Join(err, metadata.Close())
	}
	defer log.Close()
	m := &machine{metadata: metadata, ended: make(chan struct{})}
	m.worker = exec.Command(binary, "worker", "--aws", "--directory", filepath.Join(d.directory, i.ID), "--power-off", "")
	m.worker.Env = append(metadata.Environment(), "PATH="+os.Getenv("PATH"), "HOME="+d.directory)
	m.worker.Stdout, m.worker.Stderr = log, log
	m.worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.worker.Start(); err != nil {
		return errors.Join(err, metadata.Close())
	}
	d.mu.Lock()
	d.machines[i.ID] = m
	d.mu.Unlock()
	go func() {
		m.worker.Wait() // how it ended does not matter to the instance
		metadata.Close()
		close(m.ended)
		_ = d.Shutdown(i.ID) // unless that is why the worker has ended
	}()
	return nil
}

func (m *machine) signal(s syscall.Signal) { _ = m.worker.Process.Signal(s) } // of one that has ended it is no use

// crash kills the worker of an instance, which then shuts itself down.
func (d *datacenter) crash(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.machines[id] == nil {
		return fmt.Errorf("instance %s has not booted", id)
	}
	return d.machines[id].worker.Process.Kill()
}

func (d *datacenter) log(id string) string { return filepath.Join(d.directory, id+".log") }

func (d *datacenter) all() (list []*machine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.machines {
		list = append(list, m)
	}
	return list
}

// processes lists what runs of the instances, by process id: workers, and whatever their tasks have left. All of it has
// the datacenter's directory in its arguments or its environment.
func (d *datacenter) processes() map[int]string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		d.t.Fatal(err)
	}
	found := map[int]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		arguments, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		environment, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if strings.Contains(string(arguments), d.directory) || strings.Contains(string(environment), d.directory) {
			found[pid] = strings.ReplaceAll(string(arguments), "\x00", " ")
		}
	}
	return found
}

// logs are what the workers of some instances have said, or of all.
func (d *datacenter) logs() string {
	names, _ := filepath.Glob(filepath.Join(d.directory, "*.log"))
	var text strings.Builder
	for _, name := range names {
		content, _ := os.ReadFile(name)
		fmt.Fprintf(&text, "%s:\n%s\n", filepath.Base(name), content[max(0, len(content)-4000):])
	}
	return text.String()
}
