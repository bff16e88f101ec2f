terraform {
  required_version = ">= 1.10.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

# Plans without an account. For a real one, leave out everything but the region.
provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "example"
  secret_key                  = "example"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true

  default_tags {
    tags = { Deployment = "example", ManagedBy = "terraform" }
  }
}

module "logs" {
  source = "../.."

  bucket         = "example-taskfleet-logs"
  account_id     = "123456789012"
  log_sources    = ["s3", "elb"]
  versioning     = false
  lifecycle_days = { expire = 90 }
}

module "artifacts" {
  source = "../.."

  bucket            = "example-taskfleet-artifacts"
  kms_key_arn       = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
  cors_origins      = ["*"]
  access_log_bucket = module.logs.bucket
  lifecycle_days    = { noncurrent = 7 }
}

# Copies of a mirror: not versioned, and the rules of the bucket are the platform's.
module "mirror" {
  source = "../.."

  bucket         = "example-taskfleet-copies"
  kms_key_arn    = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
  versioning     = false
  lifecycle_days = null
}

output "artifacts" {
  value = module.artifacts.bucket
}
