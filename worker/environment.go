package worker

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
)

const usualPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is all variables of a task's commands; of the worker's own there
// are none among them. Those of the task go before those of the pool, and what
// the worker sets before both.
func (r *run) environment(extra map[string]string) []string {
	env := map[string]string{"PATH": usualPath}
	maps.Copy(env, r.worker.settings.Env)
	maps.Copy(env, r.payload.Env)
	location, err := json.Marshal(r.worker.config.Location)
	if err != nil {
		panic(err) // strings can be marshaled
	}
	maps.Copy(env, map[string]string{
		"TASKCLUSTER_ROOT_URL":         r.worker.core.RootURL(),
		"TASKCLUSTER_WORKER_LOCATION":  string(location),
		"TASKCLUSTER_WORKER_DIRECTORY": r.worker.config.Directory,
		"HOME":                         filepath.Join(r.dir, "home"),
		"TMPDIR":                       filepath.Join(r.dir, "tmp"),
	})
	if instanceType := r.worker.config.InstanceType; instanceType != "" {
		env["TASKCLUSTER_INSTANCE_TYPE"] = instanceType
	}
	if runtime.GOOS == "windows" {
		env["TEMP"], env["TMP"] = env["TMPDIR"], env["TMPDIR"]
	}
	maps.Copy(env, extra)
	var entries []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		entries = append(entries, name+"="+env[name])
	}
	return append(entries, r.cookie()...)
}

// cookie tells the processes of this run from all others.
func (r *run) cookie() []string {
	return []string{r.worker.cookie(), "TASK_ID=" + r.taskID, "RUN_ID=" + strconv.Itoa(r.runID)}
}

// cookie tells the processes of all runs of this worker.
func (w *Worker) cookie() string { return "TASKFLEET_WORKER_ID=" + w.config.WorkerID }
