# Workers of one region, with everything set.

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

module "workers" {
  source = "../.."

  name               = "taskfleet-example"
  tags               = { Deployment = "example" }
  region             = "eu-central-1"
  account_id         = "123456789012"
  vpc_id             = "vpc-0123456789abcdef0"
  egress_cidrs       = ["0.0.0.0/0"]
  egress_ports       = [80, 443]
  volume_key         = { arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555" }
  encrypt_by_default = true
  volume_gib         = 128
  root_device_name   = "/dev/sda1"
  session_manager    = true
  log_retention_days = 30

  permissions_boundary_arn = "arn:aws:iam::123456789012:policy/taskfleet-example-boundary"
}

output "security_group_id" {
  description = "Security group of workers."
  value       = module.workers.security_group_id
}
