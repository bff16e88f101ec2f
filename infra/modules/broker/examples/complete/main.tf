# A cluster of three nodes.

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

variable "password" {
  description = "Password of the first administrator. The default is for looking at the plan only."
  type        = string
  sensitive   = true
  default     = "only-for-the-plan"
}

module "broker" {
  source = "../.."

  name                      = "taskfleet-example"
  tags                      = { Deployment = "example" }
  vpc_id                    = "vpc-0123456789abcdef0"
  subnet_ids                = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1", "subnet-0123456789abcdef2"]
  cluster                   = true
  engine_version            = "4.2"
  instance_type             = "mq.m7g.large"
  client_security_group_ids = { service = "sg-0123456789abcdef0" }
  username                  = "taskfleet"
  kms_key_arn               = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  password                  = var.password
  maintenance               = { day = "TUESDAY", time = "04:00" }
}

output "endpoints" {
  description = "Where the broker speaks AMQP."
  value       = module.broker.endpoints
}
