# What the module makes of its variables. The provider is mocked: its schema is real, its answers are made up.

mock_provider "aws" {}

variables {
  name        = "taskfleet-test"
  monthly_usd = 2500
  emails      = ["ops@example.com"]
  tags        = { Deployment = "test" }
}

run "budget" {
  command = plan

  assert {
    condition     = aws_budgets_budget.this.limit_amount == "2500.0" && aws_budgets_budget.this.limit_unit == "USD" && aws_budgets_budget.this.time_unit == "MONTHLY" && output.budget_name == "taskfleet-test-monthly"
    error_message = "The limit is another."
  }
  assert {
    condition     = toset([for n in aws_budgets_budget.this.notification : "${n.notification_type} ${n.threshold}"]) == toset(["ACTUAL 50", "ACTUAL 80", "ACTUAL 100", "FORECASTED 100"])
    error_message = "Somebody is told at other shares."
  }
  assert {
    condition     = alltrue([for n in aws_budgets_budget.this.notification : n.subscriber_email_addresses == toset(["ops@example.com"])]) && length(aws_budgets_budget.this.cost_filter) == 0
    error_message = "Somebody else is told, or not everything counts."
  }
}

run "costs_of_a_tag" {
  command = plan
  variables {
    cost_tag  = { key = "Deployment", value = "test" }
    emails    = []
    topic_arn = "arn:aws:sns:us-east-1:123456789012:alarms"
  }
  assert {
    condition     = alltrue([for f in aws_budgets_budget.this.cost_filter : f.name == "TagKeyValue" && f.values == tolist(["user:Deployment$test"])]) && length(aws_budgets_budget.this.cost_filter) == 1
    error_message = "Other costs count."
  }
  assert {
    condition     = alltrue([for n in aws_budgets_budget.this.notification : n.subscriber_sns_topic_arns == toset(["arn:aws:sns:us-east-1:123456789012:alarms"])])
    error_message = "The topic is not told."
  }
}

run "forecast_percent" {
  command = plan
  variables { forecast_percent = [-1] }
  expect_failures = [var.forecast_percent]
}

run "too_many" {
  command = plan
  variables { actual_percent = [10, 20, 30, 40, 50] }
  expect_failures = [var.forecast_percent]
}

run "emails" {
  command = plan
  variables { emails = ["ops"] }
  expect_failures = [var.emails]
}

run "nobody_is_told" {
  command = plan
  variables { emails = [] }
  expect_failures = [var.emails]
}

run "mistakes_are_refused" {
  command = plan

  variables {
    name           = "Taskfleet"
    monthly_usd    = 0
    cost_tag       = { key = "Deployment", value = "" }
    actual_percent = [0]
    topic_arn      = "alarms"
  }

  expect_failures = [
    var.name, var.monthly_usd, var.cost_tag, var.actual_percent, var.topic_arn,
  ]
}
