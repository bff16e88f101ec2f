terraform {
  required_version = ">= 1.10.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

locals {
  tags = { Deployment = var.deployment, ManagedBy = "terraform" }
}

# The provider of the home region is the one without an alias. What is global, like IAM, is made by it.
provider "aws" {
  region              = "us-east-1"
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = local.tags
  }
}

provider "aws" {
  alias               = "us-west-2"
  region              = "us-west-2"
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = local.tags
  }
}

provider "aws" {
  alias               = "eu-central-1"
  region              = "eu-central-1"
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = local.tags
  }
}
