# What a month may cost, and who is told when it costs more. AWS counts a few times a day, so it is no brake: what
# workers cost is bounded by the pools' own limits.

locals {
  notifications = concat(
    [for p in sort(tolist(var.actual_percent)) : { type = "ACTUAL", percent = p }],
    [for p in sort(tolist(var.forecast_percent)) : { type = "FORECASTED", percent = p }],
  )
}

resource "aws_budgets_budget" "this" {
  name         = "${var.name}-monthly"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = format("%.1f", var.monthly_usd) # as AWS writes it, else there would be a change in each plan
  limit_unit   = "USD"
  tags         = merge(var.tags, { Name = "${var.name}-monthly" })

  dynamic "cost_filter" {
    for_each = var.cost_tag == null ? [] : [var.cost_tag]

    content {
      name   = "TagKeyValue"
      values = [join("$", ["user:${cost_filter.value.key}", cost_filter.value.value])]
    }
  }

  dynamic "notification" {
    for_each = local.notifications

    content {
      comparison_operator        = "GREATER_THAN"
      notification_type          = notification.value.type
      threshold                  = notification.value.percent
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = var.emails
      subscriber_sns_topic_arns  = var.topic_arn == null ? [] : [var.topic_arn]
    }
  }
}
