output "bucket" {
  description = "Name of the bucket."
  value       = module.bucket.bucket
}

output "region" {
  description = "Region of the bucket."
  value       = var.region
}

output "kms_key_arn" {
  description = "Key that states are encrypted with."
  value       = module.key.key_arn
}
