# A VPC with three kinds of subnets in each zone: public (load balancers, NAT), private (the server, workers) and database
# (no way out).

locals {
  # A quarter of the network stays free. In 10.0.0.0/16: private subnets from 10.0.0.0 on with /19 each, as workers need
  # addresses, public ones from 10.0.128.0 on with /22 each, and those of databases after them.
  zones = { for i, zone in var.availability_zones : zone => i }

  nat_zones = {
    none     = []
    one      = slice(var.availability_zones, 0, 1)
    per-zone = var.availability_zones
  }[var.nat]

  # What the server calls: images, logs, secrets, keys, queues, credentials, machines.
  needed    = ["ecr.api", "ecr.dkr", "logs", "secretsmanager", "kms", "sqs", "sts", "ec2"]
  endpoints = setunion(var.endpoints, var.nat == "none" ? local.needed : [])

  # Not the resource's, so that plans show the policy.
  flow_arn = "arn:${var.partition}:logs:${var.region}:${var.account_id}:log-group:/taskfleet/${var.name}/flow"
}

resource "aws_vpc" "this" {
  cidr_block                       = var.cidr
  assign_generated_ipv6_cidr_block = var.ipv6
  enable_dns_support               = true
  enable_dns_hostnames             = true # for the private names of endpoints
  tags                             = merge(var.tags, { Name = var.name })
}

# Everything has a group of its own. What is started without one gets this, which lets nothing through.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
  tags   = merge(var.tags, { Name = "${var.name}-default" })
}

resource "aws_subnet" "public" {
  for_each = local.zones

  vpc_id                          = aws_vpc.this.id
  availability_zone               = each.key
  cidr_block                      = cidrsubnet(var.cidr, 6, 32 + each.value)
  ipv6_cidr_block                 = var.ipv6 ? cidrsubnet(aws_vpc.this.ipv6_cidr_block, 8, each.value) : null
  assign_ipv6_address_on_creation = var.ipv6
  map_public_ip_on_launch         = false # a machine that is to be public has to say so
  tags                            = merge(var.tags, { Name = "${var.name}-public-${each.key}", Tier = "public" })
}

resource "aws_subnet" "private" {
  for_each = local.zones

  vpc_id                          = aws_vpc.this.id
  availability_zone               = each.key
  cidr_block                      = cidrsubnet(var.cidr, 3, each.value)
  ipv6_cidr_block                 = var.ipv6 ? cidrsubnet(aws_vpc.this.ipv6_cidr_block, 8, 16 + each.value) : null
  assign_ipv6_address_on_creation = var.ipv6
  tags                            = merge(var.tags, { Name = "${var.name}-private-${each.key}", Tier = "private" })
}

resource "aws_subnet" "database" {
  for_each = local.zones

  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.cidr, 6, 36 + each.value)
  tags              = merge(var.tags, { Name = "${var.name}-database-${each.key}", Tier = "database" })
}

# Ways out.

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = merge(var.tags, { Name = var.name })
}

resource "aws_egress_only_internet_gateway" "this" {
  count = var.ipv6 ? 1 : 0

  vpc_id = aws_vpc.this.id
  tags   = merge(var.tags, { Name = var.name })
}

resource "aws_eip" "nat" {
  for_each = toset(local.nat_zones)

  domain = "vpc"
  tags   = merge(var.tags, { Name = "${var.name}-nat-${each.key}" })

  depends_on = [aws_internet_gateway.this]
}

resource "aws_nat_gateway" "this" {
  for_each = toset(local.nat_zones)

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id
  tags          = merge(var.tags, { Name = "${var.name}-${each.key}" })

  depends_on = [aws_internet_gateway.this] # without it the gateway fails for good
}

# Public subnets share a table. Private ones have one each, so that a zone can use its own NAT gateway. The table of
# databases has no route but the VPC's own.

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = merge(var.tags, { Name = "${var.name}-public" })
}

resource "aws_route" "public" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}

resource "aws_route" "public_ipv6" {
  count = var.ipv6 ? 1 : 0

  route_table_id              = aws_route_table.public.id
  destination_ipv6_cidr_block = "::/0"
  gateway_id                  = aws_internet_gateway.this.id
}

resource "aws_route_table_association" "public" {
  for_each = local.zones

  subnet_id      = aws_subnet.public[each.key].id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table" "private" {
  for_each = local.zones

  vpc_id = aws_vpc.this.id
  tags   = merge(var.tags, { Name = "${var.name}-private-${each.key}" })
}

resource "aws_route" "private" {
  for_each = var.nat == "none" ? {} : local.zones

  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[var.nat == "one" ? local.nat_zones[0] : each.key].id
}

resource "aws_route" "private_ipv6" {
  for_each = var.ipv6 ? local.zones : {}

  route_table_id              = aws_route_table.private[each.key].id
  destination_ipv6_cidr_block = "::/0"
  egress_only_gateway_id      = aws_egress_only_internet_gateway.this[0].id
}

resource "aws_route_table_association" "private" {
  for_each = local.zones

  subnet_id      = aws_subnet.private[each.key].id
  route_table_id = aws_route_table.private[each.key].id
}

resource "aws_route_table" "database" {
  vpc_id = aws_vpc.this.id
  tags   = merge(var.tags, { Name = "${var.name}-database" })
}

resource "aws_route_table_association" "database" {
  for_each = local.zones

  subnet_id      = aws_subnet.database[each.key].id
  route_table_id = aws_route_table.database.id
}

# Services of AWS without a way out. The endpoints' policies let everything through, since tasks read public buckets of
# others, and images are in buckets of AWS's: who may do what is said by the callers' roles.

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = concat([aws_route_table.public.id], [for zone in var.availability_zones : aws_route_table.private[zone].id])
  tags              = merge(var.tags, { Name = "${var.name}-s3" })
}

resource "aws_security_group" "endpoints" {
  name        = "${var.name}-endpoints"
  description = "Endpoints of services of AWS in ${var.name}"
  vpc_id      = aws_vpc.this.id
  tags        = merge(var.tags, { Name = "${var.name}-endpoints" })
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  security_group_id = aws_security_group.endpoints.id
  description       = "HTTPS from the VPC"
  cidr_ipv4         = var.cidr
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = merge(var.tags, { Name = "${var.name}-endpoints" })
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.endpoints

  vpc_id              = aws_vpc.this.id
  service_name        = "com.amazonaws.${var.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true # so that callers need not know of it
  subnet_ids          = [for zone in var.availability_zones : aws_subnet.private[zone].id]
  security_group_ids  = [aws_security_group.endpoints.id]
  tags                = merge(var.tags, { Name = "${var.name}-${each.key}" })
}

# Who spoke to whom.

resource "aws_cloudwatch_log_group" "flow" {
  count = var.flow_logs ? 1 : 0

  name              = "/taskfleet/${var.name}/flow"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = merge(var.tags, { Name = "${var.name}-flow" })
}

resource "aws_iam_role" "flow" {
  count = var.flow_logs ? 1 : 0

  name                 = "${var.name}-flow-${var.region}" # roles are the account's, and a deployment may have networks in more regions
  description          = "Writes the flow logs of ${var.name} in ${var.region}"
  permissions_boundary = var.permissions_boundary_arn
  tags                 = merge(var.tags, { Name = "${var.name}-flow-${var.region}" })

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "FlowLogs"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "vpc-flow-logs.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${var.partition}:ec2:${var.region}:${var.account_id}:vpc-flow-log/*" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "flow" {
  count = var.flow_logs ? 1 : 0

  name = "write"
  role = aws_iam_role.flow[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "WriteLogs"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
        Resource = [for suffix in ["", ":*"] : "${local.flow_arn}${suffix}"]
      },
      {
        Sid      = "FindLogGroup"
        Effect   = "Allow"
        Action   = ["logs:DescribeLogGroups"]
        Resource = ["arn:${var.partition}:logs:${var.region}:${var.account_id}:log-group:*"]
      },
    ]
  })
}

resource "aws_flow_log" "this" {
  count = var.flow_logs ? 1 : 0

  vpc_id                   = aws_vpc.this.id
  traffic_type             = "ALL"
  log_destination_type     = "cloud-watch-logs"
  log_destination          = aws_cloudwatch_log_group.flow[0].arn
  iam_role_arn             = aws_iam_role.flow[0].arn
  max_aggregation_interval = 600
  tags                     = merge(var.tags, { Name = var.name })

  depends_on = [aws_iam_role_policy.flow]
}
