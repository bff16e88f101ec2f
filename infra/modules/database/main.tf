# PostgreSQL on RDS: reached by TLS only, encrypted, its password made by RDS and seen by nobody.

locals {
  parameters = merge(
    { "log_lock_waits" = "1" },
    var.parameters,
    {
      "password_encryption" = "scram-sha-256"
      "rds.force_ssl"       = "1"
    },
  )

  # Those that PostgreSQL reads at its start only, which RDS refuses to apply at once; and those above whose value is RDS's default:
  # RDS keeps them as pending-reboot, so that anything else would be a change in each plan. They count from the first start on.
  static = [
    "password_encryption", "rds.force_ssl",
    "autovacuum_freeze_max_age", "autovacuum_max_workers", "autovacuum_multixact_freeze_max_age", "autovacuum_worker_slots", "huge_pages",
    "io_method", "max_connections", "max_files_per_process", "max_locks_per_transaction", "max_logical_replication_workers",
    "max_pred_locks_per_transaction", "max_prepared_transactions", "max_replication_slots", "max_wal_senders", "max_worker_processes",
    "pg_stat_statements.max", "rds.logical_replication", "shared_buffers", "shared_preload_libraries", "superuser_reserved_connections",
    "track_activity_query_size", "track_commit_timestamp", "wal_buffers"
  ]
}

resource "aws_db_subnet_group" "this" {
  name        = var.name
  description = "Database of ${var.name}"
  subnet_ids  = var.subnet_ids
  tags        = merge(var.tags, { Name = var.name })
}

resource "aws_security_group" "this" {
  name        = "${var.name}-database"
  description = "Database of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-database" })
}

# No rule lets anything out: a database calls nobody.
resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = var.client_security_group_ids

  security_group_id            = aws_security_group.this.id
  description                  = "PostgreSQL from ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  tags                         = merge(var.tags, { Name = "${var.name}-database-${each.key}" })
}

# Another major version wants another group, which has to be there before the database lets go of the former.
resource "aws_db_parameter_group" "this" {
  name_prefix = "${var.name}-${var.engine_version}-"
  family      = "postgres${var.engine_version}"
  description = "Parameters of ${var.name}"
  tags        = merge(var.tags, { Name = var.name })

  dynamic "parameter" {
    for_each = local.parameters

    content {
      name         = parameter.key
      value        = parameter.value
      apply_method = contains(local.static, parameter.key) ? "pending-reboot" : "immediate"
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

# RDS makes these by itself, but keeps them for ever and unencrypted.
resource "aws_cloudwatch_log_group" "this" {
  for_each = toset(["postgresql", "upgrade"])

  name              = "/aws/rds/instance/${var.name}/${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = merge(var.tags, { Name = "${var.name}-${each.key}" })
}

resource "aws_iam_role" "monitoring" {
  name                 = "${var.name}-database-monitoring"
  description          = "Writes the statistics of the machine of ${var.name}"
  permissions_boundary = var.permissions_boundary_arn
  tags                 = merge(var.tags, { Name = "${var.name}-database-monitoring" })

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Monitoring"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "monitoring.rds.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${var.partition}:rds:${var.region}:${var.account_id}:db:${var.name}" }
      }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "monitoring" {
  role       = aws_iam_role.monitoring.name
  policy_arn = "arn:${var.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

resource "aws_db_instance" "this" {
  #checkov:skip=CKV2_AWS_30:Logged statements have values in them; Performance Insights shows the statements without
  #checkov:skip=CKV2_AWS_69:The parameter group has rds.force_ssl; checkov cannot see into local.parameters
  #checkov:skip=CKV_AWS_157:It is on unless somebody says otherwise
  #checkov:skip=CKV_AWS_293:It is on unless somebody says otherwise
  identifier     = var.name
  engine         = "postgres"
  engine_version = var.engine_version
  instance_class = var.instance_class
  db_name        = var.database
  port           = 5432
  tags           = merge(var.tags, { Name = var.name })

  username                            = var.username
  manage_master_user_password         = true
  master_user_secret_kms_key_id       = var.kms_key_arn
  iam_database_authentication_enabled = true # for the rotation of credentials

  storage_type          = "gp3"
  allocated_storage     = var.storage_gib
  max_allocated_storage = var.max_storage_gib
  storage_encrypted     = true
  kms_key_id            = var.kms_key_arn

  multi_az               = var.multi_az
  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.this.id]
  publicly_accessible    = false
  ca_cert_identifier     = "rds-ca-rsa2048-g1"
  parameter_group_name   = aws_db_parameter_group.this.name

  backup_retention_period   = var.backup_days
  backup_window             = var.backup_window
  copy_tags_to_snapshot     = true
  delete_automated_backups  = false
  deletion_protection       = var.deletion_protection
  skip_final_snapshot       = var.skip_final_snapshot
  final_snapshot_identifier = coalesce(var.final_snapshot_identifier, "${var.name}-final")

  maintenance_window          = var.maintenance_window
  apply_immediately           = var.apply_immediately
  auto_minor_version_upgrade  = true
  allow_major_version_upgrade = var.allow_major_version_upgrade

  enabled_cloudwatch_logs_exports       = ["postgresql", "upgrade"]
  monitoring_interval                   = 60
  monitoring_role_arn                   = aws_iam_role.monitoring.arn
  performance_insights_enabled          = true
  performance_insights_kms_key_id       = var.kms_key_arn
  performance_insights_retention_period = 7 # days; longer ones are paid for

  depends_on = [aws_cloudwatch_log_group.this, aws_iam_role_policy_attachment.monitoring]
}
