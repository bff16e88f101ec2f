# All wait for the bucket's policy: whoever has a name from here finds a bucket that is closed already.

output "bucket" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.this.bucket
  depends_on  = [aws_s3_bucket_policy.this, aws_s3_bucket_server_side_encryption_configuration.this]
}

output "arn" {
  description = "ARN of the bucket."
  value       = aws_s3_bucket.this.arn
  depends_on  = [aws_s3_bucket_policy.this, aws_s3_bucket_server_side_encryption_configuration.this]
}

output "regional_domain_name" {
  description = "Host that serves the bucket in its region."
  value       = aws_s3_bucket.this.bucket_regional_domain_name
  depends_on  = [aws_s3_bucket_policy.this, aws_s3_bucket_server_side_encryption_configuration.this]
}
