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

variable "vpc_id" {
  description = "VPC of the broker."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets: one for a single instance; for a cluster one or more, each in a zone of its own."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 1 && (var.cluster || length(var.subnet_ids) == 1)
    error_message = "subnet_ids must name exactly one subnet for a single instance (cluster = false), one or more for a cluster."
  }
}

variable "cluster" {
  description = "Whether there are three nodes in three zones instead of one. Changing it makes another broker."
  type        = bool
  default     = true
}

variable "engine_version" {
  description = "Version of RabbitMQ, major and minor; AWS brings the patches."
  type        = string
  default     = "3.13"

  validation {
    condition     = can(regex("^(3\\.13|4\\.[0-9]+)$", var.engine_version))
    error_message = "engine_version must be 3.13, or 4 and a minor version, such as 4.2."
  }
}

variable "instance_type" {
  description = "Machine of each node. Changing it reboots the broker, node by node if there are three."
  type        = string
  default     = "mq.m7g.large"

  validation {
    condition     = can(regex("^mq\\.(t3\\.micro|m5\\.(large|xlarge|2xlarge|4xlarge)|m7g\\.(medium|large|xlarge|2xlarge|4xlarge|8xlarge|12xlarge|16xlarge))$", var.instance_type))
    error_message = "instance_type must be one that Amazon MQ has for RabbitMQ: mq.m7g.large and the like."
  }

  validation {
    condition     = var.instance_type != "mq.t3.micro" || !var.cluster
    error_message = "mq.t3.micro is for single instances only; a cluster takes mq.m7g.large or more."
  }

  validation {
    condition     = startswith(var.engine_version, "3.") || startswith(var.instance_type, "mq.m7g.")
    error_message = "RabbitMQ 4 runs on mq.m7g machines only."
  }
}

variable "client_security_group_ids" {
  description = "Security groups that may speak AMQP to the broker and use its console, by names of your choice: the server's, consumers'."
  type        = map(string)

  validation {
    condition     = length(var.client_security_group_ids) > 0
    error_message = "client_security_group_ids must name at least one security group, or nobody reaches the broker."
  }
}

variable "username" {
  description = "Name of the broker's first administrator."
  type        = string
  default     = "taskfleet"

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._~-]{1,99}$", var.username)) && var.username != "guest"
    error_message = "username must have 2 to 100 letters, digits, dots, dashes, underscores and tildes, and not be guest."
  }
}

variable "password" {
  description = "Password of that administrator at the broker's creation; later values are passed over. null: AWS makes one up. It is kept in a secret, and in Terraform's state, since Amazon MQ takes it in no other way: replace it by a credential of the kind rabbitmq."
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.password == null || (length(coalesce(var.password, "-")) >= 12 && length(coalesce(var.password, "-")) <= 250 && length(distinct(split("", coalesce(var.password, "-")))) >= 4 && !can(regex("[,:=\\s]", var.password)))
    error_message = "password must have 12 to 250 characters, four different ones at least, and no comma, colon, equals sign or space."
  }
}

variable "kms_key_arn" {
  description = "Key of KMS for the secret with that password. null: AWS's own for Secrets Manager. Brokers of RabbitMQ themselves take no key."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key of KMS, not an alias, as module kms puts it out."
  }
}

variable "maintenance" {
  description = "Hour of the week (UTC) in which AWS may bring patches."
  type        = object({ day = string, time = string })
  default     = { day = "SUNDAY", time = "03:00" }

  validation {
    condition     = contains(["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"], var.maintenance.day) && can(regex("^([01][0-9]|2[0-3]):[0-5][0-9]$", var.maintenance.time))
    error_message = "maintenance must have a day, such as SUNDAY, and a time, such as 03:00."
  }
}
