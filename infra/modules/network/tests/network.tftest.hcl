# What the module makes of its variables. The provider is mocked: its schema is real, its answers are made up.

mock_provider "aws" {
  mock_resource "aws_vpc" {
    defaults = { ipv6_cidr_block = "2001:db8:1200::/56" }
  }
}

variables {
  name               = "taskfleet-test"
  region             = "eu-central-1"
  account_id         = "123456789012"
  cidr               = "10.0.0.0/16"
  availability_zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  tags               = { Deployment = "test" }
}

run "subnets_do_not_overlap" {
  command = plan

  assert {
    condition     = [for s in aws_subnet.private : s.cidr_block] == ["10.0.0.0/19", "10.0.32.0/19", "10.0.64.0/19"]
    error_message = "Private subnets are elsewhere."
  }
  assert {
    condition     = [for s in aws_subnet.public : s.cidr_block] == ["10.0.128.0/22", "10.0.132.0/22", "10.0.136.0/22"]
    error_message = "Public subnets are elsewhere."
  }
  assert {
    condition     = [for s in aws_subnet.database : s.cidr_block] == ["10.0.144.0/22", "10.0.148.0/22", "10.0.152.0/22"]
    error_message = "Subnets of databases are elsewhere."
  }
}

run "nothing_is_public_by_itself" {
  command = plan

  assert {
    condition     = !anytrue([for s in aws_subnet.public : s.map_public_ip_on_launch])
    error_message = "Machines get public addresses without asking."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.endpoints.cidr_ipv4 == "10.0.0.0/16" && aws_vpc_security_group_ingress_rule.endpoints.to_port == 443
    error_message = "Endpoints are reached from elsewhere."
  }
  assert {
    condition     = aws_vpc.this.tags == tomap({ Deployment = "test", Name = "taskfleet-test" })
    error_message = "The VPC has other tags."
  }
}

run "each_zone_has_its_way_out" {
  assert {
    condition     = length(aws_nat_gateway.this) == 3 && alltrue([for zone, r in aws_route.private : r.nat_gateway_id == aws_nat_gateway.this[zone].id])
    error_message = "A zone's way out is in another zone."
  }
  assert {
    condition     = alltrue([for a in aws_route_table_association.database : a.route_table_id == aws_route_table.database.id])
    error_message = "Databases have other routes."
  }
  assert {
    condition     = length(aws_vpc_endpoint.interface) == 0 && aws_vpc_endpoint.s3.route_table_ids == toset(concat([aws_route_table.public.id], [for t in aws_route_table.private : t.id]))
    error_message = "There are endpoints that nobody asked for, or S3 is reached by NAT."
  }
  assert {
    condition     = aws_flow_log.this[0].traffic_type == "ALL" && jsondecode(aws_iam_role_policy.flow[0].policy).Statement[0].Resource[0] == "arn:aws:logs:eu-central-1:123456789012:log-group:${aws_cloudwatch_log_group.flow[0].name}"
    error_message = "Flow logs are missing something, or their role may write elsewhere."
  }
  assert {
    condition     = jsondecode(aws_iam_role.flow[0].assume_role_policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012"
    error_message = "The role can be used for somebody else's flow logs."
  }
  assert {
    condition     = output.private_subnet_ids == [for z in var.availability_zones : aws_subnet.private[z].id] && output.vpc_cidr == "10.0.0.0/16"
    error_message = "What is put out is not in the order of the zones."
  }
}

run "one_way_out" {
  variables { nat = "one" }

  assert {
    condition     = length(aws_nat_gateway.this) == 1 && alltrue([for r in aws_route.private : r.nat_gateway_id == aws_nat_gateway.this["eu-central-1a"].id])
    error_message = "There is more than one NAT gateway, or not all use it."
  }
}

run "no_way_out" {
  command = plan
  variables {
    nat       = "none"
    endpoints = ["ssm"]
  }
  assert {
    condition     = length(aws_nat_gateway.this) + length(aws_eip.nat) + length(aws_route.private) == 0
    error_message = "There is a way out."
  }
  assert {
    condition     = toset(keys(aws_vpc_endpoint.interface)) == toset(["ssm", "ecr.api", "ecr.dkr", "logs", "secretsmanager", "kms", "sqs", "sts", "ec2"])
    error_message = "The endpoints are others."
  }
  assert {
    condition     = aws_vpc_endpoint.interface["ecr.api"].service_name == "com.amazonaws.eu-central-1.ecr.api" && aws_vpc_endpoint.interface["sqs"].private_dns_enabled
    error_message = "The endpoints are of another region, or callers have to know them."
  }
}

run "ipv6_goes_out_only" {
  variables { ipv6 = true }

  assert {
    condition     = aws_subnet.public["eu-central-1b"].ipv6_cidr_block == "2001:db8:1200:1::/64" && aws_subnet.private["eu-central-1b"].ipv6_cidr_block == "2001:db8:1200:11::/64"
    error_message = "IPv6 networks are others."
  }
  assert {
    condition     = alltrue([for r in aws_route.private_ipv6 : r.egress_only_gateway_id == aws_egress_only_internet_gateway.this[0].id]) && !anytrue([for s in aws_subnet.database : s.assign_ipv6_address_on_creation == true])
    error_message = "Private subnets or databases are reached by IPv6."
  }
}

run "without_flow_logs" {
  command = plan
  variables { flow_logs = false }
  assert {
    condition     = length(aws_flow_log.this) + length(aws_iam_role.flow) + length(aws_cloudwatch_log_group.flow) == 0
    error_message = "Something of the flow logs is left."
  }
}

run "cidr_with_bits_of_a_host" {
  command = plan
  variables { cidr = "10.0.0.1/16" }
  expect_failures = [var.cidr]
}

run "one_zone" {
  command = plan
  variables { availability_zones = ["eu-central-1a"] }
  expect_failures = [var.availability_zones]
}

run "zones_of_another_region" {
  command = plan
  variables { availability_zones = ["eu-central-1a", "us-east-1a"] }
  expect_failures = [var.availability_zones]
}

run "mistakes_are_refused" {
  command = plan

  variables {
    account_id               = "1234"
    partition                = "azure"
    name                     = "Taskfleet"
    region                   = "Frankfurt"
    cidr                     = "10.0.0.0/24"
    nat                      = "two"
    endpoints                = ["s3"]
    log_retention_days       = 2
    log_kms_key_arn          = "alias/logs"
    permissions_boundary_arn = "boundary"
  }

  expect_failures = [
    var.account_id, var.partition,
    var.name, var.region, var.cidr, var.nat, var.endpoints, var.log_retention_days, var.log_kms_key_arn,
    var.permissions_boundary_arn,
  ]
}
