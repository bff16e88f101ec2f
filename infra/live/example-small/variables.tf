variable "deployment" {
  description = "Name of the deployment: the beginning of the names of all that is made, and the provisioner's cluster."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.deployment)) && length(var.deployment) >= 2 && length(var.deployment) <= 24
    error_message = "deployment must have 2 to 24 lower-case letters, digits and single dashes, begin with a letter and not end with a dash, such as taskfleet-prod."
  }
}

variable "account_id" {
  description = "Account of AWS. In another nothing is made."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id must be the 12 digits of an AWS account, as a string."
  }
}

variable "region" {
  description = "Region of all of it."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the name of a region of AWS, such as eu-central-1."
  }
}

variable "bucket_prefix" {
  description = "Beginning of the names of buckets, which are the world's: something of yours, such as example-taskfleet."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{2,30}[a-z0-9]$", var.bucket_prefix))
    error_message = "bucket_prefix must have 4 to 32 lower-case letters, digits and dashes, and neither begin nor end with a dash."
  }
}

variable "hostname" {
  description = "Host of the root URL."
  type        = string
}

variable "zone_id" {
  description = "Public hosted zone of Route 53 that the host is in."
  type        = string
}

variable "image" {
  description = "Image of the server, by digest or a tag that does not move."
  type        = string
}

variable "network" {
  description = "The network and its two to four zones."
  type        = object({ cidr = string, availability_zones = list(string) })
}

variable "nat" {
  description = "NAT gateways: one, or per-zone, which costs as much for each zone and survives the loss of one."
  type        = string
  default     = "one"

  validation {
    condition     = contains(["one", "per-zone"], var.nat)
    error_message = "nat must be one or per-zone: server and workers reach the root URL and the internet by it."
  }
}

variable "service" {
  description = "Size of the server: units of processor, MiB of memory, replicas."
  type = object({
    cpu          = number
    memory       = number
    min_replicas = number
    max_replicas = number
  })
  default = { cpu = 512, memory = 1024, min_replicas = 2, max_replicas = 4 }
}

variable "database" {
  description = "Size of the database. max_connections is what PostgreSQL takes on that class: about a ninth of its memory in MiB, 5000 at most. Without multi_az it costs half, and does not survive the loss of its zone."
  type = object({
    instance_class  = string
    storage_gib     = number
    max_storage_gib = number
    max_connections = number
    multi_az        = bool
  })
  default = { instance_class = "db.t4g.medium", storage_gib = 50, max_storage_gib = 500, max_connections = 400, multi_az = true }
}

variable "worker_profiles" {
  description = "Whether pools may give machines the instance profile, with which they send logs. What a machine may do every task on it may do."
  type        = bool
  default     = false
}

variable "deploy" {
  description = "Jobs of GitHub that may deploy, as in module iam. null: none."
  type = object({
    subjects          = list(string)
    state_bucket      = string
    state_kms_key_arn = string
    oidc_provider_arn = optional(string)
  })
  default = null
}

variable "configuration" {
  description = "More of the server's configuration (taskfleet config --help), without secrets: notify and so on."
  type        = any
  default     = {}

  validation {
    condition     = can(keys(var.configuration)) && !contains(try(keys(var.configuration), []), "providers")
    error_message = "configuration must be an object without providers, which follow from what is made here."
  }
}

variable "emails" {
  description = "Addresses that get alarms and the budget's messages."
  type        = list(string)
  default     = []
}

variable "monthly_usd" {
  description = "What a month may cost, in USD, before somebody is told."
  type        = number
}

variable "deletion_protection" {
  description = "Whether database and balancer refuse to be deleted. To take the deployment down, apply with false first."
  type        = bool
  default     = true
}
