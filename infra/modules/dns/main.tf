# The name of the root URL: its certificate, and where it points to. The certificate depends on nothing of the balancer,
# which needs it, so both can come from one instance of this module.

resource "aws_acm_certificate" "this" {
  domain_name       = var.hostname
  validation_method = "DNS"
  key_algorithm     = "EC_prime256v1"
  tags              = merge(var.tags, { Name = "${var.name}-${var.hostname}" })

  lifecycle {
    create_before_destroy = true # a balancer has it in use
  }
}

locals {
  # There is one option for each name of the certificate, and it has one name.
  validation = one(aws_acm_certificate.this.domain_validation_options)
}

# It stays for good: ACM looks at it again each time that it renews the certificate.
resource "aws_route53_record" "validation" {
  zone_id         = var.zone_id
  name            = local.validation.resource_record_name
  type            = local.validation.resource_record_type
  records         = [local.validation.resource_record_value]
  ttl             = 300
  allow_overwrite = true # the same host in another region, or the certificate's successor, wants the same record
}

# Ends when the certificate can be used.
resource "aws_acm_certificate_validation" "this" {
  certificate_arn         = aws_acm_certificate.this.arn
  validation_record_fqdns = [aws_route53_record.validation.fqdn]
}

resource "aws_route53_record" "this" {
  for_each = var.alb == null ? toset([]) : toset(var.alb.ipv6 ? ["A", "AAAA"] : ["A"])

  zone_id = var.zone_id
  name    = var.hostname
  type    = each.key

  alias {
    name                   = var.alb.dns_name
    zone_id                = var.alb.zone_id
    evaluate_target_health = false # there is no other place to send anybody to
  }
}
