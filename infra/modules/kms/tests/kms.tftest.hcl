# What the module makes of its variables. The provider is mocked: its schema is real, its answers are made up.

mock_provider "aws" {}

variables {
  name       = "taskfleet-test"
  purpose    = "data"
  account_id = "123456789012"
  region     = "eu-central-1"
  tags       = { Deployment = "test" }
}

run "key" {
  command = plan

  assert {
    condition     = aws_kms_key.this.enable_key_rotation && aws_kms_key.this.deletion_window_in_days == 30
    error_message = "The key is not rotated, or gone at once when it is deleted."
  }
  assert {
    condition     = aws_kms_key.this.tags == tomap({ Deployment = "test", Name = "taskfleet-test-data" }) && aws_kms_alias.this.name == "alias/taskfleet-test-data"
    error_message = "Tags or alias are others."
  }
  assert {
    condition     = [for s in jsondecode(aws_kms_key.this.policy).Statement : s.Sid] == ["AccountByItsPolicies"]
    error_message = "Somebody is let in whom nobody has named."
  }
  assert {
    condition     = jsondecode(aws_kms_key.this.policy).Statement[0].Principal == { AWS = "arn:aws:iam::123456789012:root" }
    error_message = "The key is another account's, or everybody's."
  }
}

run "each_is_let_in_for_what_it_does" {
  command = plan

  variables {
    administrators = ["arn:aws:iam::123456789012:role/admin"]
    users          = ["arn:aws:iam::123456789012:role/user"]
    services       = ["logs", "events", "budgets", "cloudwatch"]
  }

  assert {
    condition = [for s in jsondecode(aws_kms_key.this.policy).Statement : s.Sid] == [
      "AccountByItsPolicies", "Administrators", "Users", "UsersByServices", "ServiceBudgets", "ServiceCloudwatch", "ServiceEvents", "ServiceLogs"
    ]
    error_message = "The policy has other statements."
  }
  assert {
    condition     = !anytrue([for a in jsondecode(aws_kms_key.this.policy).Statement[1].Action : can(regex("crypt|DataKey|CreateGrant", a))])
    error_message = "Administrators can use the key."
  }
  assert {
    condition     = jsondecode(aws_kms_key.this.policy).Statement[3].Condition.Bool["kms:GrantIsForAWSResource"] == "true"
    error_message = "Users can pass the key on to anybody."
  }
  assert {
    condition     = jsondecode(aws_kms_key.this.policy).Statement[4].Condition.StringEquals["aws:SourceAccount"] == "123456789012" && jsondecode(aws_kms_key.this.policy).Statement[5].Condition.StringEquals["aws:SourceAccount"] == "123456789012"
    error_message = "Services can be had to use the key for other accounts."
  }
  assert {
    condition     = jsondecode(aws_kms_key.this.policy).Statement[7].Principal.Service == "logs.eu-central-1.amazonaws.com" && jsondecode(aws_kms_key.this.policy).Statement[7].Condition.ArnLike["kms:EncryptionContext:aws:logs:arn"] == "arn:aws:logs:eu-central-1:123456789012:log-group:*"
    error_message = "CloudWatch Logs of other regions or accounts can use the key, or those of this one cannot."
  }
}

run "another_partition" {
  command = plan
  variables {
    partition = "aws-us-gov"
    region    = "us-gov-west-1"
  }
  assert {
    condition     = jsondecode(aws_kms_key.this.policy).Statement[0].Principal.AWS == "arn:aws-us-gov:iam::123456789012:root"
    error_message = "The partition is not in the ARN."
  }
}

run "mistakes_are_refused" {
  command = plan

  variables {
    name                 = "Taskfleet"
    purpose              = "all of it"
    account_id           = "1234"
    region               = "Frankfurt"
    partition            = "azure"
    administrators       = ["*"]
    users                = ["arn:aws:iam::123456789012:role/*"]
    services             = ["s3"]
    deletion_window_days = 1
  }

  expect_failures = [
    var.name, var.purpose, var.account_id, var.region, var.partition, var.administrators, var.users, var.services,
    var.deletion_window_days,
  ]
}
