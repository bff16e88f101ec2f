# Policies of everything there can be, and a role for deployments from GitHub.

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

locals {
  account = "123456789012"
  key     = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
}

module "iam" {
  source = "../.."

  name       = "taskfleet-example"
  tags       = { Deployment = "example" }
  account_id = local.account
  regions    = ["eu-central-1", "us-east-1"]
  cluster    = "example"

  artifact_bucket     = "example-artifacts"
  mirror_buckets      = ["example-copies-us-east-1"]
  bucket_kms_key_arns = [local.key]

  event_queue_arns           = ["arn:aws:sqs:eu-central-1:123456789012:taskfleet-example"]
  event_queue_kms_key_arns   = [local.key]
  worker_subnet_arns         = ["arn:aws:ec2:eu-central-1:123456789012:subnet/subnet-0123456789abcdef0"]
  worker_security_group_arns = ["arn:aws:ec2:eu-central-1:123456789012:security-group/sg-0123456789abcdef0"]
  image_owners               = ["amazon", "210987654321"]
  image_parameters           = ["/taskfleet/"]
  worker_role_arns           = ["arn:aws:iam::123456789012:role/taskfleet-example-worker-eu-central-1"]
  volume_kms_key_arns        = [local.key]

  seal_key_arns         = [local.key]
  assumable_role_arns   = ["arn:aws:iam::123456789012:role/builds-reader"]
  published_secret_arns = ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:builds-AbCdEf"]
  rotated_user_arns     = ["arn:aws:iam::123456789012:user/builds"]
  database_login_arns   = ["arn:aws:rds-db:eu-central-1:123456789012:dbuser:db-ABCDEFGHIJKLMNOPQRSTUVWXYZ/rotator"]
  email_identity_arns   = ["arn:aws:ses:eu-central-1:123456789012:identity/example.com"]

  deploy = {
    subjects          = ["repo:example/infrastructure:environment:production"]
    state_bucket      = "example-state"
    state_kms_key_arn = local.key
    hosted_zone_ids   = ["Z0123456789ABCDEFGHIJ"]
  }
}

output "policy_arns" {
  description = "Policies of the server's role."
  value       = module.iam.policy_arns
}
