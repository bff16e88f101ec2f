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

variable "purpose" {
  description = "What the key is for, in a word: it is part of the alias, and the key's description says it."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.purpose))
    error_message = "purpose must begin with a lower-case letter and have at most 31 lower-case letters, digits and dashes, such as data."
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

variable "region" {
  description = "Region, which is the one of the provider that is passed."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the name of a region of AWS, such as eu-central-1."
  }
}

variable "partition" {
  description = "Partition of AWS: aws, aws-cn or aws-us-gov."
  type        = string
  default     = "aws"

  validation {
    condition     = contains(["aws", "aws-cn", "aws-us-gov"], var.partition)
    error_message = "partition must be aws, aws-cn or aws-us-gov."
  }
}

variable "administrators" {
  description = "ARNs of roles and users that may change the key and its policy and schedule its deletion, but not use it. AWS takes only such as exist. None: whom IAM policies of the account let."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.administrators : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/[^*]+$", a))])
    error_message = "administrators must be ARNs of IAM roles or users, without wildcards."
  }
}

variable "users" {
  description = "ARNs of roles and users that may encrypt and decrypt, also by a grant to a service of AWS that acts for them, as for volumes of instances. Those whom IAM policies of the account let need not be here. AWS takes only such as exist."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.users : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/[^*]+$", a))])
    error_message = "users must be ARNs of IAM roles or users, without wildcards."
  }
}

variable "services" {
  description = "Services of AWS that use the key in their own name: logs (CloudWatch Logs), cloudwatch (alarms to an encrypted topic), budgets (to an encrypted topic), events (EventBridge to an encrypted queue). S3, RDS, SQS, Secrets Manager and EBS use it in the name of whoever calls them."
  type        = set(string)
  default     = []

  validation {
    condition     = length(setsubtract(var.services, ["logs", "cloudwatch", "budgets", "events"])) == 0
    error_message = "services may have logs, cloudwatch, budgets and events; other services use the key in the name of their caller, who needs to be allowed by an IAM policy or by users."
  }
}

variable "deletion_window_days" {
  description = "Days from the deletion of the key until it is gone, and all that it has encrypted with it. Until then the deletion can be cancelled."
  type        = number
  default     = 30

  validation {
    condition     = var.deletion_window_days >= 7 && var.deletion_window_days <= 30 && floor(var.deletion_window_days) == var.deletion_window_days
    error_message = "deletion_window_days must be a whole number of 7 to 30."
  }
}
