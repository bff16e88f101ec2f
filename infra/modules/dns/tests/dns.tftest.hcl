# What the module makes of its variables. The provider is mocked: its schema is real, its answers are made up.

mock_provider "aws" {
  mock_resource "aws_acm_certificate" {
    defaults = {
      arn = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
      domain_validation_options = [{
        domain_name           = "tasks.example.com"
        resource_record_name  = "_1.tasks.example.com."
        resource_record_type  = "CNAME"
        resource_record_value = "_2.acm-validations.aws."
      }]
    }
  }
}

variables {
  name     = "taskfleet-test"
  zone_id  = "Z0123456789"
  hostname = "tasks.example.com"
  tags     = { Deployment = "test" }
}

run "the_certificate_is_validated_by_dns" {
  assert {
    condition     = aws_acm_certificate.this.validation_method == "DNS" && aws_acm_certificate.this.domain_name == "tasks.example.com"
    error_message = "The certificate is for another host, or somebody has to answer an email."
  }
  assert {
    condition     = aws_route53_record.validation.name == "_1.tasks.example.com." && aws_route53_record.validation.type == "CNAME" && aws_route53_record.validation.records == toset(["_2.acm-validations.aws."])
    error_message = "The record is another than ACM wants."
  }
  assert {
    condition     = output.certificate_arn == aws_acm_certificate.this.arn && output.fqdn == "tasks.example.com" && length(aws_route53_record.this) == 0
    error_message = "What is put out is something else, or the host points somewhere."
  }
}

run "the_host_points_to_the_balancer" {
  variables { alb = { dns_name = "alb.example.com", zone_id = "Z9" } }

  assert {
    condition     = keys(aws_route53_record.this) == ["A"] && aws_route53_record.this["A"].alias[0].name == "alb.example.com" && aws_route53_record.this["A"].alias[0].zone_id == "Z9"
    error_message = "The host points elsewhere."
  }
}

run "by_ipv6_too" {
  command = plan
  variables { alb = { dns_name = "alb.example.com", zone_id = "Z9", ipv6 = true } }

  assert {
    condition     = keys(aws_route53_record.this) == ["A", "AAAA"]
    error_message = "The host has other records."
  }
}

run "a_host_that_is_too_long" {
  command = plan
  variables { hostname = "a-host-with-more-characters-than-the-first-name-of-a-certificate.example.com" }
  expect_failures = [var.hostname]
}

run "mistakes_are_refused" {
  command = plan

  variables {
    name     = "Taskfleet"
    zone_id  = "example.com"
    hostname = "https://tasks.example.com"
  }

  expect_failures = [
    var.name, var.zone_id, var.hostname,
  ]
}
