variable "name" {
  description = "Prefix of the names of all that is made, such as taskfleet-prod."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "name must begin with a lower-case letter and have 2 to 31 lower-case letters, digits and dashes, such as taskfleet-prod."
  }
}

variable "tags" {
  description = "Tags of everything that can be tagged, beside Name."
  type        = map(string)
  default     = {}
}

variable "region" {
  description = "Region of all of it, which is the one of the provider that is passed."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the name of a region of AWS, such as eu-central-1."
  }
}

variable "account_id" {
  description = "Account, for the names in policies."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id must be the 12 digits of an AWS account, as a string."
  }
}

variable "kms_key_arn" {
  description = "Key of KMS for the topic, whose policy lets the services cloudwatch and budgets use it. null: messages of alarms, which hold no secrets, are not encrypted at rest."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key of KMS, not an alias: AWS's own key for SNS does not let alarms in."
  }
}

variable "emails" {
  description = "Addresses that get the alarms, once they have confirmed it."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for e in var.emails : can(regex("^[^@\\s]+@[^@\\s]+$", e))])
    error_message = "emails must be addresses, such as ops@example.com."
  }
}

variable "service" {
  description = "The service whose balancer and replicas are watched, by the outputs of module service. null: none in this region."
  type = object({
    alb_arn_suffix          = string
    target_group_arn_suffix = string
    cluster_name            = string
    service_name            = string
    min_replicas            = number
    log_group               = string
  })
  default = null

  validation {
    condition     = try(var.service.min_replicas, 1) >= 1
    error_message = "service.min_replicas must be 1 or more."
  }
}

variable "database" {
  description = "The database that is watched. null: none in this region."
  type = object({
    instance_id     = string
    storage_gib     = number
    max_connections = number
  })
  default = null

  validation {
    condition     = try(var.database.storage_gib, 20) >= 20 && try(var.database.max_connections, 20) >= 20
    error_message = "database.storage_gib and database.max_connections must be 20 or more: storage_gib is what is allocated, max_connections what the instance class takes."
  }
}

variable "queues" {
  description = "Queues of EC2's events by names of your choice: name of the queue, and of that for what could not be read."
  type        = map(object({ name = string, dead = string }))
  default     = {}
}

variable "broker_name" {
  description = "Name of the broker of Amazon MQ. null: none."
  type        = string
  default     = null
}

variable "latency_seconds" {
  description = "99th percentile of the time until an answer above which there is an alarm. A claim waits for 20 s by design, so that busy fleets need more than that."
  type        = number
  default     = 25

  validation {
    condition     = var.latency_seconds > 0 && var.latency_seconds <= 60
    error_message = "latency_seconds must be more than 0 and 60 at most."
  }
}

variable "errors_per_minute" {
  description = "Answers of 500 and more, and errors in the log, of which more in a minute than that, for five minutes, are an alarm."
  type        = number
  default     = 10

  validation {
    condition     = var.errors_per_minute >= 1
    error_message = "errors_per_minute must be 1 or more."
  }
}
