# What machines of a region stand on that run tasks. The provisioner starts them, by launch templates of its own that it makes of
# pools; what is here they refer to. docs/aws-worker.md says what such a machine needs.

# Nothing comes in. Out goes what tasks need; name servers and the time of the VPC need no rule.
resource "aws_security_group" "this" {
  name_prefix = "${var.name}-workers-"
  description = "Workers of ${var.name}: nothing comes in"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-workers" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "this" {
  for_each = merge([for c in var.egress_cidrs : { for p in var.egress_ports : "${c}:${p}" => { cidr = c, port = p } }]...)

  security_group_id = aws_security_group.this.id
  description       = "What tasks fetch"
  cidr_ipv4         = each.value.cidr
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  tags              = merge(var.tags, { Name = "${var.name}-workers-out" })
}

# A worker calls AWS for nothing, and whatever the role may do every task may do. So it may do next to nothing, and pools need
# it only for machines that people log in to, or whose image sends its log away.
resource "aws_iam_role" "this" {
  name                 = "${var.name}-worker-${var.region}"
  description          = "Machines of ${var.name} in ${var.region} that run tasks"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Machines"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
  tags = merge(var.tags, { Name = "${var.name}-worker-${var.region}" })

  lifecycle {
    precondition {
      condition     = length("${var.name}-worker-${var.region}") <= 64
      error_message = "The role's name would have more than 64 characters; choose a shorter name."
    }
  }
}

resource "aws_iam_role_policy" "logs" {
  name = "logs"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "SendLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["arn:${var.partition}:logs:${var.region}:${var.account_id}:log-group:/taskfleet/${var.name}/workers:log-stream:*"]
    }]
  })
}

resource "aws_iam_role_policy" "sessions" {
  count = var.session_manager ? 1 : 0

  name = "sessions"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Register"
        Effect   = "Allow"
        Action   = ["ssm:UpdateInstanceInformation"]
        Resource = ["arn:${var.partition}:ec2:${var.region}:${var.account_id}:instance/*", "arn:${var.partition}:ssm:${var.region}:${var.account_id}:managed-instance/*"]
      },
      {
        Sid    = "Talk"
        Effect = "Allow"
        Action = [
          "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
          "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
        ]
        Resource = ["*"] # AWS has no resources for these actions
      },
    ]
  })
}

resource "aws_iam_instance_profile" "this" {
  name = "${var.name}-worker-${var.region}"
  role = aws_iam_role.this.name
  tags = merge(var.tags, { Name = "${var.name}-worker-${var.region}" })
}

# Volumes are encrypted also where a pool says nothing of it.
resource "aws_ebs_encryption_by_default" "this" {
  count = var.encrypt_by_default ? 1 : 0

  enabled = true
}

resource "aws_ebs_default_kms_key" "this" {
  count = var.encrypt_by_default && var.volume_key != null ? 1 : 0

  key_arn = var.volume_key.arn
}

# The same as the provisioner sets, for machines of provider static and such that people start to look at an image.
resource "aws_launch_template" "this" {
  name                                 = "${var.name}-worker"
  description                          = "A machine of ${var.name} that people start; the provisioner makes its own of pools"
  update_default_version               = true
  ebs_optimized                        = true
  instance_initiated_shutdown_behavior = "terminate"
  vpc_security_group_ids               = [aws_security_group.this.id]

  iam_instance_profile {
    arn = aws_iam_instance_profile.this.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # the machine, and no container on it
    instance_metadata_tags      = "disabled"
  }

  block_device_mappings {
    device_name = var.root_device_name

    ebs {
      volume_size           = var.volume_gib
      volume_type           = "gp3"
      encrypted             = true
      kms_key_id            = try(var.volume_key.arn, null)
      delete_on_termination = true
    }
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "volume", "network-interface"]

    content {
      resource_type = tag_specifications.value
      tags          = merge(var.tags, { Name = "${var.name}-worker" })
    }
  }

  tags = merge(var.tags, { Name = "${var.name}-worker" })
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:The key is a variable; CloudWatch encrypts with its own otherwise
  #checkov:skip=CKV_AWS_338:Retention is a variable, a year by default
  name              = "/taskfleet/${var.name}/workers"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = merge(var.tags, { Name = "${var.name}-workers" })
}
