variable "name" {
  description = "Beginning of the names of what is made, such as taskfleet."
  type        = string
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
  description = "Region of the bucket."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket, which is the world's: begin it with something of yours, such as example-taskfleet-state."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{2,56}[a-z0-9]$", var.bucket))
    error_message = "bucket must have 4 to 58 lower-case letters, digits and dashes, and neither begin nor end with a dash: that of its access logs is five longer."
  }
}
