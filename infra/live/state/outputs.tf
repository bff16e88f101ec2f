output "bucket" {
  description = "Name of the bucket, for the backend."
  value       = module.state.bucket
}

output "region" {
  description = "Region of the bucket, for the backend."
  value       = module.state.region
}

output "kms_key_arn" {
  description = "Key that states are encrypted with, for the backend."
  value       = module.state.kms_key_arn
}
