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

module "network" {
  source = "../.."

  name               = "taskfleet-example"
  region             = "eu-central-1"
  account_id         = "123456789012"
  cidr               = "10.20.0.0/16"
  availability_zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  nat                = "per-zone"
  ipv6               = true
  endpoints          = ["sqs", "secretsmanager"]
  log_kms_key_arn    = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
}

# A network that nothing leaves but to services of AWS.
module "closed" {
  source = "../.."

  name               = "taskfleet-closed"
  region             = "eu-central-1"
  account_id         = "123456789012"
  availability_zones = ["eu-central-1a", "eu-central-1b"]
  nat                = "none"
  flow_logs          = false
}

output "private_subnet_ids" {
  value = module.network.private_subnet_ids
}
