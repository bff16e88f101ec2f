variable "name" {
  description = "Prefix of the names of all that is made, such as taskfleet-prod."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "name must begin with a lower-case letter and have 2 to 31 lower-case letters, digits and dashes, such as taskfleet-prod."
  }

  validation {
    condition     = !strcontains(var.name, "--") && !endswith(var.name, "-")
    error_message = "name must not end with a dash or have two in a row: RDS does not take such names."
  }
}

variable "tags" {
  description = "Tags of everything that can be tagged, beside Name."
  type        = map(string)
  default     = {}
}

variable "vpc_id" {
  description = "VPC of the database."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets of the database, in two zones or more, without a way to the internet."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids must name subnets in two zones or more, also for a database that is in one: RDS wants them."
  }
}

variable "client_security_group_ids" {
  description = "Security groups that may connect, by names of your choice."
  type        = map(string)
  default     = {}
}

variable "kms_key_arn" {
  description = "Key of KMS for the storage, its backups, statistics, logs and the password. Its policy lets the service logs of the region use it. Another key makes another database."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key, as module kms puts it out."
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

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the role that writes the statistics of the machine. null: none."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:policy/", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn must be the ARN of an IAM policy, as module iam puts it out."
  }
}

# What it is.

variable "engine_version" {
  description = "Version of PostgreSQL, such as 17: AWS brings the minor versions in the maintenance window."
  type        = string
  default     = "17"

  validation {
    condition     = can(regex("^1[4-9]$", var.engine_version))
    error_message = "engine_version must be a major version, 14 to 19. Minor ones come by themselves."
  }
}

variable "allow_major_version_upgrade" {
  description = "Whether engine_version may rise to another major version, for which the database is away for minutes."
  type        = bool
  default     = false
}

variable "instance_class" {
  description = "Class of the machine, such as db.r7g.large."
  type        = string
  default     = "db.m7g.large"

  validation {
    condition     = can(regex("^db\\.[a-z0-9-]+\\.[a-z0-9]+$", var.instance_class))
    error_message = "instance_class must be a class of RDS, such as db.m7g.large."
  }
}

variable "database" {
  description = "Name of the database that is made."
  type        = string
  default     = "taskfleet"

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,62}$", var.database)) && !contains(["postgres", "rdsadmin", "template0", "template1"], var.database)
    error_message = "database must begin with a lower-case letter and have at most 63 lower-case letters, digits and underscores, and be none of PostgreSQL's own."
  }
}

variable "username" {
  description = "Master user. Its password is made by RDS, kept in Secrets Manager and replaced every seven days."
  type        = string
  default     = "taskfleet"

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,62}$", var.username)) && !contains(["postgres", "admin", "rdsadmin"], var.username) && !startswith(var.username, "pg_")
    error_message = "username must begin with a lower-case letter and have at most 63 lower-case letters, digits and underscores; postgres, admin, rdsadmin and pg_… are reserved."
  }
}

variable "multi_az" {
  description = "Whether a second machine in another zone has all that was committed, and takes over within two minutes."
  type        = bool
  default     = true
}

variable "storage_gib" {
  description = "Storage in GiB at the start. It grows by itself and never shrinks."
  type        = number
  default     = 100

  validation {
    condition     = var.storage_gib >= 20 && var.storage_gib <= 65536 && floor(var.storage_gib) == var.storage_gib
    error_message = "storage_gib must be a whole number of 20 to 65536."
  }
}

variable "max_storage_gib" {
  description = "Storage in GiB that it grows to."
  type        = number
  default     = 1000

  validation {
    condition     = var.max_storage_gib >= var.storage_gib * 1.1 && var.max_storage_gib <= 65536 && floor(var.max_storage_gib) == var.max_storage_gib
    error_message = "max_storage_gib must be a whole number, a tenth more than storage_gib or larger and at most 65536."
  }
}

variable "parameters" {
  description = "Further parameters of PostgreSQL, such as { max_wal_size = \"8192\" } (MB) where thousands of tasks are created a second. Those that PostgreSQL reads at its start only count after the next restart."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.parameters), ["rds.force_ssl", "password_encryption"])) == 0
    error_message = "parameters must not have rds.force_ssl and password_encryption: TLS and SCRAM are not up for choice."
  }
}

# How it is kept.

variable "backup_days" {
  description = "Days for which the database can be put back to any second, in another instance."
  type        = number
  default     = 14

  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35 && floor(var.backup_days) == var.backup_days
    error_message = "backup_days must be a whole number of 1 to 35."
  }
}

variable "backup_window" {
  description = "When backups are made each day, in UTC."
  type        = string
  default     = "02:00-03:00"

  validation {
    condition     = can(regex("^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$", var.backup_window))
    error_message = "backup_window must be such as 02:00-03:00."
  }
}

variable "maintenance_window" {
  description = "When AWS may maintain the database, in UTC. It must not overlap backup_window."
  type        = string
  default     = "sun:04:00-sun:05:00"

  validation {
    condition     = can(regex("^(mon|tue|wed|thu|fri|sat|sun):([01][0-9]|2[0-3]):[0-5][0-9]-(mon|tue|wed|thu|fri|sat|sun):([01][0-9]|2[0-3]):[0-5][0-9]$", var.maintenance_window))
    error_message = "maintenance_window must be such as sun:04:00-sun:05:00."
  }
}

variable "apply_immediately" {
  description = "Whether changes that take the database away for a while are made at once, and not in the maintenance window."
  type        = bool
  default     = false
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the database. To delete it, apply with false first."
  type        = bool
  default     = true
}

variable "skip_final_snapshot" {
  description = "Whether the database may be deleted without a last snapshot."
  type        = bool
  default     = false
}

variable "final_snapshot_identifier" {
  description = "Name of that last snapshot. null: the name with -final. Where one of a former database is there, give another."
  type        = string
  default     = null

  validation {
    condition     = var.final_snapshot_identifier == null || can(regex("^[a-z](-?[a-z0-9])*$", var.final_snapshot_identifier))
    error_message = "final_snapshot_identifier must begin with a lower-case letter and have lower-case letters, digits and single dashes."
  }
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
