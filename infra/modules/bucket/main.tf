# A private bucket: encrypted, by TLS only, its objects the account's.

locals {
  arn      = "arn:${var.partition}:s3:::${var.bucket}" # not the resource's, so that plans show the policy
  contents = "${local.arn}/*"

  # Neither S3 nor balancers write logs to where a key of KMS encrypts.
  kms = length(var.log_sources) == 0

  # Who writes logs, and where. Balancers put the account whose logs they are into the name; S3 tells it in the request.
  statements_of_writers = {
    elb = {
      Sid       = "LogsOfBalancers"
      Effect    = "Allow"
      Principal = { Service = "logdelivery.elasticloadbalancing.amazonaws.com" }
      Action    = "s3:PutObject"
      Resource  = [for prefix in ["", "*/"] : "${local.arn}/${prefix}AWSLogs/${coalesce(var.account_id, "none")}/*"]
    }
    s3 = {
      Sid       = "LogsOfBuckets"
      Effect    = "Allow"
      Principal = { Service = "logging.s3.amazonaws.com" }
      Action    = "s3:PutObject"
      Resource  = ["${local.arn}/s3/*"]
      Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
    }
  }

  policy = {
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid       = "OnlyByTLS"
          Effect    = "Deny"
          Principal = "*"
          Action    = "s3:*"
          Resource  = [local.arn, local.contents]
          Condition = { Bool = { "aws:SecureTransport" = "false" } }
        },
        {
          # What is encrypted with a key that only the caller has cannot be read by anybody else, as blackmailers know.
          Sid       = "NoKeysOfCallers"
          Effect    = "Deny"
          Principal = "*"
          Action    = "s3:PutObject"
          Resource  = [local.contents]
          Condition = { Null = { "s3:x-amz-server-side-encryption-customer-algorithm" = "false" } }
        },
      ],
      [for s in sort(tolist(var.log_sources)) : local.statements_of_writers[s]],
    )
  }
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV2_AWS_62:Nobody waits for events of this bucket
  #checkov:skip=CKV_AWS_144:Copies in other regions are made by the mirror, of what is read there
  bucket        = var.bucket
  force_destroy = var.force_destroy
  tags          = merge(var.tags, { Name = var.bucket })
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id
  policy = jsonencode(local.policy)

  depends_on = [aws_s3_bucket_public_access_block.this] # S3 refuses two such changes at a time
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    bucket_key_enabled = local.kms # one call to KMS for many objects

    # S3 blocks these itself in new buckets. Not said here, some versions of the provider would take it back in each plan.
    blocked_encryption_types = ["SSE-C"]

    apply_server_side_encryption_by_default {
      sse_algorithm     = local.kms ? "aws:kms" : "AES256"
      kms_master_key_id = local.kms ? var.kms_key_arn : null
    }
  }
}

# Taken away again, the provider suspends versioning: versions that are there stay until the rules delete them.
resource "aws_s3_bucket_versioning" "this" {
  count = var.versioning ? 1 : 0

  bucket = aws_s3_bucket.this.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  #checkov:skip=CKV_AWS_300:The first rule does it; checkov cannot see the days of a variable
  count = var.lifecycle_days == null ? 0 : 1

  bucket = aws_s3_bucket.this.id

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = var.lifecycle_days.abort_multipart
    }
  }

  # Written without versioning, too: versions may be there from when it was on.
  rule {
    id     = "former-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.lifecycle_days.noncurrent
    }

    expiration {
      expired_object_delete_marker = true # of objects of which no version is left
    }
  }

  dynamic "rule" {
    for_each = var.lifecycle_days.expire == null ? [] : [var.lifecycle_days.expire]

    content {
      id     = "expire"
      status = "Enabled"

      filter {}

      expiration {
        days = rule.value
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_cors_configuration" "this" {
  count = length(var.cors_origins) == 0 ? 0 : 1

  bucket = aws_s3_bucket.this.id

  cors_rule {
    allowed_origins = var.cors_origins
    allowed_methods = ["GET", "HEAD"]
    allowed_headers = ["*"]
    expose_headers  = ["ETag", "Content-Length", "Content-Range", "Content-Encoding"]
    max_age_seconds = 3600
  }
}

resource "aws_s3_bucket_logging" "this" {
  count = var.access_log_bucket == null ? 0 : 1

  bucket        = aws_s3_bucket.this.id
  target_bucket = var.access_log_bucket
  target_prefix = "s3/${var.bucket}/"
}
