# Values of an example. All of these are yours to change.

deployment    = "taskfleet-example"
account_id    = "123456789012"
bucket_prefix = "example-taskfleet"
hostname      = "tasks.example.com"
zone_id       = "Z0123456789ABCDEFGHIJ"
image         = "123456789012.dkr.ecr.us-east-1.amazonaws.com/taskfleet:1.4.0"

networks = {
  us-east-1    = { cidr = "10.0.0.0/16", availability_zones = ["us-east-1a", "us-east-1b", "us-east-1c"] }
  us-west-2    = { cidr = "10.1.0.0/16", availability_zones = ["us-west-2a", "us-west-2b", "us-west-2c"] }
  eu-central-1 = { cidr = "10.2.0.0/16", availability_zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
}

broker = { instance_type = "mq.m7g.large", engine_version = "4.2" }

emails      = ["ops@example.com"]
monthly_usd = 8000
