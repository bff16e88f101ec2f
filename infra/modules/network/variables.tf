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
  description = "Region, which is the one of the provider that is passed."
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

variable "cidr" {
  description = "IPv4 network of the VPC. It need not differ from other VPCs', unless you mean to connect them."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.cidr)) && try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 20, false)
    error_message = "cidr must be an IPv4 network of 16 to 20 bits, such as 10.0.0.0/16: with less room a load balancer does not fit into the public subnets."
  }

  validation {
    condition     = try(cidrsubnet(var.cidr, 0, 0) == var.cidr, false)
    error_message = "cidr must be the first address of its network, such as 10.0.0.0/16 and not 10.0.0.1/16."
  }
}

variable "availability_zones" {
  description = "Two to four zones, such as eu-central-1a. Add others at the end: a zone's addresses follow from its place here."
  type        = list(string)

  validation {
    condition     = length(var.availability_zones) >= 2 && length(var.availability_zones) <= 4 && length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "availability_zones must be two to four different zones: load balancers and databases do not do with one."
  }

  validation {
    condition     = alltrue([for z in var.availability_zones : startswith(z, var.region) && can(regex("[0-9][a-z]$", z))])
    error_message = "availability_zones must be zones of the region, such as eu-central-1a."
  }
}

variable "nat" {
  description = "How private subnets reach the internet by IPv4: by a NAT gateway in each zone (per-zone), by one, which takes all zones' internet with it when its zone fails (one), or not at all (none)."
  type        = string
  default     = "per-zone"

  validation {
    condition     = contains(["none", "one", "per-zone"], var.nat)
    error_message = "nat must be none, one or per-zone."
  }
}

variable "ipv6" {
  description = "Whether public and private subnets have IPv6 addresses as well. From private ones the way goes out only."
  type        = bool
  default     = false
}

variable "endpoints" {
  description = "Services of AWS, as their endpoints are named (ecr.api, sqs), that are reached within the VPC and not by NAT. What private subnets cannot do without is added when nat is none. S3 always has one, which costs nothing."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for e in var.endpoints : can(regex("^[a-z0-9][a-z0-9.-]+$", e)) && !contains(["s3", "dynamodb"], e)])
    error_message = "endpoints must be names such as ecr.api or sqs, without com.amazonaws and region. s3 has a gateway already; leave it out."
  }
}

variable "flow_logs" {
  description = "Whether it is kept who spoke to whom: addresses, ports and sizes, in CloudWatch."
  type        = bool
  default     = true
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

variable "log_kms_key_arn" {
  description = "Key of KMS for the flow logs, whose policy lets the service logs of the region use it. null: CloudWatch's own encryption."
  type        = string
  default     = null

  validation {
    condition     = var.log_kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.log_kms_key_arn))
    error_message = "log_kms_key_arn must be the ARN of a key, as module kms puts it out."
  }
}

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the role that writes flow logs. null: none."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:policy/", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn must be the ARN of an IAM policy, as module iam puts it out."
  }
}
