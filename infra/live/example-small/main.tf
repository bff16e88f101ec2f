# A platform in one region: the server, its database and the artifacts, and a network for workers. README.md says what to do
# before and after the first apply.

locals {
  artifacts = "${var.bucket_prefix}-artifacts"
  logs      = "${var.bucket_prefix}-logs"
  root_url  = "https://${var.hostname}"

  configuration = merge(var.configuration, {
    providers = {
      aws = {
        type             = "aws"
        cluster          = var.deployment
        regions          = [var.region]
        accounts         = [{ id = var.account_id, queues = { (var.region) = module.events.queue_url } }]
        instanceProfiles = var.worker_profiles ? [module.workers.instance_profile_name] : []
      }
    }
  })
}

# What all of it stands on.

module "kms" {
  source = "../../modules/kms"

  name       = var.deployment
  purpose    = "data"
  account_id = var.account_id
  region     = var.region
  services   = ["logs", "events", "cloudwatch", "budgets"]
}

module "network" {
  source = "../../modules/network"

  name                     = var.deployment
  region                   = var.region
  account_id               = var.account_id
  cidr                     = var.network.cidr
  availability_zones       = var.network.availability_zones
  nat                      = var.nat
  log_kms_key_arn          = module.kms.key_arn
  log_retention_days       = 30
  permissions_boundary_arn = module.iam.boundary_arn
}

module "workers" {
  source = "../../modules/workers"

  name                     = var.deployment
  region                   = var.region
  account_id               = var.account_id
  vpc_id                   = module.network.vpc_id
  log_kms_key_arn          = module.kms.key_arn
  permissions_boundary_arn = module.iam.boundary_arn
}

module "events" {
  source = "../../modules/events"

  name        = var.deployment
  region      = var.region
  account_id  = var.account_id
  kms_key_arn = module.kms.key_arn
}

# Rights.

module "iam" {
  source = "../../modules/iam"

  name       = var.deployment
  account_id = var.account_id
  regions    = [var.region]
  cluster    = var.deployment

  artifact_bucket     = local.artifacts
  other_buckets       = [local.logs]
  bucket_kms_key_arns = [module.kms.key_arn]

  event_queue_arns           = [module.events.queue_arn]
  event_queue_kms_key_arns   = [module.kms.key_arn]
  worker_subnet_arns         = [for s in module.network.private_subnet_ids : "arn:aws:ec2:${var.region}:${var.account_id}:subnet/${s}"]
  worker_security_group_arns = [module.workers.security_group_arn]
  worker_role_arns           = var.worker_profiles ? [module.workers.role_arn] : []
  image_parameters           = ["/${var.deployment}/"]
  seal_key_arns              = [module.kms.key_arn]

  deploy = one([for d in var.deploy[*] : merge(d, { hosted_zone_ids = [var.zone_id] })])
}

# What is kept.

module "access_logs" {
  source = "../../modules/bucket"

  bucket         = local.logs
  account_id     = var.account_id
  log_sources    = ["s3", "elb"]
  versioning     = false
  lifecycle_days = { expire = 90 }
}

module "artifacts" {
  source = "../../modules/bucket"

  bucket            = local.artifacts
  kms_key_arn       = module.kms.key_arn
  lifecycle_days    = { noncurrent = 7 }
  cors_origins      = ["*"] # of signed URLs
  access_log_bucket = module.access_logs.bucket
}

module "database" {
  source = "../../modules/database"

  name                      = var.deployment
  account_id                = var.account_id
  region                    = var.region
  vpc_id                    = module.network.vpc_id
  subnet_ids                = module.network.database_subnet_ids
  client_security_group_ids = { service = module.service.service_security_group_id }
  kms_key_arn               = module.kms.key_arn
  permissions_boundary_arn  = module.iam.boundary_arn
  instance_class            = var.database.instance_class
  storage_gib               = var.database.storage_gib
  max_storage_gib           = var.database.max_storage_gib
  multi_az                  = var.database.multi_az
  deletion_protection       = var.deletion_protection
}

# Secrets that stacks put values into, or people; Terraform does not know them.
resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV2_AWS_57:Seal keys and tokens are replaced by the platform's own ways (docs/security.md)
  for_each = {
    server                  = "What replicas share: taskfleet config secrets prints it"
    metrics                 = "Bearer token of /metrics"
    configuration-platform  = "Sections of the server's configuration: stack platform"
    configuration-mirror    = "Sections of the server's configuration: stack mirror"
    configuration-schedules = "Sections of the server's configuration: stack schedules"
  }

  name_prefix = "${var.deployment}/${each.key}-"
  description = each.value
  kms_key_id  = module.kms.key_arn
  tags        = { Name = "${var.deployment}/${each.key}" }
}

# The server.

module "dns" {
  source = "../../modules/dns"

  name     = var.deployment
  zone_id  = var.zone_id
  hostname = var.hostname
  alb      = { dns_name = module.service.alb_dns_name, zone_id = module.service.alb_zone_id }
}

module "service" {
  source = "../../modules/service"

  name       = var.deployment
  region     = var.region
  account_id = var.account_id

  vpc_id              = module.network.vpc_id
  vpc_cidr            = module.network.vpc_cidr
  public_subnet_ids   = module.network.public_subnet_ids
  private_subnet_ids  = module.network.private_subnet_ids
  certificate_arn     = module.dns.certificate_arn
  access_log_bucket   = module.access_logs.bucket
  deletion_protection = var.deletion_protection

  image        = var.image
  cpu          = var.service.cpu
  memory       = var.service.memory
  min_replicas = var.service.min_replicas
  max_replicas = var.service.max_replicas
  environment  = { GOMEMLIMIT = "${floor(var.service.memory * 0.8)}MiB" }

  root_url        = local.root_url
  artifact_bucket = module.artifacts.bucket
  configuration   = local.configuration

  secret_configuration_arns = [for s in ["platform", "mirror", "schedules"] : aws_secretsmanager_secret.this["configuration-${s}"].arn]

  server_secret_arn   = aws_secretsmanager_secret.this["server"].arn
  metrics_secret_arn  = aws_secretsmanager_secret.this["metrics"].arn
  secret_kms_key_arns = [module.kms.key_arn]
  database = {
    host       = module.database.endpoint
    port       = module.database.port
    name       = module.database.database
    secret_arn = module.database.master_secret_arn
  }

  task_policy_arns         = module.iam.policy_arns
  permissions_boundary_arn = module.iam.boundary_arn
  log_kms_key_arn          = module.kms.key_arn
}

# What watches over it.

module "observability" {
  source = "../../modules/observability"

  name        = var.deployment
  region      = var.region
  account_id  = var.account_id
  kms_key_arn = module.kms.key_arn
  emails      = var.emails
  queues      = { events = { name = module.events.queue_name, dead = module.events.dead_letter_queue_name } }

  service = {
    alb_arn_suffix          = module.service.alb_arn_suffix
    target_group_arn_suffix = module.service.target_group_arn_suffix
    cluster_name            = module.service.cluster_name
    service_name            = module.service.service_name
    min_replicas            = var.service.min_replicas
    log_group               = module.service.log_group
  }

  database = {
    instance_id     = module.database.instance_id
    storage_gib     = var.database.storage_gib
    max_connections = var.database.max_connections
  }
}

module "budget" {
  source = "../../modules/budget"

  name        = var.deployment
  monthly_usd = var.monthly_usd
  cost_tag    = { key = "Deployment", value = var.deployment }
  topic_arn   = module.observability.topic_arn
}
