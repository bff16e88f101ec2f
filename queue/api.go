package queue

import (
	"errors"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

const namePattern = `^[a-zA-Z0-9-_]{1,38}$`

// API is the queue as served under /api/queue/v1/.
var API = api.Service[*Queue]{
	Name: "queue", Version: "v1", Title: "Queue",
	Doc: `Accepts tasks, waits for what they depend on, hands them to workers and keeps what came of them.

A task is *unscheduled* until its dependencies allow it to run, then *pending* until a worker claims it, *running*
while the worker keeps its claim, and finally *completed*, *failed* or *exception*. A run that is lost with its worker
is followed by another while the task has retries left.

Where the scopes that a method takes depend on the task or the group, one that does not exist is 404, whoever asks.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"taskId":        slugid.Pattern,
		"taskGroupId":   slugid.Pattern,
		"runId":         `^(0|[1-9][0-9]{0,2}|1000)$`,
		"taskQueueId":   `^[a-zA-Z0-9-_]{1,38}/[a-z]([-a-z0-9]{0,36}[a-z0-9])?$`,
		"provisionerId": namePattern,
		"workerType":    `^[a-z]([-a-z0-9]{0,36}[a-z0-9])?$`,
		"workerGroup":   namePattern,
		"workerId":      namePattern,
		"quarantined":   `^(true|false)$`,
		"name":          `^[^\x00-\x1f\x7f]+$`,
	},
	Methods: []api.Method[*Queue]{
		getTask, tasks, statuses, status, listTaskGroup, cancelTaskGroup, getTaskGroup, sealTaskGroup, listDependentTasks,
		createTask, scheduleTask, rerunTask, cancelTask, changeTaskPriority, changeTaskGroupPriority,
		claimWork, claimTask, reclaimTask, reportCompleted, reportFailed, reportException,
		createArtifact, finishArtifact, getArtifact, getLatestArtifact, listArtifacts, listLatestArtifacts,
		artifactInfo, latestArtifactInfo, artifactContent, latestArtifactContent,
		pendingTasks, taskQueueCounts, listPendingTasks, listClaimedTasks,
		listProvisioners, getProvisioner, listWorkerTypes, getWorkerType, listTaskQueues, getTaskQueue,
		listWorkers, getWorker, quarantineWorker, declareWorker,
	},
	Exchanges: []api.Exchange{
		TaskDefined, TaskPending, taskRunning, artifactCreated, TaskCompleted, TaskFailed, taskException,
		taskGroupResolved, taskGroupSealed, taskPriorityChanged, taskGroupPriorityChanged,
	},
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }
