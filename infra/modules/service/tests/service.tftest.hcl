# What the module makes of its variables. The provider is mocked: its schema is real, its answers are made up.

mock_provider "aws" {}

variables {
  name               = "taskfleet-test"
  tags               = { Deployment = "test" }
  region             = "eu-central-1"
  account_id         = "123456789012"
  vpc_id             = "vpc-1"
  vpc_cidr           = "10.0.0.0/16"
  public_subnet_ids  = ["subnet-1", "subnet-2"]
  private_subnet_ids = ["subnet-3", "subnet-4"]
  certificate_arn    = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
  image              = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/taskfleet:1.4.0"
  root_url           = "https://tasks.example.com"
  artifact_bucket    = "example-artifacts"
  server_secret_arn  = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:server-AbCdEf"
  metrics_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:metrics-AbCdEf"
  database           = { host = "db.example.com", name = "taskfleet", secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:database-AbCdEf" }
}

run "only_https_comes_in" {
  command = plan

  assert {
    condition     = aws_lb_listener.https.port == 443 && aws_lb_listener.https.protocol == "HTTPS" && startswith(aws_lb_listener.https.ssl_policy, "ELBSecurityPolicy-TLS13-")
    error_message = "The listener is not HTTPS with TLS of today."
  }
  assert {
    condition     = alltrue([for r in aws_vpc_security_group_ingress_rule.https : r.from_port == 443 && r.to_port == 443])
    error_message = "Another port than 443 is open."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.service.cidr_ipv4 == null && length(aws_vpc_security_group_ingress_rule.https_ipv6) == 0
    error_message = "The server is reachable from elsewhere than the balancer."
  }
  assert {
    condition     = aws_lb.this.preserve_host_header && aws_lb.this.idle_timeout > 60 && aws_lb.this.idle_timeout < 180 && aws_lb.this.enable_deletion_protection
    error_message = "The balancer changes what is signed, cuts long polls, or can be deleted."
  }
  assert {
    condition     = aws_lb_target_group.this.health_check[0].path == "/__lbheartbeat__"
    error_message = "The health check asks for something else than the server answers."
  }
}

run "the_server_is_configured_by_files" {
  # Applied, as definitions of tasks are known only then.

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[1].command == ["serve", "--config", "/etc/taskfleet/conf.d"]
    error_message = "The server is not told its configuration."
  }
  assert {
    condition = { for e in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : e.name => e.value }["CONFIGURATION"] == yamlencode({
      data    = "/var/lib/taskfleet", database = "file:/etc/taskfleet/secrets/database.json", listen = "0.0.0.0:8080", logFormat = "json",
      rootUrl = "https://tasks.example.com", s3 = { bucket = "example-artifacts", region = "eu-central-1" }, secretsFile = "/etc/taskfleet/secrets/server.json"
    })
    error_message = "The configuration is another."
  }
  assert {
    condition     = output.configuration_sections == tolist(["data", "database", "listen", "logFormat", "rootUrl", "s3", "secretsFile"]) && output.task_definition_arn == aws_ecs_task_definition.this.arn
    error_message = "What is built on the service is told of another configuration, or of another template."
  }
  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : e.name => e.value }["DATABASE_PLACE"] == "db.example.com:5432/taskfleet?sslmode=verify-full&sslrootcert=/etc/taskfleet/secrets/rds-ca.pem"
    error_message = "The database is not reached by TLS that is checked."
  }
  assert {
    condition     = alltrue([for c in jsondecode(aws_ecs_task_definition.this.container_definitions) : c.readonlyRootFilesystem && !try(c.privileged, false)])
    error_message = "A container can write to its image, or is privileged."
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[1].user == "10001" && jsondecode(aws_ecs_task_definition.this.container_definitions)[1].linuxParameters.capabilities.drop == ["ALL"]
    error_message = "The server runs with more rights than it needs."
  }
  assert {
    condition     = [for s in jsondecode(aws_ecs_task_definition.this.container_definitions)[1].secrets : s.name] == ["TASKFLEET_METRICS_TOKEN"]
    error_message = "Another secret than the token of its metrics is in the server's environment."
  }
  assert {
    condition     = aws_ecs_service.this.deployment_circuit_breaker[0].enable && aws_ecs_service.this.deployment_circuit_breaker[0].rollback && !aws_ecs_service.this.network_configuration[0].assign_public_ip
    error_message = "A version that does not start is not taken back, or replicas are public."
  }
}

run "roles_may_read_what_is_theirs" {
  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.execution.policy).Statement : s.Sid] == ["WriteLogs", "ReadSecretsOfTheStart", "LogInToRegistry", "PullImages"]
    error_message = "The execution role has other rights."
  }
  assert {
    condition     = jsondecode(aws_iam_role_policy.execution.policy).Statement[3].Resource == ["arn:aws:ecr:eu-central-1:123456789012:repository/team/taskfleet"]
    error_message = "Images of other repositories can be pulled."
  }
  assert {
    condition     = jsondecode(aws_iam_role_policy.task.policy).Statement[0].Resource == [var.database.secret_arn, var.server_secret_arn]
    error_message = "The server may read other secrets than its own."
  }
  assert {
    condition     = jsondecode(aws_iam_role.task.assume_role_policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012"
    error_message = "Tasks of another account can have the role."
  }
}

run "a_public_image_needs_no_registry" {
  variables {
    image = "ghcr.io/example/taskfleet@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }
  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.execution.policy).Statement : s.Sid] == ["WriteLogs", "ReadSecretsOfTheStart"]
    error_message = "The execution role may use the registry though no image is there."
  }
}

# Each of these is refused with a message of its own.
run "mistakes_are_refused" {
  command = plan

  variables {
    name                = "Taskfleet"
    region              = "Frankfurt"
    account_id          = "1234"
    partition           = "azure"
    vpc_cidr            = "10.0.0.0"
    public_subnet_ids   = ["subnet-1"]
    private_subnet_ids  = []
    ingress_cidrs       = ["everybody"]
    ingress_ipv6_cidrs  = ["0.0.0.0/0"]
    certificate_arn     = "tasks.example.com"
    image               = "ghcr.io/example/taskfleet:latest"
    files_image         = "public.ecr.aws/aws-cli/aws-cli"
    architecture        = "MIPS"
    cpu                 = 1000
    min_replicas        = 0
    cpu_target          = 100
    requests_per_target = 1
    root_url            = "http://tasks.example.com/"
    configuration       = { database = "postgres://user:password@host/name" }
    server_secret_arn   = "secret"

    secret_configuration_arns = ["secret"]
    metrics_secret_arn        = "secret"
    database                  = { host = "h", name = "n", secret_arn = "password" }
    database_ca_pem           = "rds-ca.pem"
    secret_files              = { "../passwd" = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-AbCdEf" }
    refresh_seconds           = 1
    environment               = { TASKFLEET_DATABASE = "postgres://user:password@host/name" }
    log_retention_days        = 2
  }

  expect_failures = [
    var.name, var.region, var.account_id, var.partition, var.vpc_cidr, var.public_subnet_ids, var.private_subnet_ids,
    var.ingress_cidrs, var.ingress_ipv6_cidrs, var.certificate_arn, var.image, var.files_image, var.architecture, var.cpu,
    var.min_replicas, var.cpu_target, var.requests_per_target, var.root_url, var.configuration, var.secret_configuration_arns, var.server_secret_arn,
    var.metrics_secret_arn, var.database, var.database_ca_pem, var.secret_files, var.refresh_seconds, var.environment,
    var.log_retention_days,
  ]
}

run "what_does_not_fit_together_is_refused" {
  command = plan

  variables {
    memory        = 512
    max_replicas  = 1
    configuration = { notify = [for i in range(1000) : "0123456789012345678901234567890123456789"] }
  }

  expect_failures = [var.memory, var.max_replicas, var.configuration]
}

run "a_name_that_no_balancer_may_have_is_refused" {
  command = plan

  variables {
    name = "internal-tasks"
  }

  expect_failures = [aws_lb.this]
}
