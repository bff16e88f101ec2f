# An image whose instances are workers: it starts `taskfleet worker --aws` at boot, which learns all else from the
# instance's user data. docs/aws-worker.md explains it.
#
#   GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -trimpath -tags agent -o taskfleet ./cmd/taskfleet
#   packer init docs/ami.pkr.hcl
#   packer build -var binary=taskfleet -var region=eu-west-1 docs/ami.pkr.hcl
#
# The image holds no secret and nothing of one deployment, so that all pools of an architecture can share it. The id goes
# into the parameter /taskfleet/worker/<architecture> of SSM, if you put it there; a pool that names the parameter uses a
# new image from the next launch on.

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0"
    }
  }
}

variable "binary" {
  type        = string
  description = "The program, built for Linux and the architecture."
}

variable "region" {
  type = string
}

variable "copies" {
  type        = list(string)
  default     = []
  description = "Other regions to copy the image to."
}

variable "architecture" {
  type    = string
  default = "arm64"
  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "The architecture is arm64 or x86_64."
  }
}

variable "packages" {
  type        = list(string)
  default     = ["git", "make"]
  description = "What tasks need: packages of the distribution."
}

variable "root_gib" {
  type    = number
  default = 20
}

locals {
  stamp    = formatdate("YYYYMMDDhhmmss", timestamp())
  builders = { arm64 = "t4g.small", x86_64 = "t3.small" }

  # Instance store, where there is some, is faster than any volume and goes with the instance, which is what a worker's
  # files are to do. It is formatted once: what a reboot leaves is kept.
  scratch = <<-EOT
    #!/bin/sh
    set -eu
    mkdir -p /mnt/taskfleet
    disks=$(lsblk --nodeps --noheadings --paths --output NAME,MODEL | awk '/Instance Storage/ { print $1 }')
    set -- $disks
    case $# in
      0) device= ;;
      1) device=$1 ;;
      *)
        device=/dev/md/taskfleet
        mdadm --assemble --scan || true
        [ -e "$device" ] || mdadm --create "$device" --run --level=0 --raid-devices=$# "$@"
        ;;
    esac
    if [ -n "$device" ]; then
      blkid "$device" >/dev/null || mkfs.ext4 -q -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard "$device"
      mountpoint -q /mnt/taskfleet || mount -o noatime "$device" /mnt/taskfleet
    fi
    chown taskfleet: /mnt/taskfleet
    chmod 700 /mnt/taskfleet
  EOT

  scratch_unit = <<-EOT
    [Unit]
    Description=Disk for the files of the Taskfleet worker
    Before=taskfleet-worker.service

    [Service]
    Type=oneshot
    RemainAfterExit=yes
    ExecStart=/usr/local/sbin/taskfleet-scratch
  EOT

  worker_unit = <<-EOT
    [Unit]
    Description=Taskfleet worker
    Requires=taskfleet-scratch.service
    Wants=network-online.target
    After=taskfleet-scratch.service network-online.target chronyd.service chrony.service
    # A worker that crashes again and again is of no use, and costs as much as one that is.
    StartLimitIntervalSec=10min
    StartLimitBurst=5
    StartLimitAction=poweroff

    [Service]
    User=taskfleet
    ExecStart=/usr/local/bin/taskfleet worker --aws --directory /mnt/taskfleet --power-off "sudo -n /usr/sbin/shutdown -h now"
    # After a crash, which it then reports, it goes on with the registration that it has kept.
    Restart=on-failure
    RestartSec=2
    # SIGTERM is for the worker, which tells the tasks; whatever is left when it has ended is killed.
    KillMode=mixed
    TimeoutStopSec=100
    # A task that runs out of memory ends as a failed task, not as a stopped service.
    OOMPolicy=continue
    LimitNOFILE=1048576
    TasksMax=infinity
    # The console output of the instance shows it even when nobody can log in.
    StandardOutput=journal+console
    StandardError=journal+console

    [Install]
    WantedBy=multi-user.target
  EOT

  sudoers = "taskfleet ALL=(root) NOPASSWD: /usr/sbin/shutdown -h now\n"
}

source "amazon-ebs" "worker" {
  region        = var.region
  ami_regions   = var.copies
  ami_name      = "taskfleet-worker-${var.architecture}-${local.stamp}"
  instance_type = local.builders[var.architecture]
  ssh_username  = "ec2-user"

  source_ami_filter {
    owners      = ["amazon"]
    most_recent = true
    filters = {
      name                = "al2023-ami-2023.*"
      architecture        = var.architecture
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  # Of the instance that builds the image.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  # Of the image: instances need version 2 of the metadata service, whoever launches them. EC2 then also lets its answers
  # go two hops; the aws provider of Taskfleet launches instances with one, so that they do not reach containers.
  imds_support = "v2.0"

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = var.root_gib
    delete_on_termination = true
  }

  tags = {
    Name         = "taskfleet-worker-${var.architecture}"
    BaseImage    = "{{ .SourceAMIName }}"
    Architecture = var.architecture
  }
}

build {
  sources = ["source.amazon-ebs.worker"]

  provisioner "file" {
    source      = var.binary
    destination = "/tmp/taskfleet"
  }
  provisioner "file" {
    content     = local.scratch
    destination = "/tmp/taskfleet-scratch"
  }
  provisioner "file" {
    content     = local.scratch_unit
    destination = "/tmp/taskfleet-scratch.service"
  }
  provisioner "file" {
    content     = local.worker_unit
    destination = "/tmp/taskfleet-worker.service"
  }
  provisioner "file" {
    content     = local.sudoers
    destination = "/tmp/taskfleet.sudoers"
  }

  provisioner "shell" {
    execute_command = "sudo sh -eux '{{ .Path }}'"
    inline = [
      "dnf -y install mdadm util-linux e2fsprogs sudo chrony ${join(" ", var.packages)}",
      "useradd --system --create-home --shell /sbin/nologin taskfleet",
      "install -m 755 /tmp/taskfleet /usr/local/bin/taskfleet",
      "install -m 755 /tmp/taskfleet-scratch /usr/local/sbin/taskfleet-scratch",
      "install -m 644 /tmp/taskfleet-scratch.service /tmp/taskfleet-worker.service /etc/systemd/system/",
      "install -m 440 /tmp/taskfleet.sudoers /etc/sudoers.d/taskfleet",
      "visudo -c",
      "systemctl enable taskfleet-worker.service chronyd.service",
      "/usr/local/bin/taskfleet version",
    ]
  }

  # Nothing of this instance goes into the image: no key, no log, no registration of a worker. The worker is enabled but
  # was never started.
  provisioner "shell" {
    execute_command = "sudo sh -eux '{{ .Path }}'"
    inline = [
      "rm -rf /mnt/taskfleet /tmp/taskfleet* /var/lib/cloud/instances/* /root/.ssh /home/*/.ssh /etc/ssh/ssh_host_*",
      "truncate -s 0 /etc/machine-id",
      "journalctl --rotate && journalctl --vacuum-time=1s",
    ]
  }
}
