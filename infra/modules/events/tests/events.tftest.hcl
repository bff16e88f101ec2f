mock_provider "aws" {}

variables {
  name       = "taskfleet-test"
  region     = "eu-central-1"
  account_id = "123456789012"
}

run "events_reach_the_queue_and_nothing_else_does" {
  assert {
    condition     = toset([for r in aws_cloudwatch_event_rule.this : jsondecode(r.event_pattern)["detail-type"][0]]) == toset(["EC2 Instance State-change Notification", "EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation"])
    error_message = "The rules are not for what the provisioner understands."
  }
  assert {
    condition     = alltrue([for t in aws_cloudwatch_event_target.this : t.arn == aws_sqs_queue.this.arn])
    error_message = "A rule leads elsewhere."
  }
  assert {
    condition     = toset(jsondecode(aws_sqs_queue_policy.this.policy).Statement[0].Condition.ArnEquals["aws:SourceArn"]) == toset([for r in aws_cloudwatch_event_rule.this : r.arn])
    error_message = "Others than the rules may send to the queue."
  }
  assert {
    condition     = jsondecode(aws_sqs_queue_policy.this.policy).Statement[1].Effect == "Deny" && jsondecode(aws_sqs_queue_policy.this.policy).Statement[1].Condition.Bool["aws:SecureTransport"] == "false"
    error_message = "The queue can be used without TLS."
  }
  assert {
    condition     = aws_sqs_queue.this.sqs_managed_sse_enabled && aws_sqs_queue.dead.sqs_managed_sse_enabled
    error_message = "A queue is not encrypted."
  }
  assert {
    condition     = jsondecode(aws_sqs_queue.this.redrive_policy).deadLetterTargetArn == aws_sqs_queue.dead.arn
    error_message = "What cannot be read is read for ever."
  }
  assert {
    condition     = output.queue_arn == "arn:aws:sqs:eu-central-1:123456789012:taskfleet-test"
    error_message = "The ARN is not the queue's."
  }
}

run "a_key_of_ones_own_replaces_that_of_sqs" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1"
  }

  assert {
    condition     = aws_sqs_queue.this.kms_master_key_id == var.kms_key_arn && aws_sqs_queue.dead.kms_master_key_id == var.kms_key_arn
    error_message = "The key is not used."
  }
}

run "mistakes_are_refused" {
  command = plan

  variables {
    name              = "Taskfleet"
    region            = "Frankfurt"
    account_id        = "1234"
    partition         = "azure"
    kms_key_arn       = "alias/taskfleet"
    retention_seconds = 1
  }

  expect_failures = [var.name, var.region, var.account_id, var.partition, var.kms_key_arn, var.retention_seconds]
}
