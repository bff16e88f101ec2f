mock_provider "aws" {}

variables {
  name                       = "taskfleet-test"
  account_id                 = "123456789012"
  regions                    = ["eu-central-1", "us-east-1"]
  cluster                    = "test"
  artifact_bucket            = "example-artifacts"
  worker_subnet_arns         = ["arn:aws:ec2:eu-central-1:123456789012:subnet/subnet-1"]
  worker_security_group_arns = ["arn:aws:ec2:eu-central-1:123456789012:security-group/sg-1"]
}

run "what_is_not_there_needs_no_rights" {
  command = plan

  assert {
    condition     = keys(aws_iam_policy.part) == ["artifacts", "provisioner"] && length(aws_iam_role.deploy) == 0 && length(aws_iam_openid_connect_provider.github) == 0
    error_message = "There are rights for parts that are not there."
  }
  assert {
    condition     = length([for s in jsondecode(aws_iam_policy.part["provisioner"].policy).Statement : s if contains(["Events", "GiveProfiles", "ImagesByParameter", "KeysOfVolumes"], s.Sid)]) == 0
    error_message = "The provisioner may use queues, roles, parameters or keys that nobody named."
  }
}

run "the_provisioner_makes_and_ends_its_own_only" {
  command = plan

  variables {
    event_queue_arns    = ["arn:aws:sqs:eu-central-1:123456789012:taskfleet-test"]
    worker_role_arns    = ["arn:aws:iam::123456789012:role/taskfleet-test-worker-eu-central-1"]
    volume_kms_key_arns = ["arn:aws:kms:eu-central-1:123456789012:key/1"]
    image_parameters    = ["/taskfleet/"]
  }

  # Whatever makes, ends or uses without looking is limited by resources or by the tag.
  assert {
    condition = alltrue([for s in jsondecode(aws_iam_policy.part["provisioner"].policy).Statement :
    s.Sid == "Look" ? alltrue([for a in s.Action : can(regex("^(ec2:Describe|ec2:Get|servicequotas:Get)", a))]) : !contains(s.Resource, "*")])
    error_message = "A statement that changes something is for all resources."
  }
  assert {
    condition     = alltrue([for s in jsondecode(aws_iam_policy.part["provisioner"].policy).Statement : alltrue([for a in s.Action : !strcontains(a, "*")])])
    error_message = "An action has a wildcard."
  }
  assert {
    condition = alltrue([for s in jsondecode(aws_iam_policy.part["provisioner"].policy).Statement :
    s.Condition.StringEquals["aws:ResourceTag/taskfleet-cluster"] == "test" if contains(["EndOwn", "MakeOfOwnTemplates"], s.Sid)])
    error_message = "What belongs to others can be ended, or their templates used."
  }
  assert {
    condition = one([for s in jsondecode(aws_iam_policy.part["provisioner"].policy).Statement : s if s.Sid == "MakeWithTheTag"]).Condition.StringEquals == {
      "aws:RequestTag/taskfleet-cluster" = "test", "aws:RequestedRegion" = ["eu-central-1", "us-east-1"]
    }
    error_message = "Machines can be made without the tag, or in other regions."
  }
  assert {
    condition     = one([for s in jsondecode(aws_iam_policy.part["provisioner"].policy).Statement : s if s.Sid == "MakeOfImages"]).Condition.StringEquals["ec2:Owner"] == ["123456789012", "amazon"]
    error_message = "Images of anybody can be started."
  }
  assert {
    condition     = one([for s in jsondecode(aws_iam_policy.part["provisioner"].policy).Statement : s if s.Sid == "GiveProfiles"]).Condition.StringEquals["iam:PassedToService"] == "ec2.amazonaws.com"
    error_message = "Roles can be given to others than machines."
  }
  assert {
    condition     = one([for s in jsondecode(aws_iam_policy.part["provisioner"].policy).Statement : s if s.Sid == "NoMetadataWithoutSession"]).Effect == "Deny"
    error_message = "Machines with version 1 of the metadata service can be started."
  }
  # What provisioner/aws calls (its list Actions), but for roles of other accounts, which the policy platform has.
  assert {
    condition = length(setsubtract([
      "ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateTags", "ec2:TerminateInstances", "ec2:DescribeInstances", "ec2:CreateLaunchTemplate",
      "ec2:DescribeLaunchTemplates", "ec2:DeleteLaunchTemplate", "ec2:DescribeSpotPriceHistory", "ec2:DescribeInstanceTypeOfferings",
      "ec2:GetSpotPlacementScores", "servicequotas:GetServiceQuota", "ec2:DescribeVolumes", "ec2:DeleteVolume",
      "ec2:DescribeNetworkInterfaces", "ec2:DeleteNetworkInterface", "ec2:DescribeImages", "ec2:DescribeSecurityGroups",
      "ec2:DescribeSubnets", "ec2:DescribeKeyPairs", "ec2:DescribeInstanceTypes", "sqs:ReceiveMessage", "sqs:DeleteMessage",
      "iam:PassRole", "ssm:GetParameters",
    ], flatten([for s in jsondecode(aws_iam_policy.part["provisioner"].policy).Statement : s.Action if s.Effect == "Allow"]))) == 0
    error_message = "The provisioner lacks an action that it calls."
  }
}

run "nobody_may_more_than_the_boundary" {
  command = plan

  variables {
    mirror_buckets        = ["example-copies"]
    bucket_kms_key_arns   = ["arn:aws:kms:eu-central-1:123456789012:key/1"]
    event_queue_arns      = ["arn:aws:sqs:eu-central-1:123456789012:taskfleet-test"]
    worker_role_arns      = ["arn:aws:iam::123456789012:role/taskfleet-test-worker-eu-central-1"]
    volume_kms_key_arns   = ["arn:aws:kms:eu-central-1:123456789012:key/1"]
    image_parameters      = ["/taskfleet/"]
    seal_key_arns         = ["arn:aws:kms:eu-central-1:123456789012:key/2"]
    assumable_role_arns   = ["arn:aws:iam::123456789012:role/reader"]
    published_secret_arns = ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:x"]
    rotated_user_arns     = ["arn:aws:iam::123456789012:user/builds"]
    database_login_arns   = ["arn:aws:rds-db:eu-central-1:123456789012:dbuser:db-X/rotator"]
    email_identity_arns   = ["arn:aws:ses:eu-central-1:123456789012:identity/example.com"]
  }

  assert {
    condition     = keys(aws_iam_policy.part) == ["artifacts", "mirror", "platform", "provisioner"]
    error_message = "A part has no policy."
  }
  assert {
    condition = alltrue(flatten([for p in aws_iam_policy.part : [for s in jsondecode(p.policy).Statement : [for a in s.Action :
      contains(flatten([for b in jsondecode(aws_iam_policy.boundary.policy).Statement : b.Action]), a) || startswith(a, "ec2:Describe")
    ] if s.Effect == "Allow"]]))
    error_message = "A policy gives what the boundary takes away."
  }
  assert {
    condition     = alltrue([for s in jsondecode(aws_iam_policy.boundary.policy).Statement : !anytrue([for a in s.Action : startswith(a, "iam:") || startswith(a, "sts:")]) || !contains(s.Resource, "*")])
    error_message = "The boundary lets roles have rights on all of IAM."
  }
  # Whoever may make roles can do what the boundary lets through: no secrets and objects of others, no machines elsewhere.
  assert {
    condition = alltrue([for s in jsondecode(aws_iam_policy.boundary.policy).Statement :
      !contains(s.Resource, "*") || (try(s.Condition.StringEquals["aws:RequestedRegion"], null) != null) || !anytrue([for a in s.Action : can(regex("^(s3|secretsmanager|ec2):", a))])
    ])
    error_message = "The boundary lets roles have all objects, secrets, or machines in all regions."
  }
  assert {
    condition     = one([for s in jsondecode(aws_iam_policy.part["platform"].policy).Statement : s if s.Sid == "OpenSealKeys"]).Condition.StringEquals["kms:EncryptionContext:purpose"] == "taskfleet-seal"
    error_message = "The key opens more than seal keys."
  }
  assert {
    condition     = one([for s in jsondecode(aws_iam_policy.part["mirror"].policy).Statement : s if s.Sid == "Copies"]).Resource == ["arn:aws:s3:::example-copies/copies~/*"]
    error_message = "The mirror may write where no copies are."
  }
}

run "github_deploys_and_cannot_raise_itself" {
  command = plan

  variables {
    deploy = {
      subjects          = ["repo:example/infrastructure:environment:production"]
      state_bucket      = "example-state"
      state_kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1"
      oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
      hosted_zone_ids   = ["Z1"]
    }
  }

  assert {
    condition = jsondecode(aws_iam_role.deploy[0].assume_role_policy).Statement[0].Condition.StringEquals == {
      "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
      "token.actions.githubusercontent.com:sub" = ["repo:example/infrastructure:environment:production"]
    }
    error_message = "Jobs of others can deploy."
  }
  assert {
    condition     = length(aws_iam_openid_connect_provider.github) == 0
    error_message = "There is a second provider for GitHub's tokens."
  }
  assert {
    condition     = one([for s in jsondecode(aws_iam_policy.deploy["identity"].policy).Statement : s if s.Sid == "RolesBelowTheBoundary"]).Condition.StringEquals["iam:PermissionsBoundary"] == "arn:aws:iam::123456789012:policy/taskfleet-test-boundary"
    error_message = "Roles can be made that may do more than the boundary."
  }
  assert {
    condition     = contains(one([for s in jsondecode(aws_iam_policy.deploy["identity"].policy).Statement : s if s.Sid == "NotItsOwnRights"]).Resource, "arn:aws:iam::123456789012:role/taskfleet-test*-deploy")
    error_message = "The role can change its own rights."
  }
  assert {
    condition = alltrue(flatten([for p in aws_iam_policy.deploy : [for s in jsondecode(p.policy).Statement : [for a in s.Action :
    can(regex("^[a-z0-9-]+:(Describe|Get[A-Z][A-Za-z]*)\\*$", a)) || !strcontains(a, "*")]]]))
    error_message = "An action that changes something has a wildcard."
  }
  assert {
    condition = length(setintersection(flatten([for p in aws_iam_policy.deploy : [for s in jsondecode(p.policy).Statement : s.Action]]),
    ["logs:GetLogEvents", "ec2:RunInstances", "iam:CreateUser", "iam:CreateAccessKey", "kms:CreateKey"])) == 0
    error_message = "Deploying can read logs, start machines, or make users or keys."
  }
  assert {
    condition = alltrue(flatten([for p in aws_iam_policy.deploy : [for s in jsondecode(p.policy).Statement :
    s.Resource == [for n in ["broker", "configuration-"] : "arn:aws:secretsmanager:*:123456789012:secret:taskfleet-test/${n}*"] if contains(s.Action, "secretsmanager:GetSecretValue")]]))
    error_message = "Deploying can read secrets that it did not make."
  }
  assert {
    condition = alltrue(flatten([for p in aws_iam_policy.deploy : [for s in jsondecode(p.policy).Statement :
    s.Resource == [for n in ["execution", "task"] : "arn:aws:iam::123456789012:role/taskfleet-test-${n}"] if contains(flatten([try(s.Condition.StringEquals["iam:PassedToService"], [])]), "ecs-tasks.amazonaws.com")]]))
    error_message = "Deploying can give other roles than the server's to tasks."
  }
  assert {
    condition     = one([for s in jsondecode(aws_iam_policy.deploy["service"].policy).Statement : s if contains(s.Action, "ecs:RunTask")]).Condition.ArnLike["ecs:cluster"] == "arn:aws:ecs:*:123456789012:cluster/taskfleet-test"
    error_message = "Deploying can run tasks elsewhere."
  }
  assert {
    condition = length(setsubtract(
      [
        "application-autoscaling:Describe*", "application-autoscaling:RegisterScalableTarget", "ecs:Describe*", "ecs:ListTasks", "ecs:RegisterTaskDefinition",
        "ecs:RunTask", "ecs:TagResource", "ecs:UpdateService", "kms:Decrypt", "kms:Encrypt", "secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
      ],
      flatten([for p in aws_iam_policy.deploy : [for s in jsondecode(p.policy).Statement : s.Action if s.Effect == "Allow"]]),
    )) == 0
    error_message = "Deploying cannot call what stacks call."
  }
  # A machine that had the provisioner's tag would be ended by it.
  assert {
    condition = alltrue(flatten([for p in aws_iam_policy.deploy : [for s in jsondecode(p.policy).Statement : [for r in s.Resource :
    !can(regex(":instance/|:volume/|^[*]$|:[*]/[*]$", r))] if contains(s.Action, "ec2:CreateTags")]]))
    error_message = "Deploying can tag machines of others."
  }
}

run "mistakes_are_refused" {
  command = plan

  variables {
    name                       = "Taskfleet"
    account_id                 = "1234"
    partition                  = "azure"
    regions                    = []
    cluster                    = "two words"
    bucket_kms_key_arns        = ["alias/x"]
    event_queue_arns           = ["https://sqs"]
    event_queue_kms_key_arns   = ["alias/x"]
    worker_subnet_arns         = ["subnet-1"]
    worker_security_group_arns = ["sg-1"]
    image_owners               = ["*"]
    worker_role_arns           = ["*"]
    volume_kms_key_arns        = ["*"]
    image_parameters           = ["/aws/service/"]
    seal_key_arns              = ["alias/taskfleet"]
    assumable_role_arns        = ["*"]
    published_secret_arns      = ["*"]

    published_secret_kms_key_arns = ["*"]

    secret_arns         = ["*"]
    other_buckets       = ["*"]
    rotated_user_arns   = ["*"]
    database_login_arns = ["*"]
    email_identity_arns = ["*"]
    deploy              = { subjects = ["repo:example/*"], state_bucket = "b", state_kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1" }
  }

  expect_failures = [
    var.name, var.account_id, var.partition, var.regions, var.cluster, var.bucket_kms_key_arns, var.event_queue_arns,
    var.event_queue_kms_key_arns, var.worker_subnet_arns, var.worker_security_group_arns, var.image_owners, var.worker_role_arns,
    var.volume_kms_key_arns, var.image_parameters, var.seal_key_arns, var.assumable_role_arns, var.published_secret_arns, var.published_secret_kms_key_arns, var.secret_arns, var.other_buckets,
    var.rotated_user_arns, var.database_login_arns, var.email_identity_arns, var.deploy,
  ]
}

run "a_key_of_state_that_is_none_is_refused" {
  command = plan

  variables {
    deploy = { subjects = ["repo:example/infrastructure:ref:refs/heads/main"], state_bucket = "b", state_kms_key_arn = "alias/state" }
  }

  expect_failures = [var.deploy]
}

run "a_policy_that_iam_would_not_take_is_refused" {
  command = plan

  variables {
    worker_subnet_arns = [for i in range(100) : "arn:aws:ec2:eu-central-1:123456789012:subnet/subnet-${i}"]
  }

  expect_failures = [aws_iam_policy.part["provisioner"]]
}
