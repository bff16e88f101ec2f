# What the module makes of its variables. The provider is mocked: its schema is real, its answers are made up.

mock_provider "aws" {}

variables {
  bucket      = "example-artifacts"
  kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1"
  tags        = { Deployment = "test" }
}

run "nothing_is_public" {
  command = plan

  assert {
    condition = (aws_s3_bucket_public_access_block.this.block_public_acls && aws_s3_bucket_public_access_block.this.block_public_policy &&
    aws_s3_bucket_public_access_block.this.ignore_public_acls && aws_s3_bucket_public_access_block.this.restrict_public_buckets)
    error_message = "The bucket can be made public."
  }
  assert {
    condition     = aws_s3_bucket_ownership_controls.this.rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "Objects can be somebody else's, or have ACLs."
  }
  assert {
    condition     = !anytrue([for s in jsondecode(aws_s3_bucket_policy.this.policy).Statement : s.Effect == "Allow"])
    error_message = "The policy allows somebody something."
  }
  assert {
    condition     = aws_s3_bucket.this.force_destroy == false && aws_s3_bucket.this.tags == tomap({ Deployment = "test", Name = "example-artifacts" })
    error_message = "The bucket can be deleted with what is in it, or has other tags."
  }
}

run "only_by_tls" {
  command = plan

  assert {
    condition = jsondecode(aws_s3_bucket_policy.this.policy).Statement[0] == {
      Sid       = "OnlyByTLS", Effect = "Deny", Principal = "*", Action = "s3:*",
      Resource  = ["arn:aws:s3:::example-artifacts", "arn:aws:s3:::example-artifacts/*"],
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }
    error_message = "Requests without TLS are not refused."
  }
}

run "encrypted_with_the_key" {
  command = plan

  assert {
    condition = alltrue([for r in aws_s3_bucket_server_side_encryption_configuration.this.rule : r.bucket_key_enabled &&
    r.apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms" && r.apply_server_side_encryption_by_default[0].kms_master_key_id == var.kms_key_arn])
    error_message = "Objects are not encrypted with the key."
  }
  assert {
    condition     = alltrue([for r in aws_s3_bucket_server_side_encryption_configuration.this.rule : toset(r.blocked_encryption_types) == toset(["SSE-C"])])
    error_message = "S3 takes keys of callers, or each plan takes its block back."
  }
  assert {
    condition     = [for s in jsondecode(aws_s3_bucket_policy.this.policy).Statement : s.Sid] == ["OnlyByTLS", "NoKeysOfCallers"]
    error_message = "Keys of callers can be used."
  }
}

run "versions_are_kept_for_a_while" {
  command = plan

  assert {
    condition     = aws_s3_bucket_versioning.this[0].versioning_configuration[0].status == "Enabled"
    error_message = "What is deleted is not kept."
  }
  assert {
    condition     = [for r in aws_s3_bucket_lifecycle_configuration.this[0].rule : r.id] == ["unfinished-uploads", "former-versions"]
    error_message = "The rules are others."
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.this[0].rule[1].noncurrent_version_expiration[0].noncurrent_days == 30
    error_message = "Versions are kept for longer or shorter."
  }
}

run "a_mirror_writes_its_rules_itself" {
  command = plan
  variables {
    versioning     = false
    lifecycle_days = null
  }
  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.this) == 0 && length(aws_s3_bucket_versioning.this) == 0
    error_message = "Rules or versions are managed though nobody has asked for it."
  }
}

run "objects_expire" {
  command = plan
  variables { lifecycle_days = { expire = 10, noncurrent = 2 } }
  assert {
    condition     = [for r in aws_s3_bucket_lifecycle_configuration.this[0].rule : r.id] == ["unfinished-uploads", "former-versions", "expire"]
    error_message = "The rules are others."
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.this[0].rule[2].expiration[0].days == 10 && aws_s3_bucket_lifecycle_configuration.this[0].rule[1].noncurrent_version_expiration[0].noncurrent_days == 2
    error_message = "Objects or versions live for longer or shorter."
  }
}

run "web_pages" {
  command = plan
  variables { cors_origins = ["https://tasks.example.com"] }
  assert {
    condition     = alltrue([for r in aws_s3_bucket_cors_configuration.this[0].cors_rule : r.allowed_origins == toset(["https://tasks.example.com"]) && r.allowed_methods == toset(["GET", "HEAD"])])
    error_message = "Web pages can do more than read."
  }
}

run "access_logs" {
  command = plan
  variables { access_log_bucket = "example-logs" }
  assert {
    condition     = aws_s3_bucket_logging.this[0].target_bucket == "example-logs" && aws_s3_bucket_logging.this[0].target_prefix == "s3/example-artifacts/"
    error_message = "Access logs go elsewhere."
  }
}

run "a_bucket_for_logs" {
  command = plan
  variables {
    bucket      = "example-logs"
    kms_key_arn = null
    account_id  = "123456789012"
    log_sources = ["s3", "elb"]
  }
  assert {
    condition = { for s in jsondecode(aws_s3_bucket_policy.this.policy).Statement : s.Principal.Service => join(" ", s.Resource) if s.Effect == "Allow" } == {
      "logdelivery.elasticloadbalancing.amazonaws.com" = "arn:aws:s3:::example-logs/AWSLogs/123456789012/* arn:aws:s3:::example-logs/*/AWSLogs/123456789012/*"
      "logging.s3.amazonaws.com"                       = "arn:aws:s3:::example-logs/s3/*"
    }
    error_message = "Others can write logs, or elsewhere."
  }
  assert {
    condition     = jsondecode(aws_s3_bucket_policy.this.policy).Statement[3].Condition.StringEquals["aws:SourceAccount"] == "123456789012"
    error_message = "Logs of other accounts come in."
  }
  assert {
    condition     = alltrue([for r in aws_s3_bucket_server_side_encryption_configuration.this.rule : !r.bucket_key_enabled && r.apply_server_side_encryption_by_default[0].sse_algorithm == "AES256"])
    error_message = "The bucket is encrypted with a key, where no logs can be written to."
  }
}

run "kms_key_arn" {
  command = plan
  variables { kms_key_arn = "alias/data" }
  expect_failures = [var.kms_key_arn]
}

run "logs_of_itself" {
  command = plan
  variables { access_log_bucket = "example-artifacts" }
  expect_failures = [var.access_log_bucket]
}

run "logs_of_what_does_not_exist" {
  command = plan
  variables {
    kms_key_arn = null
    account_id  = "123456789012"
    log_sources = ["rds"]
  }
  expect_failures = [var.log_sources]
}

run "logs_of_everybody" {
  command = plan
  variables {
    kms_key_arn = null
    log_sources = ["s3"]
  }
  expect_failures = [var.log_sources]
}

run "logs_with_a_key" {
  command = plan
  variables {
    account_id  = "123456789012"
    log_sources = ["s3"]
  }
  expect_failures = [var.kms_key_arn]
}

run "no_key" {
  command = plan
  variables { kms_key_arn = null }
  expect_failures = [var.kms_key_arn]
}

run "mistakes_are_refused" {
  command = plan

  variables {
    bucket         = "Example.artifacts"
    partition      = "azure"
    lifecycle_days = { expire = 0 }
    cors_origins   = ["tasks.example.com/"]
    account_id     = "1234"
  }

  expect_failures = [
    var.bucket, var.partition, var.lifecycle_days, var.cors_origins, var.account_id,
  ]
}
