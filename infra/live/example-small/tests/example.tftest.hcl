# That the modules fit together, with the values of terraform.tfvars. The provider is mocked: its schema is real, its answers
# are made up, in the form of AWS's where a module looks at it.

mock_provider "aws" {
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/1" }
  }
  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/1" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/1" }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/1" }
  }
  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:1-AbCdEf" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:1" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-central-1:123456789012:1", url = "https://sqs.eu-central-1.amazonaws.com/123456789012/1" }
  }
  mock_resource "aws_acm_certificate" {
    defaults = {
      arn                       = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
      domain_validation_options = [{ domain_name = "tasks.example.com", resource_record_name = "_1.tasks.example.com.", resource_record_type = "CNAME", resource_record_value = "_2.acm-validations.aws." }]
    }
  }
  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/1/1" }
  }
  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/1/1" }
  }
  mock_resource "aws_lb_listener" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/1/1/1" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:1" }
  }
  mock_resource "aws_db_instance" {
    defaults = {
      address            = "db.example.com"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds-AbCdEf", kms_key_id = "1", secret_status = "active" }]
    }
  }
}

run "manifest" {
  command = plan

  assert {
    condition     = output.manifest.version == 1 && output.manifest.deployment == "taskfleet-example" && output.manifest.root_url == "https://tasks.example.com" && output.manifest.broker == null
    error_message = "The manifest says something else of the deployment."
  }
  assert {
    condition     = keys(output.manifest.regions) == ["eu-central-1"] && length(output.manifest.regions["eu-central-1"].subnet_ids) == 2 && output.manifest.regions["eu-central-1"].artifact_bucket == "example-taskfleet-artifacts"
    error_message = "The manifest has other regions."
  }
  assert {
    condition     = keys(output.manifest.database) == ["endpoint", "name", "port", "secret_arn"] && output.manifest.database.port == 5432 && output.manifest.database.name == "taskfleet"
    error_message = "The manifest has another database, or its password."
  }
}

run "github_may_deploy" {
  command = plan
  variables {
    worker_profiles = true
    deploy          = { subjects = ["repo:example/infrastructure:environment:production"], state_bucket = "example-state", state_kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/2" }
  }
  assert {
    condition     = output.manifest.version == 1
    error_message = "The deployment does not plan with a role for GitHub."
  }
}

run "providers_follow_from_what_is_made" {
  command = plan
  variables { configuration = { providers = {} } }
  expect_failures = [var.configuration]
}

run "without_nat_there_is_no_way_to_the_root_url" {
  command = plan
  variables { nat = "none" }
  expect_failures = [var.nat]
}
