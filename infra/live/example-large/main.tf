# A platform for fleets in three regions: the server, its database and the artifacts are in one (home), workers, their networks
# and copies of artifacts in each. README.md says what to do before and after the first apply.

locals {
  home = "us-east-1"

  # A module takes one provider, so each region is a block; together they are one map from here on.
  regions = {
    us-east-1    = module.us_east_1
    us-west-2    = module.us_west_2
    eu-central-1 = module.eu_central_1
  }
  here          = local.regions[local.home]
  names         = sort(keys(var.networks)) # known before anything is made, unlike the keys of that map
  mirror        = [for r in local.names : r if r != local.home]
  artifacts     = "${var.bucket_prefix}-artifacts"
  boundary      = module.iam.boundary_arn # which depends on nothing of the regions
  root_url      = "https://${var.hostname}"
  secrets_in    = "/etc/taskfleet/secrets"
  mirror_config = try(var.configuration.mirror, {})

  configuration = merge(var.configuration, {
    providers = {
      aws = {
        type             = "aws"
        cluster          = var.deployment
        regions          = local.names
        accounts         = [{ id = var.account_id, queues = { for r, m in local.regions : r => m.events.queue_url } }]
        instanceProfiles = var.worker_profiles ? [for r in local.names : local.regions[r].workers.instance_profile_name] : []
      }
    }
    }, var.mirror_in_stacks ? {} : {
    mirror = merge(local.mirror_config, {
      home           = local.home
      regions        = [for r in local.mirror : { name = r, bucket = local.regions[r].mirror_bucket }]
      trustedProxies = [local.here.network.vpc_cidr] # the balancer
    })
  }, { for b in module.broker : "rabbitmq" => { urlFile = "${local.secrets_in}/rabbitmq.json" } })
}

# The regions.

module "us_east_1" {
  source = "./region"

  name                     = var.deployment
  account_id               = var.account_id
  region                   = "us-east-1"
  home                     = true
  bucket_prefix            = var.bucket_prefix
  network                  = var.networks["us-east-1"]
  nat                      = var.nat
  permissions_boundary_arn = local.boundary
}

module "us_west_2" {
  source    = "./region"
  providers = { aws = aws.us-west-2 }

  name                     = var.deployment
  account_id               = var.account_id
  region                   = "us-west-2"
  home                     = false
  bucket_prefix            = var.bucket_prefix
  network                  = var.networks["us-west-2"]
  nat                      = var.nat
  permissions_boundary_arn = local.boundary
}

module "eu_central_1" {
  source    = "./region"
  providers = { aws = aws.eu-central-1 }

  name                     = var.deployment
  account_id               = var.account_id
  region                   = "eu-central-1"
  home                     = false
  bucket_prefix            = var.bucket_prefix
  network                  = var.networks["eu-central-1"]
  nat                      = var.nat
  permissions_boundary_arn = local.boundary
}

# Rights.

module "iam" {
  source = "../../modules/iam"

  name       = var.deployment
  account_id = var.account_id
  regions    = local.names
  cluster    = var.deployment

  artifact_bucket     = local.artifacts
  mirror_buckets      = [for r in local.mirror : "${var.bucket_prefix}-copies-${r}"]
  other_buckets       = [for r in local.names : "${var.bucket_prefix}-logs-${r}"]
  secret_arns         = var.secret_configuration_arns
  bucket_kms_key_arns = [for r in local.names : local.regions[r].kms_key_arn]

  event_queue_arns           = [for r in local.names : local.regions[r].events.queue_arn]
  event_queue_kms_key_arns   = [for r in local.names : local.regions[r].kms_key_arn]
  worker_subnet_arns         = flatten([for r in local.names : local.regions[r].worker_subnet_arns])
  worker_security_group_arns = [for r in local.names : local.regions[r].workers.security_group_arn]
  worker_role_arns           = var.worker_profiles ? [for r in local.names : local.regions[r].workers.role_arn] : []
  image_parameters           = ["/${var.deployment}/"]

  deploy = var.deploy == null ? null : {
    subjects          = var.deploy.subjects
    state_bucket      = var.deploy.state_bucket
    state_kms_key_arn = var.deploy.state_kms_key_arn
    oidc_provider_arn = var.deploy.oidc_provider_arn
    hosted_zone_ids   = [var.zone_id]
  }
}

# What is kept.

module "artifacts" {
  source = "../../modules/bucket"

  bucket            = local.artifacts
  kms_key_arn       = local.here.kms_key_arn
  versioning        = true
  lifecycle_days    = { noncurrent = 30, abort_multipart = 7 }
  cors_origins      = ["*"] # of signed URLs
  access_log_bucket = local.here.access_log_bucket
}

module "database" {
  source = "../../modules/database"

  name                      = var.deployment
  account_id                = var.account_id
  region                    = local.home
  vpc_id                    = local.here.network.vpc_id
  subnet_ids                = local.here.network.database_subnet_ids
  client_security_group_ids = { service = module.service.service_security_group_id }
  kms_key_arn               = local.here.kms_key_arn
  permissions_boundary_arn  = local.boundary
  instance_class            = var.database.instance_class
  storage_gib               = var.database.storage_gib
  max_storage_gib           = var.database.max_storage_gib
  parameters                = { max_wal_size = "8192" } # thousands of tasks a second write much
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
  kms_key_id  = local.here.kms_key_arn
  tags        = { Name = "${var.deployment}/${each.key}" }
}

# The broker, and how the server gets at it.

module "broker" {
  source = "../../modules/broker"
  count  = var.broker == null ? 0 : 1

  name                      = var.deployment
  vpc_id                    = local.here.network.vpc_id
  subnet_ids                = local.here.network.private_subnet_ids
  cluster                   = true
  instance_type             = var.broker.instance_type
  engine_version            = var.broker.engine_version
  client_security_group_ids = { service = module.service.service_security_group_id }
  kms_key_arn               = local.here.kms_key_arn
}

resource "aws_secretsmanager_secret" "rabbitmq" {
  #checkov:skip=CKV2_AWS_57:The platform rotates users of RabbitMQ itself
  count = var.broker == null ? 0 : 1

  name_prefix = "${var.deployment}/broker-url-"
  description = "How the server gets at RabbitMQ: url, username and password"
  kms_key_id  = local.here.kms_key_arn
  tags        = { Name = "${var.deployment}/broker-url" }
}

resource "aws_secretsmanager_secret_version" "rabbitmq" {
  count = var.broker == null ? 0 : 1

  secret_id = aws_secretsmanager_secret.rabbitmq[0].id
  secret_string = jsonencode({
    url      = "${trimsuffix(replace(module.broker[0].endpoints[0], "amqps://", "amqps://${module.broker[0].login.username}:${module.broker[0].login.password}@"), "/")}/%2f"
    username = module.broker[0].login.username
    password = module.broker[0].login.password
  })

  lifecycle {
    ignore_changes = [secret_string] # a credential of the kind rabbitmq puts its own here
  }
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
  region     = local.home
  account_id = var.account_id

  vpc_id              = local.here.network.vpc_id
  vpc_cidr            = local.here.network.vpc_cidr
  public_subnet_ids   = local.here.network.public_subnet_ids
  private_subnet_ids  = local.here.network.private_subnet_ids
  certificate_arn     = module.dns.certificate_arn
  access_log_bucket   = local.here.access_log_bucket
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

  secret_configuration_arns = concat([for s in ["platform", "mirror", "schedules"] : aws_secretsmanager_secret.this["configuration-${s}"].arn], var.secret_configuration_arns)

  server_secret_arn   = aws_secretsmanager_secret.this["server"].arn
  metrics_secret_arn  = aws_secretsmanager_secret.this["metrics"].arn
  secret_files        = { for s in aws_secretsmanager_secret.rabbitmq : "rabbitmq.json" => s.arn }
  secret_kms_key_arns = [local.here.kms_key_arn]
  database = {
    host       = module.database.endpoint
    port       = module.database.port
    name       = module.database.database
    secret_arn = module.database.master_secret_arn
  }

  task_policy_arns         = module.iam.policy_arns
  permissions_boundary_arn = local.boundary
  log_kms_key_arn          = local.here.kms_key_arn
}

# What watches over it. Alarms of queues are in the regions of the queues.

module "observability" {
  source = "../../modules/observability"

  name        = var.deployment
  region      = local.home
  account_id  = var.account_id
  kms_key_arn = local.here.kms_key_arn
  emails      = var.emails
  broker_name = one(module.broker[*].broker_name)
  queues      = { events = local.here.events.queue }

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

module "observability_us_west_2" {
  source    = "../../modules/observability"
  providers = { aws = aws.us-west-2 }

  name        = var.deployment
  region      = "us-west-2"
  account_id  = var.account_id
  kms_key_arn = local.regions["us-west-2"].kms_key_arn
  emails      = var.emails
  queues      = { events = local.regions["us-west-2"].events.queue }
}

module "observability_eu_central_1" {
  source    = "../../modules/observability"
  providers = { aws = aws.eu-central-1 }

  name        = var.deployment
  region      = "eu-central-1"
  account_id  = var.account_id
  kms_key_arn = local.regions["eu-central-1"].kms_key_arn
  emails      = var.emails
  queues      = { events = local.regions["eu-central-1"].events.queue }
}

module "budget" {
  source = "../../modules/budget"

  name        = var.deployment
  monthly_usd = var.monthly_usd
  cost_tag    = { key = "Deployment", value = var.deployment }
  emails      = toset(var.emails)
  topic_arn   = module.observability.topic_arn
}
