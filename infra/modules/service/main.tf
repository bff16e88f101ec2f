# The server on Fargate, behind a balancer that ends TLS. What it needs of either is in docs/operations.md.

locals {
  port  = 8080
  owner = "10001" # the user that the server runs as; any but root

  database_place = format("%s:%d/%s?sslmode=verify-full&sslrootcert=%s", var.database.host, var.database.port, var.database.name, "/etc/taskfleet/secrets/rds-ca.pem")

  settings = merge(var.configuration, {
    data        = "/var/lib/taskfleet"
    listen      = "0.0.0.0:${local.port}"
    rootUrl     = var.root_url
    database    = "file:/etc/taskfleet/secrets/database.json"
    secretsFile = "/etc/taskfleet/secrets/server.json"
    s3          = { region = coalesce(var.artifact_bucket_region, var.region), bucket = var.artifact_bucket }
    logFormat   = "json"
  })
  configuration = yamlencode(local.settings)

  files = merge(var.secret_files, { "server.json" = var.server_secret_arn })

  # Images of the account's registry, by the ARNs of their repositories. Others are public.
  repositories = distinct([
    for p in [for i in [var.image, var.files_image] : try(regex("^([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.amazonaws\\.com(?:\\.cn)?/([^:@]+)", i), null)] :
    "arn:${var.partition}:ecr:${p[1]}:${p[0]}:repository/${p[2]}" if p != null
  ])
}

# The way in: HTTPS from where it is allowed to the balancer, HTTP from there to the server, and nothing else.

resource "aws_security_group" "balancer" {
  name_prefix = "${var.name}-balancer-"
  description = "Balancer of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-balancer" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "https" {
  for_each = toset(var.ingress_cidrs)

  security_group_id = aws_security_group.balancer.id
  description       = "Clients and workers"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = merge(var.tags, { Name = "${var.name}-https" })
}

resource "aws_vpc_security_group_ingress_rule" "https_ipv6" {
  for_each = toset(var.ingress_ipv6_cidrs)

  security_group_id = aws_security_group.balancer.id
  description       = "Clients and workers"
  cidr_ipv6         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = merge(var.tags, { Name = "${var.name}-https" })
}

resource "aws_vpc_security_group_egress_rule" "balancer" {
  security_group_id            = aws_security_group.balancer.id
  description                  = "To the server"
  referenced_security_group_id = aws_security_group.service.id
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  tags                         = merge(var.tags, { Name = "${var.name}-to-service" })
}

resource "aws_security_group" "service" {
  name_prefix = "${var.name}-service-"
  description = "Server of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-service" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "service" {
  security_group_id            = aws_security_group.service.id
  description                  = "From the balancer"
  referenced_security_group_id = aws_security_group.balancer.id
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  tags                         = merge(var.tags, { Name = "${var.name}-from-balancer" })
}

# The server calls AWS, origins of copies, chats and other people's APIs: by HTTPS. Name servers of the VPC need no rule.
resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.service.id
  description       = "AWS and what else is configured"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = merge(var.tags, { Name = "${var.name}-to-https" })
}

# The database, and the broker if there is one. Their own security groups say from where.
resource "aws_vpc_security_group_egress_rule" "inside" {
  for_each = { database = var.database.port, broker = 5671 }

  security_group_id = aws_security_group.service.id
  description       = "To the ${each.key}"
  cidr_ipv4         = var.vpc_cidr
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
  tags              = merge(var.tags, { Name = "${var.name}-to-${each.key}" })
}

resource "aws_lb" "this" {
  #checkov:skip=CKV_AWS_150:Deletion protection is a variable, on by default
  #checkov:skip=CKV_AWS_91:Access logs are a variable; the server logs requests itself
  #checkov:skip=CKV2_AWS_28:A firewall that looks into bodies breaks calls that are signed and checked by schemas; limits are the server's own
  name               = var.name
  load_balancer_type = "application"
  internal           = false
  ip_address_type    = length(var.ingress_ipv6_cidrs) > 0 ? "dualstack" : "ipv4"
  subnets            = var.public_subnet_ids
  security_groups    = [aws_security_group.balancer.id]

  # Requests are signed with their host, path and port: all has to arrive as it was sent.
  preserve_host_header       = true
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "defensive"

  # Above the 20 s that claimWork waits and streams are silent, and below the 180 s after which replicas close connections.
  idle_timeout = 120

  enable_deletion_protection = var.deletion_protection

  dynamic "access_logs" {
    for_each = var.access_log_bucket == null ? [] : [var.access_log_bucket]

    content {
      bucket  = access_logs.value
      prefix  = var.name
      enabled = true
    }
  }

  tags = merge(var.tags, { Name = var.name })

  lifecycle {
    precondition {
      condition     = length(var.name) <= 32 && !endswith(var.name, "-") && !startswith(var.name, "internal-")
      error_message = "The balancer takes the name, which must have 32 characters at most, not end with a dash and not begin with internal-."
    }
  }
}

resource "aws_lb_target_group" "this" {
  #checkov:skip=CKV_AWS_378:TLS ends at the balancer; the server speaks plain HTTP, to the balancer alone
  name_prefix                   = "fleet-"
  target_type                   = "ip"
  vpc_id                        = var.vpc_id
  port                          = local.port
  protocol                      = "HTTP"
  protocol_version              = "HTTP1"
  load_balancing_algorithm_type = "least_outstanding_requests"
  deregistration_delay          = 30

  health_check {
    path                = "/__lbheartbeat__"
    protocol            = "HTTP"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }

  tags = merge(var.tags, { Name = var.name })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }

  tags = merge(var.tags, { Name = var.name })
}

# What is run.

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:The key is a variable; CloudWatch encrypts with its own otherwise
  #checkov:skip=CKV_AWS_338:Retention is a variable, a year by default
  name              = "/taskfleet/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = merge(var.tags, { Name = var.name })
}

resource "aws_ecs_cluster" "this" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = "enabled" # the alarm for replicas that are missing reads it
  }

  tags = merge(var.tags, { Name = var.name })
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn

  runtime_platform {
    cpu_architecture        = var.architecture
    operating_system_family = "LINUX"
  }

  # Nothing of a replica outlives it: its data directory holds a lock and its name.
  dynamic "volume" {
    for_each = ["configuration", "data", "scratch"]

    content {
      name = volume.value
    }
  }

  container_definitions = jsonencode([
    {
      name                   = "files"
      image                  = var.files_image
      essential              = false
      cpu                    = 0
      user                   = "0"
      readonlyRootFilesystem = true
      entryPoint             = ["/bin/sh", "-c"]
      command                = [file("${path.module}/files.sh")]
      stopTimeout            = 5

      # The server goes on with the files that there are, so that this may start again by itself.
      restartPolicy = { enabled = true, restartAttemptPeriod = 60 }

      environment = [for k, v in merge({
        AWS_DEFAULT_REGION = var.region
        CONFIGURATION      = local.configuration
        DATABASE_CA_PEM    = var.database_ca_pem == null ? "" : var.database_ca_pem
        DATABASE_CA_URL    = "https://truststore.pki.rds.amazonaws.com/${var.region}/${var.region}-bundle.pem"
        DATABASE_SECRET    = var.database.secret_arn
        DATABASE_PLACE     = local.database_place
        FILES              = join(" ", [for f, a in local.files : "${f}=${a}"])
        HOME               = "/etc/taskfleet"
        MORE_CONFIGURATION = join(" ", var.secret_configuration_arns)
        OWNER              = local.owner
        REFRESH_SECONDS    = tostring(var.refresh_seconds)
      }) : { name = k, value = v }]

      mountPoints = [
        { sourceVolume = "configuration", containerPath = "/etc/taskfleet", readOnly = false },
        { sourceVolume = "data", containerPath = "/var/lib/taskfleet", readOnly = false },
        { sourceVolume = "scratch", containerPath = "/tmp/taskfleet", readOnly = false },
      ]

      healthCheck = {
        command     = ["CMD-SHELL", "test -f /etc/taskfleet/ready"]
        interval    = 5
        timeout     = 2
        retries     = 10
        startPeriod = 120
      }

      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.this.name
          awslogs-region        = var.region
          awslogs-stream-prefix = "files"
        }
      }

      portMappings   = []
      systemControls = []
      volumesFrom    = []
    },
    {
      name                   = "taskfleet"
      image                  = var.image
      essential              = true
      cpu                    = 0
      user                   = local.owner
      readonlyRootFilesystem = true
      entryPoint             = ["taskfleet"]
      command                = ["serve", "--config", "/etc/taskfleet/conf.d"]

      # A replica gives its leases back and lets calls end, which takes seconds, a minute at most.
      stopTimeout = 90

      dependsOn = [{ containerName = "files", condition = "HEALTHY" }]

      environment = [for k, v in merge({ TMPDIR = "/tmp" }, var.environment) : { name = k, value = v }]
      secrets     = [{ name = "TASKFLEET_METRICS_TOKEN", valueFrom = var.metrics_secret_arn }]

      mountPoints = [
        { sourceVolume = "configuration", containerPath = "/etc/taskfleet", readOnly = true },
        { sourceVolume = "data", containerPath = "/var/lib/taskfleet", readOnly = false },
        { sourceVolume = "scratch", containerPath = "/tmp", readOnly = false },
      ]

      portMappings = [{ name = "http", containerPort = local.port, hostPort = local.port, protocol = "tcp" }]

      # A worker that waits and a stream of events have a connection each.
      ulimits = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]

      linuxParameters = {
        initProcessEnabled = true
        capabilities       = { add = [], drop = ["ALL"] }
      }

      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.this.name
          awslogs-region        = var.region
          awslogs-stream-prefix = "taskfleet"
        }
      }

      systemControls = []
      volumesFrom    = []
    },
  ])

  tags = merge(var.tags, { Name = var.name })
}

resource "aws_ecs_service" "this" {
  name                   = var.name
  cluster                = aws_ecs_cluster.this.id
  task_definition        = aws_ecs_task_definition.this.arn
  launch_type            = "FARGATE"
  platform_version       = "LATEST"
  desired_count          = var.min_replicas
  enable_execute_command = false
  propagate_tags         = "SERVICE"

  enable_ecs_managed_tags       = true
  availability_zone_rebalancing = "ENABLED"

  # A new replica answers before an old one goes.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 180 # the first start of a version migrates the database

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.private_subnet_ids
    security_groups  = [aws_security_group.service.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.this.arn
    container_name   = "taskfleet"
    container_port   = local.port
  }

  tags = merge(var.tags, { Name = var.name })

  lifecycle {
    ignore_changes = [
      desired_count, # autoscaling has the say
      # Releases have: a revision of this definition with another image, which package stacks rolls out. Otherwise each
      # apply would take the release back.
      task_definition,
    ]
  }

  depends_on = [
    aws_lb_listener.https, aws_iam_role_policy.execution, aws_iam_role_policy.task, aws_iam_role_policy_attachment.task,
  ]
}

# How many there are.

resource "aws_appautoscaling_target" "this" {
  service_namespace  = "ecs"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.this.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.min_replicas
  max_capacity       = var.max_replicas
  tags               = merge(var.tags, { Name = var.name })

  lifecycle {
    ignore_changes = [min_capacity, max_capacity] # these are to begin with; package stacks changes them
  }
}

resource "aws_appautoscaling_policy" "cpu" {
  name               = "${var.name}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = var.cpu_target
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

resource "aws_appautoscaling_policy" "requests" {
  name               = "${var.name}-requests"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = var.requests_per_target
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    predefined_metric_specification {
      predefined_metric_type = "ALBRequestCountPerTarget"
      resource_label         = "${aws_lb.this.arn_suffix}/${aws_lb_target_group.this.arn_suffix}"
    }
  }
}

# What it may do: the execution role starts tasks, the task role is what runs in them. Module iam has the policies of the
# parts of the platform; what every deployment needs is here.

resource "aws_iam_role" "execution" {
  name                 = "${var.name}-execution"
  description          = "Starts the tasks of ${var.name}: images, logs, the secrets of the start"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy   = local.trust
  tags                 = merge(var.tags, { Name = "${var.name}-execution" })
}

resource "aws_iam_role" "task" {
  name                 = "${var.name}-task"
  description          = "The server of ${var.name}"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy   = local.trust
  tags                 = merge(var.tags, { Name = "${var.name}-task" })
}

locals {
  trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TasksOfThisAccount"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${var.partition}:ecs:${var.region}:${var.account_id}:*" }
      }
    }]
  })

  decrypt = length(var.secret_kms_key_arns) == 0 ? [] : [{
    Sid       = "OpenSecrets"
    Effect    = "Allow"
    Action    = ["kms:Decrypt"]
    Resource  = var.secret_kms_key_arns
    Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${var.region}.amazonaws.com" } }
  }]
}

resource "aws_iam_role_policy" "execution" {
  name = "start"
  role = aws_iam_role.execution.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid      = "WriteLogs"
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = ["arn:${var.partition}:logs:${var.region}:${var.account_id}:log-group:/taskfleet/${var.name}:log-stream:*"]
        },
        {
          Sid      = "ReadSecretsOfTheStart"
          Effect   = "Allow"
          Action   = ["secretsmanager:GetSecretValue"]
          Resource = [var.metrics_secret_arn]
        },
      ],
      length(local.repositories) == 0 ? [] : [
        {
          Sid      = "LogInToRegistry"
          Effect   = "Allow"
          Action   = ["ecr:GetAuthorizationToken"]
          Resource = ["*"] # AWS has no resources for this action
        },
        {
          Sid      = "PullImages"
          Effect   = "Allow"
          Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
          Resource = local.repositories
        },
      ],
      local.decrypt,
    )
  })
}

resource "aws_iam_role_policy" "task" {
  name = "secrets"
  role = aws_iam_role.task.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid      = "ReadSecrets"
        Effect   = "Allow"
        Action   = ["secretsmanager:GetSecretValue"]
        Resource = distinct(concat([var.database.secret_arn], values(local.files), var.secret_configuration_arns))
      }],
      local.decrypt,
    )
  })
}

resource "aws_iam_role_policy_attachment" "task" {
  for_each = var.task_policy_arns

  role       = aws_iam_role.task.name
  policy_arn = each.value
}
