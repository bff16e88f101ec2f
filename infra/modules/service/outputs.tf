output "alb_dns_name" {
  description = "Name of the balancer, which DNS points to."
  value       = aws_lb.this.dns_name
}

output "alb_zone_id" {
  description = "Hosted zone of that name, for alias records."
  value       = aws_lb.this.zone_id
}

output "alb_arn_suffix" {
  description = "What CloudWatch calls the balancer."
  value       = aws_lb.this.arn_suffix
}

output "target_group_arn_suffix" {
  description = "What CloudWatch calls the group of replicas behind the balancer."
  value       = aws_lb_target_group.this.arn_suffix
}

output "service_security_group_id" {
  description = "Security group of the server, which the database and the broker let in."
  value       = aws_security_group.service.id
}

output "cluster_name" {
  description = "Cluster of ECS."
  value       = aws_ecs_cluster.this.name
}

output "service_name" {
  description = "Service of ECS."
  value       = aws_ecs_service.this.name
}

output "task_definition_arn" {
  description = "What releases are made of: the task definition, with the image to begin with."
  value       = aws_ecs_task_definition.this.arn
}

output "configuration_sections" {
  description = "Sections of the server's configuration that are set here, and that no secret of secret_configuration_arns may have."
  value       = sort(keys(local.settings))
}

output "task_role_arn" {
  description = "Role of the server."
  value       = aws_iam_role.task.arn
}

output "execution_role_arn" {
  description = "Role that starts its tasks."
  value       = aws_iam_role.execution.arn
}

output "log_group" {
  description = "Log group of the server."
  value       = aws_cloudwatch_log_group.this.name
}
