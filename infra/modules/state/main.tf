# Where the state of deployments is kept. Terraform locks it by an object beside it (use_lockfile), so there is nothing
# but a bucket and its key.

module "key" {
  source = "../kms"

  name       = var.name
  purpose    = "state"
  account_id = var.account_id
  region     = var.region
  partition  = var.partition
  tags       = var.tags
}

# Lock files leave a version and a marker behind each time; the rule for former versions takes both away.
module "bucket" {
  source = "../bucket"

  bucket            = var.bucket
  partition         = var.partition
  kms_key_arn       = module.key.key_arn
  access_log_bucket = var.access_log_bucket
  versioning        = true
  lifecycle_days    = { noncurrent = var.former_versions_days }
  tags              = var.tags
}
