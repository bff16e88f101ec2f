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

module "dns" {
  source = "../.."

  name     = "taskfleet-example"
  zone_id  = "Z0123456789ABCDEFGHIJ"
  hostname = "tasks.example.com"

  alb = {
    dns_name = "taskfleet-example-1234567890.eu-central-1.elb.amazonaws.com"
    zone_id  = "Z215JYRZR1TBD5"
    ipv6     = true
  }
}

output "certificate_arn" {
  value = module.dns.certificate_arn
}
