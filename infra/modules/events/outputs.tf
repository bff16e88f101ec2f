output "queue_url" {
  description = "URL of the queue, for providers.*.accounts[].queues of the server's configuration."
  value       = aws_sqs_queue.this.url
}

output "queue_arn" {
  description = "ARN of the queue, for the provisioner's policy."
  value       = "arn:${var.partition}:sqs:${var.region}:${var.account_id}:${aws_sqs_queue.this.name}"
}

output "queue_name" {
  description = "Name of the queue, for alarms."
  value       = aws_sqs_queue.this.name
}

output "dead_letter_queue_name" {
  description = "Name of the queue of what could not be read."
  value       = aws_sqs_queue.dead.name
}
