# The plan beside this file is of this configuration, made with terraform and the stand-in for the provider
# (infra/stub), so that the rules are tried on what terraform prints. What is wrong in it is marked.
terraform {
  required_providers { aws = { source = "hashicorp/aws" } }
}

provider "aws" {
  region = var.region
  default_tags { tags = { Deployment = "example", ManagedBy = "terraform" } }
}

variable "region" { default = "eu-central-1" }

resource "aws_s3_bucket" "this" {
  for_each = toset(["good", "bare"])
  bucket   = "taskfleet-${each.key}"
}

# bucket_private: nothing is for the bucket "bare".
resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = toset(["good"])
  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this.arn
    }
  }
}

data "aws_iam_policy_document" "bucket" {
  for_each = aws_s3_bucket.this
  statement {
    sid       = "TLSOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value.arn, "${each.value.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
  # iam_principals: everybody may read.
  statement {
    sid       = "Everybody"
    actions   = ["s3:GetObject"]
    resources = ["${each.value.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  policy   = data.aws_iam_policy_document.bucket[each.key].json
}

resource "aws_kms_key" "this" {
  enable_key_rotation = true
}

resource "aws_security_group" "balancer" {
  name = "balancer"
}

resource "aws_vpc_security_group_ingress_rule" "https" {
  security_group_id = aws_security_group.balancer.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

# ingress_open: SSH.
resource "aws_vpc_security_group_ingress_rule" "ssh" {
  security_group_id = aws_security_group.balancer.id
  cidr_ipv6         = "::/0"
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

resource "aws_lb" "this" {
  name            = "example"
  security_groups = [aws_security_group.balancer.id]
  subnets         = ["subnet-1", "subnet-2"]
}

# imdsv2, and volume_encrypted: the launch template leaves both to AWS.
resource "aws_launch_template" "worker" {
  name = "worker"
}

# Not judged: nothing is known of the policy before there is a bucket.
resource "aws_iam_policy" "read" {
  name   = "read"
  policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = "s3:GetObject", Resource = "${aws_s3_bucket.this["good"].arn}/*" }] })
}
