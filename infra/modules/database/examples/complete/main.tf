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

module "database" {
  source = "../.."

  name                      = "taskfleet-example"
  account_id                = "123456789012"
  region                    = "eu-central-1"
  vpc_id                    = "vpc-0123456789abcdef0"
  subnet_ids                = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  client_security_group_ids = { service = "sg-0123456789abcdef0" }
  kms_key_arn               = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
  instance_class            = "db.r7g.xlarge"
  storage_gib               = 400
  max_storage_gib           = 2000
  parameters                = { max_wal_size = "8192", max_connections = "400" }
}

output "endpoint" {
  value = module.database.endpoint
}
