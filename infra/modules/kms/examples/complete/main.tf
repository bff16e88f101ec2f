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

module "kms" {
  source = "../.."

  name           = "taskfleet-example"
  purpose        = "data"
  account_id     = "123456789012"
  region         = "eu-central-1"
  administrators = ["arn:aws:iam::123456789012:role/administrator"]
  users          = ["arn:aws:iam::123456789012:role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"]
  services       = ["logs", "cloudwatch", "budgets", "events"]
}

output "key_arn" {
  value = module.kms.key_arn
}
