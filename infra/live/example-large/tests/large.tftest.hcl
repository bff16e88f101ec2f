# The whole of it with the values of terraform.tfvars, planned. What modules do by themselves is in their own tests. What is made up
# has the form of AWS's where a module looks at it: OpenTofu makes it up in plans already.

mock_provider "aws" {
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:us-east-1:123456789012:key/1" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/1" }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/1" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:us-east-1:123456789012:1" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:us-east-1:123456789012:1", url = "https://sqs.us-east-1.amazonaws.com/123456789012/1" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:us-east-1:123456789012:log-group:1" }
  }
  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/1" }
  }
  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:1-AbCdEf" }
  }
  mock_resource "aws_acm_certificate" {
    defaults = {
      arn                       = "arn:aws:acm:us-east-1:123456789012:certificate/1"
      domain_validation_options = [{ domain_name = "tasks.example.com", resource_record_name = "_1.tasks.example.com.", resource_record_type = "CNAME", resource_record_value = "_2.acm-validations.aws." }]
    }
  }
  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/1/1" }
  }
  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/1/1" }
  }
  mock_resource "aws_db_instance" {
    defaults = { master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds-AbCdEf", kms_key_id = "1", secret_status = "active" }] }
  }
  mock_resource "aws_mq_broker" {
    defaults = { instances = [{ console_url = "https://1.mq.us-east-1.amazonaws.com", endpoints = ["amqps://1.mq.us-east-1.amazonaws.com:5671"], ip_address = "10.0.0.1" }] }
  }
}

mock_provider "aws" {
  alias = "us-west-2"

  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:us-west-2:123456789012:key/1" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/1" }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/1" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:us-west-2:123456789012:1" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:us-west-2:123456789012:1", url = "https://sqs.us-west-2.amazonaws.com/123456789012/1" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:us-west-2:123456789012:log-group:1" }
  }
}

mock_provider "aws" {
  alias = "eu-central-1"

  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/1" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/1" }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/1" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:1" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-central-1:123456789012:1", url = "https://sqs.eu-central-1.amazonaws.com/123456789012/1" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:1" }
  }
}

run "three_regions" {
  command = plan

  variables {
    mirror_in_stacks = true
  }

  assert {
    condition     = contains(output.manifest.configuration_sections, "providers") && !contains(output.manifest.configuration_sections, "mirror")
    error_message = "The mirror is configured here and in stacks."
  }
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
