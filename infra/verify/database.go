package verify

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/rds/types"
)

// Days for which backups are kept at least: an error that is seen after a weekend can be undone.
const (
	backupDays            = 7
	developmentBackupDays = 1
)

// checkDatabases looks at the RDS instances of a region.
func (v *verification) checkDatabases(ctx context.Context, c *clients) error {
	endpoint := ""
	if v.manifest.Database != nil && c.region == v.manifest.home() {
		endpoint, _, _ = strings.Cut(v.manifest.Database.Endpoint, ":")
	}
	seen := false
	var ours []types.DBInstance
	err := pages(ctx, v, place{region: c.region}, "rds:DescribeDBInstances", rds.NewDescribeDBInstancesPaginator(c.rds, &rds.DescribeDBInstancesInput{}), func(p *rds.DescribeDBInstancesOutput) {
		for _, d := range p.DBInstances {
			named := endpoint != "" && d.Endpoint != nil && aws.ToString(d.Endpoint.Address) == endpoint
			seen = seen || named
			tags := tagMap(d.TagList, func(t types.Tag) (*string, *string) { return t.Key, t.Value })
			if v.belongs("database", place{c.region, aws.ToString(d.DBInstanceArn)}, tags, named) {
				ours = append(ours, d)
			}
		}
	})
	if err != nil {
		return err
	}
	if endpoint != "" {
		v.missing(c.region, "database", endpoint, seen)
	}
	return each(ctx, v, ours, func(ctx context.Context, d types.DBInstance) error { return v.checkDatabase(ctx, c, d) })
}

func (v *verification) checkDatabase(ctx context.Context, c *clients, d types.DBInstance) error {
	at := place{c.region, aws.ToString(d.DBInstanceArn)}
	if !aws.ToBool(d.StorageEncrypted) {
		v.find(at, "database-encryption", "the database's storage is not encrypted", "copy a snapshot of it with a KMS key, and restore that: it cannot be changed in place")
	}
	replica := aws.ToString(d.ReadReplicaSourceDBInstanceIdentifier) != ""
	least := int32(backupDays)
	if v.development {
		least = developmentBackupDays
	}
	if days := aws.ToInt32(d.BackupRetentionPeriod); days < least && !replica {
		v.find(at, "database-backups", fmt.Sprintf("backups of the database are kept for %d days", days), fmt.Sprintf("set its backup retention period to %d days or more", least))
	}
	if aws.ToBool(d.PubliclyAccessible) {
		v.find(at, "database-public", "the database has a public address", "set publicly_accessible = false")
	}
	if !v.development {
		if !aws.ToBool(d.MultiAZ) && !replica {
			v.find(at, "database-standby", "the database is in one zone, and away when that is", "set multi_az = true; where this is not production, say production: false in policy.yml")
		}
		if !aws.ToBool(d.DeletionProtection) {
			v.find(at, "database-deletion-protection", "the database can be deleted by one call", "set deletion_protection = true")
		}
	}
	if aws.ToString(d.Engine) != "postgres" {
		return nil
	}
	forced := false
	for _, g := range d.DBParameterGroups {
		p := rds.NewDescribeDBParametersPaginator(c.rds, &rds.DescribeDBParametersInput{DBParameterGroupName: g.DBParameterGroupName})
		err := pages(ctx, v, at, "rds:DescribeDBParameters", p, func(p *rds.DescribeDBParametersOutput) {
			for _, x := range p.Parameters {
				if aws.ToString(x.ParameterName) == "rds.force_ssl" {
					forced = aws.ToString(x.ParameterValue) == "1"
				}
			}
		})
		if err != nil {
			return err
		}
	}
	if !forced {
		v.find(at, "database-tls", "the database lets clients in without TLS", "set rds.force_ssl = 1 in its parameter group")
	}
	return nil
}
