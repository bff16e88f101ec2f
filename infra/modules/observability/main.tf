# What is worth a page at night, from what AWS itself sees. The platform's own measures are at /metrics: docs/operations.md, What to
# watch. Alarms and queues are a region's, so that each region with queues has this module.

locals {
  service  = var.service == null ? {} : { this = var.service }
  database = var.database == null ? {} : { this = var.database }
  broker   = var.broker_name == null ? {} : { this = var.broker_name }

  # Each alarm: what is looked at, for how long, against what. Missing data is fine but where it says breaching.
  alarms = merge(
    { for k, s in local.service : "balancer-errors" => {
      text       = "The server answers with errors. Its log has an incident id for each."
      namespace  = "AWS/ApplicationELB", metric = "HTTPCode_Target_5XX_Count", statistic = "Sum", above = true
      threshold  = var.errors_per_minute, period = 60, periods = 5, missing = "notBreaching"
      dimensions = { LoadBalancer = s.alb_arn_suffix, TargetGroup = s.target_group_arn_suffix }
    } },
    { for k, s in local.service : "no-answer" => {
      text       = "The balancer gets no answer from the server: no replica takes connections, or they are too slow."
      namespace  = "AWS/ApplicationELB", metric = "HTTPCode_ELB_5XX_Count", statistic = "Sum", above = true
      threshold  = var.errors_per_minute, period = 60, periods = 5, missing = "notBreaching"
      dimensions = { LoadBalancer = s.alb_arn_suffix }
    } },
    { for k, s in local.service : "latency" => {
      text       = "Answers take longer than a waiting claim explains. Look at the database first."
      namespace  = "AWS/ApplicationELB", metric = "TargetResponseTime", statistic = "p99", above = true
      threshold  = var.latency_seconds, period = 60, periods = 10, missing = "notBreaching"
      dimensions = { LoadBalancer = s.alb_arn_suffix, TargetGroup = s.target_group_arn_suffix }
    } },
    { for k, s in local.service : "unhealthy-replicas" => {
      text       = "Replicas do not answer the balancer's health check."
      namespace  = "AWS/ApplicationELB", metric = "UnHealthyHostCount", statistic = "Minimum", above = true
      threshold  = 0, period = 60, periods = 5, missing = "notBreaching"
      dimensions = { LoadBalancer = s.alb_arn_suffix, TargetGroup = s.target_group_arn_suffix }
    } },
    { for k, s in local.service : "missing-replicas" => {
      text       = "Fewer replicas run than there should be at least. The events of the ECS service say why."
      namespace  = "ECS/ContainerInsights", metric = "RunningTaskCount", statistic = "Maximum", above = false
      threshold  = s.min_replicas, period = 60, periods = 10, missing = "breaching"
      dimensions = { ClusterName = s.cluster_name, ServiceName = s.service_name }
    } },
    { for k, s in local.service : "errors" => {
      text       = "The server logs errors: calls that failed, passes of loops that failed, panics."
      namespace  = "Taskfleet", metric = "${var.name}-errors", statistic = "Sum", above = true
      threshold  = var.errors_per_minute, period = 60, periods = 5, missing = "notBreaching"
      dimensions = {}
    } },
    { for k, d in local.database : "database-storage" => {
      text       = "The database's room is running out. When it is full, writes are refused."
      namespace  = "AWS/RDS", metric = "FreeStorageSpace", statistic = "Minimum", above = false
      threshold  = floor(d.storage_gib * 0.15) * 1073741824, period = 300, periods = 2, missing = "notBreaching"
      dimensions = { DBInstanceIdentifier = d.instance_id }
    } },
    { for k, d in local.database : "database-cpu" => {
      text       = "The database's processor is busy. Performance Insights shows the statements."
      namespace  = "AWS/RDS", metric = "CPUUtilization", statistic = "Average", above = true
      threshold  = 85, period = 300, periods = 3, missing = "notBreaching"
      dimensions = { DBInstanceIdentifier = d.instance_id }
    } },
    { for k, d in local.database : "database-connections" => {
      text       = "The database has hardly a connection left: each replica may have 17."
      namespace  = "AWS/RDS", metric = "DatabaseConnections", statistic = "Maximum", above = true
      threshold  = floor(d.max_connections * 0.85), period = 60, periods = 5, missing = "notBreaching"
      dimensions = { DBInstanceIdentifier = d.instance_id }
    } },
    { for k, q in var.queues : "events-${k}" => {
      text       = "Events of EC2 are not read: the provisioner stands still, or may not read the queue. It sees each minute what became of instances meanwhile."
      namespace  = "AWS/SQS", metric = "ApproximateAgeOfOldestMessage", statistic = "Maximum", above = true
      threshold  = 600, period = 300, periods = 2, missing = "notBreaching"
      dimensions = { QueueName = q.name }
    } },
    { for k, q in var.queues : "events-${k}-dead" => {
      text       = "Events of EC2 were read and never deleted: may the server's role delete?"
      namespace  = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", statistic = "Maximum", above = true
      threshold  = 0, period = 300, periods = 1, missing = "notBreaching"
      dimensions = { QueueName = q.dead }
    } },
    { for k, b in local.broker : "broker-messages" => {
      text       = "Consumers of RabbitMQ do not keep up, or a queue has none."
      namespace  = "AWS/AmazonMQ", metric = "MessageReadyCount", statistic = "Maximum", above = true
      threshold  = 100000, period = 300, periods = 3, missing = "notBreaching"
      dimensions = { Broker = b }
    } },
  )
}

resource "aws_sns_topic" "this" {
  #checkov:skip=CKV_AWS_26:The key is a variable; messages of alarms hold no secrets
  name              = "${var.name}-alarms"
  kms_master_key_id = var.kms_key_arn
  tags              = merge(var.tags, { Name = "${var.name}-alarms" })
}

resource "aws_sns_topic_policy" "this" {
  arn = aws_sns_topic.this.arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "AlarmsAndBudgetsOfThisAccount"
        Effect    = "Allow"
        Principal = { Service = ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"] }
        Action    = "sns:Publish"
        Resource  = aws_sns_topic.this.arn
        Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
      },
      {
        Sid       = "EncryptedOnTheWay"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "sns:Publish"
        Resource  = aws_sns_topic.this.arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}

resource "aws_sns_topic_subscription" "email" {
  for_each = toset(var.emails)

  topic_arn = aws_sns_topic.this.arn
  protocol  = "email"
  endpoint  = each.value
}

resource "aws_cloudwatch_log_metric_filter" "errors" {
  for_each = local.service

  name           = "${var.name}-errors"
  log_group_name = each.value.log_group
  pattern        = "{ $.level = \"ERROR\" }"

  metric_transformation {
    namespace = "Taskfleet"
    name      = "${var.name}-errors"
    value     = "1"
    unit      = "Count"
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.text
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = startswith(each.value.statistic, "p") ? null : each.value.statistic
  extended_statistic  = startswith(each.value.statistic, "p") ? each.value.statistic : null
  comparison_operator = each.value.above ? "GreaterThanThreshold" : "LessThanThreshold"
  threshold           = each.value.threshold
  period              = each.value.period
  evaluation_periods  = each.value.periods
  treat_missing_data  = each.value.missing
  alarm_actions       = [aws_sns_topic.this.arn]
  ok_actions          = [aws_sns_topic.this.arn]
  tags                = merge(var.tags, { Name = "${var.name}-${each.key}" })
}

# All that has an alarm, with the line at which it goes off, and the log's latest errors.
resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = "${var.name}-${var.region}"
  dashboard_body = jsonencode({
    widgets = concat(
      [for i, k in sort(keys(local.alarms)) : {
        type   = "metric"
        x      = (i % 3) * 8
        y      = floor(i / 3) * 6
        width  = 8
        height = 6
        properties = {
          title       = k
          region      = var.region
          stat        = local.alarms[k].statistic
          period      = local.alarms[k].period
          metrics     = [concat([local.alarms[k].namespace, local.alarms[k].metric], flatten([for n, v in local.alarms[k].dimensions : [n, v]]))]
          annotations = { horizontal = [{ label = "alarm", value = local.alarms[k].threshold }] }
        }
      }],
      [for s in values(local.service) : {
        type   = "log"
        x      = 0
        y      = (floor((length(local.alarms) - 1) / 3) + 1) * 6
        width  = 24
        height = 8
        properties = {
          title  = "Errors in the log"
          region = var.region
          query  = "SOURCE '${s.log_group}' | fields @timestamp, msg, err, incidentId | filter level = 'ERROR' | sort @timestamp desc | limit 50"
          view   = "table"
        }
      }],
    )
  })
}
