variable "bucket" {
  description = "Name of the bucket. It is the world's: begin it with something of yours, such as example-taskfleet-prod-artifacts."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket must have 3 to 63 lower-case letters, digits and dashes, and begin and end with a letter or digit. S3 takes dots as well, but certificates do not fit names with dots."
  }
}

variable "tags" {
  description = "Tags of the bucket, beside Name."
  type        = map(string)
  default     = {}
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

variable "kms_key_arn" {
  description = "Key of KMS, in the bucket's region, that objects are encrypted with. Needed unless there are log_sources: logs are encrypted with S3's own keys."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key, as module kms puts it out."
  }

  validation {
    condition     = (var.kms_key_arn == null) == (length(var.log_sources) > 0)
    error_message = "kms_key_arn is needed, unless the bucket has log_sources; then leave it out, as nobody could write logs."
  }
}

variable "versioning" {
  description = "Whether what is overwritten or deleted is kept, for noncurrent_days of lifecycle_days. Leave it off for buckets of a mirror, whose copies can be made anew."
  type        = bool
  default     = true
}

variable "lifecycle_days" {
  description = "Days after which S3 by itself deletes objects (expire; null: never), versions that were overwritten or deleted (noncurrent), and parts of uploads that nobody has finished (abort_multipart). lifecycle_days = null leaves the rules of the bucket to others: the platform writes its own rule to the buckets of a mirror."
  type = object({
    expire          = optional(number)
    noncurrent      = optional(number, 30)
    abort_multipart = optional(number, 7)
  })
  default = {}

  validation {
    condition     = alltrue([for d in var.lifecycle_days == null ? [] : [var.lifecycle_days.expire, var.lifecycle_days.noncurrent, var.lifecycle_days.abort_multipart] : d == null || try(d >= 1 && floor(d) == d, false)])
    error_message = "expire, noncurrent and abort_multipart of lifecycle_days must be whole numbers of days, 1 or more."
  }
}

variable "cors_origins" {
  description = "Origins whose web pages may read objects that they have a URL for, such as https://tasks.example.com or *. None: no web page."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for o in var.cors_origins : o == "*" || can(regex("^https?://[a-z0-9*.-]+(:[0-9]+)?$", o))])
    error_message = "cors_origins must be * or origins such as https://tasks.example.com, without a path or a slash at the end."
  }
}

variable "access_log_bucket" {
  description = "Bucket that S3 writes access logs to, made with log_sources = [\"s3\"] in the same region and account. null: no access logs."
  type        = string
  default     = null

  validation {
    condition     = var.access_log_bucket != var.bucket
    error_message = "access_log_bucket must be another bucket: logs of the writing of logs have no end."
  }
}

variable "log_sources" {
  description = "Who may write logs to this bucket: s3 (access logs of other buckets), elb (of balancers). Needs account_id."
  type        = set(string)
  default     = []

  validation {
    condition     = length(setsubtract(var.log_sources, ["s3", "elb"])) == 0
    error_message = "log_sources may have s3 and elb."
  }

  validation {
    condition     = length(var.log_sources) == 0 || var.account_id != null
    error_message = "log_sources need account_id, so that nobody else's logs are let in."
  }
}

variable "account_id" {
  description = "Account whose logs are let in. Only needed with log_sources."
  type        = string
  default     = null

  validation {
    condition     = var.account_id == null || can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id must be the 12 digits of an AWS account, as a string."
  }
}

variable "force_destroy" {
  description = "Whether the bucket may be deleted with all that is in it. Leave it off: then the deletion of a bucket that is not empty fails."
  type        = bool
  default     = false
}
