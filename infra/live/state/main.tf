# The bucket that Terraform's states are in, and the key that they are encrypted with. `taskfleet infra bootstrap` applies this.

terraform {
  required_version = ">= 1.10.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = { Deployment = var.name, ManagedBy = "terraform" }
  }
}

module "access_logs" {
  source = "../../modules/bucket"

  bucket         = "${var.bucket}-logs"
  account_id     = var.account_id
  log_sources    = ["s3"]
  versioning     = false
  lifecycle_days = { expire = 365, abort_multipart = 7 }
}

module "state" {
  source = "../../modules/state"

  name              = var.name
  account_id        = var.account_id
  region            = var.region
  bucket            = var.bucket
  access_log_bucket = module.access_logs.bucket
}
