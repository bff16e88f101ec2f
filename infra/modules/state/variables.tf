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

variable "bucket" {
  description = "Name of the bucket. It is the world's: begin it with something of yours."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket must have 3 to 63 lower-case letters, digits and dashes, and begin and end with a letter or digit."
  }
}

variable "access_log_bucket" {
  description = "Bucket that S3 writes access logs to, made by module bucket with log_sources = [\"s3\"] in the same region and account. null: no access logs."
  type        = string
  default     = null
}

variable "former_versions_days" {
  description = "Days for which former states can be had back."
  type        = number
  default     = 365

  validation {
    condition     = var.former_versions_days >= 1 && floor(var.former_versions_days) == var.former_versions_days
    error_message = "former_versions_days must be a whole number of days, 1 or more."
  }
}
