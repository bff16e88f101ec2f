# Alarms for everything there can be.

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

module "observability" {
  source = "../.."

  name        = "taskfleet-example"
  tags        = { Deployment = "example" }
  region      = "eu-central-1"
  account_id  = "123456789012"
  kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  emails      = ["ops@example.com"]
  broker_name = "taskfleet-example"

  service = {
    alb_arn_suffix          = "app/taskfleet-example/0123456789abcdef"
    target_group_arn_suffix = "targetgroup/fleet-0123456789abcdef/0123456789abcdef"
    cluster_name            = "taskfleet-example"
    service_name            = "taskfleet-example"
    min_replicas            = 2
    log_group               = "/taskfleet/taskfleet-example"
  }

  database = {
    instance_id     = "taskfleet-example"
    storage_gib     = 200
    max_connections = 800
  }

  queues = {
    here = { name = "taskfleet-example", dead = "taskfleet-example-dead" }
  }
}

output "topic_arn" {
  description = "Topic of the alarms."
  value       = module.observability.topic_arn
}
