# What each region has: a network, what workers stand on, EC2's events, and a bucket of copies unless it is the home region.

terraform {
  required_version = ">= 1.10.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

module "kms" {
  source = "../../../modules/kms"

  name       = var.name
  purpose    = "data"
  account_id = var.account_id
  region     = var.region
  services   = ["logs", "events", "cloudwatch", "budgets"]
}

module "network" {
  source = "../../../modules/network"

  name                     = var.name
  region                   = var.region
  account_id               = var.account_id
  cidr                     = var.network.cidr
  availability_zones       = var.network.availability_zones
  nat                      = var.nat
  log_kms_key_arn          = module.kms.key_arn
  permissions_boundary_arn = var.permissions_boundary_arn
}

module "workers" {
  source = "../../../modules/workers"

  name                     = var.name
  region                   = var.region
  account_id               = var.account_id
  vpc_id                   = module.network.vpc_id
  log_kms_key_arn          = module.kms.key_arn
  permissions_boundary_arn = var.permissions_boundary_arn
}

module "events" {
  source = "../../../modules/events"

  name        = var.name
  region      = var.region
  account_id  = var.account_id
  kms_key_arn = module.kms.key_arn
}

module "access_logs" {
  source = "../../../modules/bucket"

  bucket         = "${var.bucket_prefix}-logs-${var.region}"
  account_id     = var.account_id
  log_sources    = var.home ? ["s3", "elb"] : ["s3"]
  versioning     = false
  lifecycle_days = { expire = 365, abort_multipart = 7 }
}

# Copies can be made anew: no versions. The platform writes a rule of its own, so that rules are left to it.
module "mirror" {
  source = "../../../modules/bucket"
  count  = var.home ? 0 : 1

  bucket            = "${var.bucket_prefix}-copies-${var.region}"
  kms_key_arn       = module.kms.key_arn
  versioning        = false
  lifecycle_days    = null
  cors_origins      = ["*"] # of signed URLs, which pages of the artifact bucket lead to
  access_log_bucket = module.access_logs.bucket
}
