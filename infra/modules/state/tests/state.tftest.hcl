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

run "name" {
  command = plan
  variables { name = "Taskfleet" }
  expect_failures = [var.name]
}

run "account_id" {
  command = plan
  variables { account_id = "1234" }
  expect_failures = [var.account_id]
}

run "region" {
  command = plan
  variables { region = "Frankfurt" }
  expect_failures = [var.region]
}

run "partition" {
  command = plan
  variables { partition = "azure" }
  expect_failures = [var.partition]
}

run "bucket" {
  command = plan
  variables { bucket = "Example.state" }
  expect_failures = [var.bucket]
}

run "former_versions_days" {
  command = plan
  variables { former_versions_days = 0 }
  expect_failures = [var.former_versions_days]
}
