output "network" {
  description = "VPC and subnets."
  value = {
    vpc_id              = module.network.vpc_id
    vpc_cidr            = module.network.vpc_cidr
    public_subnet_ids   = module.network.public_subnet_ids
    private_subnet_ids  = module.network.private_subnet_ids
    database_subnet_ids = module.network.database_subnet_ids
  }
}

output "worker_subnet_arns" {
  description = "Subnets of workers, for the provisioner's policy."
  value       = [for s in module.network.private_subnet_ids : "arn:aws:ec2:${var.region}:${var.account_id}:subnet/${s}"]
}

output "workers" {
  description = "What workers stand on."
  value = {
    security_group_id     = module.workers.security_group_id
    security_group_arn    = module.workers.security_group_arn
    instance_profile_arn  = module.workers.instance_profile_arn
    instance_profile_name = module.workers.instance_profile_name
    launch_template_id    = module.workers.launch_template_id
    role_arn              = module.workers.role_arn
  }
}

output "events" {
  description = "EC2's events."
  value = {
    queue_url = module.events.queue_url
    queue_arn = module.events.queue_arn
    queue     = { name = module.events.queue_name, dead = module.events.dead_letter_queue_name }
  }
}

output "mirror_bucket" {
  description = "Bucket of copies. null: none, in the home region."
  value       = one(module.mirror[*].bucket)
}

output "access_log_bucket" {
  description = "Bucket for access logs."
  value       = module.access_logs.bucket
}

output "kms_key_arn" {
  description = "Key of the region's data."
  value       = module.kms.key_arn
}
