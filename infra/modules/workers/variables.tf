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

variable "partition" {
  description = "Partition of AWS: aws, aws-cn or aws-us-gov."
  type        = string
  default     = "aws"

  validation {
    condition     = contains(["aws", "aws-cn", "aws-us-gov"], var.partition)
    error_message = "partition must be aws, aws-cn or aws-us-gov."
  }
}

variable "vpc_id" {
  description = "VPC of the workers."
  type        = string
}

variable "egress_cidrs" {
  description = "IPv4 networks that workers reach by HTTPS. Tasks fetch from where they like, so this is everywhere, unless a proxy stands between."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = length(var.egress_cidrs) > 0 && alltrue([for c in var.egress_cidrs : can(cidrnetmask(c))])
    error_message = "egress_cidrs must be one or more IPv4 networks, such as 0.0.0.0/0."
  }
}

variable "egress_ports" {
  description = "TCP ports that workers reach there. Port 443 is for the platform and its buckets."
  type        = list(number)
  default     = [443]

  validation {
    condition     = contains(var.egress_ports, 443) && alltrue([for p in var.egress_ports : p >= 1 && p <= 65535 && floor(p) == p])
    error_message = "egress_ports must be ports from 1 to 65535, with 443 among them: workers call the platform there."
  }
}

variable "volume_key" {
  description = "Key of KMS for volumes, as { arn = … }. null: AWS's own for EBS. With one of your own, the provisioner's role needs rights on it: volume_kms_key_arns of module iam."
  type        = object({ arn = string })
  default     = null

  validation {
    condition     = var.volume_key == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.volume_key.arn))
    error_message = "volume_key.arn must be the ARN of a key of KMS, not an alias, as module kms puts it out."
  }
}

variable "encrypt_by_default" {
  description = "Whether EBS encrypts all new volumes of the account in this region, whatever a pool says. It is a setting of the account: set it to false where somebody else manages it."
  type        = bool
  default     = true
}

variable "volume_gib" {
  description = "Size of the root volume in the launch template, in GiB."
  type        = number
  default     = 64

  validation {
    condition     = var.volume_gib >= 8 && var.volume_gib <= 16384
    error_message = "volume_gib must be 8 to 16384."
  }
}

variable "root_device_name" {
  description = "Root device of the images: /dev/xvda for Amazon Linux, /dev/sda1 for Ubuntu."
  type        = string
  default     = "/dev/xvda"

  validation {
    condition     = startswith(var.root_device_name, "/dev/")
    error_message = "root_device_name must be a device such as /dev/xvda; an image says its own (aws ec2 describe-images, RootDeviceName)."
  }
}

variable "session_manager" {
  description = "Whether machines with the instance profile can be logged in to by Session Manager. Tasks on them have these rights, too."
  type        = bool
  default     = false
}

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the role. null: none."
  type        = string
  default     = null
}

variable "log_kms_key_arn" {
  description = "Key of KMS for the logs, whose policy lets the service logs of the region use it. null: CloudWatch's own encryption."
  type        = string
  default     = null
}

variable "log_retention_days" {
  description = "Days for which logs are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one that CloudWatch has: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731 and so on."
  }
}
