mock_provider "aws" {}

variables {
  name       = "taskfleet-test"
  region     = "eu-central-1"
  account_id = "123456789012"
}

run "a_region_with_queues_only" {
  command = plan

  variables {
    queues = { here = { name = "events", dead = "events-dead" } }
  }

  assert {
    condition     = keys(aws_cloudwatch_metric_alarm.this) == ["events-here", "events-here-dead"] && length(aws_cloudwatch_log_metric_filter.errors) == 0
    error_message = "There are alarms for what is not there."
  }
}

run "everything_has_an_alarm_that_tells_somebody" {
  variables {
    emails      = ["ops@example.com"]
    broker_name = "taskfleet-test"
    queues      = { here = { name = "events", dead = "events-dead" } }
    service = {
      alb_arn_suffix = "app/x/1", target_group_arn_suffix = "targetgroup/x/1", cluster_name = "c", service_name = "s", min_replicas = 2
      log_group      = "/taskfleet/taskfleet-test"
    }
    database = { instance_id = "db", storage_gib = 100, max_connections = 100 }
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 12 && alltrue([for a in aws_cloudwatch_metric_alarm.this : a.alarm_actions == toset([aws_sns_topic.this.arn]) && a.ok_actions == toset([aws_sns_topic.this.arn])])
    error_message = "An alarm is missing, or tells nobody."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["latency"].extended_statistic == "p99" && aws_cloudwatch_metric_alarm.this["latency"].statistic == null
    error_message = "The percentile is no extended statistic: CloudWatch would refuse it."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["missing-replicas"].comparison_operator == "LessThanThreshold" && aws_cloudwatch_metric_alarm.this["missing-replicas"].treat_missing_data == "breaching"
    error_message = "A service that is gone is no alarm."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["database-storage"].threshold == 16106127360 && aws_cloudwatch_metric_alarm.this["database-connections"].threshold == 85
    error_message = "The lines are not those of the database's size."
  }
  assert {
    condition     = jsondecode(aws_sns_topic_policy.this.policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012"
    error_message = "Others can send to the topic."
  }
  assert {
    condition     = length(jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets) == 13 && length(distinct([for w in jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets : "${w.x}/${w.y}"])) == 13
    error_message = "The dashboard does not show all of it, or one thing over another."
  }
}

run "mistakes_are_refused" {
  command = plan

  variables {
    name              = "Taskfleet"
    region            = "Frankfurt"
    account_id        = "1234"
    kms_key_arn       = "alias/aws/sns"
    emails            = ["nobody"]
    latency_seconds   = 0
    errors_per_minute = 0
    service           = { alb_arn_suffix = "a", target_group_arn_suffix = "t", cluster_name = "c", service_name = "s", min_replicas = 0, log_group = "l" }
    database          = { instance_id = "db", storage_gib = 1, max_connections = 1 }
  }

  expect_failures = [
    var.name, var.region, var.account_id, var.kms_key_arn, var.emails, var.latency_seconds, var.errors_per_minute, var.service,
    var.database,
  ]
}
