# The whole of it with the values of terraform.tfvars, planned. What modules do by themselves is in their own tests.

mock_provider "aws" {}

mock_provider "aws" {
  alias = "us-west-2"
}

mock_provider "aws" {
  alias = "eu-central-1"
}

run "three_regions" {
  command = plan

  assert {
    condition     = toset(keys(output.manifest.regions)) == toset(["us-east-1", "us-west-2", "eu-central-1"]) && output.manifest.version == 1
    error_message = "The manifest lacks a region."
  }
  assert {
    condition     = { for r, m in output.manifest.regions : r => m.mirror_bucket } == { eu-central-1 = "example-taskfleet-copies-eu-central-1", us-east-1 = null, us-west-2 = "example-taskfleet-copies-us-west-2" }
    error_message = "Copies are at home, or not elsewhere."
  }
  assert {
    condition     = module.iam.deploy_role_arn == null && length(module.broker) == 1
    error_message = "Somebody may deploy, or there is no broker."
  }
  assert {
    condition     = keys(output.manifest.database) == ["endpoint", "name", "port", "secret_arn"] && keys(output.manifest.broker) == ["console_url", "endpoints", "secret_arn"]
    error_message = "The manifest has more of database and broker than where they are."
  }
}

run "mistakes_are_refused" {
  command = plan

  variables {
    deployment    = "Production"
    account_id    = "1234"
    bucket_prefix = "Example"
    networks      = { us-east-1 = { cidr = "10.0.0.0/16", availability_zones = ["us-east-1a", "us-east-1b"] } }
    nat           = "none"
    configuration = { providers = {} }
  }

  expect_failures = [var.deployment, var.account_id, var.bucket_prefix, var.networks, var.nat, var.configuration]
}
