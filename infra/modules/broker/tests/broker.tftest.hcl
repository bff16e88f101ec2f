mock_provider "aws" {}

variables {
  name                      = "taskfleet-test"
  vpc_id                    = "vpc-1"
  subnet_ids                = ["subnet-1", "subnet-2", "subnet-3"]
  client_security_group_ids = { service = "sg-1", consumers = "sg-2" }
  password                  = "twelve-characters"
}

run "the_broker_is_private_and_takes_clients_only" {
  command = plan

  assert {
    condition     = !aws_mq_broker.this.publicly_accessible && aws_mq_broker.this.deployment_mode == "CLUSTER_MULTI_AZ"
    error_message = "The broker is public, or a single one."
  }
  assert {
    condition     = { for k, r in aws_vpc_security_group_ingress_rule.amqps : k => [r.referenced_security_group_id, r.from_port, r.to_port] } == { consumers = ["sg-2", 5671, 5671], service = ["sg-1", 5671, 5671] }
    error_message = "Others than the clients reach the broker, or another port."
  }
  assert {
    condition     = alltrue([for r in aws_vpc_security_group_ingress_rule.https : r.cidr_ipv4 == null && r.from_port == 443])
    error_message = "The console is open to a network."
  }
  assert {
    condition     = length(aws_mq_broker.this.encryption_options) == 0 && aws_mq_broker.this.logs[0].audit == null && aws_mq_broker.this.auto_minor_version_upgrade
    error_message = "Amazon MQ would refuse this for RabbitMQ."
  }
}

run "a_single_one" {
  command = plan

  variables {
    cluster       = false
    subnet_ids    = ["subnet-1"]
    instance_type = "mq.t3.micro"
  }

  assert {
    condition     = aws_mq_broker.this.deployment_mode == "SINGLE_INSTANCE" && length(aws_mq_broker.this.subnet_ids) == 1
    error_message = "It is no single instance."
  }
}

run "a_password_is_made_up_where_none_is_given" {
  variables {
    password = null
  }

  assert {
    condition     = output.login == { username = "taskfleet", password = data.aws_secretsmanager_random_password.this[0].random_password } && one(aws_mq_broker.this.user).password == output.login.password
    error_message = "The password is not the one that was made up."
  }
}

run "mistakes_are_refused" {
  command = plan

  variables {
    name                      = "Taskfleet"
    subnet_ids                = []
    engine_version            = "3.8.6"
    client_security_group_ids = {}
    username                  = "guest"
    password                  = "short"
    kms_key_arn               = "alias/aws/secretsmanager"
    maintenance               = { day = "Sunday", time = "3" }
  }

  expect_failures = [
    var.name, var.subnet_ids, var.engine_version, var.client_security_group_ids, var.username, var.password,
    var.kms_key_arn, var.maintenance,
  ]
}

run "a_single_one_has_one_subnet_and_a_machine_of_mq" {
  command = plan

  variables {
    cluster       = false
    instance_type = "t3.micro"
  }

  expect_failures = [var.subnet_ids, var.instance_type]
}

run "small_machines_make_no_cluster" {
  command = plan

  variables {
    instance_type = "mq.t3.micro"
  }

  expect_failures = [var.instance_type]
}

run "version_4_needs_machines_of_its_own" {
  command = plan

  variables {
    engine_version = "4.2"
    instance_type  = "mq.m5.large"
  }

  expect_failures = [var.instance_type]
}
