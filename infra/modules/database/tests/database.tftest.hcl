# What the module makes of its variables. The provider is mocked: its schema is real, its answers are made up.

mock_provider "aws" {
  mock_resource "aws_db_instance" {
    defaults = { master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds-1", kms_key_id = "1", secret_status = "active" }] }
  }
}

variables {
  name                      = "taskfleet-test"
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
    condition     = { for p in aws_db_parameter_group.this.parameter : p.name => p.apply_method if contains(["max_wal_size", "max_connections"], p.name) } == { max_connections = "pending-reboot", max_wal_size = "immediate" }
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

run "name" {
  command = plan
  variables { name = "Taskfleet" }
  expect_failures = [var.name]
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

run "kms_key_arn" {
  command = plan
  variables { kms_key_arn = "alias/data" }
  expect_failures = [var.kms_key_arn]
}

run "partition" {
  command = plan
  variables { partition = "azure" }
  expect_failures = [var.partition]
}

run "permissions_boundary_arn" {
  command = plan
  variables { permissions_boundary_arn = "boundary" }
  expect_failures = [var.permissions_boundary_arn]
}

run "engine_version" {
  command = plan
  variables { engine_version = "17.4" }
  expect_failures = [var.engine_version]
}

run "instance_class" {
  command = plan
  variables { instance_class = "m7g.large" }
  expect_failures = [var.instance_class]
}

run "database_of_postgresql" {
  command = plan
  variables { database = "postgres" }
  expect_failures = [var.database]
}

run "reserved_username" {
  command = plan
  variables { username = "admin" }
  expect_failures = [var.username]
}

run "storage_gib" {
  command = plan
  variables { storage_gib = 10 }
  expect_failures = [var.storage_gib]
}

run "max_storage_gib" {
  command = plan
  variables { max_storage_gib = 105 }
  expect_failures = [var.max_storage_gib]
}

run "tls_is_no_choice" {
  command = plan
  variables { parameters = { "rds.force_ssl" = "0" } }
  expect_failures = [var.parameters]
}

run "backup_days" {
  command = plan
  variables { backup_days = 0 }
  expect_failures = [var.backup_days]
}

run "backup_window" {
  command = plan
  variables { backup_window = "at night" }
  expect_failures = [var.backup_window]
}

run "maintenance_window" {
  command = plan
  variables { maintenance_window = "sunday" }
  expect_failures = [var.maintenance_window]
}

run "final_snapshot_identifier" {
  command = plan
  variables { final_snapshot_identifier = "last--one" }
  expect_failures = [var.final_snapshot_identifier]
}

run "log_retention_days" {
  command = plan
  variables { log_retention_days = 2 }
  expect_failures = [var.log_retention_days]
}
