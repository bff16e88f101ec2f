output "endpoint" {
  description = "Host of the database."
  value       = aws_db_instance.this.address
}

output "port" {
  description = "Port of the database."
  value       = aws_db_instance.this.port
}

output "database" {
  description = "Name of the database."
  value       = aws_db_instance.this.db_name
}

output "master_secret_arn" {
  description = "Secret of Secrets Manager with username and password of the master user, as JSON."
  value       = one(aws_db_instance.this.master_user_secret[*].secret_arn)
}

output "security_group_id" {
  description = "Security group of the database."
  value       = aws_security_group.this.id
}

output "instance_id" {
  description = "Identifier of the instance, which is what CloudWatch calls it."
  value       = aws_db_instance.this.identifier
}
