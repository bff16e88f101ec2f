# A key of KMS, rotated each year, with a policy that lets in this account alone.

locals {
  # Services that make requests of their own. AWS names the account that they act for in aws:SourceAccount, so that the
  # service cannot be had to use the key for somebody else's.
  for_this_account = { StringEquals = { "aws:SourceAccount" = var.account_id } }

  statements_of_services = {
    logs = {
      Sid       = "ServiceLogs"
      Effect    = "Allow"
      Principal = { Service = "logs.${var.region}.amazonaws.com" }
      Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"]
      Resource  = "*"
      Condition = { ArnLike = { "kms:EncryptionContext:aws:logs:arn" = "arn:${var.partition}:logs:${var.region}:${var.account_id}:log-group:*" } }
    }
    cloudwatch = {
      Sid       = "ServiceCloudwatch"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = "*"
      Condition = local.for_this_account
    }
    budgets = {
      Sid       = "ServiceBudgets"
      Effect    = "Allow"
      Principal = { Service = "budgets.amazonaws.com" }
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = "*"
      Condition = local.for_this_account
    }
    events = {
      # EventBridge does not say for which account it sends to an encrypted queue: a condition on it would lose every
      # event. The queue's own policy names the rules that may send to it.
      Sid       = "ServiceEvents"
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = "*"
    }
  }

  # In a key's policy, the resource * is the key itself.
  policy = {
    Version = "2012-10-17"
    Statement = concat(
      [{
        # Without this no IAM policy gives anything on the key, and a key whose administrators are gone could be changed
        # by nobody.
        Sid       = "AccountByItsPolicies"
        Effect    = "Allow"
        Principal = { AWS = "arn:${var.partition}:iam::${var.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      }],
      length(var.administrators) == 0 ? [] : [{
        Sid       = "Administrators"
        Effect    = "Allow"
        Principal = { AWS = var.administrators }
        Action = [
          "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:DisableKey", "kms:DisableKeyRotation",
          "kms:EnableKey", "kms:EnableKeyRotation", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListGrants", "kms:ListKeyPolicies",
          "kms:ListResourceTags", "kms:ListRetirableGrants", "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:ScheduleKeyDeletion", "kms:TagResource",
          "kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription"
        ]
        Resource = "*"
      }],
      length(var.users) == 0 ? [] : [{
        Sid       = "Users"
        Effect    = "Allow"
        Principal = { AWS = var.users }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"]
        Resource  = "*"
      }],
      length(var.users) == 0 ? [] : [{
        Sid       = "UsersByServices"
        Effect    = "Allow"
        Principal = { AWS = var.users }
        Action    = ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"]
        Resource  = "*"
        Condition = { Bool = { "kms:GrantIsForAWSResource" = "true" } }
      }],
      # By their names, so that the policy does not change with the order of the set.
      [for s in sort(tolist(var.services)) : local.statements_of_services[s]],
    )
  }
}

resource "aws_kms_key" "this" {
  description             = "${var.name}: ${var.purpose}"
  enable_key_rotation     = true
  deletion_window_in_days = var.deletion_window_days
  policy                  = jsonencode(local.policy)
  tags                    = merge(var.tags, { Name = "${var.name}-${var.purpose}" })
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.name}-${var.purpose}"
  target_key_id = aws_kms_key.this.key_id
}
