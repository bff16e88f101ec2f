# RabbitMQ for consumers outside (docs/events.md). The platform does not need it, and goes on without it while it is down.

resource "aws_security_group" "this" {
  name_prefix = "${var.name}-broker-"
  description = "Broker of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-broker" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "amqps" {
  for_each = var.client_security_group_ids

  security_group_id            = aws_security_group.this.id
  description                  = "AMQP over TLS from ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 5671
  to_port                      = 5671
  tags                         = merge(var.tags, { Name = "${var.name}-broker-${each.key}" })
}

# The management API, by which the platform rotates users, and the console.
resource "aws_vpc_security_group_ingress_rule" "https" {
  for_each = var.client_security_group_ids

  security_group_id            = aws_security_group.this.id
  description                  = "Management from ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = merge(var.tags, { Name = "${var.name}-broker-${each.key}" })
}

# The first administrator. The secret is there before the broker, so that an attempt after a failure uses the same password.
resource "aws_secretsmanager_secret" "administrator" {
  #checkov:skip=CKV_AWS_149:The key is a variable; Secrets Manager encrypts with AWS's own otherwise
  #checkov:skip=CKV2_AWS_57:The platform rotates users of RabbitMQ itself
  name_prefix = "${var.name}/broker-"
  description = "First administrator of the broker of ${var.name}: username and password"
  kms_key_id  = var.kms_key_arn
  tags        = merge(var.tags, { Name = "${var.name}/broker" })
}

# It is another one each time that it is asked for. The secret keeps the first.
data "aws_secretsmanager_random_password" "this" {
  count = var.password == null ? 1 : 0

  password_length     = 40
  exclude_punctuation = true # it goes into URLs
}

resource "aws_secretsmanager_secret_version" "administrator" {
  secret_id = aws_secretsmanager_secret.administrator.id
  secret_string = jsonencode({
    username = var.username
    password = sensitive(var.password == null ? data.aws_secretsmanager_random_password.this[0].random_password : var.password)
  })

  lifecycle {
    ignore_changes = [secret_string] # whoever replaces the password puts it here, too
  }
}

locals {
  administrator = jsondecode(aws_secretsmanager_secret_version.administrator.secret_string)
}

# Brokers of RabbitMQ are encrypted with a key of AWS: Amazon MQ takes no key of ours for them, and no audit log.
resource "aws_mq_broker" "this" {
  #checkov:skip=CKV_AWS_209:Amazon MQ refuses encryption options for RabbitMQ; it encrypts with a key of its own
  #checkov:skip=CKV_AWS_48:Audit logs are for ActiveMQ; RabbitMQ has the general log alone, which is on
  #checkov:skip=CKV_AWS_197:Likewise
  #checkov:skip=CKV_AWS_208:The version is a variable, checked to be one that is supported
  broker_name         = var.name
  engine_type         = "RabbitMQ"
  engine_version      = var.engine_version
  deployment_mode     = var.cluster ? "CLUSTER_MULTI_AZ" : "SINGLE_INSTANCE"
  host_instance_type  = var.instance_type
  storage_type        = "ebs"
  publicly_accessible = false
  subnet_ids          = var.subnet_ids
  security_groups     = [aws_security_group.this.id]

  auto_minor_version_upgrade = true # RabbitMQ from 3.13 on is had with it only
  apply_immediately          = false

  logs {
    general = true
  }

  maintenance_window_start_time {
    day_of_week = var.maintenance.day
    time_of_day = var.maintenance.time
    time_zone   = "UTC"
  }

  user {
    username = local.administrator.username
    password = local.administrator.password
  }

  tags = merge(var.tags, { Name = var.name })

  lifecycle {
    # Users are the broker's own matter after its creation: a change here would make another broker.
    ignore_changes = [user]
  }
}
