output "policy_arns" {
  description = "Policies of the server's role by the part of the platform, for task_policy_arns of module service."
  value       = { for k, p in aws_iam_policy.part : k => p.arn }
}

output "artifacts_policy_arn" {
  description = "Policy for the bucket of artifacts."
  value       = aws_iam_policy.part["artifacts"].arn
}

output "provisioner_policy_arn" {
  description = "Policy of the provisioner."
  value       = aws_iam_policy.part["provisioner"].arn
}

output "mirror_policy_arn" {
  description = "Policy of the mirror. null: there is none."
  value       = try(aws_iam_policy.part["mirror"].arn, null)
}

output "platform_policy_arn" {
  description = "Policy for credentials, seal keys and emails. null: there are none."
  value       = try(aws_iam_policy.part["platform"].arn, null)
}

output "boundary_arn" {
  description = "Permissions boundary of all roles of the deployment."
  value       = aws_iam_policy.boundary.arn
}

output "deploy_role_arn" {
  description = "Role of GitHub's jobs. null: there is none."
  value       = try(aws_iam_role.deploy[0].arn, null)
}
