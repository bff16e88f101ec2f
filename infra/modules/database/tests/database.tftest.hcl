# What the module makes of its variables. The provider is mocked: its schema is real, its answers are made up.

mock_provider "aws" {
  mock_resource "aws_db_instance" {
    defaults = { master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds-1", kms_key_id = "1", secret_status = "active" }] }
  }
}

variables {
  name                      = "taskfleet-test"
  account_id                = "123456789012"
  region                    = "eu-central-1"
  vpc_id                    = "vpc-1"
  subnet_ids                = ["subnet-1", "subnet-2"]
  client_security_group_ids = { service = "sg-1" }
  kms_key_arn               = "arn:aws:kms:eu-central-1:123456789012:key/1"
  tags                      = { Deployment = "test" }
}

run "nobody_sees_the_password" {
  command = plan

  assert {
    condition     = aws_db_instance.this.manage_master_user_password && aws_db_instance.this.password == null && aws_db_instance.this.master_user_secret_kms_key_id == var.kms_key_arn
    error_message = "The password is not RDS's own affair, or not encrypted with the key."
  }
}

run "encrypted_and_private" {
  command = plan

  assert {
    condition     = aws_db_instance.this.storage_encrypted && aws_db_instance.this.kms_key_id == var.kms_key_arn && aws_db_instance.this.performance_insights_kms_key_id == var.kms_key_arn
    error_message = "Storage or statistics are not encrypted with the key."
  }
  assert {
    condition     = alltrue([for g in aws_cloudwatch_log_group.this : g.kms_key_id == var.kms_key_arn]) && toset(keys(aws_cloudwatch_log_group.this)) == aws_db_instance.this.enabled_cloudwatch_logs_exports
    error_message = "A log is kept unencrypted or for ever."
  }
  assert {
    condition     = aws_db_instance.this.publicly_accessible == false
    error_message = "The database is public."
  }
  assert {
    condition     = keys(aws_vpc_security_group_ingress_rule.clients) == ["service"] && aws_vpc_security_group_ingress_rule.clients["service"].referenced_security_group_id == "sg-1" && aws_vpc_security_group_ingress_rule.clients["service"].cidr_ipv4 == null
    error_message = "Others than the clients get in."
  }
  assert {
    condition     = { for p in aws_db_parameter_group.this.parameter : p.name => p.value }["rds.force_ssl"] == "1"
    error_message = "Connections need no TLS."
  }
}

run "kept" {
  command = plan

  assert {
    condition     = aws_db_instance.this.deletion_protection && aws_db_instance.this.skip_final_snapshot == false && aws_db_instance.this.delete_automated_backups == false
    error_message = "The database can be deleted just like that."
  }
  assert {
    condition     = aws_db_instance.this.multi_az && aws_db_instance.this.backup_retention_period == 14 && aws_db_instance.this.final_snapshot_identifier == "taskfleet-test-final"
    error_message = "The database is in one zone, or backed up differently."
  }
  assert {
    condition     = aws_db_instance.this.tags == tomap({ Deployment = "test", Name = "taskfleet-test" })
    error_message = "The tags are others."
  }
}

run "parameters" {
  command = plan
  variables {
    engine_version = "16"
    parameters     = { max_wal_size = "8192", max_connections = "400" }
  }
  assert {
    condition     = { for p in aws_db_parameter_group.this.parameter : p.name => p.apply_method if contains(["max_wal_size", "max_connections", "rds.force_ssl"], p.name) } == { max_connections = "pending-reboot", max_wal_size = "immediate", "rds.force_ssl" = "pending-reboot" }
    error_message = "A parameter that wants a restart is applied at once, or the other way round."
  }
  assert {
    condition     = aws_db_parameter_group.this.family == "postgres16" && aws_db_instance.this.engine_version == "16"
    error_message = "The parameters are another version's."
  }
}

run "outputs" {
  assert {
    condition     = output.master_secret_arn == "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds-1" && output.port == 5432 && output.database == "taskfleet" && output.instance_id == "taskfleet-test"
    error_message = "What is put out is something else."
  }
}

run "a_name_that_rds_does_not_take" {
  command = plan
  variables { name = "taskfleet--test" }
  expect_failures = [var.name]
}

run "one_subnet" {
  command = plan
  variables { subnet_ids = ["subnet-1"] }
  expect_failures = [var.subnet_ids]
}

run "max_storage_gib" {
  command = plan
  variables { max_storage_gib = 105 }
  expect_failures = [var.max_storage_gib]
}

run "the_role_is_for_this_database_alone" {
  command = plan

  assert {
    condition = jsondecode(aws_iam_role.monitoring.assume_role_policy).Statement[0].Condition == {
      StringEquals = { "aws:SourceAccount" = "123456789012" }
      ArnLike      = { "aws:SourceArn" = "arn:aws:rds:eu-central-1:123456789012:db:taskfleet-test" }
    }
    error_message = "RDS can use the role for somebody else's database."
  }
}

run "mistakes_are_refused" {
  command = plan

  variables {
    account_id                = "1234"
    region                    = "Frankfurt"
    name                      = "Taskfleet"
    kms_key_arn               = "alias/data"
    partition                 = "azure"
    permissions_boundary_arn  = "boundary"
    engine_version            = "17.4"
    instance_class            = "m7g.large"
    database                  = "postgres"
    username                  = "admin"
    storage_gib               = 10
    parameters                = { "rds.force_ssl" = "0" }
    backup_days               = 0
    backup_window             = "at night"
    maintenance_window        = "sunday"
    final_snapshot_identifier = "last--one"
    log_retention_days        = 2
  }

  expect_failures = [
    var.account_id, var.region,
    var.name, var.kms_key_arn, var.partition, var.permissions_boundary_arn, var.engine_version, var.instance_class,
    var.database, var.username, var.storage_gib, var.parameters, var.backup_days, var.backup_window,
    var.maintenance_window, var.final_snapshot_identifier, var.log_retention_days,
  ]
}
