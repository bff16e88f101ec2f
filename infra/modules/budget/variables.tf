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

variable "monthly_usd" {
  description = "What a month may cost, in USD."
  type        = number

  validation {
    condition     = var.monthly_usd >= 1
    error_message = "monthly_usd must be 1 or more."
  }
}

variable "cost_tag" {
  description = "Tag whose costs count, which has to be activated as a cost allocation tag in the account that pays. null: all of the account counts."
  type = object({
    key   = string
    value = string
  })
  default = null

  validation {
    condition     = var.cost_tag == null || try(!strcontains("${var.cost_tag.key}${var.cost_tag.value}", "$") && var.cost_tag.key != "" && var.cost_tag.value != "", false)
    error_message = "cost_tag must have a key and a value, without $."
  }
}

variable "actual_percent" {
  description = "Shares of it, in percent, at which somebody is told that they were spent."
  type        = set(number)
  default     = [50, 80, 100]

  validation {
    condition     = alltrue([for p in var.actual_percent : p > 0 && p <= 1000])
    error_message = "actual_percent must be percentages above 0, at most 1000."
  }
}

variable "forecast_percent" {
  description = "Shares of it, in percent, at which somebody is told that they will be spent by the end of the month. AWS forecasts after five weeks."
  type        = set(number)
  default     = [100]

  validation {
    condition     = alltrue([for p in var.forecast_percent : p > 0 && p <= 1000])
    error_message = "forecast_percent must be percentages above 0, at most 1000."
  }

  validation {
    condition     = length(var.actual_percent) + length(var.forecast_percent) >= 1 && length(var.actual_percent) + length(var.forecast_percent) <= 5
    error_message = "actual_percent and forecast_percent must have one to five percentages together: AWS takes no more."
  }
}

variable "emails" {
  description = "Addresses that are told."
  type        = set(string)
  default     = []

  validation {
    condition     = length(var.emails) <= 10 && alltrue([for e in var.emails : can(regex("^[^@[:space:]]+@[^@[:space:]]+[.][^@[:space:]]+$", e))])
    error_message = "emails must be at most ten addresses, such as ops@example.com."
  }

  validation {
    condition     = length(var.emails) > 0 || var.topic_arn != null
    error_message = "emails or topic_arn must say who is told."
  }
}

variable "topic_arn" {
  description = "Topic of SNS that is told, whose policy, and that of its key, let the service budgets.amazonaws.com in. null: none."
  type        = string
  default     = null

  validation {
    condition     = var.topic_arn == null || can(regex("^arn:aws[a-z-]*:sns:", var.topic_arn))
    error_message = "topic_arn must be the ARN of a topic of SNS."
  }
}
