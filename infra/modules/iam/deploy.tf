# Who deploys: a job of GitHub, which shows a token of the repository and the environment it is for and gets an hour. It can make
# and change what these modules make, roles only below the boundary, and not its own rights: those are an administrator's.

locals {
  deploy = var.deploy == null ? [] : [var.deploy]
  role   = "${var.name}-deploy"
  iam    = "arn:${var.partition}:iam::${var.account_id}"

  # IAM's names of these services have the prefix in them, as far as the services know names.
  named = {
    roles    = "${local.iam}:role/${var.name}-*"
    policies = "${local.iam}:policy/${var.name}-*"
    profiles = "${local.iam}:instance-profile/${var.name}-*"
  }

  deploy_statements = {
    # Describing and listing has no resources with most services. Contents (objects, secrets, logs) are not in it.
    read = [{
      Sid    = "Look"
      Effect = "Allow"
      Action = [
        "acm:DescribeCertificate", "acm:ListTagsForCertificate", "application-autoscaling:Describe*",
        "application-autoscaling:ListTagsForResource", "budgets:ViewBudget", "budgets:ListTagsForResource",
        "cloudwatch:DescribeAlarms", "cloudwatch:GetDashboard", "cloudwatch:ListTagsForResource", "ec2:Describe*",
        "ec2:GetEbsDefaultKmsKeyId", "ec2:GetEbsEncryptionByDefault", "ecs:Describe*", "ecs:ListTagsForResource",
        "elasticloadbalancing:Describe*", "events:DescribeRule", "events:ListTagsForResource", "events:ListTargetsByRule",
        "iam:GetInstanceProfile", "iam:GetOpenIDConnectProvider", "iam:GetPolicy", "iam:GetPolicyVersion", "iam:GetRole",
        "iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListInstanceProfilesForRole", "iam:ListInstanceProfileTags",
        "iam:ListOpenIDConnectProviders", "iam:ListPolicyTags", "iam:ListPolicyVersions", "iam:ListRolePolicies", "iam:ListRoleTags",
        "kms:DescribeKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListAliases", "kms:ListResourceTags",
        "logs:DescribeLogGroups", "logs:DescribeMetricFilters", "logs:ListTagsForResource", "mq:DescribeBroker",
        "mq:DescribeConfiguration", "mq:DescribeConfigurationRevision", "mq:ListTags", "rds:Describe*", "rds:ListTagsForResource",
        "route53:GetChange", "route53:GetHostedZone", "route53:ListHostedZones", "route53:ListResourceRecordSets",
        "route53:ListTagsForResource", "s3:GetAccelerateConfiguration", "s3:GetBucket*", "s3:GetEncryptionConfiguration",
        "s3:GetLifecycleConfiguration", "s3:GetReplicationConfiguration", "s3:ListTagsForResource", "secretsmanager:DescribeSecret",
        "secretsmanager:GetRandomPassword", "secretsmanager:GetResourcePolicy", "sns:GetSubscriptionAttributes", "sns:GetTopicAttributes", "sns:ListTagsForResource",
        "sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ListQueueTags", "sts:GetCallerIdentity",
      ]
      Resource = ["*"]
    }]

    # Networks have no names, and what is made in them refers to what is there. So the region is the limit. Network interfaces are
    # for brokers, which Amazon MQ puts into subnets in the name of whoever makes them.
    network = [
      {
        Sid    = "Networks"
        Effect = "Allow"
        Action = [
          "ec2:AllocateAddress", "ec2:AssociateAddress", "ec2:AssociateRouteTable", "ec2:AssociateVpcCidrBlock", "ec2:AttachInternetGateway",
          "ec2:AuthorizeSecurityGroupEgress", "ec2:AuthorizeSecurityGroupIngress", "ec2:CreateEgressOnlyInternetGateway",
          "ec2:CreateFlowLogs", "ec2:CreateInternetGateway", "ec2:CreateLaunchTemplate", "ec2:CreateLaunchTemplateVersion",
          "ec2:CreateNatGateway", "ec2:CreateNetworkInterface", "ec2:CreateRoute", "ec2:CreateRouteTable", "ec2:CreateSecurityGroup",
          "ec2:CreateSubnet", "ec2:CreateVpc", "ec2:CreateVpcEndpoint", "ec2:DeleteEgressOnlyInternetGateway",
          "ec2:DeleteFlowLogs", "ec2:DeleteInternetGateway", "ec2:DeleteLaunchTemplate", "ec2:DeleteLaunchTemplateVersions",
          "ec2:DeleteNatGateway", "ec2:DeleteNetworkInterface", "ec2:DeleteRoute", "ec2:DeleteRouteTable", "ec2:DeleteSecurityGroup",
          "ec2:DeleteSubnet", "ec2:DeleteVpc", "ec2:DeleteVpcEndpoints", "ec2:DetachInternetGateway", "ec2:DetachNetworkInterface",
          "ec2:DisableEbsEncryptionByDefault", "ec2:DisassociateAddress", "ec2:DisassociateRouteTable", "ec2:DisassociateVpcCidrBlock",
          "ec2:EnableEbsEncryptionByDefault", "ec2:ModifyEbsDefaultKmsKeyId", "ec2:ModifyLaunchTemplate",
          "ec2:ModifySecurityGroupRules", "ec2:ModifySubnetAttribute", "ec2:ModifyVpcAttribute", "ec2:ModifyVpcEndpoint",
          "ec2:ReleaseAddress", "ec2:ReplaceRoute", "ec2:ReplaceRouteTableAssociation", "ec2:ResetEbsDefaultKmsKeyId",
          "ec2:RevokeSecurityGroupEgress", "ec2:RevokeSecurityGroupIngress", "ec2:UpdateSecurityGroupRuleDescriptionsEgress",
          "ec2:UpdateSecurityGroupRuleDescriptionsIngress",
        ]
        Resource  = ["*"]
        Condition = { StringEquals = { "aws:RequestedRegion" = var.regions } }
      },
      {
        # Not of machines and volumes: by their tags the provisioner knows what is its own to end.
        Sid    = "TagNetworks"
        Effect = "Allow"
        Action = ["ec2:CreateTags", "ec2:DeleteTags"]
        Resource = [for r in [
          "egress-only-internet-gateway", "elastic-ip", "internet-gateway", "launch-template", "natgateway", "route-table",
          "security-group", "security-group-rule", "subnet", "vpc", "vpc-endpoint", "vpc-flow-log",
        ] : "arn:${var.partition}:ec2:*:${var.account_id}:${r}/*"]
        Condition = { StringEquals = { "aws:RequestedRegion" = var.regions } }
      },
      {
        Sid       = "NetworkOfBrokers"
        Effect    = "Allow"
        Action    = ["ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterfacePermission"]
        Resource  = ["arn:${var.partition}:ec2:*:${var.account_id}:network-interface/*"]
        Condition = { StringEquals = { "ec2:AuthorizedService" = "mq.amazonaws.com" } }
      },
    ]

    data = concat(
      [
        {
          Sid    = "Buckets"
          Effect = "Allow"
          Action = [
            "s3:CreateBucket", "s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:ListBucket", "s3:PutBucketCORS", "s3:PutBucketLogging",
            "s3:PutBucketOwnershipControls", "s3:PutBucketPolicy", "s3:PutBucketPublicAccessBlock", "s3:PutBucketTagging",
            "s3:PutBucketVersioning", "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration", "s3:TagResource", "s3:UntagResource",
          ]
          Resource = concat(local.bucket_arns, local.mirror_arns, [for b in var.other_buckets : "arn:${var.partition}:s3:::${b}"])
        },
        {
          # New keys are an administrator's: who may give a key its first tags may give them to any key, and so make it one of these.
          Sid    = "Keys"
          Effect = "Allow"
          Action = [
            "kms:CreateAlias", "kms:DeleteAlias", "kms:UpdateAlias", "kms:DisableKeyRotation", "kms:EnableKeyRotation", "kms:PutKeyPolicy",
            "kms:ScheduleKeyDeletion", "kms:TagResource", "kms:UntagResource", "kms:UpdateKeyDescription",
          ]
          Resource  = ["arn:${var.partition}:kms:*:${var.account_id}:key/*"]
          Condition = { StringLike = { "aws:ResourceTag/Name" = "${var.name}-*" } }
        },
        {
          Sid      = "NamesOfKeys"
          Effect   = "Allow"
          Action   = ["kms:CreateAlias", "kms:DeleteAlias", "kms:UpdateAlias"]
          Resource = ["arn:${var.partition}:kms:*:${var.account_id}:alias/${var.name}*"]
        },
        {
          # RDS encrypts with a key in the name of whoever makes a database.
          Sid       = "LetServicesUseKeys"
          Effect    = "Allow"
          Action    = ["kms:CreateGrant", "kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = ["arn:${var.partition}:kms:*:${var.account_id}:key/*"]
          Condition = { StringLike = { "aws:ResourceTag/Name" = "${var.name}-*", "kms:ViaService" = ["rds.*.amazonaws.com", "secretsmanager.*.amazonaws.com"] } }
        },
        {
          Sid    = "Databases"
          Effect = "Allow"
          Action = [
            "rds:AddTagsToResource", "rds:CreateDBInstance", "rds:CreateDBParameterGroup", "rds:CreateDBSubnetGroup", "rds:CreateDBSnapshot",
            "rds:DeleteDBInstance", "rds:DeleteDBParameterGroup", "rds:DeleteDBSubnetGroup", "rds:ModifyDBInstance",
            "rds:ModifyDBParameterGroup", "rds:ModifyDBSubnetGroup", "rds:RebootDBInstance", "rds:RemoveTagsFromResource",
            "rds:ResetDBParameterGroup",
          ]
          Resource = [for k in ["db", "pg", "subgrp", "snapshot", "og"] : "arn:${var.partition}:rds:*:${var.account_id}:${k}:${k == "og" ? "default" : var.name}*"]
        },
        {
          # Also those that RDS makes for the master user, whose values it cannot read.
          Sid      = "Secrets"
          Effect   = "Allow"
          Action   = ["secretsmanager:CreateSecret", "secretsmanager:DeleteSecret", "secretsmanager:RotateSecret", "secretsmanager:TagResource", "secretsmanager:UntagResource", "secretsmanager:UpdateSecret", "secretsmanager:UpdateSecretVersionStage"]
          Resource = [for s in ["${var.name}/*", "rds!*"] : "arn:${var.partition}:secretsmanager:*:${var.account_id}:secret:${s}"]
        },
        {
          # Terraform itself made the broker's, stacks the configuration, and both look whether they are what was put there.
          Sid      = "ReadWhatWasWritten"
          Effect   = "Allow"
          Action   = ["secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"]
          Resource = [for s in ["broker", "configuration-"] : "arn:${var.partition}:secretsmanager:*:${var.account_id}:secret:${var.name}/${s}*"]
        },
        {
          # Stacks make these up if they have no value, and do not read them.
          Sid      = "FillSecrets"
          Effect   = "Allow"
          Action   = ["secretsmanager:PutSecretValue"]
          Resource = [for s in ["server-", "metrics-"] : "arn:${var.partition}:secretsmanager:*:${var.account_id}:secret:${var.name}/${s}*"]
        },
        {
          Sid       = "Brokers"
          Effect    = "Allow"
          Action    = ["mq:CreateBroker", "mq:CreateConfiguration", "mq:CreateTags", "mq:DeleteBroker", "mq:DeleteTags", "mq:RebootBroker", "mq:UpdateBroker", "mq:UpdateConfiguration"]
          Resource  = ["*"] # brokers and configurations have ids that nobody knows before
          Condition = { StringEquals = { "aws:RequestedRegion" = var.regions } }
        },
        {
          Sid      = "LogsOfBrokers"
          Effect   = "Allow"
          Action   = ["logs:CreateLogGroup"]
          Resource = ["arn:${var.partition}:logs:*:${var.account_id}:log-group:/aws/amazonmq/*"]
        },
      ],
    )

    service = [
      {
        Sid    = "Messages"
        Effect = "Allow"
        Action = [
          "events:DeleteRule", "events:PutRule", "events:PutTargets", "events:RemoveTargets", "events:TagResource", "events:UntagResource",
          "sns:CreateTopic", "sns:DeleteTopic", "sns:SetTopicAttributes", "sns:Subscribe", "sns:TagResource", "sns:Unsubscribe",
          "sns:UntagResource", "sqs:CreateQueue", "sqs:DeleteQueue", "sqs:SetQueueAttributes", "sqs:TagQueue", "sqs:UntagQueue",
        ]
        Resource = concat(
          [for s in ["sns", "sqs"] : "arn:${var.partition}:${s}:*:${var.account_id}:${var.name}*"],
          ["arn:${var.partition}:events:*:${var.account_id}:rule/${var.name}*"],
        )
      },
      {
        Sid    = "Watching"
        Effect = "Allow"
        Action = [
          "cloudwatch:DeleteAlarms", "cloudwatch:DeleteDashboards", "cloudwatch:PutDashboard", "cloudwatch:PutMetricAlarm",
          "cloudwatch:TagResource", "cloudwatch:UntagResource", "logs:AssociateKmsKey", "logs:CreateLogGroup", "logs:DeleteLogGroup",
          "logs:DisassociateKmsKey", "logs:PutRetentionPolicy", "logs:TagResource", "logs:UntagResource", "budgets:ModifyBudget",
          "budgets:TagResource", "budgets:UntagResource", "logs:DeleteMetricFilter", "logs:PutMetricFilter",
        ]
        Resource = [
          "arn:${var.partition}:cloudwatch:*:${var.account_id}:alarm:${var.name}*", "arn:${var.partition}:cloudwatch::${var.account_id}:dashboard/${var.name}*",
          "arn:${var.partition}:logs:*:${var.account_id}:log-group:/taskfleet/${var.name}*", "arn:${var.partition}:logs:*:${var.account_id}:log-group:/aws/rds/instance/${var.name}*",
          "arn:${var.partition}:budgets::${var.account_id}:budget/${var.name}*",
        ]
      },
      {
        Sid    = "Service"
        Effect = "Allow"
        Action = [
          "ecs:CreateCluster", "ecs:CreateService", "ecs:DeleteCluster", "ecs:DeleteService", "ecs:TagResource", "ecs:UntagResource",
          "ecs:UpdateCluster", "ecs:UpdateClusterSettings", "ecs:UpdateService", "elasticloadbalancing:AddTags",
          "elasticloadbalancing:CreateListener", "elasticloadbalancing:CreateLoadBalancer", "elasticloadbalancing:CreateTargetGroup",
          "elasticloadbalancing:DeleteListener", "elasticloadbalancing:DeleteLoadBalancer", "elasticloadbalancing:DeleteTargetGroup",
          "elasticloadbalancing:ModifyListener", "elasticloadbalancing:ModifyListenerAttributes", "elasticloadbalancing:ModifyLoadBalancerAttributes",
          "elasticloadbalancing:ModifyTargetGroup", "elasticloadbalancing:ModifyTargetGroupAttributes", "elasticloadbalancing:RemoveTags",
          "elasticloadbalancing:SetIpAddressType", "elasticloadbalancing:SetSecurityGroups", "elasticloadbalancing:SetSubnets",
        ]
        Resource = concat(
          [for r in ["cluster", "task-definition", "service"] : "arn:${var.partition}:ecs:*:${var.account_id}:${r}/${var.name}*"],
          [for r in ["loadbalancer/app/${var.name}", "listener/app/${var.name}", "targetgroup/fleet-"] : "arn:${var.partition}:elasticloadbalancing:*:${var.account_id}:${r}*"],
        )
      },
      {
        # Migrations of the database: a task of the service's definition, in its cluster.
        Sid       = "RunTasks"
        Effect    = "Allow"
        Action    = ["ecs:RunTask"]
        Resource  = ["arn:${var.partition}:ecs:*:${var.account_id}:task-definition/${var.name}:*"]
        Condition = { ArnLike = { "ecs:cluster" = "arn:${var.partition}:ecs:*:${var.account_id}:cluster/${var.name}" } }
      },
      {
        Sid       = "ListTasks"
        Effect    = "Allow"
        Action    = ["ecs:ListTasks"]
        Resource  = ["*"] # AWS has none for tasks on Fargate
        Condition = { ArnLike = { "ecs:cluster" = "arn:${var.partition}:ecs:*:${var.account_id}:cluster/${var.name}" } }
      },
      {
        # Versions of definitions, targets of scaling and certificates have no names of ours.
        Sid    = "ServiceWithoutNames"
        Effect = "Allow"
        Action = [
          "ecs:DeregisterTaskDefinition", "ecs:RegisterTaskDefinition", "application-autoscaling:DeleteScalingPolicy",
          "application-autoscaling:DeregisterScalableTarget", "application-autoscaling:PutScalingPolicy",
          "application-autoscaling:RegisterScalableTarget", "application-autoscaling:TagResource",
          "application-autoscaling:UntagResource", "acm:AddTagsToCertificate", "acm:DeleteCertificate", "acm:RemoveTagsFromCertificate",
          "acm:RequestCertificate",
        ]
        Resource  = ["*"]
        Condition = { StringEquals = { "aws:RequestedRegion" = var.regions } }
      },
    ]

    identity = concat(
      [
        {
          Sid       = "RolesBelowTheBoundary"
          Effect    = "Allow"
          Action    = ["iam:CreateRole", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:DeleteRolePolicy", "iam:DetachRolePolicy"]
          Resource  = [local.named.roles]
          Condition = { StringEquals = { "iam:PermissionsBoundary" = "${local.iam}:policy/${var.name}-boundary" } }
        },
        {
          Sid    = "RolesPoliciesAndProfiles"
          Effect = "Allow"
          Action = [
            "iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile", "iam:CreatePolicy", "iam:CreatePolicyVersion",
            "iam:DeleteInstanceProfile", "iam:DeletePolicy", "iam:DeletePolicyVersion", "iam:DeleteRole", "iam:RemoveRoleFromInstanceProfile",
            "iam:TagInstanceProfile", "iam:TagPolicy", "iam:TagRole", "iam:UntagInstanceProfile", "iam:UntagPolicy", "iam:UntagRole",
            "iam:UpdateAssumeRolePolicy", "iam:UpdateRole", "iam:UpdateRoleDescription",
          ]
          Resource = values(local.named)
        },
        {
          Sid       = "GiveRolesToTasks"
          Effect    = "Allow"
          Action    = ["iam:PassRole"]
          Resource  = [for r in ["execution", "task"] : "${local.iam}:role/${var.name}-${r}"]
          Condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
        },
        {
          Sid       = "GiveRolesToServices"
          Effect    = "Allow"
          Action    = ["iam:PassRole"]
          Resource  = [local.named.roles]
          Condition = { StringEquals = { "iam:PassedToService" = ["ec2.amazonaws.com", "vpc-flow-logs.amazonaws.com", "monitoring.rds.amazonaws.com"] } }
        },
        {
          Sid       = "RolesOfServices"
          Effect    = "Allow"
          Action    = ["iam:CreateServiceLinkedRole"]
          Resource  = ["${local.iam}:role/aws-service-role/*"]
          Condition = { StringEquals = { "iam:AWSServiceName" = ["ecs.amazonaws.com", "ecs.application-autoscaling.amazonaws.com", "elasticloadbalancing.amazonaws.com", "mq.amazonaws.com", "rds.amazonaws.com"] } }
        },
        {
          # Whoever can change these can do everything. They are an administrator's, also those of deployments whose names begin with this one's.
          Sid    = "NotItsOwnRights"
          Effect = "Deny"
          Action = [
            "iam:AttachRolePolicy", "iam:CreatePolicyVersion", "iam:DeletePolicy", "iam:DeletePolicyVersion", "iam:DeleteRole",
            "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:PutRolePolicy", "iam:SetDefaultPolicyVersion",
            "iam:UpdateAssumeRolePolicy", "iam:PutRolePermissionsBoundary", "iam:DeleteRolePermissionsBoundary",
          ]
          Resource = ["${local.iam}:role/${var.name}*-deploy", "${local.iam}:policy/${var.name}*-deploy-*", "${local.iam}:policy/${var.name}*-boundary"]
        },
        {
          Sid      = "NoRoleWithoutBoundary"
          Effect   = "Deny"
          Action   = ["iam:DeleteRolePermissionsBoundary"]
          Resource = [local.named.roles]
        },
      ],
      [for d in local.deploy : {
        Sid      = "State"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"] # a lock is an object, and is deleted
        Resource = ["arn:${var.partition}:s3:::${d.state_bucket}/${var.name}/*"]
      }],
      [for d in local.deploy : {
        Sid       = "ListState"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = ["arn:${var.partition}:s3:::${d.state_bucket}"]
        Condition = { StringLike = { "s3:prefix" = ["${var.name}/*", "env:/"] } } # init looks for workspaces under env:/
      }],
      [for d in local.deploy : {
        Sid      = "KeyOfState"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"] # stacks encrypt with it what their secrets are encrypted with
        Resource = [d.state_kms_key_arn]
      }],
      [for d in local.deploy : {
        Sid      = "Names"
        Effect   = "Allow"
        Action   = ["route53:ChangeResourceRecordSets"]
        Resource = [for z in d.hosted_zone_ids : "arn:${var.partition}:route53:::hostedzone/${z}"]
      } if length(d.hosted_zone_ids) > 0],
    )
  }

  deploy_documents = { for k, s in local.deploy_statements : k => jsonencode({ Version = "2012-10-17", Statement = s }) }
}

resource "aws_iam_openid_connect_provider" "github" {
  count = length([for d in local.deploy : d if d.oidc_provider_arn == null])

  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"] # AWS checks GitHub's certificate by its own authorities: no thumbprints
  tags           = merge(var.tags, { Name = "${var.name}-github" })
}

resource "aws_iam_role" "deploy" {
  count = length(local.deploy)

  name                 = local.role
  description          = "Deploys ${var.name} from GitHub"
  max_session_duration = 3600
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "JobsOfTheRepository"
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = var.deploy.oidc_provider_arn == null ? aws_iam_openid_connect_provider.github[0].arn : var.deploy.oidc_provider_arn }
      Condition = { StringEquals = {
        "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
        "token.actions.githubusercontent.com:sub" = var.deploy.subjects
      } }
    }]
  })
  tags = merge(var.tags, { Name = local.role })
}

resource "aws_iam_policy" "deploy" {
  #checkov:skip=CKV_AWS_287:It reads no contents; secrets are managed without their values
  #checkov:skip=CKV_AWS_288:Reading is describing; objects are those of the state alone
  #checkov:skip=CKV_AWS_289:Roles are made below a boundary only, and its own rights are denied
  #checkov:skip=CKV_AWS_290:What has names is limited by the prefix, the rest by regions
  #checkov:skip=CKV_AWS_355:Where the resource is any, AWS has no names, and a comment says so
  #checkov:skip=CKV_AWS_286:Roles are made below a boundary only, and its own rights are denied
  for_each = { for k in keys(local.deploy_documents) : k => k if length(local.deploy) > 0 }

  name        = "${local.role}-${each.key}"
  description = "What deploying ${var.name} needs: ${each.key}"
  policy      = local.deploy_documents[each.key]
  tags        = merge(var.tags, { Name = "${local.role}-${each.key}" })

  lifecycle {
    precondition {
      condition     = length(local.deploy_documents[each.key]) <= 6144
      error_message = "The policy would have more than the 6144 characters that IAM takes: deploy fewer buckets or regions together."
    }
  }
}

resource "aws_iam_role_policy_attachment" "deploy" {
  for_each = aws_iam_policy.deploy

  role       = aws_iam_role.deploy[0].name
  policy_arn = each.value.arn
}
