package provisioner

import (
	"errors"
	"regexp"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/slugid"
)

const (
	serviceName, serviceVersion = "worker-manager", "v1"

	namePattern = `^[a-zA-Z0-9-_]{1,38}$`
	poolPattern = `^[a-zA-Z0-9-_]{1,38}/[a-z]([-a-z0-9]{0,36}[a-z0-9])?$`
)

var identifier = regexp.MustCompile(namePattern)

// API is the service as served under /api/worker-manager/v1/.
var API = api.Service[*Provisioner]{
	Name: serviceName, Version: serviceVersion, Title: "Worker Manager",
	Doc: `Keeps as many workers as there is work for.

A *worker pool* serves the task queue of the same name. It says which *provider* makes its workers, from what
configuration, and how many there may be. A worker is *requested* until it registers, then *running*, *stopping* when
it is to end, and *stopped* when nothing of it is left. What goes wrong is kept as errors of the pool.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"workerPoolId":   poolPattern,
		"workerGroup":    namePattern,
		"workerId":       namePattern,
		"launchConfigId": namePattern,
		"errorId":        slugid.Pattern,
		"state":          `^(requested|running|stopping|stopped)$`,

		"provisionerId":   namePattern,
		"workerType":      `^[a-z]([-a-z0-9]{0,36}[a-z0-9])?$`,
		"workerState":     `^(requested|running|stopping|stopped|standalone)$`,
		"quarantined":     `^(true|false)$`,
		"includeArchived": `^(true|false)$`,
	},
	Methods: []api.Method[*Provisioner]{
		listProviders,
		createWorkerPool, updateWorkerPool, deleteWorkerPool, listWorkerPoolLaunchConfigs, workerPoolStats, workerPool,
		listWorkerPools, listWorkerPoolsStats, reportWorkerError, workerPoolErrorStats, listWorkerPoolErrors,
		listWorkersForWorkerGroup, showWorker, createWorker, updateWorker, removeWorker, shouldWorkerTerminate,
		listWorkersForWorkerPool, registerWorker, reregisterWorker, listWorkers, getWorker,
	},
	Exchanges: []api.Exchange{
		poolCreated, poolUpdated, poolError, launchConfigCreated, launchConfigUpdated, launchConfigArchived, workerRequested, workerRunning, workerStopped, workerRemoved,
	},
}

type poolPath struct {
	WorkerPoolID string `path:"workerPoolId"`
}

type groupPath struct {
	WorkerPoolID string `path:"workerPoolId"`
	WorkerGroup  string `path:"workerGroup"`
}

type workerPath struct {
	WorkerPoolID string `path:"workerPoolId"`
	WorkerGroup  string `path:"workerGroup"`
	WorkerID     string `path:"workerId"`
}

func (w workerPath) ref() fleet.Ref { return fleet.Ref(w) }

func isNotFound(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == api.ResourceNotFound
}
