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

variable "partition" {
  description = "Partition of AWS: aws, aws-cn or aws-us-gov."
  type        = string
  default     = "aws"

  validation {
    condition     = contains(["aws", "aws-cn", "aws-us-gov"], var.partition)
    error_message = "partition must be aws, aws-cn or aws-us-gov."
  }
}

variable "regions" {
  description = "Regions with workers. The provisioner may act in no other."
  type        = list(string)

  validation {
    condition     = length(var.regions) > 0 && alltrue([for r in var.regions : can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", r))])
    error_message = "regions must name one region or more, such as eu-central-1."
  }
}

variable "cluster" {
  description = "Name of the provider's cluster in the server's configuration, the tag taskfleet-cluster of all that the provisioner makes. No two deployments of an account have the same."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", var.cluster))
    error_message = "cluster must have 1 to 63 letters, digits, dots, dashes and underscores."
  }
}

variable "artifact_bucket" {
  description = "Name of the bucket for artifacts."
  type        = string
}

variable "mirror_buckets" {
  description = "Names of the buckets of copies. Empty: no mirror."
  type        = list(string)
  default     = []
}

variable "other_buckets" {
  description = "Names of the deployment's further buckets, such as those of access logs, for the role that deploys."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for b in var.other_buckets : can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", b))])
    error_message = "other_buckets must be names of buckets, without wildcards."
  }
}

variable "bucket_kms_key_arns" {
  description = "Keys of KMS of all these buckets, one or more a region."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.bucket_kms_key_arns : can(regex("^arn:aws[a-z-]*:kms:", a))])
    error_message = "bucket_kms_key_arns must be ARNs that begin with arn:aws:kms:."
  }
}

variable "event_queue_arns" {
  description = "Queues of EC2's events, as module events makes them."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.event_queue_arns : can(regex("^arn:aws[a-z-]*:sqs:", a))])
    error_message = "event_queue_arns must be ARNs that begin with arn:aws:sqs:."
  }
}

variable "event_queue_kms_key_arns" {
  description = "Keys of KMS that these queues are encrypted with, unless it is SQS's own."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.event_queue_kms_key_arns : can(regex("^arn:aws[a-z-]*:kms:", a))])
    error_message = "event_queue_kms_key_arns must be ARNs that begin with arn:aws:kms:."
  }
}

variable "worker_subnet_arns" {
  description = "Subnets that workers may be in."
  type        = list(string)

  validation {
    condition     = alltrue([for a in var.worker_subnet_arns : can(regex("^arn:aws[a-z-]*:ec2:", a))])
    error_message = "worker_subnet_arns must be ARNs that begin with arn:aws:ec2:."
  }
}

variable "worker_security_group_arns" {
  description = "Security groups that workers may have."
  type        = list(string)

  validation {
    condition     = alltrue([for a in var.worker_security_group_arns : can(regex("^arn:aws[a-z-]*:ec2:", a))])
    error_message = "worker_security_group_arns must be ARNs that begin with arn:aws:ec2:."
  }
}

variable "image_owners" {
  description = "Accounts whose images workers may be made of, beside this one: 12 digits, or amazon for Amazon's own."
  type        = list(string)
  default     = ["amazon"]

  validation {
    condition     = alltrue([for o in var.image_owners : can(regex("^([0-9]{12}|amazon)$", o))])
    error_message = "image_owners must be accounts of 12 digits, or amazon. Who may make images for your workers may do what your workers may."
  }
}

variable "worker_role_arns" {
  description = "Roles of instance profiles that pools may give to machines. Empty: none."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.worker_role_arns : can(regex("^arn:aws[a-z-]*:iam:", a))])
    error_message = "worker_role_arns must be ARNs that begin with arn:aws:iam:."
  }
}

variable "volume_kms_key_arns" {
  description = "Keys of KMS that volumes of workers are encrypted with, or their images. AWS's own needs none."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.volume_kms_key_arns : can(regex("^arn:aws[a-z-]*:kms:", a))])
    error_message = "volume_kms_key_arns must be ARNs that begin with arn:aws:kms:."
  }
}

variable "image_parameters" {
  description = "Parameters of Systems Manager with images, by the beginning of their names, for pools with imageParameter. Empty: none, and neither AWS's public ones."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for p in var.image_parameters : can(regex("^/[A-Za-z0-9/._-]+/$", p)) && !startswith(p, "/aws/")])
    error_message = "image_parameters must be paths that begin and end with a slash, such as /taskfleet/, and are not AWS's: those come with any."
  }
}

variable "seal_key_arns" {
  description = "Keys of KMS that the seal keys are wrapped with. Empty: they are not."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.seal_key_arns : can(regex("^arn:aws[a-z-]*:kms:", a))])
    error_message = "seal_key_arns must be ARNs that begin with arn:aws:kms:."
  }
}

variable "assumable_role_arns" {
  description = "Roles that the server takes: of other accounts of the provider, and of credentials of the kind aws-session."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.assumable_role_arns : can(regex("^arn:aws[a-z-]*:iam:", a))])
    error_message = "assumable_role_arns must be ARNs that begin with arn:aws:iam:."
  }
}

variable "published_secret_arns" {
  description = "Secrets of Secrets Manager that are consumers of credentials which the server rotates."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.published_secret_arns : can(regex("^arn:aws[a-z-]*:secretsmanager:", a))])
    error_message = "published_secret_arns must be ARNs that begin with arn:aws:secretsmanager:."
  }
}

variable "published_secret_kms_key_arns" {
  description = "Keys of KMS that those secrets are encrypted with, unless it is AWS's own."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.published_secret_kms_key_arns : can(regex("^arn:aws[a-z-]*:kms:", a))])
    error_message = "published_secret_kms_key_arns must be ARNs that begin with arn:aws:kms:."
  }
}

variable "secret_arns" {
  description = "Secrets that the server reads whose names do not begin with the deployment's and a slash, such as those of secret_configuration_arns of module service: the boundary lets through no others."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.secret_arns : can(regex("^arn:aws[a-z-]*:secretsmanager:", a))])
    error_message = "secret_arns must be ARNs that begin with arn:aws:secretsmanager:."
  }
}

variable "rotated_user_arns" {
  description = "IAM users whose access keys the server rotates (aws-access-key)."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.rotated_user_arns : can(regex("^arn:aws[a-z-]*:iam:", a))])
    error_message = "rotated_user_arns must be ARNs that begin with arn:aws:iam:."
  }
}

variable "database_login_arns" {
  description = "Users of databases that the server logs in as to rotate others, such as arn:aws:rds-db:REGION:ACCOUNT:dbuser:RESOURCE/rotator."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.database_login_arns : can(regex("^arn:aws[a-z-]*:rds-db:", a))])
    error_message = "database_login_arns must be ARNs that begin with arn:aws:rds-db:."
  }
}

variable "email_identity_arns" {
  description = "Identities of SES that notifications are sent from."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.email_identity_arns : can(regex("^arn:aws[a-z-]*:ses:", a))])
    error_message = "email_identity_arns must be ARNs that begin with arn:aws:ses:."
  }
}

variable "deploy" {
  description = <<-TEXT
    Who may deploy from GitHub, without a key that could be lost: subjects are claims such as
    repo:example/infrastructure:environment:production. State is where Terraform's is kept. With an oidc_provider_arn
    the account has the provider for token.actions.githubusercontent.com already; an account can have only one.
    null: no role.
  TEXT
  type = object({
    subjects          = list(string)
    state_bucket      = string
    state_kms_key_arn = string
    oidc_provider_arn = optional(string)
    hosted_zone_ids   = optional(list(string), [])
  })
  default = null

  validation {
    condition     = var.deploy == null || (length(try(var.deploy.subjects, [])) > 0 && alltrue([for s in try(var.deploy.subjects, []) : can(regex("^repo:[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+:(environment:[A-Za-z0-9_.-]+|ref:refs/(heads|tags)/[A-Za-z0-9_./-]+)$", s))]))
    error_message = "deploy.subjects must name a repository and an environment or a ref, without wildcards, such as repo:example/infrastructure:environment:production: whoever can open a pull request could deploy otherwise."
  }

  validation {
    condition     = var.deploy == null || can(regex("^arn:aws[a-z-]*:kms:", var.deploy.state_kms_key_arn))
    error_message = "deploy.state_kms_key_arn must be the ARN of a key of KMS, as module state puts it out."
  }
}
