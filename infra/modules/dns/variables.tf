variable "name" {
  description = "Name of the deployment, such as taskfleet-prod."
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

variable "zone_id" {
  description = "Public hosted zone of Route 53 that the host is in."
  type        = string

  validation {
    condition     = can(regex("^Z[A-Z0-9]{1,31}$", var.zone_id))
    error_message = "zone_id must be the id of a hosted zone, such as Z0123456789ABCDEFGHIJ."
  }
}

variable "hostname" {
  description = "Host of the root URL, such as tasks.example.com."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,63}$", var.hostname)) && length(var.hostname) <= 253
    error_message = "hostname must be a whole name of lower-case letters, digits, dashes and dots, without one at the end, such as tasks.example.com."
  }

  validation {
    condition     = length(var.hostname) <= 64
    error_message = "hostname must have at most 64 characters, as the first name of a certificate."
  }
}

variable "alb" {
  description = "Load balancer that the host points to, as module service puts it out; with ipv6 by IPv6 as well. null: the certificate alone."
  type = object({
    dns_name = string
    zone_id  = string
    ipv6     = optional(bool, false)
  })
  default = null
}
