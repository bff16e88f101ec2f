# Values of an example. All of these are yours to change.

deployment    = "taskfleet-example"
account_id    = "123456789012"
region        = "eu-central-1"
bucket_prefix = "example-taskfleet"
hostname      = "tasks.example.com"
zone_id       = "Z0123456789ABCDEFGHIJ"
image         = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/taskfleet:1.4.0"

network = { cidr = "10.0.0.0/16", availability_zones = ["eu-central-1a", "eu-central-1b"] }

emails      = ["ops@example.com"]
monthly_usd = 500
