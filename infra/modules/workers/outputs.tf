output "security_group_id" {
  description = "Security group of workers, for SecurityGroupIds of pools."
  value       = aws_security_group.this.id
}

output "security_group_arn" {
  description = "ARN of the security group, for the provisioner's policy."
  value       = "arn:${var.partition}:ec2:${var.region}:${var.account_id}:security-group/${aws_security_group.this.id}"
}

output "instance_profile_arn" {
  description = "Instance profile that pools may name once the provider's instanceProfiles allow it."
  value       = aws_iam_instance_profile.this.arn
}

output "instance_profile_name" {
  description = "Name of the instance profile, for instanceProfiles of the server's configuration."
  value       = aws_iam_instance_profile.this.name
}

output "launch_template_id" {
  description = "Launch template for machines that people start."
  value       = aws_launch_template.this.id
}

output "role_arn" {
  description = "Role of the instance profile, for iam:PassRole of the provisioner's policy."
  value       = aws_iam_role.this.arn
}

output "log_group" {
  description = "Log group for what images of workers send."
  value       = aws_cloudwatch_log_group.this.name
}
