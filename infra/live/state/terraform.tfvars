# Values of an example. All of these are yours to change.

name       = "taskfleet"
account_id = "123456789012"
region     = "us-east-1"
bucket     = "example-taskfleet-state"
