// Command run is behind `make test`, `make check`, `make bench`, `make postgres` and `make rabbitmq`.
//
// It is for a machine with Go and nothing else. `run test` installs what the tests need (tools.go), starts a private
// PostgreSQL (test/postgres), RabbitMQ (rabbitmq.go) and moto, an imitation of AWS (moto.go), runs the steps below and,
// however it ends, stops what it started. Two checkouts can run it at once: ports are chosen free, data lies in fresh
// temporary directories, and what is of Python and of Node is installed inside the checkout. A later run finds everything
// in place and starts at once.
//
// Steps run one after the other, but for the tests of the whole system. They wait most of the time, for faults to pass and
// leases to end, and the other tests are short of nothing but processors: so they go side by side, the whole system first
// in line for the processors, since it is the one that looks at the clock.
//
// A step that fails does not stop the next: one run tells everything that is wrong. Nothing is skipped in silence: what
// cannot be installed is an error that names the packages.
//
// The tests learn where things are from the environment:
//
//	TASKFLEET_TEST_BINARY     the program under test, built
//	TASKFLEET_TEST_POSTGRES   URL of a PostgreSQL database in which a test may create schemas and databases
//	TASKFLEET_TEST_DATABASES  the databases to test on: "sqlite,postgres" unless set
//	TASKFLEET_TEST_NODE       the node executable, of the version the official JavaScript client asks for
//	TASKFLEET_TEST_PYTHON     the python executable that can import the official Python client
//	TASKFLEET_TEST_MOTO       URL of moto
//	TASKFLEET_TEST_TERRAFORM  the terraform or tofu executable
//	TASKFLEET_TEST_PULUMI     the pulumi executable
//	TASKFLEET_TEST_RABBITMQ   URL of a RabbitMQ, which a test may even kill, as it is started again
//	TASKFLEET_TEST_RABBITMQ_MANAGEMENT  URL of its management API, with one who may do everything
//	TASKFLEET_TEST_RABBITMQ_DIRECTORY  where there are "pid", with its process id, and "ctl", which is rabbitmqctl for it
//	TASKFLEET_TEST_S3_...     moto again, as package blobtest is told of an endpoint
//
// One more is for a person to set, as it costs money: TASKFLEET_TEST_AWS, an account in which test/ec2 launches instances.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/taskfleet/taskfleet/test/postgres"
	"github.com/taskfleet/taskfleet/test/server"
)

const usage = `usage: run test | check | bench | postgres | rabbitmq

  test      formatting, vet, all tests on SQLite and PostgreSQL, race detector, official clients, crashes, EC2
  check     formatting, vet, and the tests on SQLite alone; installs and starts nothing
  bench     taskfleet bench queue on SQLite and on PostgreSQL
  postgres  a PostgreSQL for "go test", until it is interrupted
  rabbitmq  a RabbitMQ, likewise
`

func main() {
	// PostgreSQL is started with a parent-death signal (package daemon), which Linux sends when the thread that
	// started the process ends: this one ends with us.
	runtime.LockOSThread()

	// More signals change nothing, since one interrupt can come twice: to the whole process group, and again from make.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "\n%v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	root, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	if _, err := os.Stat("test/run/main.go"); err != nil {
		return errors.New("run this from the top of the checkout: make test, make check or make bench")
	}
	c := &checkout{root: root, unsteady: &unsteady{}}
	if len(args) != 1 {
		return errors.New(usage)
	}
	switch args[0] {
	case "test":
		return test(ctx, c)
	case "check":
		return check(ctx, c)
	case "bench":
		return bench(ctx, c)
	case "postgres":
		return postgresAlone(ctx, c)
	case "rabbitmq":
		return rabbitmqAlone(ctx, c)
	}
	return errors.New(usage)
}

// test is everything.
func test(ctx context.Context, c *checkout) error {
	tools, err := install(ctx, c.root)
	if err != nil {
		return err
	}
	directory, err := os.MkdirTemp("", "taskfleet-binary-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(directory)
	binary, err := server.Build(ctx, directory)
	if err != nil {
		return err
	}
	database, err := postgres.Start(ctx, tools.postgres, postgres.Disposable...)
	if err != nil {
		return err
	}
	defer database.Stop()
	imitation, err := startMoto(ctx, tools.moto)
	if err != nil {
		return err
	}
	defer imitation.stop()
	// Tests kill their broker, so those that go on meanwhile have another one.
	broker, err := startRabbitMQ(ctx, tools.rabbitmq)
	if err != nil {
		return err
	}
	defer broker.stop()
	another, err := startRabbitMQ(ctx, tools.rabbitmq)
	if err != nil {
		return err
	}
	defer another.stop()
	c.env = []string{
		"TASKFLEET_TEST_BINARY=" + binary,
		"TASKFLEET_TEST_POSTGRES=" + database.URL,
		"TASKFLEET_TEST_NODE=" + tools.node,
		"TASKFLEET_TEST_PYTHON=" + tools.python,
		"TASKFLEET_TEST_MOTO=" + imitation.url,
		"TASKFLEET_TEST_TERRAFORM=" + tools.terraform,
		"TASKFLEET_TEST_PULUMI=" + tools.pulumi,
		"TASKFLEET_TEST_S3_ENDPOINT=" + imitation.url, "TASKFLEET_TEST_S3_IMITATION=true",
		"TASKFLEET_TEST_S3_ACCESS_KEY_ID=test", "TASKFLEET_TEST_S3_SECRET_ACCESS_KEY=test",
	}
	whole := c.with(another.env()...)
	c = c.with(broker.env()...)
	c.nice = true
	failed := runSteps(ctx,
		step{name: "formatting", do: c.formatting},
		step{name: "vet", do: c.vet},
		step{name: "checkov", do: c.checkov(tools.checkov)},
		step{name: "whole system", do: whole.systemTests, meanwhile: true},
		step{name: "commands", do: c.commandTests, meanwhile: true},
		step{name: "tests", do: c.unitTests},
		step{name: "race detector", do: c.raceTests},
	)
	c.unsteady.print(os.Stdout)
	if failed != nil && ctx.Err() == nil {
		failed = errors.Join(failed, database.Fallen(), imitation.daemon.Fallen())
	}
	return failed
}

// check is what a change can be tried with before everything is run.
func check(ctx context.Context, c *checkout) error {
	c.env = []string{"TASKFLEET_TEST_DATABASES=sqlite"}
	c.without = []string{module + "/event/rabbit", module + "/credentials/postgres", module + "/credentials/rabbitmq", // they need a broker, or a server
		module + "/infra/verify", module + "/infra", module + "/infra/statetest", module + "/stacks/platform"} // and these moto, or terraform
	failed := runSteps(ctx,
		step{name: "formatting", do: c.formatting},
		step{name: "vet", do: c.vet},
		step{name: "tests", do: c.allUnitTests},
	)
	c.unsteady.print(os.Stdout)
	return failed
}

// postgresAlone lends the private PostgreSQL to tests that are run by hand.
func postgresAlone(ctx context.Context, c *checkout) error {
	tools, err := install(ctx, c.root)
	if err != nil {
		return err
	}
	database, err := postgres.Start(ctx, tools.postgres, postgres.Disposable...)
	if err != nil {
		return err
	}
	defer database.Stop()
	fmt.Printf("PostgreSQL runs until this is interrupted. Where you run go test:\n\n  export TASKFLEET_TEST_POSTGRES='%s'\n", database.URL)
	<-ctx.Done()
	return nil
}

// A step is one line of the summary.
type step struct {
	name string
	do   func(ctx context.Context, out io.Writer) error

	// meanwhile has the steps after it not wait for its end. What it prints is shown when all have ended.
	meanwhile bool

	out  bytes.Buffer // where meanwhile
	took time.Duration
	err  error
}

// runSteps runs all of them, also after a failure, and ends with one line for each.
func runSteps(ctx context.Context, steps ...step) error {
	var meanwhile sync.WaitGroup
	for i := range steps {
		s := &steps[i]
		fmt.Printf("\n== %s\n", s.name)
		run := func(out io.Writer) {
			start := time.Now()
			s.err = s.do(ctx, out)
			s.took = time.Since(start)
		}
		if s.meanwhile {
			fmt.Println("goes on beside what follows, and is shown at its end")
			meanwhile.Go(func() { run(&s.out) })
		} else if ctx.Err() == nil {
			run(os.Stdout)
		}
	}
	meanwhile.Wait()
	var summary strings.Builder
	failed := 0
	for i := range steps {
		s := &steps[i]
		if s.meanwhile {
			fmt.Printf("\n== %s\n%s", s.name, &s.out)
		}
		outcome := "passed"
		if s.err != nil {
			failed++
			outcome = "FAILED: " + s.err.Error()
		}
		fmt.Fprintf(&summary, "  %-15s %6s  %s\n", s.name, s.took.Round(time.Second), outcome)
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: what this run had started is stopped")
	}
	fmt.Printf("\n== summary\n%s", summary.String())
	if failed > 0 {
		return fmt.Errorf("%d of %d steps failed; what they printed is above", failed, len(steps))
	}
	return nil
}
