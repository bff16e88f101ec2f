# What EC2 says of instances, brought to a queue that the provisioner reads: docs/provisioner.md, Events.

locals {
  patterns = {
    state        = "EC2 Instance State-change Notification"
    interruption = "EC2 Spot Instance Interruption Warning"
    rebalance    = "EC2 Instance Rebalance Recommendation"
  }
}

resource "aws_sqs_queue" "this" {
  name                       = var.name
  message_retention_seconds  = var.retention_seconds
  receive_wait_time_seconds  = 20
  visibility_timeout_seconds = 60
  sqs_managed_sse_enabled    = var.kms_key_arn == null ? true : null
  kms_master_key_id          = var.kms_key_arn

  # Events of the whole account come here, and each that is encrypted by a key of one's own may be a call of KMS.
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : 3600

  redrive_policy = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead.arn, maxReceiveCount = 5 })

  tags = merge(var.tags, { Name = var.name })
}

# What was read five times and never deleted, to be looked at. The provisioner deletes also what it does not understand,
# so that there is something here only if it cannot delete.
resource "aws_sqs_queue" "dead" {
  name                              = "${var.name}-dead"
  message_retention_seconds         = 1209600
  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : 3600
  tags                              = merge(var.tags, { Name = "${var.name}-dead" })
}

resource "aws_sqs_queue_redrive_allow_policy" "dead" {
  queue_url = aws_sqs_queue.dead.id

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = ["arn:${var.partition}:sqs:${var.region}:${var.account_id}:${var.name}"]
  })
}

resource "aws_cloudwatch_event_rule" "this" {
  for_each = local.patterns

  name          = "${var.name}-${each.key}"
  description   = "${each.value}, to the provisioner of ${var.name}"
  event_pattern = jsonencode({ source = ["aws.ec2"], detail-type = [each.value] })
  tags          = merge(var.tags, { Name = "${var.name}-${each.key}" })
}

# EventBridge tries for as long as somebody could want the event; the sweep makes up for what is lost.
resource "aws_cloudwatch_event_target" "this" {
  for_each = local.patterns

  rule      = aws_cloudwatch_event_rule.this[each.key].name
  target_id = "queue"
  arn       = aws_sqs_queue.this.arn

  retry_policy {
    maximum_event_age_in_seconds = max(60, min(var.retention_seconds, 3600))
    maximum_retry_attempts       = 10
  }
}

resource "aws_sqs_queue_policy" "this" {
  queue_url = aws_sqs_queue.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "EventsOfTheRules"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = aws_sqs_queue.this.arn
        Condition = { ArnEquals = { "aws:SourceArn" = [for k in keys(local.patterns) : aws_cloudwatch_event_rule.this[k].arn] } }
      },
      {
        Sid       = "EncryptedOnTheWay"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = ["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage"]
        Resource  = aws_sqs_queue.this.arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}
