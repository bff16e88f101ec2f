# A service with everything set, to look at its plan without an account.

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
  secrets = "arn:aws:secretsmanager:eu-central-1:123456789012:secret"
}

module "service" {
  source = "../.."

  name               = "taskfleet-example"
  tags               = { Deployment = "example" }
  region             = "eu-central-1"
  account_id         = "123456789012"
  vpc_id             = "vpc-0123456789abcdef0"
  vpc_cidr           = "10.0.0.0/16"
  public_subnet_ids  = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  private_subnet_ids = ["subnet-0123456789abcdef2", "subnet-0123456789abcdef3"]
  ingress_cidrs      = ["203.0.113.0/24", "198.51.100.0/24"]
  ingress_ipv6_cidrs = ["2001:db8::/32"]
  certificate_arn    = "arn:aws:acm:eu-central-1:123456789012:certificate/11111111-2222-3333-4444-555555555555"
  access_log_bucket  = "example-access-logs"

  image               = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/taskfleet:1.4.0"
  files_image         = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/aws-cli:2.27.49"
  architecture        = "ARM64"
  cpu                 = 2048
  memory              = 4096
  min_replicas        = 2
  max_replicas        = 8
  cpu_target          = 55
  requests_per_target = 20000

  root_url            = "https://tasks.example.com"
  artifact_bucket     = "example-artifacts"
  server_secret_arn   = "${local.secrets}:taskfleet-example/server-AbCdEf"
  metrics_secret_arn  = "${local.secrets}:taskfleet-example/metrics-AbCdEf"
  secret_files        = { rabbitmq = "${local.secrets}:taskfleet-example/rabbitmq-AbCdEf" }
  secret_kms_key_arns = ["arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"]
  environment         = { GOMEMLIMIT = "3500MiB" }

  secret_configuration_arns = ["${local.secrets}:taskfleet-example/notify-AbCdEf"]

  configuration = {
    rabbitmq = { urlFile = "/etc/taskfleet/secrets/rabbitmq" }
    providers = {
      aws = { type = "aws", cluster = "example", regions = ["eu-central-1"], accounts = [{ id = "123456789012" }] }
    }
  }

  database = {
    host       = "example.abcdefghijkl.eu-central-1.rds.amazonaws.com"
    name       = "taskfleet"
    secret_arn = "${local.secrets}:rds!db-11111111-AbCdEf"
  }

  task_policy_arns         = { provisioner = "arn:aws:iam::123456789012:policy/taskfleet-example-provisioner" }
  permissions_boundary_arn = "arn:aws:iam::123456789012:policy/taskfleet-example-boundary"
  log_retention_days       = 365
  log_kms_key_arn          = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
}

output "alb_dns_name" {
  description = "Name of the balancer."
  value       = module.service.alb_dns_name
}
