# What the module makes of its variables. The provider is mocked: its schema is real, its answers are made up.

mock_provider "aws" {
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/1" }
  }
}

variables {
  name       = "taskfleet-test"
  account_id = "123456789012"
  region     = "eu-central-1"
  bucket     = "example-state"
  tags       = { Deployment = "test" }
}

run "state" {
  assert {
    condition     = output.bucket == "example-state" && output.region == "eu-central-1" && output.kms_key_arn == "arn:aws:kms:eu-central-1:123456789012:key/1"
    error_message = "What is put out is something else."
  }
}

run "mistakes_are_refused" {
  command = plan

  variables {
    name                 = "Taskfleet"
    account_id           = "1234"
    region               = "Frankfurt"
    partition            = "azure"
    bucket               = "Example.state"
    former_versions_days = 0
  }

  expect_failures = [
    var.name, var.account_id, var.region, var.partition, var.bucket, var.former_versions_days,
  ]
}
