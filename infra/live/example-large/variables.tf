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

variable "networks" {
  description = "Of each region the network and its zones. Networks differ, so that they can be connected one day."
  type        = map(object({ cidr = string, availability_zones = list(string) }))

  validation {
    condition     = toset(keys(var.networks)) == toset(["us-east-1", "us-west-2", "eu-central-1"])
    error_message = "networks must have us-east-1, us-west-2 and eu-central-1. For other regions change the providers and the modules in main.tf, too."
  }

  validation {
    condition     = length(distinct([for n in var.networks : n.cidr])) == length(var.networks)
    error_message = "networks must have different cidrs."
  }
}

variable "nat" {
  description = "NAT gateways: per-zone, or one for each region, which is cheaper and takes the region's internet with it when its zone fails."
  type        = string
  default     = "per-zone"

  validation {
    condition     = contains(["per-zone", "one"], var.nat)
    error_message = "nat must be per-zone or one: server and workers reach other regions and the internet by it."
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
  default = { cpu = 2048, memory = 4096, min_replicas = 3, max_replicas = 12 }
}

variable "database" {
  description = "Size of the database. max_connections is what PostgreSQL takes on that class: about a ninth of its memory in MiB, 5000 at most."
  type = object({
    instance_class  = string
    storage_gib     = number
    max_storage_gib = number
    max_connections = number
  })
  default = { instance_class = "db.r7g.xlarge", storage_gib = 400, max_storage_gib = 4000, max_connections = 3500 }
}

variable "broker" {
  description = "RabbitMQ for consumers outside: its machines and version. null: none, messages are read at /api/events."
  type        = object({ instance_type = string, engine_version = string })
  default     = null
}

variable "worker_profiles" {
  description = "Whether pools may give machines the instance profiles of the regions, with which they send logs. What a machine may do every task on it may do."
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
  description = "More of the server's configuration (taskfleet config --help), without secrets: notify, mirror's routes by the entry mirror, and so on."
  type        = any
  default     = {}

  validation {
    condition     = can(keys(var.configuration)) && length(setintersection(try(keys(var.configuration), []), ["providers", "rabbitmq"])) == 0
    error_message = "configuration must be an object without providers and rabbitmq, which follow from what is made here."
  }
}

variable "mirror_in_stacks" {
  description = "Whether the section mirror is configured by stacks, with home, regions and trustedProxies, and not here."
  type        = bool
  default     = false

  validation {
    condition     = !var.mirror_in_stacks || !contains(keys(var.configuration), "mirror")
    error_message = "configuration must be without mirror if mirror_in_stacks is true: it is configured there."
  }
}

variable "secret_configuration_arns" {
  description = "Secrets with entries of the configuration that hold secrets, as in module service. They are encrypted with the key of the home region, or AWS's own."
  type        = list(string)
  default     = []
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
