mock_provider "aws" {}

variables {
  name       = "taskfleet-test"
  tags       = { Deployment = "test" }
  region     = "eu-central-1"
  account_id = "123456789012"
  vpc_id     = "vpc-1"
}

run "machines_are_closed_and_encrypted" {
  command = plan

  assert {
    condition     = aws_launch_template.this.metadata_options[0].http_tokens == "required" && aws_launch_template.this.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "The metadata service answers without a session token, or containers."
  }
  assert {
    condition     = tobool(aws_launch_template.this.block_device_mappings[0].ebs[0].encrypted) && tobool(aws_launch_template.this.block_device_mappings[0].ebs[0].delete_on_termination)
    error_message = "The volume is not encrypted, or outlives its machine."
  }
  assert {
    condition     = aws_ebs_encryption_by_default.this[0].enabled && length(aws_ebs_default_kms_key.this) == 0
    error_message = "Volumes that a pool says nothing of are not encrypted by EBS."
  }
  assert {
    condition     = keys(aws_vpc_security_group_egress_rule.this) == ["0.0.0.0/0:443"]
    error_message = "Workers reach more than HTTPS."
  }
  assert {
    condition     = toset([for t in aws_launch_template.this.tag_specifications : t.resource_type]) == toset(["instance", "volume", "network-interface"]) && alltrue([for t in aws_launch_template.this.tag_specifications : t.tags.Deployment == "test"])
    error_message = "What the template starts is not tagged."
  }
}

run "the_role_may_send_logs_only" {
  command = plan

  assert {
    condition     = length(aws_iam_role_policy.sessions) == 0 && jsondecode(aws_iam_role_policy.logs.policy).Statement[0].Action == ["logs:CreateLogStream", "logs:PutLogEvents"]
    error_message = "Tasks could do more than write logs."
  }
  assert {
    condition     = jsondecode(aws_iam_role_policy.logs.policy).Statement[0].Resource == ["arn:aws:logs:eu-central-1:123456789012:log-group:/taskfleet/taskfleet-test/workers:log-stream:*"]
    error_message = "Logs of others can be written."
  }
}

run "people_log_in_where_that_is_asked_for" {
  command = plan

  variables {
    session_manager = true
    egress_cidrs    = ["10.0.0.0/8", "192.0.2.0/24"]
    egress_ports    = [80, 443]
    volume_key      = { arn = "arn:aws:kms:eu-central-1:123456789012:key/1" }
  }

  assert {
    condition     = length(aws_iam_role_policy.sessions) == 1 && length(aws_vpc_security_group_egress_rule.this) == 4
    error_message = "Session Manager or the rules are missing."
  }
  assert {
    condition     = aws_ebs_default_kms_key.this[0].key_arn == var.volume_key.arn && aws_launch_template.this.block_device_mappings[0].ebs[0].kms_key_id == var.volume_key.arn
    error_message = "The key is not used."
  }
}

run "an_account_that_somebody_else_manages_is_left_alone" {
  command = plan

  variables {
    encrypt_by_default = false
    volume_key         = { arn = "arn:aws:kms:eu-central-1:123456789012:key/1" }
  }

  assert {
    condition     = length(aws_ebs_encryption_by_default.this) == 0 && length(aws_ebs_default_kms_key.this) == 0
    error_message = "Settings of the account are changed."
  }
}

run "mistakes_are_refused" {
  command = plan

  variables {
    name               = "Taskfleet"
    region             = "Frankfurt"
    account_id         = "1234"
    partition          = "azure"
    egress_cidrs       = []
    egress_ports       = [80]
    volume_key         = { arn = "alias/aws/ebs" }
    volume_gib         = 1
    root_device_name   = "xvda"
    log_retention_days = 2
  }

  expect_failures = [
    var.name, var.region, var.account_id, var.partition, var.egress_cidrs, var.egress_ports, var.volume_key, var.volume_gib,
    var.root_device_name, var.log_retention_days,
  ]
}
