# Events of one region, with a key of one's own.

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
  region                      = "eu-central-1"
  access_key                  = "example"
  secret_key                  = "example"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
}

module "events" {
  source = "../.."

  name              = "taskfleet-example"
  tags              = { Deployment = "example" }
  region            = "eu-central-1"
  account_id        = "123456789012"
  kms_key_arn       = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  retention_seconds = 3600
}

output "queue_url" {
  description = "URL of the queue."
  value       = module.events.queue_url
}
