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
  region                      = "us-east-1"
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

module "budget" {
  source = "../.."

  name        = "taskfleet-example"
  monthly_usd = 2500
  cost_tag    = { key = "Deployment", value = "example" }
  emails      = ["ops@example.com"]
  topic_arn   = "arn:aws:sns:us-east-1:123456789012:taskfleet-example"
}

output "budget_name" {
  value = module.budget.budget_name
}
