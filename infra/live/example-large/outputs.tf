output "manifest" {
  description = "What is there, for what is built on it. Secrets are named here, never shown."
  value = {
    version        = 1
    deployment     = var.deployment
    root_url       = local.root_url
    account_id     = var.account_id
    service_region = local.home

    regions = { for r, m in local.regions : r => {
      vpc_id                      = m.network.vpc_id
      subnet_ids                  = m.network.private_subnet_ids
      worker_security_group_id    = m.workers.security_group_id
      worker_instance_profile_arn = m.workers.instance_profile_arn
      launch_template_id          = m.workers.launch_template_id
      event_queue_url             = m.events.queue_url
      mirror_bucket               = m.mirror_bucket
      artifact_bucket             = r == local.home ? module.artifacts.bucket : null
    } }

    database = {
      endpoint   = module.database.endpoint
      port       = module.database.port
      name       = module.database.database
      secret_arn = module.database.master_secret_arn
    }

    broker = one([for b in module.broker : {
      endpoints   = b.endpoints
      console_url = b.console_url
      secret_arn  = b.secret_arn
    }])

    artifact_bucket = module.artifacts.bucket
    kms_key_arn     = local.here.kms_key_arn
    cluster_name    = module.service.cluster_name
    service_name    = module.service.service_name
    log_group       = module.service.log_group
    alarm_topic_arn = module.observability.topic_arn

    task_definition_arn       = module.service.task_definition_arn
    configuration_sections    = module.service.configuration_sections
    configuration_secret_arns = { for s in ["platform", "mirror", "schedules"] : s => aws_secretsmanager_secret.this["configuration-${s}"].arn }
    server_secret_arn         = aws_secretsmanager_secret.this["server"].arn
    metrics_secret_arn        = aws_secretsmanager_secret.this["metrics"].arn
  }
}

output "secrets_to_fill" {
  description = "Secrets that need a value before the server starts: README.md says how."
  value       = { for k in ["server", "metrics"] : k => aws_secretsmanager_secret.this[k].arn }
}

output "deploy_role_arn" {
  description = "Role of GitHub's jobs. null: there is none."
  value       = module.iam.deploy_role_arn
}
