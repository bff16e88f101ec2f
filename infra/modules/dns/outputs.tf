output "certificate_arn" {
  description = "Certificate of the host, once it can be used."
  value       = aws_acm_certificate_validation.this.certificate_arn
}

output "fqdn" {
  description = "The host; with a balancer, once it points there."
  value       = var.hostname
  depends_on  = [aws_route53_record.this]
}
