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
  description = "Region of the service, which is the one of the provider that is passed."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the name of a region of AWS, such as eu-central-1."
  }
}

variable "account_id" {
  description = "Account of the service, for the names in its policies."
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

# Where it runs.

variable "vpc_id" {
  description = "VPC of the balancer and the service."
  type        = string
}

variable "vpc_cidr" {
  description = "IPv4 network of the VPC, in which the database and the broker are."
  type        = string

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr))
    error_message = "vpc_cidr must be an IPv4 network, such as 10.0.0.0/16."
  }
}

variable "public_subnet_ids" {
  description = "Subnets of the balancer, in two zones or more."
  type        = list(string)

  validation {
    condition     = length(var.public_subnet_ids) >= 2
    error_message = "public_subnet_ids must name subnets in two zones or more: an application load balancer does not do with less."
  }
}

variable "private_subnet_ids" {
  description = "Subnets of the tasks. They need a way to the registry of the images, to Secrets Manager, CloudWatch Logs, S3, the database and, for the provisioner, to EC2 and SQS of its regions."
  type        = list(string)

  validation {
    condition     = length(var.private_subnet_ids) >= 1
    error_message = "private_subnet_ids must name at least one subnet."
  }
}

variable "ingress_cidrs" {
  description = "IPv4 networks that may reach the balancer's port 443. The API asks for signed requests, so the whole internet is a fair answer."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = length(var.ingress_cidrs) > 0 && alltrue([for c in var.ingress_cidrs : can(cidrnetmask(c))])
    error_message = "ingress_cidrs must be one or more IPv4 networks, such as 203.0.113.0/24."
  }
}

variable "ingress_ipv6_cidrs" {
  description = "IPv6 networks that may reach port 443. With some the balancer has IPv6 addresses, too, for which its subnets need IPv6."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for c in var.ingress_ipv6_cidrs : can(cidrhost(c, 0)) && strcontains(c, ":")])
    error_message = "ingress_ipv6_cidrs must be IPv6 networks, such as ::/0."
  }
}

variable "certificate_arn" {
  description = "Certificate of ACM, in this region, for the host of root_url."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:acm:", var.certificate_arn))
    error_message = "certificate_arn must be the ARN of a certificate of ACM, as module dns puts it out."
  }
}

variable "access_log_bucket" {
  description = "Bucket for the balancer's access logs, encrypted by S3 itself (SSE-S3), whose policy lets the service logdelivery.elasticloadbalancing.amazonaws.com write. null: no access logs."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether the balancer refuses to be deleted. Its name is what DNS points to."
  type        = bool
  default     = true
}

# What runs.

variable "image" {
  description = "Image of the server to begin with, by digest or by a tag that does not move. It has the program taskfleet on its PATH and needs nothing else. Releases by stacks replace it."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9./:_-]*(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9._-]*)$", var.image)) && !endswith(var.image, ":latest")
    error_message = "image must have a tag other than latest, or a digest: what runs may change only with the configuration."
  }
}

variable "files_image" {
  description = "Image that brings secrets to the server as files: the AWS command line with a shell, curl and coreutils. Subnets without a way to the internet need a copy of it in the account's registry."
  type        = string
  default     = "public.ecr.aws/aws-cli/aws-cli:2.27.49"

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9./:_-]*(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9._-]*)$", var.files_image)) && !endswith(var.files_image, ":latest")
    error_message = "files_image must have a tag other than latest, or a digest."
  }
}

variable "architecture" {
  description = "Processor of the images: ARM64 or X86_64."
  type        = string
  default     = "ARM64"

  validation {
    condition     = contains(["ARM64", "X86_64"], var.architecture)
    error_message = "architecture must be ARM64 or X86_64."
  }
}

variable "cpu" {
  description = "Processor of a replica in units of Fargate; 1024 are one vCPU."
  type        = number
  default     = 1024

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.cpu)
    error_message = "cpu must be one that Fargate has: 256, 512, 1024, 2048, 4096, 8192 or 16384."
  }
}

variable "memory" {
  description = "Memory of a replica in MiB. Fargate has 2 to 8 times the processor's units, in certain steps."
  type        = number
  default     = 2048

  validation {
    condition = contains(lookup({
      "256"   = [512, 1024, 2048]
      "512"   = [1024, 2048, 3072, 4096]
      "1024"  = range(2048, 8193, 1024)
      "2048"  = range(4096, 16385, 1024)
      "4096"  = range(8192, 30721, 1024)
      "8192"  = range(16384, 61441, 4096)
      "16384" = range(32768, 122881, 8192)
    }, tostring(var.cpu), []), var.memory)
    error_message = "memory must be one that Fargate has beside the cpu: for 1024 units of cpu 2048 to 8192 MiB in steps of 1024, for 2048 units 4096 to 16384, for 4096 units 8192 to 30720."
  }
}

variable "min_replicas" {
  description = "Replicas that there are at least, to begin with: stacks changes them. With two, a restart or a lost zone goes unnoticed."
  type        = number
  default     = 2

  validation {
    condition     = var.min_replicas >= 1 && floor(var.min_replicas) == var.min_replicas
    error_message = "min_replicas must be a whole number, 1 or more."
  }
}

variable "max_replicas" {
  description = "Replicas that there are at most, to begin with: stacks changes them. Each may have 17 connections to the database."
  type        = number
  default     = 6

  validation {
    condition     = var.max_replicas >= var.min_replicas && floor(var.max_replicas) == var.max_replicas
    error_message = "max_replicas must be a whole number, min_replicas or more."
  }
}

variable "cpu_target" {
  description = "Percentage of the processor that autoscaling aims at."
  type        = number
  default     = 60

  validation {
    condition     = var.cpu_target >= 10 && var.cpu_target <= 90
    error_message = "cpu_target must be 10 to 90 percent."
  }
}

variable "requests_per_target" {
  description = "Requests a minute to a replica that autoscaling aims at. A worker that waits for work makes three a minute."
  type        = number
  default     = 30000

  validation {
    condition     = var.requests_per_target >= 100
    error_message = "requests_per_target must be 100 a minute or more; each waiting worker alone makes three."
  }
}

# How it is configured.

variable "root_url" {
  description = "How clients and workers reach the platform: https:// and the host of the certificate."
  type        = string

  validation {
    condition     = can(regex("^https://[a-z0-9.-]+$", var.root_url))
    error_message = "root_url must be https:// and a host, without a path or a slash at the end, such as https://tasks.example.com."
  }
}

variable "artifact_bucket" {
  description = "Name of the bucket for artifacts."
  type        = string
}

variable "artifact_bucket_region" {
  description = "Region of that bucket. null: the one of the service."
  type        = string
  default     = null
}

variable "configuration" {
  description = "More of the server's configuration, as its file has it (taskfleet config --help): providers, mirror, notify and others. No secret goes here, since the task definition shows it: entries name files of secret_files in /etc/taskfleet/secrets, or are in a secret of secret_configuration_arns."
  type        = any
  default     = {}

  validation {
    condition     = can(keys(var.configuration)) && length(setintersection(try(keys(var.configuration), []), ["data", "listen", "rootUrl", "database", "secretsFile", "s3", "metricsToken", "logFormat"])) == 0
    error_message = "configuration must be an object without data, listen, rootUrl, database, secretsFile, s3, metricsToken and logFormat, which the module sets itself."
  }

  validation {
    condition     = try(length(yamlencode(var.configuration)), 0) <= 24576
    error_message = "configuration must have at most 24576 characters as YAML: a task definition holds no more than 64 KiB."
  }
}

variable "secret_configuration_arns" {
  description = "Secrets with more sections of the configuration as YAML, such as notify, auth and clients: each section is in one of them, or in configuration. They are read when a replica starts. One without a value adds nothing."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.secret_configuration_arns : can(regex("^arn:aws[a-z-]*:secretsmanager:", a))])
    error_message = "secret_configuration_arns must be ARNs of secrets of Secrets Manager."
  }
}

variable "server_secret_arn" {
  description = "Secret whose value is the file of secrets that replicas share, as taskfleet config secrets prints it."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:secretsmanager:", var.server_secret_arn))
    error_message = "server_secret_arn must be the ARN of a secret of Secrets Manager."
  }
}

variable "metrics_secret_arn" {
  description = "Secret whose value is the bearer token of /metrics, any 22 characters or more."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:secretsmanager:", var.metrics_secret_arn))
    error_message = "metrics_secret_arn must be the ARN of a secret of Secrets Manager."
  }
}

variable "database" {
  description = "PostgreSQL: its host, port and database, and the secret with a JSON object of username and password, as RDS makes it. When the secret changes, replicas take it without a restart."
  type = object({
    host       = string
    port       = optional(number, 5432)
    name       = string
    secret_arn = string
  })

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:secretsmanager:", var.database.secret_arn))
    error_message = "database.secret_arn must be the ARN of a secret of Secrets Manager, as module database puts it out."
  }
}

variable "database_ca_pem" {
  description = "Certificates that the database's is checked against, in PEM. null: those that AWS publishes for RDS in the region, fetched at the start of each replica, for which it needs a way to the internet."
  type        = string
  default     = null

  validation {
    condition     = var.database_ca_pem == null || (can(regex("-----BEGIN CERTIFICATE-----", var.database_ca_pem)) && length(coalesce(var.database_ca_pem, "-")) <= 16384)
    error_message = "database_ca_pem must be certificates in PEM of at most 16384 characters: the bundle of one region, not that of all."
  }
}

variable "secret_files" {
  description = "Further secrets as files: name of a file in /etc/taskfleet/secrets, and ARN of the secret with its content. They are written anew within refresh_seconds of a change."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for f, a in var.secret_files : can(regex("^[a-z0-9][a-z0-9._-]{0,60}$", f)) && !contains(["server.json", "database.json", "rds-ca.pem"], f) && can(regex("^arn:aws[a-z-]*:secretsmanager:", a))])
    error_message = "secret_files must map names of files, other than server.json, database.json and rds-ca.pem, to ARNs of secrets of Secrets Manager."
  }
}

variable "secret_kms_key_arns" {
  description = "Keys of KMS that the secrets are encrypted with, unless it is AWS's own."
  type        = list(string)
  default     = []
}

variable "refresh_seconds" {
  description = "How often secrets are looked at for changes. A password that RDS has replaced fails for as long."
  type        = number
  default     = 60

  validation {
    condition     = var.refresh_seconds >= 15 && var.refresh_seconds <= 3600
    error_message = "refresh_seconds must be 15 to 3600."
  }
}

variable "environment" {
  description = "Further environment variables of the server, such as GOMEMLIMIT. No secret goes here."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for k in keys(var.environment) : can(regex("^[A-Z_][A-Z0-9_]*$", k)) && !can(regex("TOKEN|SECRET|PASSWORD|_KEY|DATABASE$|RABBITMQ_URL$", k))])
    error_message = "environment must have upper-case names, none of which is a secret's (TOKEN, SECRET, PASSWORD, KEY, DATABASE, RABBITMQ_URL): use secret_files."
  }
}

# What it may do.

variable "task_policy_arns" {
  description = "Policies of the server's role by names of your choice, as module iam makes them."
  type        = map(string)
  default     = {}
}

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the roles. null: none."
  type        = string
  default     = null
}

# What is kept of it.

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
  description = "Key of KMS for the logs, whose policy lets the service logs of the region use it. null: CloudWatch's own encryption."
  type        = string
  default     = null
}
