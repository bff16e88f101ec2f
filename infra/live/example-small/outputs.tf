output "manifest" {
  description = "What is there, for what is built on it. Secrets are named here, never shown."
  value = {
    version        = 1
    deployment     = var.deployment
    root_url       = local.root_url
    account_id     = var.account_id
    service_region = var.region

    regions = { (var.region) = {
      vpc_id                      = module.network.vpc_id
      subnet_ids                  = module.network.private_subnet_ids
      worker_security_group_id    = module.workers.security_group_id
      worker_instance_profile_arn = module.workers.instance_profile_arn
      launch_template_id          = module.workers.launch_template_id
      event_queue_url             = module.events.queue_url
      mirror_bucket               = null
      artifact_bucket             = module.artifacts.bucket
    } }

    database = {
      endpoint   = module.database.endpoint
      port       = module.database.port
      name       = module.database.database
      secret_arn = module.database.master_secret_arn
    }

    broker = null

    artifact_bucket = module.artifacts.bucket
    kms_key_arn     = module.kms.key_arn
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
