output "topic_arn" {
  description = "Topic of the alarms, to which budgets may send, too."
  value       = aws_sns_topic.this.arn
  depends_on  = [aws_sns_topic_policy.this] # a budget that may not send there is refused
}

output "dashboard_name" {
  description = "Dashboard of CloudWatch."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}

output "alarm_names" {
  description = "Names of the alarms."
  value       = sort([for a in aws_cloudwatch_metric_alarm.this : a.alarm_name])
}
