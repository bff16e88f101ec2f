# What a project has on a platform: the same as resources.yml, for those who prefer HCL. docs/terraform-provider.md tells how
# the provider is installed; where the platform is comes from TASKCLUSTER_ROOT_URL, and credentials likewise.

terraform {
  required_version = ">= 1.11" # for arguments that are in no state
  required_providers {
    taskfleet = { source = "taskfleet/taskfleet" }
  }
}

provider "taskfleet" {}

variable "nightly_key" {
  description = "What builds sign with, as JSON. TF_VAR_nightly_key leaves it out of files."
  type        = string
  sensitive   = true
  ephemeral   = true
}

variable "nightly_key_version" {
  description = "Another number each time that nightly_key changes."
  type        = number
  default     = 1
}

resource "taskfleet_role" "builds" {
  role_id     = "project:nightly:builds"
  description = "What builds may do."
  scopes = [
    "queue:create-task:low:${taskfleet_worker_pool.build.worker_pool_id}",
    "secrets:get:${taskfleet_secret.key.name}",
  ]
}

resource "taskfleet_role" "hook" {
  role_id = "hook-id:${taskfleet_hook.nightly.hook_id}"
  scopes  = ["assume:${taskfleet_role.builds.role_id}"]
}

resource "taskfleet_client" "ci" {
  client_id   = "project/nightly/ci"
  description = "CI"
  scopes      = ["assume:${taskfleet_role.builds.role_id}"]
  expires     = "2035-01-31T00:00:00Z"
}

resource "taskfleet_secret" "key" {
  name             = "project/nightly/key"
  value_wo         = var.nightly_key
  value_wo_version = var.nightly_key_version
}

resource "taskfleet_secret" "set_by_hand" {
  name = "project/nightly/set-by-hand"
}

resource "taskfleet_worker_pool" "build" {
  worker_pool_id = "proj-nightly/build"
  provider_id    = "local"
  owner          = "releases@example.com"
  config = jsonencode({
    maxCapacity  = 2
    workerConfig = { idleTimeoutSecs = 30 }
  })
}

resource "taskfleet_hook" "nightly" {
  hook_id  = "project-nightly/nightly"
  name     = "Nightly"
  owner    = "releases@example.com"
  schedule = ["0 0 3 * * *"]
  bindings = [{
    exchange            = "exchange/taskcluster-queue/v1/task-completed"
    routing_key_pattern = "route.nightly.again.#"
  }]
  task = jsonencode({
    taskQueueId = taskfleet_worker_pool.build.worker_pool_id
    created     = { "$fromNow" = "" }
    deadline    = { "$fromNow" = "1 day" }
    metadata = {
      name        = "nightly"
      description = "The nightly build"
      owner       = "releases@example.com"
      source      = "https://example.com"
    }
    payload = {
      command    = [["sh", "-c", "echo hello"]]
      maxRunTime = 60
    }
  })
  trigger_schema = jsonencode({
    type                 = "object"
    properties           = { revision = { type = "string" } }
    additionalProperties = false
  })
}

resource "taskfleet_denylist_address" "nobody" {
  address = "email/nobody@example.com"
}
