variable "name" {
  description = "Name of the deployment."
  type        = string
}

variable "account_id" {
  description = "Account of AWS."
  type        = string
}

variable "region" {
  description = "Region of the provider that is passed."
  type        = string
}

variable "home" {
  description = "Whether this is the region of the server and the artifacts."
  type        = bool
}

variable "bucket_prefix" {
  description = "Beginning of the names of buckets."
  type        = string
}

variable "network" {
  description = "The network and its zones."
  type        = object({ cidr = string, availability_zones = list(string) })
}

variable "nat" {
  description = "NAT gateways: per-zone or one."
  type        = string
}

variable "permissions_boundary_arn" {
  description = "Boundary of the roles."
  type        = string
}
