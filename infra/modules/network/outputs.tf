output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "vpc_cidr" {
  description = "IPv4 network of the VPC."
  value       = aws_vpc.this.cidr_block
}

output "public_subnet_ids" {
  description = "Subnets with a way to and from the internet, in the order of the zones."
  value       = [for zone in var.availability_zones : aws_subnet.public[zone].id]
}

# Wait for the way out: what starts there fetches things first of all.
output "private_subnet_ids" {
  description = "Subnets for the server and workers, in the order of the zones."
  value       = [for zone in var.availability_zones : aws_subnet.private[zone].id]
  depends_on  = [aws_route.private, aws_route_table_association.private, aws_vpc_endpoint.interface, aws_vpc_endpoint.s3]
}

output "database_subnet_ids" {
  description = "Subnets without a way to the internet, in the order of the zones."
  value       = [for zone in var.availability_zones : aws_subnet.database[zone].id]
}

output "endpoint_security_group_id" {
  description = "Security group of the endpoints of AWS's services; it lets in all of the VPC by HTTPS."
  value       = aws_security_group.endpoints.id
}
