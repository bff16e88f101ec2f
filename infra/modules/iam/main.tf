# What the platform may do at AWS: a policy for each part of it, for the server's role. The provisioner's is that of
# docs/provisioner.md, narrowed to the subnets, security groups and images of this deployment. The mirror's is in docs/mirror.md,
# those of credentials are in infra/policies. Policies are written out by jsonencode, so that a plan shows them.

locals {
  bucket_arns = [for b in [var.artifact_bucket] : "arn:${var.partition}:s3:::${b}"]
  mirror_arns = [for b in var.mirror_buckets : "arn:${var.partition}:s3:::${b}"]
  ec2         = "arn:${var.partition}:ec2:*:${var.account_id}"
  here        = { "aws:RequestedRegion" = var.regions }

  # By S3 alone, so that the role opens nothing else with these keys.
  bucket_keys = length(var.bucket_kms_key_arns) == 0 ? [] : [{
    Sid       = "KeysOfBuckets"
    Effect    = "Allow"
    Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
    Resource  = var.bucket_kms_key_arns
    Condition = { StringLike = { "kms:ViaService" = "s3.*.amazonaws.com" } }
  }]

  artifacts = concat([
    {
      Sid      = "ArtifactBucket"
      Effect   = "Allow"
      Action   = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
      Resource = local.bucket_arns
    },
    {
      Sid      = "Artifacts"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
      Resource = [for a in local.bucket_arns : "${a}/*"]
    },
  ], local.bucket_keys)

  mirror = [
    {
      Sid      = "Origins"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = [for a in local.bucket_arns : "${a}/*"]
    },
    {
      Sid      = "Copies"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
      Resource = [for a in local.mirror_arns : "${a}/copies~/*"]
    },
    {
      Sid      = "CopyBuckets"
      Effect   = "Allow"
      Action   = ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetLifecycleConfiguration", "s3:PutLifecycleConfiguration"]
      Resource = local.mirror_arns
    },
  ]

  provisioner = concat(
    [
      {
        # AWS has no resources for these, so that the region is all that limits them. They only look.
        Sid    = "Look"
        Effect = "Allow"
        Action = [
          "ec2:DescribeInstances", "ec2:DescribeLaunchTemplates", "ec2:DescribeSpotPriceHistory",
          "ec2:DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypes", "ec2:DescribeImages",
          "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeKeyPairs",
          "ec2:DescribeVolumes", "ec2:DescribeNetworkInterfaces", "ec2:GetSpotPlacementScores",
          "servicequotas:GetServiceQuota",
        ]
        Resource  = ["*"]
        Condition = { StringEquals = local.here }
      },
      {
        Sid       = "MakeWithTheTag"
        Effect    = "Allow"
        Action    = ["ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateLaunchTemplate"]
        Resource  = [for r in ["instance", "volume", "fleet", "launch-template"] : "${local.ec2}:${r}/*"]
        Condition = { StringEquals = merge(local.here, { "aws:RequestTag/taskfleet-cluster" = var.cluster }) }
      },
      {
        Sid       = "MakeOfOwnTemplates"
        Effect    = "Allow"
        Action    = ["ec2:RunInstances", "ec2:CreateFleet"]
        Resource  = ["${local.ec2}:launch-template/*"]
        Condition = { StringEquals = { "aws:ResourceTag/taskfleet-cluster" = var.cluster } }
      },
      {
        Sid      = "MakeIn"
        Effect   = "Allow"
        Action   = ["ec2:RunInstances", "ec2:CreateFleet"]
        Resource = concat(var.worker_subnet_arns, var.worker_security_group_arns, ["${local.ec2}:network-interface/*", "${local.ec2}:spot-instances-request/*"])
      },
      {
        Sid       = "MakeOfImages"
        Effect    = "Allow"
        Action    = ["ec2:RunInstances", "ec2:CreateFleet"]
        Resource  = ["arn:${var.partition}:ec2:*::image/*", "arn:${var.partition}:ec2:*::snapshot/*"]
        Condition = { StringEquals = { "ec2:Owner" = distinct(concat([var.account_id], var.image_owners)) } }
      },
      {
        # The server asks for it anyway; this holds also if it is not the server that has its role.
        Sid       = "NoMetadataWithoutSession"
        Effect    = "Deny"
        Action    = ["ec2:RunInstances"]
        Resource  = ["${local.ec2}:instance/*"]
        Condition = { StringNotEquals = { "ec2:MetadataHttpTokens" = "required" } }
      },
      {
        Sid       = "TagWhatIsMade"
        Effect    = "Allow"
        Action    = ["ec2:CreateTags"]
        Resource  = ["${local.ec2}:*/*"]
        Condition = { StringEquals = { "ec2:CreateAction" = ["RunInstances", "CreateFleet", "CreateLaunchTemplate"] } }
      },
      {
        Sid       = "EndOwn"
        Effect    = "Allow"
        Action    = ["ec2:TerminateInstances", "ec2:DeleteVolume", "ec2:DeleteNetworkInterface", "ec2:DeleteLaunchTemplate"]
        Resource  = ["${local.ec2}:*/*"]
        Condition = { StringEquals = { "aws:ResourceTag/taskfleet-cluster" = var.cluster } }
      },
    ],
    length(var.event_queue_arns) == 0 ? [] : [{
      Sid      = "Events"
      Effect   = "Allow"
      Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage"]
      Resource = var.event_queue_arns
    }],
    length(var.event_queue_kms_key_arns) == 0 ? [] : [{
      Sid       = "OpenEvents"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = var.event_queue_kms_key_arns
      Condition = { StringLike = { "kms:ViaService" = "sqs.*.amazonaws.com" } }
    }],
    length(var.worker_role_arns) == 0 ? [] : [{
      Sid       = "GiveProfiles"
      Effect    = "Allow"
      Action    = ["iam:PassRole"]
      Resource  = var.worker_role_arns
      Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
    }],
    length(var.image_parameters) == 0 ? [] : [{
      Sid    = "ImagesByParameter"
      Effect = "Allow"
      Action = ["ssm:GetParameters"]
      Resource = concat(
        ["arn:${var.partition}:ssm:*::parameter/aws/service/*"],
        [for p in var.image_parameters : "arn:${var.partition}:ssm:*:${var.account_id}:parameter${p}*"],
      )
    }],
    length(var.volume_kms_key_arns) == 0 ? [] : [
      {
        Sid       = "KeysOfVolumes"
        Effect    = "Allow"
        Action    = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
        Resource  = var.volume_kms_key_arns
        Condition = { StringLike = { "kms:ViaService" = "ec2.*.amazonaws.com" } }
      },
      {
        Sid       = "LetVolumesBeUsed"
        Effect    = "Allow"
        Action    = ["kms:CreateGrant"]
        Resource  = var.volume_kms_key_arns
        Condition = { Bool = { "kms:GrantIsForAWSResource" = "true" }, StringLike = { "kms:ViaService" = "ec2.*.amazonaws.com" } }
      },
    ],
  )

  # What credentials, seal keys and emails need, as far as there are such.
  platform = concat(
    length(var.seal_key_arns) == 0 ? [] : [{
      Sid       = "OpenSealKeys"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = var.seal_key_arns
      Condition = { StringEquals = { "kms:EncryptionContext:purpose" = "taskfleet-seal" } }
    }],
    length(var.assumable_role_arns) == 0 ? [] : [{
      Sid      = "TakeRoles"
      Effect   = "Allow"
      Action   = ["sts:AssumeRole", "sts:TagSession"]
      Resource = var.assumable_role_arns
    }],
    length(var.published_secret_arns) == 0 ? [] : [{
      Sid      = "PublishIntoSecrets"
      Effect   = "Allow"
      Action   = ["secretsmanager:PutSecretValue"]
      Resource = var.published_secret_arns
    }],
    length(var.published_secret_kms_key_arns) == 0 ? [] : [{
      Sid       = "KeysOfPublishedSecrets"
      Effect    = "Allow"
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = var.published_secret_kms_key_arns
      Condition = { StringLike = { "kms:ViaService" = "secretsmanager.*.amazonaws.com" } }
    }],
    length(var.rotated_user_arns) == 0 ? [] : [{
      Sid    = "RotateKeysOfUsers"
      Effect = "Allow"
      Action = [
        "iam:ListAccessKeys", "iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:DeleteAccessKey",
        "iam:GetAccessKeyLastUsed", "iam:ListUserTags", "iam:TagUser",
      ]
      Resource = var.rotated_user_arns
    }],
    length(var.database_login_arns) == 0 ? [] : [{
      Sid      = "LogInToDatabases"
      Effect   = "Allow"
      Action   = ["rds-db:connect"]
      Resource = var.database_login_arns
    }],
    length(var.email_identity_arns) == 0 ? [] : [{
      Sid      = "SendEmails"
      Effect   = "Allow"
      Action   = ["ses:SendEmail"]
      Resource = var.email_identity_arns
    }],
  )

  parts = toset(concat(
    ["artifacts", "provisioner"],
    length(var.mirror_buckets) > 0 ? ["mirror"] : [],
    length(local.platform) > 0 ? ["platform"] : [],
  ))

  statements = {
    artifacts   = jsonencode(local.artifacts)
    provisioner = jsonencode(local.provisioner)
    mirror      = jsonencode(local.mirror)
    platform    = jsonencode(local.platform)
  }
}

resource "aws_iam_policy" "part" {
  for_each = local.parts

  name        = "${var.name}-${each.key}"
  description = "What ${each.key} of ${var.name} needs"
  policy      = jsonencode({ Version = "2012-10-17", Statement = jsondecode(local.statements[each.key]) })
  tags        = merge(var.tags, { Name = "${var.name}-${each.key}" })

  lifecycle {
    precondition {
      condition     = length(jsonencode({ Version = "2012-10-17", Statement = jsondecode(local.statements[each.key]) })) <= 6144
      error_message = "The policy of ${each.key} would have more than the 6144 characters that IAM takes: name fewer subnets, security groups or keys."
    }
  }
}

# The most that a role of this deployment may ever do, whatever policies somebody attaches to it: so it is also the most that
# whoever may make such roles can do. It gives nothing by itself. Resources are limited where a mistake would be worst: machines by
# regions, objects by buckets, secrets by names, grants on keys, and all of IAM.
resource "aws_iam_policy" "boundary" {
  #checkov:skip=CKV_AWS_290:A boundary gives nothing; the policies of the parts limit resources
  #checkov:skip=CKV_AWS_289:Likewise
  #checkov:skip=CKV_AWS_288:Likewise
  #checkov:skip=CKV_AWS_355:Likewise
  name        = "${var.name}-boundary"
  description = "The most that roles of ${var.name} may do"
  tags        = merge(var.tags, { Name = "${var.name}-boundary" })
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid    = "UpTo"
          Effect = "Allow"
          Action = [
            "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetAuthorizationToken", "ecr:GetDownloadUrlForLayer",
            "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom",
            "kms:ReEncryptTo",
            "logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogGroups", "logs:DescribeLogStreams", "logs:GetLogEvents",
            "logs:PutLogEvents", "logs:PutRetentionPolicy", # of networks' flow logs and the database's statistics, too
            "rds-db:connect", "ses:SendEmail", "sqs:DeleteMessage", "sqs:ReceiveMessage", "ssm:GetParameters", "ssm:UpdateInstanceInformation",
            "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
          ]
          Resource = ["*"]
        },
        {
          Sid    = "Machines"
          Effect = "Allow"
          Action = [
            "ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateLaunchTemplate", "ec2:CreateTags", "ec2:TerminateInstances",
            "ec2:DeleteVolume", "ec2:DeleteNetworkInterface", "ec2:DeleteLaunchTemplate", "ec2:Describe*", "ec2:GetSpotPlacementScores",
            "servicequotas:GetServiceQuota",
          ]
          Resource  = ["*"]
          Condition = { StringEquals = local.here }
        },
        {
          Sid       = "Grants"
          Effect    = "Allow"
          Action    = ["kms:CreateGrant"]
          Resource  = ["*"]
          Condition = { Bool = { "kms:GrantIsForAWSResource" = "true" } }
        },
        {
          Sid    = "Objects"
          Effect = "Allow"
          Action = [
            "s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetLifecycleConfiguration", "s3:GetObject", "s3:ListBucket",
            "s3:ListBucketMultipartUploads", "s3:ListMultipartUploadParts", "s3:PutLifecycleConfiguration", "s3:PutObject",
          ]
          Resource = flatten([for a in concat(local.bucket_arns, local.mirror_arns) : [a, "${a}/*"]])
        },
        {
          # RDS names the secrets of master users itself.
          Sid    = "ReadSecrets"
          Effect = "Allow"
          Action = ["secretsmanager:GetSecretValue"]
          Resource = concat(
            [for s in ["${var.name}/*", "rds!*"] : "arn:${var.partition}:secretsmanager:*:${var.account_id}:secret:${s}"],
            var.secret_arns,
          )
        },
        {
          Sid       = "GiveWorkersRoles"
          Effect    = "Allow"
          Action    = ["iam:PassRole"]
          Resource  = ["arn:${var.partition}:iam::${var.account_id}:role/${var.name}-worker-*"]
          Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
        },
      ],
      length(var.published_secret_arns) == 0 ? [] : [{
        Sid      = "PublishIntoSecrets"
        Effect   = "Allow"
        Action   = ["secretsmanager:PutSecretValue"]
        Resource = var.published_secret_arns
      }],
      length(var.assumable_role_arns) == 0 ? [] : [{
        Sid      = "TakeRoles"
        Effect   = "Allow"
        Action   = ["sts:AssumeRole", "sts:TagSession"]
        Resource = var.assumable_role_arns
      }],
      length(var.rotated_user_arns) == 0 ? [] : [{
        Sid    = "RotateKeysOfUsers"
        Effect = "Allow"
        Action = [
          "iam:ListAccessKeys", "iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:DeleteAccessKey",
          "iam:GetAccessKeyLastUsed", "iam:ListUserTags", "iam:TagUser",
        ]
        Resource = var.rotated_user_arns
      }],
    )
  })
}
