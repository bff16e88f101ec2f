output "endpoints" {
  description = "Where the broker speaks AMQP over TLS: amqps://HOST:5671."
  value       = aws_mq_broker.this.instances[*].endpoints[0]
}

output "console_url" {
  description = "Console and management API."
  value       = try(aws_mq_broker.this.instances[0].console_url, null)
}

output "security_group_id" {
  description = "Security group of the broker."
  value       = aws_security_group.this.id
}

output "broker_id" {
  description = "Id of the broker."
  value       = aws_mq_broker.this.id
}

output "broker_name" {
  description = "Name of the broker, for alarms."
  value       = aws_mq_broker.this.broker_name
}

output "secret_arn" {
  description = "Secret with username and password of the first administrator."
  value       = aws_secretsmanager_secret.administrator.arn
}

output "login" {
  description = "The same, for whoever makes a URL of it."
  value       = local.administrator
  sensitive   = true
}
